//! `shipway registry gc`, `gc status` and `gc explain`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blob_store::{CollectMode, CollectOptions};
use clap::{Args, Subcommand};
use oci_model::Digest;
use registry_server::{
    BlobExplanation, COLLECTION_DELAY, StorageStatus, UPLOAD_IDLE_MAX, explain_blob, storage_status,
};
use serde::Serialize;

use super::open_store;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct GcArgs {
    #[command(subcommand)]
    verb: Option<GcVerb>,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Keep blobs that were used within this many seconds
    #[arg(
        long,
        global = true,
        default_value_t = COLLECTION_DELAY.as_secs(),
        value_name = "SECONDS"
    )]
    delay: u64,
    #[command(flatten)]
    output: GlobalOutputArgs,
}

#[derive(Subcommand, Debug)]
enum GcVerb {
    /// Show what could be removed, what is damaged or missing, and the last collection
    Status,
    /// Tell why a blob stays, or when it goes
    Explain {
        /// The blob
        #[arg(value_name = "DIGEST")]
        digest: String,
    },
}

/// `-o` of the verb and of those below it.
#[derive(Args, Clone, Copy, Debug)]
struct GlobalOutputArgs {
    /// Form of the result on standard output
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        default_value = "text",
        value_name = "FORMAT"
    )]
    output: OutputFormat,
}

/// What `registry gc` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CollectedReport {
    dry_run: bool,
    blobs: u64,
    bytes: u64,
    kept_blobs: u64,
    waiting_blobs: u64,
    waiting_bytes: u64,
    uploads: usize,
}

pub(super) async fn run(args: &GcArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let output = OutputArgs { output: args.output.output };
    let delay = Duration::from_secs(args.delay);
    let store = open_store(&globals.state_dir())?;
    match &args.verb {
        None => collect(args, globals).await,
        Some(GcVerb::Status) => {
            let status = tokio::task::spawn_blocking(move || storage_status(&store, delay));
            show_status(&status.await??, output)
        }
        Some(GcVerb::Explain { digest }) => {
            let digest: Digest =
                digest.parse().map_err(|error| Failure::new(Kind::Usage, error))?;
            let found = tokio::task::spawn_blocking(move || explain_blob(&store, &digest, delay));
            show_explanation(&found.await??, output)
        }
    }
}

async fn collect(args: &GcArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let state = globals.state_dir();
    let store = open_store(&state)?;
    let options = CollectOptions {
        now: SystemTime::now(),
        delay: Duration::from_secs(args.delay),
        upload_idle_max: UPLOAD_IDLE_MAX,
        mode: if args.dry_run { CollectMode::Plan } else { CollectMode::Apply },
    };
    let format = args.output.output;
    let told = move |digest: &Digest, size: u64| {
        if format == OutputFormat::Text {
            output::line(&format!("{digest} {size}"));
        }
    };
    let collected =
        registry_server::collect_garbage(&state.join("registry"), &store, &options, told).await?;
    match format {
        OutputFormat::Json => output::json(&CollectedReport {
            dry_run: args.dry_run,
            blobs: collected.blobs,
            bytes: collected.bytes,
            kept_blobs: collected.kept_blobs,
            waiting_blobs: collected.waiting_blobs,
            waiting_bytes: collected.waiting_bytes,
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

fn show_status(status: &StorageStatus, output: OutputArgs) -> Result<ExitCode, Failure> {
    if output.output == OutputFormat::Json {
        output::json(status)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "disk: {} bytes, {} free, {} kept free of uploads",
        status.disk_bytes, status.free_bytes, status.reserved_bytes
    ));
    output::line(&format!(
        "blobs: {}; nothing needs {} ({} bytes), {} more ({} bytes) wait for their delay",
        status.blobs,
        status.reclaimable_blobs,
        status.reclaimable_bytes,
        status.waiting_blobs,
        status.waiting_bytes
    ));
    output::line(&match &status.last_collection {
        Some(last) => format!(
            "last collection: {}, removed {} blobs, {} bytes",
            ago(last.at),
            last.blobs,
            last.bytes
        ),
        None => "last collection: none yet".to_owned(),
    });
    output::line(&match status.last_scrub {
        Some(at) => format!("every blob read again: {}", ago(at)),
        None => "every blob read again: not yet".to_owned(),
    });
    for digest in &status.quarantined {
        output::line(&format!("damaged: {digest}; push an image that has it again"));
    }
    for blob in &status.missing {
        output::line(&format!("missing: {}, needed by {}", blob.digest, blob.needed_by));
    }
    Ok(ExitCode::SUCCESS)
}

fn show_explanation(found: &BlobExplanation, output: OutputArgs) -> Result<ExitCode, Failure> {
    if output.output == OutputFormat::Json {
        output::json(found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let digest = &found.digest;
    output::line(&match (found.size, found.quarantined) {
        (Some(size), _) => format!("{digest}: {size} bytes"),
        (None, true) => format!("{digest}: damaged on disk; push an image that has it again"),
        (None, false) => format!("{digest}: not in the store"),
    });
    for name in &found.needed_by {
        output::line(&format!("needed by {name}"));
    }
    if found.guarded {
        output::line("guarded by something that runs now");
    }
    if let Some(at) = found.goes_after {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        output::line(&match at.saturating_sub(now) {
            0 => "nothing needs it: the next collection takes it".to_owned(),
            left => format!("nothing needs it: it goes in {left} seconds unless somebody asks"),
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{} seconds ago", now.saturating_sub(at))
}
