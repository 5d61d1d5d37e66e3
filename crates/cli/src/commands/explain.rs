//! `shipway explain`: why an image will or will not pull. Also `kubectl shipway explain`.

mod cluster;
mod node;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use credentials::PullSecret;
use oci_model::Platform;
use operator::explain::{
    Colour, Documents, Inputs, NoCluster, Report, Subject, explain, secret_of_file, text,
};
use registry_client::{Client, ClientOptions};

use self::cluster::ClusterArgs;
use self::node::{NodeArgs, NodeFacts};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{self, RegistryArgs};

/// Largest file that is read, in bytes (16 MiB).
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Longest wait for a registry's connection: who explains waits for the answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a registry.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Flags of `explain`.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 every image would be pulled, 1 one would not, 7 nothing \
    fails but not everything could be seen; 2 to 5 as for every verb. docs/explain.md has the \
    causes and the JSON.")]
pub(crate) struct ExplainArgs {
    /// A file of objects, or KIND/NAME in a cluster: pod, deployment, job, statefulset, daemonset,
    /// cronjob, replicaset
    #[arg(value_name = "FILE|KIND/NAME", required_unless_present_any = ["filenames", "images"])]
    targets: Vec<String>,
    /// A file of objects, - for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    filenames: Vec<String>,
    /// An image without a pod; repeatable
    #[arg(long = "image", value_name = "IMAGE")]
    images: Vec<String>,
    /// A secret as if the pod named it: a manifest, or docker's config.json; repeatable
    #[arg(long = "secret", value_name = "FILE")]
    secrets: Vec<PathBuf>,
    /// Do not ask any registry
    #[arg(long)]
    no_probe: bool,
    /// Platform of the node [default: that of the pod's node, else this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Explains.
pub(crate) async fn run(args: ExplainArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let machine = node::running_machine(globals);
    let (files, objects) = sort_targets(&args)?;
    let needs_cluster = !objects.is_empty();
    let cluster = cluster::connect(&args.cluster, machine.as_ref(), needs_cluster).await?;
    let namespace = args.cluster.namespace(cluster.as_ref().ok());
    let mut documents = Documents::default();
    for path in &files {
        let text = read_text(path)?;
        documents.add(path, &text, &namespace).map_err(Failure::usage)?;
    }
    let mut subjects = documents.subjects.clone();
    if !files.is_empty() && subjects.is_empty() && objects.is_empty() && args.images.is_empty() {
        let text = format!("nothing in {} runs containers", files.join(", "));
        return Err(Failure::usage(text));
    }
    let secrets = read_secrets(&args.secrets, &namespace)?;
    let mut platform = args.platform.clone();
    if let Ok(cluster) = &cluster {
        for (kind, name) in &objects {
            let (subject, found) = cluster.subject(kind, name, &namespace).await?;
            platform = platform.or(found);
            subjects.push(subject);
        }
    }
    subjects.extend(args.images.iter().map(|image| Subject::of_image(image, &namespace)));
    let is_ours = cluster.as_ref().is_ok_and(|found| found.is_of(machine.as_ref()));
    let facts = node::facts(&args.node, machine.as_ref(), is_ours || cluster.is_err())?;
    let client = registry_client(&args, &facts)?;
    let run = Run {
        subjects: &subjects,
        documents: &documents,
        secrets: &secrets,
        client: client.as_ref(),
        facts: &facts,
        platform: platform.unwrap_or_else(Platform::host),
    };
    let report = match &cluster {
        Ok(cluster) => run.with(cluster).await,
        Err(why) => run.with(&NoCluster { why: why.clone() }).await,
    };
    show(&report, args.output)
}

/// Everything but the cluster.
struct Run<'a> {
    subjects: &'a [Subject],
    documents: &'a Documents,
    secrets: &'a [PullSecret],
    client: Option<&'a Client>,
    facts: &'a NodeFacts,
    platform: Platform,
}

impl Run<'_> {
    async fn with<C: operator::explain::Cluster>(&self, cluster: &C) -> Report {
        let inputs = Inputs {
            documents: self.documents,
            secrets: self.secrets,
            cluster,
            registry: self.client,
            node: &self.facts.side,
            platform: self.platform.clone(),
            now: jiff::Timestamp::now().as_second(),
        };
        explain(self.subjects, &inputs).await
    }
}

fn show(report: &Report, args: OutputArgs) -> Result<ExitCode, Failure> {
    match args.output {
        OutputFormat::Json => output::json(report)?,
        OutputFormat::Text => {
            let colour = if output::stdout_has_colour() { Colour::On } else { Colour::Off };
            output::raw(text(report, colour).as_bytes());
        }
    }
    Ok(ExitCode::from(report.exit_code))
}

/// Kind and name of an object.
type Object = (String, String);

/// Files, and objects of the cluster. A target that is a file is one.
fn sort_targets(args: &ExplainArgs) -> Result<(Vec<String>, Vec<Object>), Failure> {
    let mut files = args.filenames.clone();
    let mut objects = Vec::new();
    for target in &args.targets {
        if target == "-" || Path::new(target).exists() {
            files.push(target.clone());
            continue;
        }
        match target.split_once('/') {
            Some((kind, name)) if cluster::is_kind(kind) && !name.is_empty() => {
                objects.push((kind.to_owned(), name.to_owned()));
            }
            _ => {
                return Err(Failure::usage(format!("{target}: no such file, and no KIND/NAME"))
                    .hint("shipway explain pod/NAME -n NAMESPACE, or --image for an image alone"));
            }
        }
    }
    Ok((files, objects))
}

fn read_text(path: &str) -> Result<String, Failure> {
    if path == "-" {
        let mut text = String::new();
        std::io::stdin()
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
        return Ok(text);
    }
    let bytes = read_file(Path::new(path))?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{path}: not UTF-8")))
}

/// A file that is not larger than [`FILE_BYTES_MAX`].
fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        let text = format!("{}: larger than {} MiB", path.display(), FILE_BYTES_MAX >> 20);
        return Err(Failure::usage(text));
    }
    Ok(bytes)
}

/// The secrets of `--secret`: manifests, else docker's files.
fn read_secrets(paths: &[PathBuf], namespace: &str) -> Result<Vec<PullSecret>, Failure> {
    let mut secrets = Vec::new();
    for path in paths {
        let bytes = read_file(path)?;
        let name = path.display().to_string();
        let mut documents = Documents::default();
        let text = String::from_utf8_lossy(&bytes);
        // What is no manifest is perhaps a docker config; that reader says what is wrong.
        let _ = documents.add(&name, &text, namespace);
        if documents.secrets.is_empty() {
            let secret = secret_of_file(&name, &bytes)
                .map_err(|reason| Failure::usage(format!("{name}: {reason}")))?;
            secrets.push(secret);
        } else {
            secrets.extend(documents.secrets.into_values());
        }
    }
    Ok(secrets)
}

/// A client that asks once and does not wait long; none with `--no-probe`.
fn registry_client(args: &ExplainArgs, facts: &NodeFacts) -> Result<Option<Client>, Failure> {
    if args.no_probe {
        return Ok(None);
    }
    let mut flags = args.registry.clone();
    flags.insecure_registries.extend(facts.insecure_registries.iter().cloned());
    let options = ClientOptions {
        retries_max: 0,
        connect_timeout: CONNECT_TIMEOUT,
        read_timeout: READ_TIMEOUT,
        ..registries::client(&flags)?.options().clone()
    };
    let client = Client::new(options).map_err(|error| Failure::new(Kind::Usage, anyhow!(error)))?;
    Ok(Some(client))
}
