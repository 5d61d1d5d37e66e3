//! `shipway node`: the images of the node, while it runs or not.

mod images;
mod place;
mod pull;
mod removal;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::place::Place;
use crate::exit::Failure;
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

/// Flags of `node`.
#[derive(Args, Debug)]
#[command(
    after_help = "docs/node-images.md has which images stay and which go, and the exit codes."
)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    verb: NodeVerb,
}

#[derive(Subcommand, Debug)]
enum NodeVerb {
    /// List the images of the node, who uses them, and which are pinned
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  shipway node images --digests
  shipway node images -o json | jq -r '.[] | select(.usedBy == []) | .tags[]'

docs/node-images.md has the columns."
    )]
    Images(images::ImagesArgs),
    /// Pull an image onto the node before a pod needs it; needs a running `shipway up`
    #[command(after_help = "Examples:
  shipway node pull --pin registry.example.com/team/app:2024-7
  shipway node pull --creds-file ~/.docker/config.json registry.example.com/team/app:2024-7

docs/node-images.md has whose credentials are used, which pods may use the image, and the exit codes.")]
    Pull(pull::PullArgs),
    /// Remove images that no pod uses
    #[command(after_help = "Examples:
  shipway node prune --dry-run
  shipway node prune --all

docs/node-images.md has what is never removed.")]
    Prune(removal::PruneArgs),
    /// Remove images by name or id
    #[command(
        visible_alias = "rmi",
        after_help = "Examples:
  shipway node rm registry.example.com/team/app:2024-7
  shipway node rm --force 5f0b0d2a3c11

It ends at the first image that cannot be removed."
    )]
    Rm(removal::RmArgs),
    /// Keep images from being removed
    #[command(after_help = "Examples:
  shipway node pin docker.io/library/nginx:1.27
  shipway node pin 5f0b0d2a3c11 registry.example.com/team/app:2024-7

All of them are pinned or, if one is not there, none. docs/node-images.md has other ways to keep
images: node pull --pin, and up --kept-images.")]
    Pin(NamesArgs),
    /// Let images be removed again
    #[command(after_help = "Examples:
  shipway node unpin docker.io/library/nginx:1.27

Prints the names that were pinned; if one is not there, none is unpinned.")]
    Unpin(NamesArgs),
}

/// Images and the form of the answer.
#[derive(Args, Debug)]
struct NamesArgs {
    /// Names, name@digest, ids, or the beginnings of ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a verb of `node`.
pub(crate) async fn run(args: NodeArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let place = Place::find(&globals.state_dir()).await?;
    match args.verb {
        NodeVerb::Images(args) => images::run(&args, &place).await,
        NodeVerb::Pull(args) => pull::run(args, &place).await,
        NodeVerb::Prune(args) => removal::prune(&args, &place).await,
        NodeVerb::Rm(args) => removal::rm(&args, &place).await,
        NodeVerb::Pin(args) => told(args.output, &place.pin(args.images).await?),
        NodeVerb::Unpin(args) => told(args.output, &place.unpin(args.images).await?),
    }
}

/// Prints names, one per line.
fn told(args: OutputArgs, names: &[String]) -> Result<ExitCode, Failure> {
    match args.output {
        OutputFormat::Json => output::json(&names)?,
        OutputFormat::Text => names.iter().for_each(|name| output::line(name)),
    }
    Ok(ExitCode::SUCCESS)
}
