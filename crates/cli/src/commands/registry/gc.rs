//! `shipway registry gc`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use blob_store::{CollectMode, CollectOptions};
use clap::Args;
use registry_server::{COLLECTION_DELAY, UPLOAD_IDLE_MAX};
use serde::Serialize;

use super::open_store;
use crate::exit::Failure;
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct GcArgs {
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Keep blobs that were used within this many seconds
    #[arg(long, default_value_t = COLLECTION_DELAY.as_secs(), value_name = "SECONDS")]
    delay: u64,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `registry gc` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CollectedReport {
    dry_run: bool,
    blobs: u64,
    bytes: u64,
    kept_blobs: u64,
    uploads: usize,
}

pub(super) async fn run(args: &GcArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let state = globals.state_dir();
    let store = open_store(&state)?;
    let options = CollectOptions {
        now: SystemTime::now(),
        delay: Duration::from_secs(args.delay),
        upload_idle_max: UPLOAD_IDLE_MAX,
        mode: if args.dry_run { CollectMode::Plan } else { CollectMode::Apply },
    };
    let format = args.output.output;
    let told = move |digest: &oci_model::Digest, size: u64| {
        if format == OutputFormat::Text {
            output::line(&format!("{digest} {size}"));
        }
    };
    let collected =
        registry_server::collect_garbage(&state.join("registry"), &store, &options, told).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&CollectedReport {
            dry_run: args.dry_run,
            blobs: collected.blobs,
            bytes: collected.bytes,
            kept_blobs: collected.kept_blobs,
            uploads: collected.uploads,
        })?,
        OutputFormat::Text => output::line(&format!(
            "{}: {} blobs, {} bytes; kept: {} blobs",
            if args.dry_run { "would remove" } else { "removed" },
            collected.blobs,
            collected.bytes,
            collected.kept_blobs
        )),
    }
    Ok(ExitCode::SUCCESS)
}
