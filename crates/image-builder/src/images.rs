//! Images that a build starts from or copies from, each looked up once.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blob_store::{BlobStore, RefName};
use dockerfile::ImageRequest;
use oci_model::{
    Digest, MANIFEST_BYTES_MAX, Manifest, Platform, RawConfig, RawManifest, Reference,
};
use registry_client::read_oci_layout;
use tokio::sync::OnceCell;

use crate::builder::BasePolicy;
use crate::error::BuildError;
use crate::layer_source::LayerRef;
use crate::registry::{Registry, ResolvedImage};

/// Largest config read from the store, in bytes (8 MiB, containerd's limit for documents).
const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// An image by its documents; its layers need not be here.
#[derive(Debug)]
pub(crate) struct KnownImage {
    /// What the reference names: the manifest, or an index with it.
    pub(crate) root: Digest,
    pub(crate) manifest: RawManifest,
    pub(crate) config: RawConfig,
    pub(crate) layers: Vec<LayerRef>,
    /// Keeps the documents from collection.
    _lease: Option<blob_store::Lease>,
}

type Cell = Arc<OnceCell<Arc<KnownImage>>>;

/// Looks images up.
#[derive(Debug)]
pub(crate) struct Images {
    registry: Registry,
    store: BlobStore,
    policy: BasePolicy,
    known: Mutex<HashMap<ImageRequest, Cell>>,
    /// Layout directories by the names that stand for them.
    layouts: Mutex<HashMap<Reference, Layout>>,
}

/// An image in a layout directory.
#[derive(Clone, Debug)]
struct Layout {
    directory: PathBuf,
    name: Option<String>,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci-layout://{}", self.directory.display())?;
        match &self.name {
            Some(name) if name.contains(':') => write!(f, "@{name}"),
            Some(name) => write!(f, ":{name}"),
            None => Ok(()),
        }
    }
}

impl Images {
    pub(crate) fn new(registry: Registry, store: BlobStore, policy: BasePolicy) -> Self {
        Self { registry, store, policy, known: Mutex::default(), layouts: Mutex::default() }
    }

    /// Manifest, config and layers of an image.
    pub(crate) async fn get(&self, request: &ImageRequest) -> Result<Arc<KnownImage>, BuildError> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(request.clone()).or_default())
        };
        cell.get_or_try_init(|| self.find(request)).await.cloned()
    }

    /// A name under which [`Images::get`] finds an image of a layout directory. No registry has
    /// this name (RFC 2606), and nothing is read yet.
    pub(crate) fn name_layout(
        &self,
        directory: &Path,
        name: Option<&str>,
    ) -> Result<Reference, BuildError> {
        let layout = Layout { directory: directory.to_owned(), name: name.map(str::to_owned) };
        let digest = Digest::of(layout.to_string().as_bytes());
        let text = format!("oci-layout.invalid/{}:latest", digest.encoded());
        let reference: Reference =
            text.parse().map_err(|error| BuildError::Request(format!("{layout}: {error}")))?;
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        layouts.insert(reference.clone(), layout);
        Ok(reference)
    }

    /// An image of a layout directory, copied into the store.
    async fn in_layout(
        &self,
        layout: Layout,
        platform: &Platform,
    ) -> Result<KnownImage, BuildError> {
        let (store, platform, shown) = (self.store.clone(), platform.clone(), layout.to_string());
        let failed = move |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Image {
            reference: shown.clone(),
            source,
        };
        let read = move || -> Result<ResolvedImage, Box<dyn std::error::Error + Send + Sync>> {
            let lease = store.lease()?;
            let (directory, name) = (&layout.directory, layout.name.as_deref());
            let mut manifest = read_oci_layout(directory, name, &store, &lease)?;
            let root = *manifest.digest();
            if let Manifest::Index(index) = manifest.parsed() {
                let chosen = index.select(&platform).map(|entry| entry.digest);
                let digest = chosen.ok_or_else(|| format!("it has no image for {platform}"))?;
                let bytes = store.read(&digest, MANIFEST_BYTES_MAX as u64)?;
                manifest = RawManifest::parse(None, bytes)?;
            }
            let Manifest::Image(image) = manifest.parsed() else {
                return Err("it is an index of indexes".into());
            };
            let config = RawConfig::parse(store.read(&image.config.digest, CONFIG_BYTES_MAX)?)?;
            let layers = image.layers.clone();
            Ok(ResolvedImage { root, manifest, config, layers, _lease: Some(lease) })
        };
        let done = tokio::task::spawn_blocking(read).await;
        let image = done.map_err(|error| failed(error.into()))?.map_err(&failed)?;
        let diff_ids = image.config.parsed().rootfs.diff_ids.clone();
        if diff_ids.len() != image.layers.len() {
            return Err(failed("its config and its manifest name other numbers of layers".into()));
        }
        let layers = image.layers.iter().zip(diff_ids).map(|(descriptor, diff_id)| LayerRef {
            descriptor: descriptor.clone(),
            diff_id,
            origin: None,
        });
        let layers = layers.collect();
        let ResolvedImage { root, manifest, config, _lease, .. } = image;
        Ok(KnownImage { root, manifest, config, layers, _lease })
    }

    async fn find(&self, request: &ImageRequest) -> Result<Arc<KnownImage>, BuildError> {
        let ImageRequest { reference, platform } = request;
        let layout = {
            let layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
            layouts.get(reference).cloned()
        };
        if let Some(layout) = layout {
            return self.in_layout(layout, platform).await.map(Arc::new);
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Image {
            reference: reference.to_string(),
            source,
        };
        if self.policy == BasePolicy::LocalFirst
            && let Some(image) = self.local(reference, platform)
        {
            return known(image, reference).map(Arc::new);
        }
        let resolved = self.registry.resolve(reference, platform, &self.store).await;
        let image = resolved.map_err(|error| match self.local_platforms(reference) {
            // An image of this machine is no better known by a registry.
            Some(offered) if self.policy == BasePolicy::LocalFirst => BuildError::Platform {
                reference: reference.to_string(),
                platform: platform.clone(),
                offered,
            },
            Some(_) | None => failed(error.into()),
        })?;
        let image = image.ok_or_else(|| failed("it is an artifact, not an image".into()))?;
        let of_image = image.config.parsed().platform();
        if !of_image.os.is_empty() && platform.rank(&of_image).is_none() {
            tracing::warn!(%reference, %of_image, %platform, "image of another platform");
        }
        known(image, reference).map(Arc::new)
    }

    /// An image that was built or pulled here, if all of it still exists.
    fn local(&self, reference: &Reference, platform: &Platform) -> Option<ResolvedImage> {
        let name: RefName = image_ref(reference)?;
        let root = *self.store.get_ref(&name).ok()??.first()?;
        let mut manifest = self.manifest(&root)?;
        if let Manifest::Index(index) = manifest.parsed() {
            let digest = index.select(platform)?.digest;
            manifest = self.manifest(&digest)?;
        }
        let Manifest::Image(image) = manifest.parsed() else { return None };
        let config = self.store.read(&image.config.digest, CONFIG_BYTES_MAX).ok()?;
        let config = RawConfig::parse(config).ok()?;
        let layers = image.layers.clone();
        let complete = layers.iter().all(|layer| self.store.contains(&layer.digest));
        let fits = platform.rank(&config.parsed().platform()).is_some();
        (complete && fits).then_some(ResolvedImage { root, manifest, config, layers, _lease: None })
    }

    /// What an image of this machine is for.
    fn local_platforms(&self, reference: &Reference) -> Option<String> {
        let root = *self.store.get_ref(&image_ref(reference)?).ok()??.first()?;
        match self.manifest(&root)?.parsed() {
            Manifest::Index(index) => Some(index.platforms().join(", ")),
            Manifest::Image(image) => {
                let config = self.store.read(&image.config.digest, CONFIG_BYTES_MAX).ok()?;
                Some(RawConfig::parse(config).ok()?.parsed().platform().to_string())
            }
        }
    }

    fn manifest(&self, digest: &Digest) -> Option<RawManifest> {
        let bytes = self.store.read(digest, MANIFEST_BYTES_MAX as u64).ok()?;
        RawManifest::parse(None, bytes).ok()
    }
}

/// The name under which a reference is kept in the store.
pub(crate) fn image_ref(reference: &Reference) -> Option<RefName> {
    format!("images/{}", reference.with_default_tag()).parse().ok()
}

fn known(image: ResolvedImage, reference: &Reference) -> Result<KnownImage, BuildError> {
    let diff_ids = &image.config.parsed().rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() {
        return Err(BuildError::Image {
            reference: reference.to_string(),
            source: format!(
                "its config names {} layers and its manifest {}",
                diff_ids.len(),
                image.layers.len()
            )
            .into(),
        });
    }
    let layers = image.layers.iter().zip(diff_ids).map(|(descriptor, diff_id)| LayerRef {
        descriptor: descriptor.clone(),
        diff_id: *diff_id,
        origin: Some(reference.clone()),
    });
    let layers = layers.collect();
    let root = image.root;
    Ok(KnownImage {
        root,
        manifest: image.manifest,
        config: image.config,
        layers,
        _lease: image._lease,
    })
}
