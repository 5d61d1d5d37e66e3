//! `shipway secret sync`: one source of registry credentials in many namespaces.

mod file_changes;
mod source;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use operator::secret_sync::{
    Accounts, Desired, Elsewhere, Reconciler, Scope, SourceSecret, Told, parse_selector,
    permissions, step_line, step_object,
};
use serde_json::json;

use crate::exit::{Failure, Kind};
use crate::output::{self, OutputArgs, OutputFormat};

/// Flags of `secret`.
#[derive(Args, Debug)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    verb: SecretVerb,
}

#[derive(Subcommand, Debug)]
enum SecretVerb {
    /// Keep one pull secret in many namespaces and on their service accounts
    #[command(after_help = "Examples:
  shipway secret sync team --from-file ~/.docker/config.json --namespace shop,blog
  shipway secret sync team --from-secret ops/registry --namespace shop --dry-run

docs/secret-sync.md has the rules, the rights that it needs in a cluster, and --watch.")]
    Sync(SyncArgs),
}

/// Flags of `secret sync`.
#[derive(Args, Debug)]
struct SyncArgs {
    /// Name of the sync, and of the secret in every namespace
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
    /// Config file with the credentials [default: docker's config.json]
    #[arg(long, value_name = "FILE", conflicts_with = "from_secret")]
    from_file: Option<PathBuf>,
    /// Secret of the cluster with the credentials
    #[arg(long, value_name = "NAMESPACE/NAME")]
    from_secret: Option<SourceSecret>,
    /// Only the credentials of this registry (HOST[:PORT]); repeatable
    #[arg(long = "registry", value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    registries: Vec<String>,
    /// Namespaces, separated by commas; repeatable
    #[arg(
        long = "namespace",
        short = 'n',
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new()
    )]
    namespaces: Vec<String>,
    /// Namespaces with these labels, such as team=red,stage in (test,live)
    #[arg(long, value_name = "SELECTOR")]
    namespace_selector: Option<String>,
    /// All namespaces but those of the system (kube-*)
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Not these namespaces, separated by commas; repeatable
    #[arg(
        long = "exclude-namespace",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new()
    )]
    excluded: Vec<String>,
    /// Service account whose pods get the secret, or all; repeatable
    #[arg(
        long = "service-account",
        value_name = "ACCOUNT",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with = "remove"
    )]
    accounts: Vec<String>,
    /// Go on: new namespaces, accounts and credentials, and repairs of what was changed by hand
    #[arg(long, conflicts_with_all = ["remove", "dry_run"])]
    watch: bool,
    /// While watching, how often credential helpers are asked again, such as 15m
    #[arg(long, default_value = "15m", value_name = "DURATION", value_parser = super::up::parse_duration)]
    refresh: Duration,
    /// Remove what this sync made in namespaces and accounts that are not chosen any more
    #[arg(long, conflicts_with = "remove")]
    prune: bool,
    /// Remove what this sync made in the chosen namespaces; everywhere with --all-namespaces
    #[arg(long, conflicts_with_all = ["from_file", "from_secret"])]
    remove: bool,
    /// Print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print the rights that this sync needs in a cluster, as a manifest
    #[arg(long)]
    print_rbac: bool,
    /// Namespace of the service account in that manifest
    #[arg(long, default_value = "shipway", value_name = "NAMESPACE", requires = "print_rbac")]
    rbac_namespace: String,
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the pod's own]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A name that can be a secret's and a label's value.
fn parse_name(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=63).contains(&text.len())
        && text.bytes().all(good)
        && !text.starts_with('-')
        && !text.ends_with('-')
    {
        return Ok(text.to_owned());
    }
    Err("want at most 63 lower-case letters, digits and '-', such as regcred".to_owned())
}

/// Runs the verb.
pub(crate) async fn run(args: SecretArgs) -> Result<ExitCode, Failure> {
    let SecretVerb::Sync(args) = args.verb;
    let desired = desired(&args)?;
    desired.scope.check().map_err(|error| {
        Failure::usage(error)
            .hint("--namespace NAME, --namespace-selector SELECTOR or --all-namespaces")
    })?;
    if args.print_rbac {
        output::raw(permissions(&desired, &args.rbac_namespace).as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    let client = client(&args).await?;
    let reconciler = Reconciler::new(client.clone(), &args.name);
    let format = args.output.output;
    let name = args.name.clone();
    let mut tell = |told: Told| tell(&told, &name, format);
    if args.watch {
        let source = source::watch(&args, client)?;
        reconciler.watch(desired, source, &mut tell).await;
        return Err(Failure::bug("the watches ended"));
    }
    let content = if args.remove {
        None
    } else {
        let sourced = source::read(&args, client).await?;
        tell(Told::Source(sourced.clone()));
        Some(sourced.content)
    };
    let desired = Desired { content, ..desired };
    if args.dry_run {
        return preview(&reconciler, &desired, &args).await;
    }
    let report = reconciler.once(&desired, &mut tell).await.map_err(of_cluster)?;
    if report.failed == 0 && report.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let left = report.failed + report.problems.len();
    let things = if left == 1 { "thing is" } else { "things are" };
    Err(Failure::new(Kind::Failed, anyhow!("{left} {things} not as they should be; see above")))
}

fn desired(args: &SyncArgs) -> Result<Desired, Failure> {
    let set = |names: &[String]| -> BTreeSet<String> { names.iter().cloned().collect() };
    let selector = args.namespace_selector.as_deref().map(parse_selector);
    let accounts = match args.accounts.as_slice() {
        [] => Accounts::None,
        names if names.iter().any(|name| name == "all") => Accounts::All,
        names => Accounts::Named(set(names)),
    };
    let scope = Scope {
        named: set(&args.namespaces),
        selector: selector.transpose().map_err(Failure::usage)?,
        all: args.all_namespaces,
        excluded: set(&args.excluded),
    };
    // Where nothing is removed, a namespace that loses its label would keep a credential; one that
    // is named cannot get out of scope while this runs.
    let prunes = args.prune || (args.watch && !scope.is_by_name_only());
    Ok(Desired {
        name: args.name.clone(),
        content: None,
        scope,
        accounts,
        elsewhere: if prunes { Elsewhere::Remove } else { Elsewhere::Keep },
        source: args.from_secret.as_ref().map(|one| (one.namespace.clone(), one.name.clone())),
    })
}

async fn client(args: &SyncArgs) -> Result<kube::Client, Failure> {
    let options = KubeConfigOptions { context: args.context.clone(), ..Default::default() };
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))
                .map_err(|error| Failure::new(Kind::Usage, error))?;
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(anyhow::Error::new)
        }
        None if args.context.is_some() => {
            kube::Config::from_kubeconfig(&options).await.map_err(anyhow::Error::new)
        }
        None => kube::Config::infer().await.map_err(anyhow::Error::new),
    };
    config
        .and_then(|config| crate::clusters::client(config).map_err(anyhow::Error::new))
        .context("cannot reach a cluster")
        .map_err(|error| Failure::new(Kind::Usage, error).hint("--kubeconfig FILE, or KUBECONFIG"))
}

async fn preview(
    reconciler: &Reconciler,
    desired: &Desired,
    args: &SyncArgs,
) -> Result<ExitCode, Failure> {
    let plan = reconciler.preview(desired).await.map_err(of_cluster)?;
    match args.output.output {
        OutputFormat::Json => {
            let steps: Vec<_> =
                plan.steps.iter().map(|step| step_object(step, &args.name)).collect();
            let problems: Vec<_> = plan.problems.iter().map(ToString::to_string).collect();
            output::json(&json!({"steps": steps, "problems": problems}))?;
        }
        OutputFormat::Text => {
            for step in &plan.steps {
                output::line(&format!("{} (dry run)", step_line(step, &args.name)));
            }
            for problem in &plan.problems {
                output::error_line(&format!("warning: {problem}"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn of_cluster(error: operator::secret_sync::SyncError) -> Failure {
    Failure::new(Kind::Failed, error)
}

/// Steps go to standard output, trouble to standard error; for programs everything is a JSON line.
fn tell(told: &Told, name: &str, format: OutputFormat) {
    if format == OutputFormat::Json {
        let mut object = told.object(name);
        object["time"] = json!(Timestamp::now().to_string());
        output::line(&object.to_string());
        return;
    }
    for line in told.lines(name) {
        match told {
            _ if told.is_trouble() => output::error_line(&format!("warning: {line}")),
            Told::Done(_) => output::line(&line),
            _ => output::error_line(&line),
        }
    }
}
