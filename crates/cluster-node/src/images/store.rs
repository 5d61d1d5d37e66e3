//! Images in the content store, under the refs `images/<canonical reference>`.
//!
//! The first digest of such a ref is the manifest or index that the name stands for; the others
//! are what it needs on this platform. Builder and node share the names.

use std::path::PathBuf;

use blob_store::{BlobStore, RefName};
use layers::{Decoder, UnpackedLayers};
use oci_model::{
    Descriptor, Digest, ImageConfig, Manifest, Platform, RawConfig, RawManifest, Reference,
};

use crate::registration::ImageSummary;

/// Owner and prefix of image refs.
const PREFIX: &str = "images/";
/// Longest config that is read.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// An image that is complete on this node.
#[derive(Clone, Debug)]
pub(crate) struct LocalImage {
    /// Manifest or index that the name stands for.
    pub(crate) root: Digest,
    /// `name@digest`, the `imageID` of container statuses.
    pub(crate) id: String,
    pub(crate) config: ImageConfig,
    /// Layers of this platform, bottom first.
    pub(crate) layers: Vec<Descriptor>,
    /// Compressed size of config and layers.
    pub(crate) bytes: u64,
    /// Everything that a ref to the image keeps, the root first.
    pub(crate) digests: Vec<Digest>,
}

impl LocalImage {
    /// Digest of the config: what identifies an image to CRI and docker.
    pub(crate) fn config_digest(&self) -> Digest {
        // After the root and, of an index, its manifest; before the layers.
        let at = self.digests.len().saturating_sub(self.layers.len() + 1);
        self.digests.get(at).copied().unwrap_or(self.root)
    }
}

/// Why a local image cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("image {reference} is damaged: {detail}")]
    Damaged { reference: String, detail: String },
    #[error("image {reference} has no manifest for {wanted}; it has {offered}")]
    Platform { reference: String, wanted: String, offered: String },
    #[error("the content store does not answer for image {reference}: {detail}")]
    Store { reference: String, detail: String },
    #[error("layer {diff_id} of image {image} cannot be unpacked: {detail}")]
    Unpack { image: String, diff_id: String, detail: String },
}

/// The images of one node.
#[derive(Clone)]
pub(crate) struct ImageStore {
    pub(crate) blobs: BlobStore,
    pub(crate) layers: UnpackedLayers,
    platform: Platform,
}

impl ImageStore {
    pub(crate) fn new(blobs: BlobStore, layers: UnpackedLayers) -> Self {
        ImageStore { blobs, layers, platform: Platform::host() }
    }

    /// Finds an image by name, or by digest under any tag of the same repository.
    ///
    /// # Errors
    /// The store fails, or what it holds is damaged.
    pub(crate) fn find(&self, reference: &Reference) -> Result<Option<LocalImage>, ImageError> {
        let failed =
            |detail: String| ImageError::Store { reference: reference.to_string(), detail };
        let root = match reference.digest() {
            None => {
                let name = ref_name(&reference.with_default_tag().to_string()).map_err(&failed)?;
                let digests =
                    self.blobs.get_ref(&name).map_err(|error| failed(error.to_string()))?;
                digests.and_then(|digests| digests.first().copied())
            }
            Some(digest) => {
                let prefix = format!("{PREFIX}{}", reference.name());
                let refs = self.blobs.refs(&prefix).map_err(|error| failed(error.to_string()))?;
                refs.iter()
                    .filter(|(name, _)| {
                        let rest = &name.as_str()[prefix.len()..];
                        rest.starts_with([':', '@'])
                    })
                    .find(|(_, digests)| digests.contains(digest))
                    .map(|_| *digest)
            }
        };
        match root {
            // Blobs may be gone although the ref is there: then the image is absent.
            Some(root) if self.blobs.contains(&root) => self.read(reference, root),
            _ => Ok(None),
        }
    }

    /// Reads the image behind a manifest or index; `None` when a part of it is missing.
    ///
    /// # Errors
    /// A document is damaged or offers no manifest for this platform.
    pub(crate) fn read(
        &self,
        reference: &Reference,
        root: Digest,
    ) -> Result<Option<LocalImage>, ImageError> {
        let damaged =
            |detail: String| ImageError::Damaged { reference: reference.to_string(), detail };
        let Some(mut document) = self.manifest(&root).map_err(damaged)? else { return Ok(None) };
        let mut digests = vec![root];
        if let Manifest::Index(index) = document.parsed() {
            let child = index.select(&self.platform).ok_or_else(|| ImageError::Platform {
                reference: reference.to_string(),
                wanted: self.platform.to_string(),
                offered: index.platforms().join(", "),
            })?;
            let digest = child.digest;
            digests.push(digest);
            match self.manifest(&digest).map_err(damaged)? {
                Some(manifest) => document = manifest,
                None => return Ok(None),
            }
        }
        let Manifest::Image(manifest) = document.parsed() else {
            return Err(damaged("an index inside of an index".to_owned()));
        };
        let Some(config) = self.blob(&manifest.config.digest, CONFIG_BYTES_MAX).map_err(damaged)?
        else {
            return Ok(None);
        };
        let config =
            RawConfig::parse(config).map_err(|error| damaged(error.to_string()))?.parsed().clone();
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(damaged("config and manifest name different numbers of layers".to_owned()));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let here = self.blobs.contains(&layer.digest)
                || self.layers.get(diff_id).is_ok_and(|found| found.is_some());
            if !here {
                return Ok(None);
            }
        }
        digests.push(manifest.config.digest);
        digests.extend(manifest.layers.iter().map(|layer| layer.digest));
        Ok(Some(LocalImage {
            root,
            id: format!("{}@{root}", reference.name()),
            bytes: manifest.config.size
                + manifest.layers.iter().map(|layer| layer.size).sum::<u64>(),
            layers: manifest.layers.clone(),
            config,
            digests,
        }))
    }

    fn manifest(&self, digest: &Digest) -> Result<Option<RawManifest>, String> {
        let Some(bytes) = self.blob(digest, MANIFEST_BYTES_MAX)? else { return Ok(None) };
        RawManifest::parse(None, bytes).map(Some).map_err(|error| error.to_string())
    }

    fn blob(&self, digest: &Digest, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
        if !self.blobs.contains(digest) {
            return Ok(None);
        }
        self.blobs.read(digest, bytes_max).map(Some).map_err(|error| error.to_string())
    }

    /// Makes a name stand for an image, durably.
    ///
    /// # Errors
    /// The ref cannot be written.
    pub(crate) fn remember(
        &self,
        reference: &Reference,
        image: &LocalImage,
    ) -> Result<(), ImageError> {
        let failed =
            |detail: String| ImageError::Store { reference: reference.to_string(), detail };
        let name = ref_name(&reference.with_default_tag().to_string()).map_err(&failed)?;
        if self.blobs.get_ref(&name).is_ok_and(|kept| kept.as_deref() == Some(&image.digests)) {
            return Ok(());
        }
        self.blobs.set_ref(&name, &image.digests).map_err(|error| failed(error.to_string()))
    }

    /// The names of all images, with tag or digest.
    ///
    /// # Errors
    /// The refs cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<Reference>, ImageError> {
        let refs = self.blobs.refs(PREFIX).map_err(|error| ImageError::Store {
            reference: "list".to_owned(),
            detail: error.to_string(),
        })?;
        Ok(refs.iter().filter_map(|(name, _)| name.as_str()[PREFIX.len()..].parse().ok()).collect())
    }

    /// Takes a name away, durably; a name that is not there is no error.
    ///
    /// # Errors
    /// The ref cannot be removed.
    pub(crate) fn forget(&self, reference: &Reference) -> Result<(), ImageError> {
        let failed =
            |detail: String| ImageError::Store { reference: reference.to_string(), detail };
        let name = ref_name(&reference.to_string()).map_err(&failed)?;
        self.blobs.remove_ref(&name).map_err(|error| failed(error.to_string()))
    }

    /// Unpacks what is not unpacked yet; returns the overlay's lower directories, topmost first.
    ///
    /// # Errors
    /// A layer is missing, damaged, or does not fit on the disk.
    pub(crate) fn root_directories(&self, image: &LocalImage) -> Result<Vec<PathBuf>, ImageError> {
        let diff_ids = &image.config.rootfs.diff_ids;
        let unpack_error = |diff_id: String, detail: String| ImageError::Unpack {
            image: image.id.clone(),
            diff_id,
            detail,
        };
        // One thread per layer up to the number of cores: layers are independent of each other.
        let pairs: Vec<_> = image.layers.iter().zip(diff_ids).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for batch in pairs.chunks(threads) {
            std::thread::scope(|scope| {
                let handles: Vec<_> = batch
                    .iter()
                    .map(|(layer, diff_id)| {
                        scope.spawn(move || {
                            self.layers.ensure(diff_id, || {
                                let blob = self
                                    .blobs
                                    .open_blob(&layer.digest)
                                    .map_err(std::io::Error::other)?;
                                Decoder::new(blob)
                            })
                        })
                    })
                    .collect();
                for (handle, (_, diff_id)) in handles.into_iter().zip(batch) {
                    match handle.join() {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => {
                            return Err(unpack_error(diff_id.0.to_string(), chain(&error)));
                        }
                        Err(_) => {
                            return Err(unpack_error(
                                diff_id.0.to_string(),
                                "unpacking panicked".to_owned(),
                            ));
                        }
                    }
                }
                Ok(())
            })?;
        }
        self.layers
            .lower_directories(diff_ids)
            .map_err(|error| unpack_error(String::new(), chain(&error)))?
            .ok_or_else(|| {
                unpack_error(String::new(), "a layer vanished while unpacking".to_owned())
            })
    }

    /// All images, for the status of the node.
    pub(crate) fn summaries(&self) -> Vec<ImageSummary> {
        let mut by_root: std::collections::BTreeMap<String, ImageSummary> = Default::default();
        for (name, digests) in self.blobs.refs(PREFIX).unwrap_or_default() {
            let text = &name.as_str()[PREFIX.len()..];
            let (Ok(reference), Some(root)) = (text.parse::<Reference>(), digests.first()) else {
                continue;
            };
            let bytes = digests.iter().skip(1).filter_map(|digest| self.blobs.size(digest)).sum();
            let entry = by_root
                .entry(root.to_string())
                .or_insert_with(|| ImageSummary { names: Vec::new(), bytes });
            let digested = format!("{}@{root}", reference.name());
            if !entry.names.contains(&digested) {
                entry.names.insert(0, digested);
            }
            if reference.digest().is_none() {
                entry.names.push(text.to_owned());
            }
        }
        by_root.into_values().collect()
    }
}

fn ref_name(canonical: &str) -> Result<RefName, String> {
    format!("{PREFIX}{canonical}").parse::<RefName>().map_err(|error| error.to_string())
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    text
}
