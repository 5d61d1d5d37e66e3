//! `shipway inspect`: what a registry says about an image, without its layers.

use std::process::ExitCode;

use clap::Args;
use oci_model::{Manifest, RawManifest};
use registry_client::{Layers, Platforms, Progress, PullOptions, PulledImage};
use serde_json::{Value, json};

use crate::commands::pull::PlatformArgs;
use crate::exit::Failure;
use crate::globals::Globals;
use crate::local_images::open_store;
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client, credentials_for, failure, reference};

/// Flags of `inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Image to look at, in its registry
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    /// Print the manifest or index, byte for byte
    #[arg(long, conflicts_with = "config")]
    raw: bool,
    /// Print the image config, byte for byte
    #[arg(long)]
    config: bool,
    #[command(flatten)]
    platform: PlatformArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Shows an image.
pub(crate) async fn run(args: InspectArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let name = reference(&args.name)?;
    let client = client(&args.registry)?;
    let auths = credentials_for(&name)?;
    if args.raw {
        let manifest = client.fetch_manifest(&name, &auths).await.map_err(failure)?;
        output::raw(manifest.bytes());
        return Ok(ExitCode::SUCCESS);
    }
    let store = open_store(globals)?;
    let options = PullOptions { platforms: platforms(&args.platform), layers: Layers::Leave };
    let pulled =
        client.pull(&name, &auths, &store, &options, &Progress::none()).await.map_err(failure)?;
    let Some(image) = pulled.images.first() else {
        return Err(Failure::usage(format!("{name} is an index without images")));
    };
    if args.config {
        let Some(config) = &image.config else {
            return Err(Failure::usage(format!("{name} is no image; it has no image config")));
        };
        output::raw(config.bytes());
        return Ok(ExitCode::SUCCESS);
    }
    match args.output.output {
        OutputFormat::Json => {
            let images: Vec<Value> = pulled.images.iter().map(describe).collect();
            output::json(&json!({
                "name": name.name(),
                "reference": name.to_string(),
                "digest": pulled.root.digest(),
                "mediaType": pulled.root.media_type().as_str(),
                "platforms": offered(&pulled.root),
                "images": images,
            }))?;
        }
        OutputFormat::Text => {
            output::line(&format!("Name:      {}", name.name()));
            output::line(&format!("Digest:    {}", pulled.root.digest()));
            output::line(&format!("MediaType: {}", pulled.root.media_type().as_str()));
            let offered = offered(&pulled.root);
            if !offered.is_empty() {
                output::line(&format!("Platforms: {}", offered.join(", ")));
            }
            for image in &pulled.images {
                text(image);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn platforms(args: &PlatformArgs) -> Platforms {
    args.or_host()
}

fn offered(root: &RawManifest) -> Vec<String> {
    match root.parsed() {
        Manifest::Index(index) => index.platforms(),
        Manifest::Image(_) => Vec::new(),
    }
}

fn describe(image: &PulledImage) -> Value {
    let config = image.config.as_ref();
    let parsed = config.map(oci_model::RawConfig::parsed);
    let layers: Vec<Value> = image
        .layers()
        .iter()
        .map(|layer| {
            json!({
                "digest": layer.digest,
                "size": layer.size,
                "mediaType": layer.media_type.as_str(),
            })
        })
        .collect();
    json!({
        "digest": image.manifest.digest(),
        "platform": config.map(|config| config.parsed().platform().to_string()),
        "created": parsed.and_then(|config| config.created.clone()),
        "config": parsed.map(|config| &config.config),
        "layers": layers,
        "annotations": image.manifest.parsed().annotations(),
    })
}

fn text(image: &PulledImage) {
    output::line(&format!("\nManifest:  {}", image.manifest.digest()));
    if let Some(config) = &image.config {
        output::line(&format!("Platform:  {}", config.parsed().platform()));
        if let Some(created) = &config.parsed().created {
            output::line(&format!("Created:   {created}"));
        }
    }
    output::line("Layers:");
    for layer in image.layers() {
        output::line(&format!("  {} {:>12} bytes", layer.digest, layer.size));
    }
}
