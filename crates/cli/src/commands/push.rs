//! `shipway push`.

use std::process::ExitCode;

use clap::Args;
use registry_client::PushOptions;
use serde_json::json;

use crate::cloud::{Access, Wants};
use crate::exit::Failure;
use crate::globals::Globals;
use crate::local_images::{find, open_store};
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client, reference};
use crate::transfer_view::{Verbosity, progress};

/// Flags of `push`.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// Image to push, by the name under which it was built or pulled
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    /// Name to push it under, if another one
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    /// Print the digest only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Pushes an image of the state directory.
pub(crate) async fn run(args: PushArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let source = reference(&args.name)?;
    let destination = match &args.destination {
        Some(text) => reference(text)?,
        None => source.clone(),
    };
    let store = open_store(globals)?;
    let root = find(&store, &source)?;
    let client = client(&args.registry)?;
    let mut access = Access::to(&destination, Wants::Push).await?;
    let quiet = args.quiet || args.output.output == OutputFormat::Json;
    let view = progress(if quiet { Verbosity::Quiet } else { Verbosity::Normal });
    let options = if source.registry() == destination.registry() {
        PushOptions { mount_from: vec![source.repository().clone()] }
    } else {
        PushOptions::default()
    };
    let pushed = access
        .attempt(async |auths| {
            client.push(&destination, &root, auths, &store, &options, &view).await
        })
        .await?;
    let (digest, size) = (pushed.descriptor.digest, pushed.descriptor.size);
    match args.output.output {
        OutputFormat::Json => output::json(&json!({
            "reference": destination.to_string(),
            "digest": digest,
            "size": size,
            "mediaType": pushed.descriptor.media_type.as_str(),
        }))?,
        OutputFormat::Text if args.quiet => output::line(&digest.to_string()),
        OutputFormat::Text => {
            let key = destination.manifest_key();
            output::line(&format!("{key}: digest: {digest} size: {size}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
