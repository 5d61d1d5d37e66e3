//! `shipway up`: an embedded single-node Kubernetes and a private registry in one process.
//!
//! The verb starts a daemon (this program again, with `--foreground`) and waits until it is ready.

mod admission_flags;
mod collection_flags;
mod cri_flags;
mod daemon;
mod provider_flags;
mod pull_flags;
pub(crate) mod record;
mod verification_flags;

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};

use self::record::{Lock, Record};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

/// Flags of `shipway up`.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Stay in the foreground; Ctrl-C takes the machine down
    #[arg(long)]
    foreground: bool,
    /// Address of the Kubernetes API; port 0 takes a free one
    #[arg(
        long,
        env = "SHIPWAY_API_ADDRESS",
        default_value = "127.0.0.1:6443",
        value_name = "HOST:PORT"
    )]
    api_address: SocketAddr,
    /// Address of the registry; plain HTTP on loopback only; port 0 takes a free one
    #[arg(
        long,
        env = "SHIPWAY_REGISTRY_ADDRESS",
        default_value = "127.0.0.1:5000",
        value_name = "HOST:PORT"
    )]
    registry_address: SocketAddr,
    /// What clients without credentials may do at the registry
    #[arg(long, env = "SHIPWAY_REGISTRY_ANONYMOUS", default_value = "none")]
    registry_anonymous: AnonymousAccess,
    /// Settings in TOML; of [registry] those of other registries count: proxy and cache
    #[arg(long, env = "SHIPWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the node [default: the host's name]
    #[arg(long, env = "SHIPWAY_NODE_NAME", value_name = "NAME", value_parser = parse_node_name)]
    node_name: Option<String>,
    /// First directory in which the node looks for config.json and .dockercfg
    #[arg(
        long,
        env = "SHIPWAY_KUBELET_ROOT_DIR",
        default_value = "/var/lib/kubelet",
        value_name = "DIR"
    )]
    kubelet_root_dir: PathBuf,
    /// Last directory in which the node looks for .docker/config.json and .dockercfg
    #[arg(long, default_value = "/", value_name = "DIR", hide = true)]
    credentials_root_dir: PathBuf,
    /// How long the node remembers what it found in those files, such as 5m
    #[arg(long, env = "SHIPWAY_NODE_CREDENTIALS_CACHE", default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    node_credentials_cache: std::time::Duration,
    /// Take images of one repository from another, as FROM=TO; may be repeated
    #[arg(long = "image-mirror", value_name = "FROM=TO", value_parser = parse_mirror)]
    image_mirrors: Vec<image_policy::ImageMirror>,
    /// Registry that the node may reach over plain HTTP or with an unknown certificate
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    insecure_registries: Vec<String>,
    #[command(flatten)]
    admission: admission_flags::AdmissionFlags,
    #[command(flatten)]
    verification: verification_flags::VerificationFlags,
    #[command(flatten)]
    providers: provider_flags::ProviderFlags,
    #[command(flatten)]
    collection: collection_flags::CollectionFlags,
    #[command(flatten)]
    cri: cri_flags::CriFlags,
    #[command(flatten)]
    pulls: pull_flags::PullFlags,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AnonymousAccess {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Pull and push.
    Push,
}

/// Starts the machine.
pub(crate) async fn run(args: UpArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let state_dir = globals.state_dir();
    check_rights()?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state_dir)
        .with_context(|| format!("cannot make the state directory {}", state_dir.display()))
        .map_err(|error| Failure::new(Kind::Environment, error))?;
    let state_dir = state_dir.canonicalize().context("cannot resolve the state directory")?;
    let in_background = std::env::var_os(daemon::BACKGROUND_VARIABLE).is_some();
    if !in_background {
        warn(&args, &state_dir)?;
    }
    if args.foreground {
        return daemon::run(args, &state_dir).await;
    }
    let Some(lock) = Lock::take_patiently(&state_dir).context("cannot lock the state directory")?
    else {
        return Err(already_running(&state_dir));
    };
    // The daemon takes it itself; between the two another start may win, and then the daemon says so.
    drop(lock);
    let record = start_daemon(&state_dir)?;
    announce(&record, &state_dir, args.output)
}

/// Tells what the node will only tell by events and in its log, where nobody looks who starts it.
fn warn(args: &UpArgs, state_dir: &Path) -> Result<(), Failure> {
    for problem in args.collection.options()?.kept.problems() {
        output::error_line(&format!("warning: --kept-images: {problem}"));
    }
    let program = std::env::current_exe().context("cannot find our own program")?;
    let blobs = blob_store::BlobStore::open(state_dir.join("blobs"))
        .context("cannot open the blob store")?;
    let node_dir = state_dir.join("node");
    if let Some(text) = cluster_node::executor_image_shortage(&blobs, &node_dir, &program) {
        output::error_line(&format!(
            "warning: {text}; pods with {} will not start",
            cluster_node::EXECUTOR_IMAGE
        ));
    }
    Ok(())
}

/// A node mounts and makes namespaces; without root we would fail later with a worse text.
fn check_rights() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Environment,
        anyhow!("shipway up needs root: its node mounts file systems and makes namespaces for containers"),
    )
    .hint("sudo shipway up; or build without a node: shipway build works for every user"))
}

fn already_running(state_dir: &Path) -> Failure {
    let who = match Record::read(state_dir) {
        Ok(Some(record)) => format!(" as process {}", record.pid),
        _ => String::new(),
    };
    let text = format!("shipway is already running on {}{who}", state_dir.display());
    Failure::new(Kind::Environment, anyhow!(text))
        .hint("shipway status; or another --state-dir and other addresses for a second machine")
}

/// Starts this program again with the same arguments and `--foreground`, in the background; its
/// first line of output is the record, and nothing means that it failed.
fn start_daemon(state_dir: &Path) -> Result<Record, Failure> {
    let log_path = state_dir.join("shipway.log");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(&log_path)
        .with_context(|| format!("cannot open {}", log_path.display()))?;
    let before = log.seek(SeekFrom::End(0)).context("cannot read the log")?;
    let program = std::env::current_exe().context("cannot find our own program")?;
    let mut daemon = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--foreground")
        .env(daemon::BACKGROUND_VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().context("cannot share the log")?)
        .spawn()
        .context("cannot start the daemon")?;
    let mut line = String::new();
    if let Some(output) = daemon.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("cannot hear from the daemon")?;
    }
    if let Ok(record) = serde_json::from_str(&line) {
        return Ok(record);
    }
    let status = daemon.wait().context("cannot wait for the daemon")?;
    log.seek(SeekFrom::Start(before)).context("cannot read the log")?;
    let mut said = String::new();
    log.read_to_string(&mut said).context("cannot read the log")?;
    let said = said.trim().trim_start_matches("error: ").to_owned();
    let said = if said.is_empty() { format!("the daemon ended with {status}") } else { said };
    let kind = if status.code() == Some(Kind::Environment.exit_code().into()) {
        Kind::Environment
    } else {
        Kind::Failed
    };
    Err(Failure::new(kind, anyhow!(said)))
}

fn announce(record: &Record, state_dir: &Path, output: OutputArgs) -> Result<ExitCode, Failure> {
    match output.output {
        OutputFormat::Json => output::json(record)?,
        OutputFormat::Text => {
            let registry = &record.registry_address;
            output::line(&format!(
                "Kubernetes  https://{}  (node {})\nregistry    {registry}\nlog         {}\n\n\
                 export KUBECONFIG={}\n\
                 shipway login {registry} -u {} --password-stdin < {}\n\
                 kubectl get nodes\n\nshipway down stops it.",
                record.api_address,
                record.node_name,
                state_dir.join("shipway.log").display(),
                record.kubeconfig.display(),
                record.registry_user,
                record.registry_password_file.display(),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a name as the API server will (RFC 1123 subdomain).
fn parse_node_name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err("want lower-case letters, digits, '-' and '.', such as node-1.example".to_owned())
}

fn parse_mirror(text: &str) -> Result<image_policy::ImageMirror, String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok(image_policy::ImageMirror { from: from.to_owned(), to: to.to_owned() })
        }
        _ => Err("want FROM=TO, such as docker.io/library/*=registry.example/hub".to_owned()),
    }
}

/// Reads a whole number with a unit: `300s`, `5m`, `2h`.
pub(crate) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("want a whole number and a unit, such as 30s, 5m or 2h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| format!("{number:?} is not a whole number"))?;
    Ok(std::time::Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: UpArgs,
    }

    /// kubelet-images.md 4.1 and 15.5, row L15.
    #[test]
    fn node_files_are_remembered_for_five_minutes_by_default() {
        let line = Line::try_parse_from(["up"]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(line.up.node_credentials_cache, std::time::Duration::from_secs(300));
    }
}
