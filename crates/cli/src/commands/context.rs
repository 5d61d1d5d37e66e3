//! `shipway context push`: a build context becomes an artifact of a registry.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use image_builder::{ContextDirectory, pack_context};
use registry_client::PushOptions;
use serde_json::json;

use crate::cloud::{Access, Wants};
use crate::exit::Failure;
use crate::globals::Globals;
use crate::local_images::open_store;
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client, reference};
use crate::transfer_view::{Verbosity, progress};

/// Files that a build needs whatever the ignore file says about them.
const ALWAYS: &str = "\n!Dockerfile\n!dockerfile\n!.dockerignore\n!*.dockerignore\n";

/// Flags of `context`.
#[derive(Args, Debug)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    verb: ContextVerb,
}

#[derive(Subcommand, Debug)]
enum ContextVerb {
    /// Push a directory, without what its .dockerignore names, as a build context
    Push(PushArgs),
}

#[derive(Args, Debug)]
struct PushArgs {
    /// Directory to push
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Where to: what `executor --context` and `build` then read it from
    #[arg(value_name = "oci://NAME[:TAG]")]
    destination: String,
    /// gzip or zstd
    #[arg(long, default_value = "gzip", value_name = "NAME")]
    compression: String,
    /// The Dockerfile, if it is not called so; it is pushed whatever is ignored
    #[arg(short, long, value_name = "PATH")]
    file: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: ContextArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    match args.verb {
        ContextVerb::Push(args) => push(args, globals).await,
    }
}

async fn push(args: PushArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let name = args.destination.strip_prefix("oci://").unwrap_or(&args.destination);
    let destination = reference(name)?;
    let compression = match args.compression.as_str() {
        "gzip" => layers::Compression::GZIP_DEFAULT,
        "zstd" => layers::Compression::ZSTD_DEFAULT,
        other => {
            return Err(
                Failure::usage(format!("unknown compression {other:?}")).hint("gzip or zstd")
            );
        }
    };
    let directory = directory(&args)?;
    let store = open_store(globals)?;
    let (manifest, _lease) = pack_context(&directory, &store, compression).await?;
    let client = client(&args.registry)?;
    let mut access = Access::to(&destination, Wants::Push).await?;
    let view = progress(Verbosity::Quiet);
    let options = PushOptions::default();
    let pushed = access
        .attempt(async |auths| {
            client.push(&destination, &manifest, auths, &store, &options, &view).await
        })
        .await?;
    let digest = pushed.descriptor.digest;
    match args.output.output {
        OutputFormat::Json => output::json(&json!({
            "context": format!("oci://{destination}@{digest}"),
            "digest": digest,
        }))?,
        OutputFormat::Text => output::line(&format!("oci://{destination}@{digest}")),
    }
    Ok(ExitCode::SUCCESS)
}

fn directory(args: &PushArgs) -> Result<ContextDirectory, Failure> {
    let root = args.directory.clone();
    if !root.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", root.display())));
    }
    let dockerfile = args.file.as_deref().unwrap_or("Dockerfile");
    let is_named = args.file.is_some();
    let ignore = crate::build::ignore_text(&root, dockerfile, is_named, false)?;
    let ignore = match ignore {
        None => dockerfile::IgnoreFile::default(),
        Some(text) => {
            let text = format!("{text}{ALWAYS}!{}\n", dockerfile.trim_start_matches("./"));
            dockerfile::IgnoreFile::parse(&text).map_err(crate::build::dockerfile_failure)?
        }
    };
    Ok(ContextDirectory { root, ignore })
}
