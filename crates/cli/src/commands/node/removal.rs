//! `shipway node rm` and `shipway node prune`.

use std::process::ExitCode;

use clap::Args;
use cluster_node::{ImageRequest, PruneRequest};
use indicatif::DecimalBytes;

use super::place::Place;
use crate::exit::Failure;
use crate::output::{self, OutputArgs, OutputFormat};

/// Flags of `node rm`.
#[derive(Args, Debug)]
pub(super) struct RmArgs {
    /// A name loses that name; an id, or the beginning of one, loses all names
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Also what a container uses or somebody pinned; what containers run of stays on the disk
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Flags of `node prune`.
#[derive(Args, Debug)]
pub(super) struct PruneArgs {
    /// Also images that were built or loaded here, which nobody can pull again
    #[arg(short, long)]
    all: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn rm(args: &RmArgs, place: &Place) -> Result<ExitCode, Failure> {
    let mut removed = Vec::new();
    let mut failed = None;
    for image in &args.images {
        let request = ImageRequest { image: image.clone(), force: args.force };
        let done = match place.remove(&request).await {
            Ok(done) => done,
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        };
        if args.output.output == OutputFormat::Text {
            done.untagged.iter().for_each(|name| output::line(&format!("Untagged: {name}")));
            if let Some(id) = &done.deleted {
                output::line(&format!("Deleted: {id}"));
            }
            wait(done.waiting_bytes);
        }
        removed.push(done);
    }
    if args.output.output == OutputFormat::Json {
        // Also what went before the failure, which somebody has to know.
        output::json(&removed)?;
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

pub(super) async fn prune(args: &PruneArgs, place: &Place) -> Result<ExitCode, Failure> {
    let request = PruneRequest { all: args.all, dry_run: args.dry_run };
    let pruned = place.prune(request).await?;
    if args.output.output == OutputFormat::Json {
        output::json(&pruned)?;
        return Ok(ExitCode::SUCCESS);
    }
    let verb = if args.dry_run { "Would delete" } else { "Deleted" };
    for image in &pruned.images {
        let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
        output::line(&format!("{verb}: {}", names.join(", ")));
    }
    if !args.dry_run {
        output::line(&format!("Total reclaimed space: {}", DecimalBytes(pruned.freed_bytes)));
        wait(pruned.waiting_bytes);
    }
    Ok(ExitCode::SUCCESS)
}

fn wait(bytes: u64) {
    if bytes > 0 {
        output::error_line(&format!(
            "{} follow within the hour: somebody else used them lately",
            DecimalBytes(bytes)
        ));
    }
}
