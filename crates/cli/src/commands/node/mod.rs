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
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    verb: NodeVerb,
}

#[derive(Subcommand, Debug)]
enum NodeVerb {
    /// List the images of the node, who uses them, and which are pinned
    #[command(visible_alias = "ls")]
    Images(images::ImagesArgs),
    /// Pull an image onto the node before a pod needs it; needs a running `shipway up`
    Pull(pull::PullArgs),
    /// Remove images that no pod uses
    Prune(removal::PruneArgs),
    /// Remove images by name or id
    #[command(visible_alias = "rmi")]
    Rm(removal::RmArgs),
    /// Keep images from being removed
    Pin(NamesArgs),
    /// Let images be removed again
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
        NodeVerb::Pin(args) => {
            let mut names = Vec::new();
            for image in &args.images {
                names.extend(place.pin(image).await?);
            }
            told(args.output, &names)
        }
        NodeVerb::Unpin(args) => {
            let mut names = Vec::new();
            for image in &args.images {
                names.extend(place.unpin(image).await?);
            }
            told(args.output, &names)
        }
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
