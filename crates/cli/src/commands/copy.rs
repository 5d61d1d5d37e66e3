//! `shipway copy`: images between registries, layouts, archives and the state directory.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use blob_store::{BlobStore, Lease};
use clap::Args;
use oci_model::{Digest, Manifest, RawManifest, Reference};
use registry_client::{
    Client, ImageFileError, Layers, Platforms, Progress, PullOptions, PushOptions,
    read_docker_archive, read_oci_layout, write_docker_archive, write_oci_layout,
};
use serde_json::json;

use crate::cloud::{Access, Wants};
use crate::commands::pull::PlatformArgs;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::local_images::{find, open_store, remember};
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client};
use crate::transfer_view::{Verbosity, progress};

/// Flags of `copy`.
#[derive(Args, Debug)]
pub(crate) struct CopyArgs {
    /// Image to copy: NAME, oci:DIR[:TAG], docker-archive:FILE[:NAME], store:NAME
    source: Place,
    /// Where to copy it: the same forms
    destination: Place,
    #[command(flatten)]
    platform: PlatformArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A place that holds an image.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A registry.
    Registry(Reference),
    /// A directory in OCI layout, with the name of the image in it.
    Layout(PathBuf, Option<String>),
    /// An archive of `docker save`, with the name of the image in it.
    Archive(PathBuf, Option<Reference>),
    /// The state directory.
    Store(Reference),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| {
            text.parse::<Reference>()
                .map(|reference| reference.with_default_tag())
                .map_err(|error| format!("{text:?}: {error}"))
        };
        let split = |rest: &str| match rest.split_once(':') {
            Some((path, name)) => (PathBuf::from(path), Some(name.to_owned())),
            None => (PathBuf::from(rest), None),
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, name) = split(rest);
            return Ok(Self::Layout(path, name));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, name) = split(rest);
            return Ok(Self::Archive(path, name.as_deref().map(parse).transpose()?));
        }
        if let Some(rest) = text.strip_prefix("store:") {
            return parse(rest).map(Self::Store);
        }
        parse(text.strip_prefix("docker://").unwrap_or(text)).map(Self::Registry)
    }
}

/// Copies an image.
pub(crate) async fn run(args: CopyArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let store = open_store(globals)?;
    let client = client(&args.registry)?;
    let json_wanted = args.output.output == OutputFormat::Json;
    let view = progress(if json_wanted { Verbosity::Quiet } else { Verbosity::Normal });
    // An archive holds one image; everything else takes all that there is.
    let platforms = match &args.destination {
        Place::Archive(..) => args.platform.or_host(),
        Place::Registry(_) | Place::Layout(..) | Place::Store(_) => args.platform.or_all(),
    };
    let lease = store.lease().map_err(|error| Failure::new(Kind::Environment, error))?;
    let work = Work { client, store, lease, view };
    let (root, pull_lease) = work.take(&args.source, platforms).await?;
    work.put(&args.source, &args.destination, &root).await?;
    drop(pull_lease);
    if json_wanted {
        output::json(&json!({ "digest": root.digest(), "mediaType": root.media_type().as_str() }))?;
    } else {
        output::line(&root.digest().to_string());
    }
    Ok(ExitCode::SUCCESS)
}

struct Work {
    client: Client,
    store: BlobStore,
    lease: Lease,
    view: Progress,
}

impl Work {
    /// Brings the image into the store. The second value guards what a pull brought.
    async fn take(
        &self,
        source: &Place,
        platforms: Platforms,
    ) -> Result<(RawManifest, Option<Lease>), Failure> {
        let (store, lease) = (&self.store, &self.lease);
        let root = match source {
            Place::Registry(name) => {
                let mut access = Access::to(name, Wants::Pull).await?;
                let options = PullOptions { platforms: platforms.clone(), layers: Layers::Fetch };
                let pulled = access
                    .attempt(async |auths| {
                        self.client.pull(name, auths, store, &options, &self.view).await
                    })
                    .await?;
                let one = matches!(platforms, Platforms::One(_));
                let root = match pulled.images.first() {
                    Some(image) if one => image.manifest.clone(),
                    _ => pulled.root,
                };
                return Ok((root, Some(pulled.lease)));
            }
            Place::Layout(path, name) => {
                tokio::task::block_in_place(|| read_oci_layout(path, name.as_deref(), store, lease))
                    .map_err(file_failure)?
            }
            Place::Archive(path, name) => tokio::task::block_in_place(|| {
                read_docker_archive(path, name.as_ref(), store, lease)
            })
            .map_err(file_failure)?,
            Place::Store(name) => find(store, name)?,
        };
        Ok((self.select(root, &platforms)?, None))
    }

    /// Chooses one image of an index that is in the store.
    fn select(&self, root: RawManifest, platforms: &Platforms) -> Result<RawManifest, Failure> {
        let (Manifest::Index(index), Platforms::One(platform)) = (root.parsed(), platforms) else {
            return Ok(root);
        };
        let child = index.select(platform).ok_or_else(|| {
            let offered = index.platforms().join(", ");
            Failure::new(
                Kind::NotFound,
                anyhow::anyhow!("no image for {platform}; there are {offered}"),
            )
        })?;
        let limit = oci_model::MANIFEST_BYTES_MAX as u64;
        let bytes = self.store.read(&child.digest, limit)?;
        Ok(RawManifest::parse(Some(&child.media_type), bytes)?)
    }

    async fn put(
        &self,
        source: &Place,
        destination: &Place,
        root: &RawManifest,
    ) -> Result<(), Failure> {
        let store = &self.store;
        match destination {
            Place::Registry(name) => {
                let mut access = Access::to(name, Wants::Push).await?;
                let mount_from = match source {
                    Place::Registry(from) if from.registry() == name.registry() => {
                        vec![from.repository().clone()]
                    }
                    _ => Vec::new(),
                };
                let options = PushOptions { mount_from };
                let pushed = access
                    .attempt(async |auths| {
                        self.client.push(name, root, auths, store, &options, &self.view).await
                    })
                    .await;
                pushed.map(|_| ())
            }
            Place::Layout(path, name) => {
                tokio::task::block_in_place(|| write_oci_layout(store, root, path, name.as_deref()))
                    .map_err(file_failure)
            }
            Place::Archive(path, name) => {
                let names: Vec<Reference> = match (name, source) {
                    (Some(name), _) => vec![name.clone()],
                    (None, Place::Registry(name) | Place::Store(name)) => vec![name.clone()],
                    (None, Place::Layout(..) | Place::Archive(..)) => Vec::new(),
                };
                tokio::task::block_in_place(|| {
                    let file = std::fs::File::create(path).map_err(|error| {
                        let text = format!("cannot write {}: {error}", path.display());
                        Failure::new(Kind::Environment, anyhow::anyhow!(text))
                    })?;
                    let out = std::io::BufWriter::new(file);
                    write_docker_archive(store, root, &names, out).map_err(file_failure)
                })
            }
            Place::Store(name) => {
                let digests = self.digests(root)?;
                remember(store, name, root.digest(), &digests)
            }
        }
    }

    /// Every blob of an image that is in the store.
    fn digests(&self, root: &RawManifest) -> Result<Vec<Digest>, Failure> {
        let mut digests = Vec::new();
        let mut waiting = vec![root.clone()];
        while let Some(manifest) = waiting.pop() {
            digests.push(*manifest.digest());
            for descriptor in manifest.parsed().references() {
                if descriptor.media_type.manifest_kind().is_some() {
                    let limit = oci_model::MANIFEST_BYTES_MAX as u64;
                    let bytes = self.store.read(&descriptor.digest, limit)?;
                    waiting.push(RawManifest::parse(Some(&descriptor.media_type), bytes)?);
                } else {
                    digests.push(descriptor.digest);
                }
            }
        }
        Ok(digests)
    }
}

fn file_failure(error: ImageFileError) -> Failure {
    let kind = match &error {
        ImageFileError::NotFound { .. } => Kind::NotFound,
        ImageFileError::File { action: "read", source, .. }
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Kind::NotFound
        }
        ImageFileError::File { .. } | ImageFileError::Store { .. } => Kind::Environment,
        ImageFileError::Malformed { .. } => Kind::Failed,
    };
    Failure::new(kind, error)
}
