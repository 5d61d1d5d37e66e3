//! `shipway registry namespaces` and `usage`.

use std::process::ExitCode;

use clap::Args;
use registry_client::AdminRequest;
use registry_server::{ByteSize, Namespace};
use serde::{Deserialize, Serialize};

use super::remote::RemoteArgs;
use crate::exit::Failure;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct NamespacesArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Deserialize, Serialize)]
struct Namespaces {
    namespaces: Vec<Namespace>,
}

/// Shows the policies of the namespaces that one administers.
pub(super) async fn list(args: &NamespacesArgs) -> Result<ExitCode, Failure> {
    let answer: Namespaces = args.remote.get("namespaces", &[]).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&answer)?,
        OutputFormat::Text => {
            for namespace in &answer.namespaces {
                output::line(&describe(namespace));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args, Debug)]
pub(super) struct UsageArgs {
    /// Count everything anew, say what the counters had wrong, and mend them
    #[arg(long)]
    recount: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Deserialize, Serialize)]
struct Usages {
    namespaces: Vec<Usage>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Usage {
    prefix: String,
    bytes: u64,
    objects: u64,
    repositories: u64,
    reserved: u64,
    quota: Option<u64>,
    repositories_max: Option<u64>,
}

#[derive(Deserialize, Serialize)]
struct Proof {
    /// Whether the counters were what the count found.
    exact: bool,
    counters: serde_json::Value,
    /// What the count found, where that differs.
    counted: serde_json::Value,
}

/// Shows what namespaces hold and may hold.
pub(super) async fn usage(args: &UsageArgs) -> Result<ExitCode, Failure> {
    if args.recount {
        return recount(args).await;
    }
    let answer: Usages = args.remote.get("usage", &[]).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&answer)?,
        OutputFormat::Text => {
            for usage in &answer.namespaces {
                output::line(&describe_usage(usage));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn recount(args: &UsageArgs) -> Result<ExitCode, Failure> {
    let endpoint = "usage/recount";
    let request = AdminRequest { method: "POST", endpoint, query: &[], document: None };
    let proof: Proof = args.remote.send(request).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&proof)?,
        OutputFormat::Text if proof.exact => output::line("the counters are exact"),
        OutputFormat::Text => {
            output::line(&format!("the counters were wrong; counted: {}", proof.counted));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe_usage(usage: &Usage) -> String {
    let prefix = if usage.prefix.is_empty() { "(default)" } else { &usage.prefix };
    let quota = usage.quota.map_or(String::new(), |quota| format!(" of {}", ByteSize(quota)));
    let most = usage.repositories_max.map_or(String::new(), |most| format!(" of {most}"));
    format!(
        "{prefix}: {}{quota} in {} objects, {} reserved; {}{most} repositories",
        ByteSize(usage.bytes),
        usage.objects,
        ByteSize(usage.reserved),
        usage.repositories
    )
}

fn describe(namespace: &Namespace) -> String {
    let prefix = if namespace.prefix.is_empty() { "(default)" } else { &namespace.prefix };
    let quota = namespace.quota.map_or("none".to_owned(), |quota| quota.to_string());
    let repositories =
        namespace.repositories_max.map_or("any number".to_owned(), |most| most.to_string());
    format!(
        "{prefix}: quota {quota}, repositories {repositories}, immutable-tag rules {}, \
         retention rules {}, trash {}",
        namespace.immutable_tags.len(),
        namespace.retention.len(),
        namespace.trash
    )
}
