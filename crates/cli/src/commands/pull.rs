//! `shipway pull`.

use std::process::ExitCode;

use clap::Args;
use oci_model::Platform;
use registry_client::{Layers, Platforms, PullOptions};
use serde_json::json;

use crate::cloud::{Access, Wants};
use crate::exit::Failure;
use crate::globals::Globals;
use crate::local_images::{open_store, remember};
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client, reference};
use crate::transfer_view::{Verbosity, progress};

/// Flags of `pull`.
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Image to pull
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    #[command(flatten)]
    platform: PlatformArgs,
    /// Print the image's name only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which images of an index are meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlatformArgs {
    /// Platform to choose from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// All images of an index
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
}

impl PlatformArgs {
    /// The choice, with the platform of this machine where nothing was said.
    pub(crate) fn or_host(&self) -> Platforms {
        if self.all_platforms {
            return Platforms::All;
        }
        Platforms::One(self.platform.clone().unwrap_or_else(Platform::host))
    }

    /// The choice, with everything where nothing was said.
    pub(crate) fn or_all(&self) -> Platforms {
        match &self.platform {
            Some(platform) => Platforms::One(platform.clone()),
            None => Platforms::All,
        }
    }
}

/// Pulls an image into the state directory.
pub(crate) async fn run(args: PullArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let name = reference(&args.name)?;
    let store = open_store(globals)?;
    let client = client(&args.registry)?;
    let mut access = Access::to(&name, Wants::Pull).await?;
    let quiet = args.quiet || args.output.output == OutputFormat::Json;
    let view = progress(if quiet { Verbosity::Quiet } else { Verbosity::Normal });
    let options = PullOptions { platforms: args.platform.or_host(), layers: Layers::Fetch };
    let pulled = access
        .attempt(async |auths| client.pull(&name, auths, &store, &options, &view).await)
        .await?;
    remember(&store, &name, pulled.root.digest(), &pulled.digests)?;
    let digest = pulled.root.digest();
    match args.output.output {
        OutputFormat::Json => {
            let images: Vec<_> = pulled
                .images
                .iter()
                .map(|image| {
                    let layers = image.layers().iter();
                    json!({
                        "digest": image.manifest.digest(),
                        "platform": image.config.as_ref().map(|config| config.parsed().platform().to_string()),
                        "bytes": layers.map(|layer| layer.size).sum::<u64>(),
                    })
                })
                .collect();
            output::json(&json!({
                "reference": name.to_string(),
                "digest": digest,
                "mediaType": pulled.root.media_type().as_str(),
                "images": images,
            }))?;
        }
        OutputFormat::Text => {
            if !args.quiet {
                output::line(&format!("Digest: {digest}"));
            }
            output::line(&name.to_string());
        }
    }
    Ok(ExitCode::SUCCESS)
}
