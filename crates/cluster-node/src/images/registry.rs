//! Pulls from real registries into the shared content store.
//!
//! The manifest is asked for each time, as proof of access; blobs come in once, whoever wants
//! them (see [`downloads`]), and layers are unpacked while they come in.

pub(crate) mod downloads;

use std::future::Future;
use std::io::Write;
use std::pin::Pin;

use blob_store::{BlobStore, IngestError, Lease};
use credentials::RegistryAuth;
use futures_util::future::try_join_all;
use oci_model::{DiffId, Manifest, Platform, RawConfig, RawManifest, Reference};
use registry_client::{Client, RegistryError, RegistryErrorKind};

use self::downloads::{Downloads, Wanted};
use super::failure::PullFailureKind;
use super::progress::Meter;

/// Longest config that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Longest manifest that is read from the store, in bytes.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Deepest nesting of indexes.
const INDEX_DEPTH_MAX: u32 = 4;

/// What a puller's operations return.
pub(crate) type Pull<'a, T> = Pin<Box<dyn Future<Output = Result<T, PullError>> + Send + 'a>>;

/// Fetches an image from its registry; a seam, so that the rules are tested without one.
pub(crate) trait Puller: Send + Sync {
    /// Pulls what `reference` stands for; `meter` is told what comes in.
    fn pull<'a>(
        &'a self,
        reference: Reference,
        auth: Option<RegistryAuth>,
        meter: &'a Meter,
    ) -> Pull<'a, Arrived>;

    /// Whether a registry (`host[:port]`) that was down answers again.
    fn answers(&self, registry: String) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// An image that was fetched.
pub(crate) struct Arrived {
    /// Digest of the manifest or index.
    pub(crate) root: oci_model::Digest,
    /// Keeps its blobs until the image has a name.
    pub(crate) guard: Option<Lease>,
}

/// Why a pull failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullError {
    /// What ends up in events.
    pub(crate) text: String,
    pub(crate) kind: PullFailureKind,
    pub(crate) trouble: Trouble,
}

/// Whom a failure concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// This image, with this credential.
    Image,
    /// This credential, which the registry does not take (401).
    Credential,
    /// Everything that this machine pulls: its disk is full, or its store broken; the text names no
    /// image.
    Machine(String),
    /// All images of the registry; the text names none of them.
    Registry(String),
    /// All images of the registry with this credential: it asks for patience, for so long if it
    /// said so; the text names none of them.
    Patience(String, Option<std::time::Duration>),
}

impl PullError {
    /// A failure that concerns one image.
    pub(crate) fn of_image(text: impl Into<String>) -> Self {
        PullError { text: text.into(), kind: PullFailureKind::Other, trouble: Trouble::Image }
    }

    fn new(error: &RegistryError, registry: &str) -> Self {
        let trouble = match error.kind() {
            RegistryErrorKind::Unreachable { .. } => Trouble::Registry(error.kind().to_string()),
            RegistryErrorKind::Status { status: status @ (502..=504), .. } => {
                Trouble::Registry(format!("registry {registry} answers with status {status}"))
            }
            RegistryErrorKind::RateLimited { retry_after, .. } => {
                let text = format!("registry {registry} asks for patience (429 Too Many Requests)");
                Trouble::Patience(text, *retry_after)
            }
            RegistryErrorKind::Unauthorized { .. } => Trouble::Credential,
            RegistryErrorKind::NoSpace { .. } | RegistryErrorKind::Store { .. } => {
                Trouble::Machine(error.kind().to_string())
            }
            _ => Trouble::Image,
        };
        PullError { text: error.to_string(), kind: PullFailureKind::of(error.kind()), trouble }
    }

    /// The same, for what comes after the manifest.
    fn while_pulling(mut self, reference: &Reference) -> Self {
        self.text = format!("failed to pull and unpack image \"{reference}\": {}", self.text);
        self
    }
}

/// A [`Puller`] over the network.
pub(crate) struct RegistryPuller {
    client: Client,
    blobs: BlobStore,
    downloads: Downloads,
    platform: Platform,
}

impl RegistryPuller {
    pub(crate) fn new(client: Client, blobs: BlobStore, downloads: Downloads) -> Self {
        RegistryPuller { client, blobs, downloads, platform: Platform::host() }
    }

    async fn pull_with(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
        meter: &Meter,
    ) -> Result<Arrived, PullError> {
        let failed = |error: RegistryError| PullError::new(&error, reference.registry());
        let lease = self.blobs.lease().map_err(|error| failed(error.into()))?;
        let root = self.client.fetch_manifest(reference, auths).await.map_err(failed)?;
        self.keep(&root, &lease).await.map_err(failed)?;
        self.rest(reference, auths, meter, &root, &lease)
            .await
            .map_err(|error| error.while_pulling(reference))?;
        Ok(Arrived { root: *root.digest(), guard: Some(lease) })
    }

    /// Everything below the manifest or index.
    async fn rest(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
        meter: &Meter,
        root: &RawManifest,
        lease: &Lease,
    ) -> Result<(), PullError> {
        let manifest = self.image_manifest(reference, auths, root, lease).await?;
        let Manifest::Image(image) = manifest.parsed() else { return Ok(()) };
        let want = |descriptor: &oci_model::Descriptor, layer| Wanted {
            reference: reference.clone(),
            auths: auths.to_vec(),
            descriptor: descriptor.clone(),
            layer,
        };
        self.downloads.fetch(want(&image.config, None), lease, meter).await?;
        let diff_ids = self.diff_ids(&image.config.digest).await?;
        // Foreign layers are not the registry's to give.
        let layers = image.layers.iter().enumerate();
        let ours = layers.filter(|(_, layer)| !layer.media_type.is_nondistributable());
        let fetches = ours.map(|(at, layer)| {
            let wanted = want(layer, Some(diff_ids.get(at).copied()));
            self.downloads.fetch(wanted, lease, meter)
        });
        try_join_all(fetches).await.map(drop)
    }

    /// The manifest for this platform, kept like everything on the way to it.
    async fn image_manifest(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
        root: &RawManifest,
        lease: &Lease,
    ) -> Result<RawManifest, PullError> {
        let failed = |error: RegistryError| PullError::new(&error, reference.registry());
        let mut manifest = root.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            let Manifest::Index(index) = manifest.parsed() else { return Ok(manifest) };
            let child = index.select(&self.platform).ok_or_else(|| {
                let (wanted, offered) = (self.platform.to_string(), index.platforms());
                failed(RegistryErrorKind::PlatformMissing { wanted, offered }.into())
            })?;
            // Who was shown the index may see what it names.
            let held = lease.add(&child.digest).map_err(|error| failed(error.into()))?;
            manifest = match held.then(|| self.blobs.read(&child.digest, MANIFEST_BYTES_MAX)) {
                Some(Ok(bytes)) => RawManifest::parse(Some(&child.media_type), bytes)
                    .map_err(|error| PullError::of_image(error.to_string()))?,
                _ => {
                    let child = reference.clone().with_digest(child.digest);
                    let fetched = self.client.fetch_manifest(&child, auths).await;
                    let fetched = fetched.map_err(failed)?;
                    self.keep(&fetched, lease).await.map_err(failed)?;
                    fetched
                }
            };
        }
        let text = format!("index {} is nested too deeply", root.digest());
        Err(PullError::of_image(text))
    }

    async fn keep(&self, manifest: &RawManifest, lease: &Lease) -> Result<(), RegistryError> {
        lease.add(manifest.digest())?;
        let (store, manifest) = (self.blobs.clone(), manifest.clone());
        let write = move || -> Result<(), RegistryError> {
            let mut ingest = store.ingest_with(manifest.digest().algorithm())?;
            if let Err(error) = ingest.write_all(manifest.bytes()) {
                return Err(IngestError::from_write(error, &ingest).into());
            }
            Ok(ingest.commit_deferred(manifest.digest())?)
        };
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| {
            Err(RegistryErrorKind::Store { reason: error.to_string() }.into())
        })
    }

    /// What the layers unpack to; nothing for artifacts that are no images, which the node
    /// refuses later in words of its own.
    async fn diff_ids(&self, config: &oci_model::Digest) -> Result<Vec<DiffId>, PullError> {
        let (store, config) = (self.blobs.clone(), *config);
        let read = move || {
            let bytes = store.read(&config, CONFIG_BYTES_MAX).map_err(|error| error.to_string())?;
            let config = RawConfig::parse(bytes).ok();
            Ok(config.map(|config| config.parsed().rootfs.diff_ids.clone()).unwrap_or_default())
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| Err(error.to_string())).map_err(PullError::of_image)
    }
}

impl Puller for RegistryPuller {
    fn pull<'a>(
        &'a self,
        reference: Reference,
        auth: Option<RegistryAuth>,
        meter: &'a Meter,
    ) -> Pull<'a, Arrived> {
        Box::pin(async move {
            let auths: Vec<RegistryAuth> = auth.into_iter().collect();
            self.pull_with(&reference, &auths, meter).await
        })
    }

    fn answers(&self, registry: String) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            match self.client.ping(&registry, None).await {
                Ok(()) => true,
                // Whoever refuses us is there: the probe shows no credential, so a private
                // registry always does. So is whoever asks for patience.
                Err(error) => match PullError::new(&error, &registry).trouble {
                    Trouble::Registry(_) => false,
                    Trouble::Patience(..) => true,
                    Trouble::Image | Trouble::Credential | Trouble::Machine(_) => {
                        !error.is_transient()
                    }
                },
            }
        })
    }
}

#[cfg(test)]
mod tests;
