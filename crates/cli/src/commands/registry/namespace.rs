//! `shipway registry namespaces`.

use std::process::ExitCode;

use clap::Args;
use registry_server::Namespace;
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
