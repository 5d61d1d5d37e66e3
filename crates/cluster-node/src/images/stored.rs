//! All images of the content store, each once under all its names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use blob_store::RefName;
use oci_model::{DiffId, Digest, Manifest, RawConfig, Reference};

use super::store::{CONFIG_BYTES_MAX, ImageError, ImageStore, PREFIX};
use crate::registration::ImageSummary;

/// What the documents of an image say; they never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    /// Digest of the config; of the root where this machine cannot use the image.
    pub(crate) id: Digest,
    /// Compressed size of config and layers.
    pub(crate) bytes: u64,
    /// Unpacked layers, bottom first.
    pub(crate) diff_ids: Vec<DiffId>,
    /// `user[:group]` of the config.
    pub(crate) user: String,
}

/// What the documents of all known roots say.
pub(super) type FactsByRoot = Arc<Mutex<HashMap<Digest, ImageFacts>>>;

/// One name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredName {
    pub(crate) reference: Reference,
    pub(crate) ref_name: RefName,
    /// Everything that the name keeps, the manifest or index first.
    pub(crate) digests: Vec<Digest>,
}

/// An image and its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredImage {
    pub(crate) facts: ImageFacts,
    /// In order of their text; never empty.
    pub(crate) names: Vec<StoredName>,
}

impl StoredName {
    /// The canonical text of the name.
    pub(crate) fn text(&self) -> &str {
        &self.ref_name.as_str()[PREFIX.len()..]
    }

    /// Manifest or index that the name stands for.
    pub(crate) fn root(&self) -> Option<Digest> {
        self.digests.first().copied()
    }

    /// `name@digest`.
    pub(crate) fn digested(&self) -> Option<String> {
        self.root().map(|root| format!("{}@{root}", self.reference.name()))
    }
}

impl StoredImage {
    /// Names with a tag.
    pub(crate) fn tags(&self) -> Vec<String> {
        let tagged = self.names.iter().filter(|name| name.reference.digest().is_none());
        tagged.map(|name| name.text().to_owned()).collect()
    }

    /// Names with the digest of what was pulled.
    pub(crate) fn repo_digests(&self) -> Vec<String> {
        let mut digested: Vec<String> =
            self.names.iter().filter_map(StoredName::digested).collect();
        digested.sort();
        digested.dedup();
        digested
    }

    /// Manifests and indexes that stand for the image.
    pub(crate) fn roots(&self) -> impl Iterator<Item = Digest> {
        self.names.iter().filter_map(StoredName::root)
    }

    /// Everything that its names keep.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.names.iter().flat_map(|name| name.digests.iter().copied())
    }
}

impl ImageStore {
    /// All images of which a name is known.
    ///
    /// # Errors
    /// The names cannot be read.
    pub(crate) fn images(&self) -> Result<Vec<StoredImage>, ImageError> {
        let refs = self.blobs.refs(PREFIX).map_err(|error| ImageError::Store {
            reference: "*".to_owned(),
            detail: error.to_string(),
        })?;
        let mut by_id: BTreeMap<String, StoredImage> = BTreeMap::new();
        let mut roots = Vec::new();
        for (ref_name, digests) in refs {
            let Ok(reference) = ref_name.as_str()[PREFIX.len()..].parse::<Reference>() else {
                continue;
            };
            let Some(root) = digests.first().copied() else { continue };
            roots.push(root);
            let facts = self.facts(root, &digests);
            by_id
                .entry(facts.id.to_string())
                .or_insert_with(|| StoredImage { facts, names: Vec::new() })
                .names
                .push(StoredName { reference, ref_name, digests });
        }
        self.known_facts().retain(|root, _| roots.contains(root));
        Ok(by_id.into_values().collect())
    }

    fn known_facts(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, ImageFacts>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn facts(&self, root: Digest, digests: &[Digest]) -> ImageFacts {
        if let Some(known) = self.known_facts().get(&root) {
            return known.clone();
        }
        match self.read_facts(root) {
            Ok(Some(facts)) => {
                self.known_facts().insert(root, facts.clone());
                facts
            }
            // For another platform, or damaged: it still takes space and can be removed.
            Ok(None) | Err(_) => ImageFacts {
                id: root,
                bytes: digests.iter().skip(1).filter_map(|digest| self.blobs.size(digest)).sum(),
                diff_ids: Vec::new(),
                user: String::new(),
            },
        }
    }

    fn read_facts(&self, root: Digest) -> Result<Option<ImageFacts>, String> {
        let Some(mut document) = self.manifest(&root)? else { return Ok(None) };
        if let Manifest::Index(index) = document.parsed() {
            let Some(child) = index.select(self.platform()) else { return Ok(None) };
            let Some(manifest) = self.manifest(&child.digest)? else { return Ok(None) };
            document = manifest;
        }
        let Manifest::Image(manifest) = document.parsed() else { return Ok(None) };
        let Some(config) = self.blob(&manifest.config.digest, CONFIG_BYTES_MAX)? else {
            return Ok(None);
        };
        let config = RawConfig::parse(config).map_err(|error| error.to_string())?;
        let layer_bytes: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
        Ok(Some(ImageFacts {
            id: manifest.config.digest,
            bytes: manifest.config.size + layer_bytes,
            diff_ids: config.parsed().rootfs.diff_ids.clone(),
            user: config.parsed().config.user.clone(),
        }))
    }

    /// All images, for the status of the node: digested names, then tags (kubelet-images.md 12).
    pub(crate) fn summaries(&self) -> Vec<ImageSummary> {
        let images = self.images().unwrap_or_else(|error| {
            tracing::warn!(%error, "images cannot be listed");
            Vec::new()
        });
        images
            .into_iter()
            .map(|image| {
                let mut names = image.repo_digests();
                names.extend(image.tags());
                ImageSummary { id: image.facts.id.to_string(), names, bytes: image.facts.bytes }
            })
            .collect()
    }
}
