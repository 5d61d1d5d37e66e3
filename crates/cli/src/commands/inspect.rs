//! `shipway inspect`: what a registry says about an image, without its layers.

use std::process::ExitCode;

use clap::Args;
use oci_model::{Descriptor, Digest, Manifest, RawManifest, Reference};
use registry_client::{
    Client, Layers, Platforms, Progress, PullOptions, Pulled, PulledImage, RegistryAuth,
};
use serde_json::{Value, json};

use crate::cloud::{Access, Wants};
use crate::commands::pull::PlatformArgs;
use crate::exit::Failure;
use crate::globals::Globals;
use crate::local_images::open_store;
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client, failure, reference};

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
    /// List what refers to the image: provenance, bills of materials, signatures
    #[arg(long, conflicts_with_all = ["raw", "config"])]
    attestations: bool,
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
    let mut access = Access::to(&name, Wants::Pull).await?;
    if args.raw {
        let manifest =
            access.attempt(async |auths| client.fetch_manifest(&name, auths).await).await?;
        output::raw(manifest.bytes());
        return Ok(ExitCode::SUCCESS);
    }
    let store = open_store(globals)?;
    let options = PullOptions { platforms: platforms(&args.platform), layers: Layers::Leave };
    let pulled = access
        .attempt(async |auths| client.pull(&name, auths, &store, &options, &Progress::none()).await)
        .await?;
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
    if args.attestations {
        let found = attestations(&client, &name, &access.auths(), &pulled).await?;
        return show_attestations(&found, args.output.output);
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

/// A statement about one of the images.
struct Attestation {
    about: Digest,
    digest: Digest,
    kind: String,
    /// The in-toto statement; other artifacts are only named.
    statement: Option<Value>,
}

/// Media type of in-toto statements.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Annotation that tells their kind.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// What refers to the images, and what stands in their index as BuildKit puts it there.
async fn attestations(
    client: &Client,
    name: &Reference,
    auths: &[RegistryAuth],
    pulled: &Pulled,
) -> Result<Vec<Attestation>, Failure> {
    let mut carriers: Vec<(Digest, Digest)> = Vec::new();
    for image in &pulled.images {
        let about = *image.manifest.digest();
        let found = client.referrers(name, &about, None, auths).await.map_err(failure)?;
        carriers.extend(found.iter().map(|descriptor| (about, descriptor.digest)));
        if let Manifest::Index(index) = pulled.root.parsed() {
            let about_text = about.to_string();
            let is_about = |entry: &&Descriptor| {
                entry.annotations.get("vnd.docker.reference.digest") == Some(&about_text)
            };
            carriers.extend(index.manifests.iter().filter(is_about).map(|e| (about, e.digest)));
        }
    }
    let mut attestations = Vec::new();
    for (about, digest) in carriers {
        let carrier = name.with_digest(digest);
        let manifest = client.fetch_manifest(&carrier, auths).await.map_err(failure)?;
        let Manifest::Image(image) = manifest.parsed() else { continue };
        for layer in &image.layers {
            let kind = layer.annotations.get(PREDICATE_TYPE).cloned();
            let kind = kind.or_else(|| manifest.parsed().artifact_type().map(str::to_owned));
            let statement = if layer.media_type.as_str() == IN_TOTO {
                let bytes =
                    client.fetch_small_blob(&carrier, auths, layer).await.map_err(failure)?;
                Some(serde_json::from_slice(&bytes)?)
            } else {
                None
            };
            attestations.push(Attestation {
                about,
                digest,
                kind: kind.unwrap_or_default(),
                statement,
            });
        }
    }
    Ok(attestations)
}

fn show_attestations(found: &[Attestation], format: OutputFormat) -> Result<ExitCode, Failure> {
    match format {
        OutputFormat::Json => {
            let list: Vec<Value> = found
                .iter()
                .map(|one| {
                    json!({
                        "about": one.about,
                        "digest": one.digest,
                        "kind": one.kind,
                        "statement": one.statement,
                    })
                })
                .collect();
            output::json(&json!(list))?;
        }
        OutputFormat::Text => {
            for one in found {
                output::line(&format!("{} {} {}", one.about, one.digest, one.kind));
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
