//! Images in the content store, under the refs `images/<canonical reference>`.
//!
//! The first digest of such a ref is the manifest or index that the name stands for; the others
//! are what it needs on this platform. Builder and node share the names.

use std::path::PathBuf;

use blob_store::{BlobStore, RefName};
use jiff::Timestamp;
use layers::{Decoder, UnpackedLayers};
use oci_model::{
    Descriptor, Digest, ImageConfig, Manifest, Platform, RawConfig, RawManifest, Reference,
};

use super::LOCAL_REGISTRY;
use super::hold::{ImageHold, InHand};
use super::notes::{Arrival, ImageNotes, Origin};
use super::stored::FactsByRoot;

/// Owner and prefix of image refs.
pub(super) const PREFIX: &str = "images/";
/// Longest config that is read.
pub(super) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Longest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Looks at a name that moves while its image is read.
const FIND_TRIES: usize = 3;

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
    /// Keeps the image while this value lives.
    hold: ImageHold,
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
#[derive(Clone, Debug)]
pub(crate) struct ImageStore {
    pub(crate) blobs: BlobStore,
    pub(crate) layers: UnpackedLayers,
    /// What the node remembers beside the names; `None` where nobody collects.
    pub(crate) notes: Option<ImageNotes>,
    pub(crate) in_hand: InHand,
    platform: Platform,
    pub(super) facts: FactsByRoot,
}

impl ImageStore {
    pub(crate) fn new(blobs: BlobStore, layers: UnpackedLayers) -> Self {
        ImageStore {
            blobs,
            layers,
            notes: None,
            in_hand: InHand::default(),
            platform: Platform::host(),
            facts: FactsByRoot::default(),
        }
    }

    /// The platform whose images are used here.
    pub(super) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The same images with a memory of pins and arrivals.
    pub(crate) fn with_notes(self, notes: ImageNotes) -> Self {
        ImageStore { notes: Some(notes), ..self }
    }

    /// Finds an image by name, or by digest under any tag of the same repository.
    ///
    /// # Errors
    /// The store fails, or what it holds is damaged.
    pub(crate) fn find(&self, reference: &Reference) -> Result<Option<LocalImage>, ImageError> {
        for _ in 0..FIND_TRIES {
            // Blobs may be gone although the ref is there: then the image is absent.
            let Some(root) = self.resolve(reference)?.filter(|root| self.blobs.contains(root))
            else {
                return Ok(None);
            };
            let found = self.read(reference, root)?;
            // Now that it is in hand it stays, unless its name went before.
            if found.is_none() || self.resolve(reference)? == Some(root) {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What a name stands for.
    fn resolve(&self, reference: &Reference) -> Result<Option<Digest>, ImageError> {
        let failed =
            |detail: String| ImageError::Store { reference: reference.to_string(), detail };
        let Some(digest) = reference.digest() else {
            let name = ref_name(&reference.with_default_tag().to_string()).map_err(&failed)?;
            let digests = self.blobs.get_ref(&name).map_err(|error| failed(error.to_string()))?;
            return Ok(digests.and_then(|digests| digests.first().copied()));
        };
        let prefix = format!("{PREFIX}{}", reference.name());
        let refs = self.blobs.refs(&prefix).map_err(|error| failed(error.to_string()))?;
        Ok(refs
            .iter()
            .filter(|(name, _)| name.as_str()[prefix.len()..].starts_with([':', '@']))
            .find(|(_, digests)| digests.contains(digest))
            .map(|_| *digest))
    }

    /// The images of the repository of a reference by digest that hold the digest: as themselves,
    /// or as one of their parts.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn roots(&self, reference: &Reference) -> Result<Vec<Digest>, ImageError> {
        let Some(digest) = reference.digest() else { return Ok(Vec::new()) };
        let prefix = format!("{PREFIX}{}", reference.name());
        let refs = self.blobs.refs(&prefix).map_err(|error| ImageError::Store {
            reference: reference.to_string(),
            detail: error.to_string(),
        })?;
        Ok(refs
            .iter()
            .filter(|(name, _)| name.as_str()[prefix.len()..].starts_with([':', '@']))
            .filter(|(_, digests)| digests.contains(digest))
            .filter_map(|(_, digests)| digests.first().copied())
            .collect())
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
        // Before anything is looked for: what is found from now on stays.
        let hold = self.in_hand.take(root);
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
            hold,
        }))
    }

    pub(super) fn manifest(&self, digest: &Digest) -> Result<Option<RawManifest>, String> {
        let Some(bytes) = self.blob(digest, MANIFEST_BYTES_MAX)? else { return Ok(None) };
        RawManifest::parse(None, bytes).map(Some).map_err(|error| error.to_string())
    }

    pub(super) fn blob(&self, digest: &Digest, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
        if !self.blobs.contains(digest) {
            return Ok(None);
        }
        self.blobs.read(digest, bytes_max).map(Some).map_err(|error| error.to_string())
    }

    /// Makes a name stand for an image, durably.
    ///
    /// # Errors
    /// The note on its arrival or the ref cannot be written.
    pub(crate) fn remember(
        &self,
        reference: &Reference,
        image: &LocalImage,
    ) -> Result<(), ImageError> {
        let failed =
            |detail: String| ImageError::Store { reference: reference.to_string(), detail };
        let name = ref_name(&reference.with_default_tag().to_string()).map_err(&failed)?;
        if let Some(notes) = &self.notes
            && reference.registry() != LOCAL_REGISTRY
        {
            let root = image.root.to_string();
            let at = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
            // Before the name: an image of which nobody knows whose it is would be everybody's.
            notes
                .arrive(&name.as_str()[PREFIX.len()..], Arrival { root, at, for_node: false })
                .map_err(|error| failed(format!("its arrival cannot be noted: {error}")))?;
        }
        if self.blobs.get_ref(&name).is_ok_and(|kept| kept.as_deref() == Some(&image.digests)) {
            return Ok(());
        }
        self.blobs.set_ref(&name, &image.digests).map_err(|error| failed(error.to_string()))
    }

    /// Notes that the node fetched an image for every pod.
    ///
    /// # Errors
    /// The note cannot be written.
    pub(crate) fn give(&self, reference: &Reference, root: &Digest) -> std::io::Result<()> {
        let Some(notes) = &self.notes else { return Ok(()) };
        let at = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        let arrival = Arrival { root: root.to_string(), at, for_node: true };
        notes.arrive(&reference.with_default_tag().to_string(), arrival)
    }

    /// Why `root` is here under this name; of a reference by digest under any name of its
    /// repository.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn origin(&self, reference: &Reference, root: &str) -> Result<Origin, ImageError> {
        let Some(notes) = &self.notes else { return Ok(Origin::Given) };
        if reference.digest().is_none() {
            return Ok(notes.origin(&reference.with_default_tag().to_string(), root));
        }
        let prefix = format!("{PREFIX}{}", reference.name());
        let refs = self.blobs.refs(&prefix).map_err(|error| ImageError::Store {
            reference: reference.to_string(),
            detail: error.to_string(),
        })?;
        let is_given = refs
            .iter()
            .filter(|(name, _)| name.as_str()[prefix.len()..].starts_with([':', '@']))
            .filter(|(_, digests)| digests.first().is_some_and(|first| first.to_string() == root))
            .any(|(name, _)| notes.origin(&name.as_str()[PREFIX.len()..], root) == Origin::Given);
        Ok(if is_given { Origin::Given } else { Origin::Pod })
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
        image
            .hold
            .hold_layers(&self.layers, diff_ids)
            .map_err(|error| unpack_error(String::new(), chain(&error)))?;
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
}

pub(super) fn ref_name(canonical: &str) -> Result<RefName, String> {
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
