//! A cache behind a tag of a registry: one manifest whose config is the document and whose
//! layers are those of the records, so that no registry collects them.
//!
//! Writers read, merge, and write on the condition that the tag still names what they read
//! (`If-Match`, which our registry honours). Registries that ignore conditions are asked once
//! more right before and after the write; who finds others' records instead of their own merges
//! again.

use std::collections::{BTreeMap, BTreeSet};

use blob_store::BlobStore;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use oci_model::{
    Descriptor, Digest, ImageManifest, Manifest, MediaType, Platform, RawManifest, Reference,
    Repository,
};
use registry_client::RegistryError;

use super::document::{CACHE_CONFIG, DOCUMENT_BYTES_MAX, Records};
use super::inline;
use crate::registry::{Expected, Registry};

/// How many blobs a registry is asked about at once.
const QUESTIONS_AT_ONCE: usize = 8;
/// How often a writer that lost against others merges again.
const ATTEMPTS_MAX: u32 = 32;

/// Why a cache was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The registry refused or is not there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The document or a layer could not be read or written here.
    #[error("{0}")]
    State(String),
    /// Others were faster every time.
    #[error("{ATTEMPTS_MAX} attempts met other writers")]
    Contended,
}

/// The records behind a reference: a cache of its own, or those inside the images for the
/// platforms. `None` if there is nothing, or only images without one.
pub(crate) async fn read(
    registry: &Registry,
    reference: &Reference,
    platforms: &[Platform],
) -> Result<Option<Records>, RegistryError> {
    Ok(read_current(registry, reference, platforms).await?.and_then(|(_, records)| records))
}

async fn read_current(
    registry: &Registry,
    reference: &Reference,
    platforms: &[Platform],
) -> Result<Option<(Digest, Option<Records>)>, RegistryError> {
    let manifest = match registry.manifest(reference).await {
        Ok(manifest) => manifest,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let digest = *manifest.digest();
    let Manifest::Index(index) = manifest.parsed() else {
        return Ok(Some((digest, read_one(registry, reference, &manifest).await?)));
    };
    let mut children: Vec<Digest> = Vec::new();
    for platform in platforms {
        if let Some(child) = index.select(platform)
            && !children.contains(&child.digest)
        {
            children.push(child.digest);
        }
    }
    let mut found: Option<Records> = None;
    for child in children {
        let child = registry.manifest(&reference.with_digest(child)).await?;
        if let Some(records) = read_one(registry, reference, &child).await? {
            found.get_or_insert_default().merge(&records);
        }
    }
    Ok(Some((digest, found)))
}

async fn read_one(
    registry: &Registry,
    reference: &Reference,
    manifest: &RawManifest,
) -> Result<Option<Records>, RegistryError> {
    let Manifest::Image(image) = manifest.parsed() else { return Ok(None) };
    if DOCUMENT_BYTES_MAX < image.config.size {
        return Ok(None);
    }
    let of_type = |known: &[MediaType]| known.contains(&image.config.media_type);
    if of_type(&[MediaType::new(CACHE_CONFIG)]) {
        let document = registry.small_blob(reference, &image.config).await?;
        return Ok(Some(Records::parse(&document)));
    }
    if !of_type(&[MediaType::OCI_CONFIG, MediaType::DOCKER_CONFIG]) {
        return Ok(None);
    }
    let config = registry.small_blob(reference, &image.config).await?;
    Ok(inline::extract(&config, image))
}

/// The manifest of a cache.
pub(crate) fn manifest(document: &[u8], layers: Vec<Descriptor>) -> RawManifest {
    let config = Descriptor::of(MediaType::new(CACHE_CONFIG), document);
    RawManifest::from_image(ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    })
}

/// What is written, and where the layers may come from.
pub(crate) struct Write<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) store: &'a BlobStore,
    pub(crate) reference: &'a Reference,
    /// For which an image that is there counts.
    pub(crate) platforms: &'a [Platform],
    /// Repositories of the same registry that hold some of the layers.
    pub(crate) mount_from: Vec<Repository>,
}

impl Write<'_> {
    /// Changes the records behind the reference. `change` may be called several times, each time
    /// with what is there then, and says whether something has to be written.
    pub(crate) async fn run(
        &self,
        change: impl Fn(&mut Records) -> bool,
    ) -> Result<Written, WriteError> {
        for _ in 0..ATTEMPTS_MAX {
            let current = read_current(self.registry, self.reference, self.platforms).await?;
            let (before, mut records) = match current {
                Some((digest, records)) => (Some(digest), records.unwrap_or_default()),
                None => (None, Records::default()),
            };
            if !change(&mut records) {
                return Ok(Written::Unchanged);
            }
            self.drop_lost_layers(&mut records).await?;
            let state = |error: &dyn std::fmt::Display| WriteError::State(error.to_string());
            let document = records.write().map_err(|error| state(&error))?;
            self.store.put(&document).map_err(|error| state(&error))?;
            let manifest = manifest(&document, records.layers());
            let untagged = self.reference.with_digest(*manifest.digest());
            let mounts = self.mount_from.clone();
            self.registry.push(&untagged, &manifest, self.store, mounts).await?;
            if self.registry.current(self.reference).await? != before {
                continue;
            }
            let expected = before.map_or(Expected::Nothing, Expected::Manifest);
            match self.registry.put_manifest_if(self.reference, &manifest, expected).await {
                Ok(()) => {}
                Err(error) if is_refused_condition(&error) => continue,
                Err(error) => return Err(error.into()),
            }
            // Where the condition was ignored, somebody may have written at the same time.
            let after = read_current(self.registry, self.reference, self.platforms).await?;
            let theirs = after.and_then(|(_, records)| records).unwrap_or_default();
            let ours: BTreeSet<&Digest> = records.steps.keys().collect();
            if theirs.steps.keys().filter(|key| ours.contains(key)).count() == ours.len() {
                return Ok(Written::Replaced(before));
            }
        }
        Err(WriteError::Contended)
    }

    /// Layers that are neither here nor there cannot be pushed: their records go.
    async fn drop_lost_layers(&self, records: &mut Records) -> Result<(), RegistryError> {
        let missing: Vec<Digest> = records
            .layers()
            .into_iter()
            .map(|layer| layer.digest)
            .filter(|digest| !self.store.contains(digest))
            .collect();
        let asked = missing.iter().map(|digest| async move {
            let there = self.registry.has_or_mounts(self.reference, digest, &self.mount_from);
            there.await.map(|there| (!there).then_some(*digest))
        });
        let asked: Vec<_> = asked.map(|question| question.boxed()).collect();
        let lost: BTreeSet<Digest> = futures_util::stream::iter(asked)
            .buffered(QUESTIONS_AT_ONCE)
            .try_filter_map(|lost| async move { Ok(lost) })
            .try_collect()
            .await?;
        if !lost.is_empty() {
            records
                .steps
                .retain(|_, step| step.layers().all(|(layer, _)| !lost.contains(&layer.digest)));
            records.mounts.retain(|_, mount| !lost.contains(&mount.layer.digest));
        }
        Ok(())
    }
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// There was nothing to write.
    Unchanged,
    /// The tag names a new manifest; this one it named before.
    Replaced(Option<Digest>),
}

fn is_refused_condition(error: &RegistryError) -> bool {
    matches!(error.kind(), registry_client::RegistryErrorKind::Status { status: 412, .. })
}
