//! `shipway registry backup` and `restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use blob_store::AdoptMode;
use clap::Args;
use registry_client::AdminRequest;
use registry_server::{Offline, RestoreOptions, TransferError};
use serde::Deserialize;

use super::remote::RemoteArgs;
use super::transfer::{explain, offline, print};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::OutputArgs;

#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// Directory of the backup; a later backup adds only what is new
    #[arg(value_name = "DIR")]
    target: PathBuf,
    /// Only tell what would be copied and what is missing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// Directory of the backup
    #[arg(value_name = "DIR")]
    source: PathBuf,
    /// Which snapshot [default: the newest]
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Forget what the registry holds now
    #[arg(long)]
    replace: bool,
    /// Restore although blobs are missing or damaged; images that need them cannot be pulled
    #[arg(long)]
    with_missing: bool,
    /// Share the files of the backup instead of copying them
    #[arg(long)]
    link: bool,
    /// Only check that every blob of the backup is whole
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the running registry answers.
#[derive(Deserialize)]
struct Snapshot {
    file: String,
}

pub(super) async fn backup(args: BackupArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let offline = offline(globals)?;
    let name = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string();
    let snapshot = match offline.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(TransferError::InUse { .. }) => running_snapshot(&args.remote, &offline).await?,
        Err(error) => return Err(explain(error)),
    };
    let report = offline.back_up(snapshot, &args.target, &name, args.dry_run).await;
    let verb = if args.dry_run { "would back up" } else { "backed up" };
    print(verb, &report.map_err(explain)?, args.output)
}

/// Asks the running registry for its metadata. It is on this machine and uses the same directory.
async fn running_snapshot(remote: &RemoteArgs, offline: &Offline) -> Result<Vec<u8>, Failure> {
    let request =
        AdminRequest { method: "POST", endpoint: "storage/snapshot", query: &[], document: None };
    let Snapshot { file } = remote.send(request).await?;
    let is_name = file.starts_with("snapshot-")
        && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let path = offline.directory.join(if is_name { &file } else { "snapshot-" });
    let snapshot = std::fs::read(&path).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
        Failure::new(Kind::Usage, error)
            .hint("--registry must be the one that serves this --state-dir, on this machine")
    })?;
    std::fs::remove_file(&path)?;
    Ok(snapshot)
}

pub(super) async fn restore(args: RestoreArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let offline = offline(globals)?;
    let options = RestoreOptions {
        mode: if args.link { AdoptMode::Link } else { AdoptMode::Copy },
        replace: args.replace,
        with_missing: args.with_missing,
        dry_run: args.dry_run,
    };
    let report = offline.restore(&args.source, args.snapshot, options).await;
    let verb = if args.dry_run { "would restore" } else { "restored" };
    print(verb, &report.map_err(explain)?, args.output)
}
