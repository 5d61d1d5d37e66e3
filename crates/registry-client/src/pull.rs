//! Pulls an image: manifest first, as proof of access, then what the store lacks, in parallel.

use std::collections::BTreeSet;

use blob_store::{BlobStore, Lease};
use credentials::RegistryAuth;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci_model::{
    Descriptor, Digest, Manifest, ManifestKind, Platform, RawConfig, RawManifest, Reference,
};

use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind};
use crate::progress::{Progress, ProgressEvent};

/// Largest image config that is read, in bytes (8 MiB); containerd's limit for any document.
const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Deepest nesting of indexes: one in the other is already rare.
const INDEX_DEPTH_MAX: u32 = 4;

/// Which images of an index are pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// The best match for one platform.
    One(Platform),
    /// All of them.
    All,
}

/// How an image is pulled.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Which images of an index are pulled.
    pub platforms: Platforms,
    /// Whether layers are fetched. A build whose steps are all cached needs none.
    pub layers: Layers,
}

/// Whether layers are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// With everything else.
    Fetch,
    /// Manifests and configs only.
    Leave,
}

/// A pulled image. Its blobs are safe from collection until the lease is dropped; set a ref over
/// [`Pulled::digests`] to keep them.
#[derive(Debug)]
pub struct Pulled {
    /// What was asked for.
    pub reference: Reference,
    /// What the reference names: a manifest, or an index.
    pub root: RawManifest,
    /// The images, one unless [`Platforms::All`] was asked for.
    pub images: Vec<PulledImage>,
    /// Every blob of it, manifests and indexes included.
    pub digests: Vec<Digest>,
    /// Position of the credential that opened it; nothing if it was open to everybody.
    pub credential: Option<usize>,
    /// Guards the blobs.
    pub lease: Lease,
}

/// One image of a pull.
#[derive(Debug, Clone)]
pub struct PulledImage {
    /// Its manifest.
    pub manifest: RawManifest,
    /// Its config; nothing for artifacts that are no images.
    pub config: Option<RawConfig>,
}

impl PulledImage {
    /// The layers, bottom first.
    pub fn layers(&self) -> &[Descriptor] {
        match self.manifest.parsed() {
            Manifest::Image(image) => &image.layers,
            Manifest::Index(_) => &[],
        }
    }
}

impl Client {
    /// Pulls an image into the store. The manifest is fetched even when the store has it: who
    /// may not read the manifest may not use the bytes that somebody else pulled.
    ///
    /// Each credential is tried in turn; with none, the pull is anonymous.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]. Blobs that arrived stay in the store until collected.
    pub async fn pull(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
        store: &BlobStore,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<Pulled, RegistryError> {
        let lease = store.lease()?;
        let resolve = |auth: Option<RegistryAuth>| async move {
            self.manifest_and_source(reference, auth.as_ref(), progress).await
        };
        let ((root, source), credential) = self.with_credentials(auths, resolve).await?;
        progress.tell(ProgressEvent::Resolved { descriptor: root.descriptor() });
        let used = credential.and_then(|at| auths.get(at));
        let mut remotes = vec![source];
        // Blobs that a mirror lost may still be at the registry.
        if remotes[0].endpoint.mirror_of.is_some() {
            remotes.push(self.remote(reference, used));
        }
        let puller = Puller { remotes, store, lease: &lease, progress };
        let (images, digests) = puller.pull(&root, options).await.map_err(|error| {
            error.context(format!("failed to pull and unpack image \"{reference}\""))
        })?;
        Ok(Pulled { reference: reference.clone(), root, images, digests, credential, lease })
    }

    /// Fetches blobs of an image whose manifest is known, into the store; for layers that a
    /// pull left out.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn fetch_blobs(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        blobs: &[Descriptor],
        store: &BlobStore,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let remotes = self.remotes_for_pull(reference, auth);
        let puller = Puller { remotes, store, lease, progress };
        puller.blobs(blobs.to_vec()).await
    }
}

struct Puller<'a> {
    /// Where blobs are asked for, in order.
    remotes: Vec<Remote>,
    store: &'a BlobStore,
    lease: &'a Lease,
    progress: &'a Progress,
}

impl Puller<'_> {
    async fn pull(
        &self,
        root: &RawManifest,
        options: &PullOptions,
    ) -> Result<(Vec<PulledImage>, Vec<Digest>), RegistryError> {
        let mut digests = BTreeSet::new();
        let manifests = self.image_manifests(root, options, &mut digests).await?;
        let mut wanted: Vec<Descriptor> = Vec::new();
        for manifest in &manifests {
            let Manifest::Image(image) = manifest.parsed() else { continue };
            wanted.push(image.config.clone());
            if options.layers == Layers::Fetch {
                // Foreign layers are not the registry's to give.
                let ours =
                    image.layers.iter().filter(|layer| !layer.media_type.is_nondistributable());
                wanted.extend(ours.cloned());
            }
        }
        digests.extend(wanted.iter().map(|descriptor| descriptor.digest));
        self.blobs(wanted).await?;
        let mut images = Vec::new();
        for manifest in manifests {
            let config = self.config(&manifest).await?;
            images.push(PulledImage { manifest, config });
        }
        Ok((images, digests.into_iter().collect()))
    }

    /// Walks indexes down to the wanted image manifests, keeping all of them.
    async fn image_manifests(
        &self,
        root: &RawManifest,
        options: &PullOptions,
        digests: &mut BTreeSet<Digest>,
    ) -> Result<Vec<RawManifest>, RegistryError> {
        let mut images = Vec::new();
        let mut waiting = vec![(root.clone(), 0)];
        while let Some((manifest, depth)) = waiting.pop() {
            digests.insert(*manifest.digest());
            self.keep(&manifest).await?;
            let Manifest::Index(index) = manifest.parsed() else {
                images.push(manifest);
                continue;
            };
            if INDEX_DEPTH_MAX <= depth {
                let reason = format!("index {} is nested too deeply", manifest.digest());
                return Err(RegistryErrorKind::Malformed { reason }.into());
            }
            let children: Vec<&Descriptor> = match &options.platforms {
                Platforms::All => index.manifests.iter().collect(),
                Platforms::One(platform) => {
                    let found = index.select(platform).ok_or_else(|| {
                        RegistryErrorKind::PlatformMissing {
                            wanted: platform.to_string(),
                            offered: index.platforms(),
                        }
                    })?;
                    vec![found]
                }
            };
            for child in children.into_iter().rev() {
                waiting.push((self.manifest(child).await?, depth + 1));
            }
        }
        Ok(images)
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest, RegistryError> {
        let mut last = None;
        for remote in &self.remotes {
            match remote.fetch_manifest(&descriptor.digest.to_string(), self.progress).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => last = Some(error),
            }
        }
        let what = descriptor.digest.to_string();
        Err(last.unwrap_or_else(|| RegistryErrorKind::NotFound { what }.into()))
    }

    async fn keep(&self, manifest: &RawManifest) -> Result<(), RegistryError> {
        use std::io::Write;
        self.lease.add(manifest.digest())?;
        let (store, manifest) = (self.store.clone(), manifest.clone());
        blocking(move || {
            let mut ingest = store.ingest_with(manifest.digest().algorithm())?;
            if let Err(error) = ingest.write_all(manifest.bytes()) {
                return Err(blob_store::IngestError::from_write(error, &ingest).into());
            }
            Ok(ingest.commit_deferred(manifest.digest())?)
        })
        .await
    }

    async fn config(&self, manifest: &RawManifest) -> Result<Option<RawConfig>, RegistryError> {
        let Manifest::Image(image) = manifest.parsed() else { return Ok(None) };
        let descriptor = image.config.clone();
        let is_image = matches!(manifest.media_type().manifest_kind(), Some(ManifestKind::Image))
            && image_config(descriptor.media_type.as_str());
        if !is_image {
            return Ok(None);
        }
        let store = self.store.clone();
        blocking(move || {
            let bytes = store.read(&descriptor.digest, CONFIG_BYTES_MAX)?;
            let config = RawConfig::parse(bytes).map_err(|error| RegistryErrorKind::Malformed {
                reason: format!("image config {}: {error}", descriptor.digest),
            })?;
            Ok(Some(config))
        })
        .await
    }

    /// Fetches blobs, several at once, each only once.
    async fn blobs(&self, mut wanted: Vec<Descriptor>) -> Result<(), RegistryError> {
        let mut seen = BTreeSet::new();
        wanted.retain(|descriptor| seen.insert(descriptor.digest));
        let Some(first) = self.remotes.first() else { return Ok(()) };
        let at_once = first.client.options().concurrent_blobs_max.max(1);
        stream::iter(wanted.into_iter().map(Ok))
            .try_for_each_concurrent(
                at_once,
                |descriptor| async move { self.blob(&descriptor).await },
            )
            .await
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<(), RegistryError> {
        let mut last = None;
        for remote in &self.remotes {
            let fetched =
                remote.fetch_blob(descriptor, self.store, Some(self.lease), self.progress).await;
            match fetched {
                Ok(()) => return Ok(()),
                Err(error) if matches!(error.kind(), RegistryErrorKind::NoSpace { .. }) => {
                    return Err(error);
                }
                Err(error) => last = Some(error),
            }
        }
        let what = descriptor.digest.to_string();
        Err(last.unwrap_or_else(|| RegistryErrorKind::NotFound { what }.into()))
    }
}

fn image_config(media_type: &str) -> bool {
    media_type == oci_model::MediaType::OCI_CONFIG.as_str()
        || media_type == oci_model::MediaType::DOCKER_CONFIG.as_str()
}

/// Runs work that blocks on the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| RegistryErrorKind::Store { reason: "a storage task panicked".to_owned() })?
}

/// Collects a stream of results into one; kept here so that callers need not import traits.
pub(crate) async fn all<F>(work: Vec<F>, at_once: usize) -> Result<(), RegistryError>
where
    F: Future<Output = Result<(), RegistryError>>,
{
    stream::iter(work).buffer_unordered(at_once.max(1)).try_collect::<()>().await
}
