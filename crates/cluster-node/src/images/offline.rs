//! The images of a node whose daemon does not run, and what both answer with.

use std::path::Path;
use std::time::Duration;

use blob_store::BlobStore;
use jiff::Timestamp;
use layers::UnpackedLayers;

use super::inventory::{Inventory, InventoryError, Mode, Removal, Removed, Scope};
use super::notes::ImageNotes;
use super::store::{ImageStore, chain};
use super::wire::{
    ImageDocument, ImageRequest, PruneDocument, PruneRequest, RemovalDocument, UsageDocument,
};
use crate::directories::Directories;

/// The images in a state directory. The caller sees to it that no node runs there.
#[derive(Debug)]
pub struct NodeImages {
    inventory: Inventory,
}

/// Why a request about images was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum NodeImagesError {
    /// There is no such image.
    #[error("{0}")]
    Absent(String),
    /// The text means several images.
    #[error("{0}")]
    Ambiguous(String),
    /// It is in use or pinned.
    #[error("{0}")]
    Refused(String),
    /// The store fails.
    #[error("{0}")]
    Failed(String),
}

impl From<InventoryError> for NodeImagesError {
    fn from(error: InventoryError) -> Self {
        let text = chain(&error);
        match error {
            InventoryError::Absent { .. } => NodeImagesError::Absent(text),
            InventoryError::Ambiguous { .. } => NodeImagesError::Ambiguous(text),
            InventoryError::InUse { .. } | InventoryError::Pinned { .. } => {
                NodeImagesError::Refused(text)
            }
            InventoryError::Image(_) | InventoryError::Blobs { .. } | InventoryError::Notes(_) => {
                NodeImagesError::Failed(text)
            }
        }
    }
}

impl NodeImages {
    /// The images of the node in `directory`; `blob_delay` is how long a blob of a removed image
    /// stays after somebody else used it.
    pub fn new(
        directory: &Path,
        blobs: BlobStore,
        layers: UnpackedLayers,
        blob_delay: Duration,
    ) -> Self {
        let directories = Directories::new(directory);
        let notes = ImageNotes::open(directories.image_notes());
        let store = ImageStore::new(blobs, layers).with_notes(notes);
        NodeImages { inventory: Inventory::new(store, directories, blob_delay) }
    }

    /// All images.
    ///
    /// # Errors
    /// [`NodeImagesError::Failed`].
    pub fn list(&self) -> Result<Vec<ImageDocument>, NodeImagesError> {
        Ok(list(&self.inventory)?)
    }

    /// What they take on the disk.
    ///
    /// # Errors
    /// [`NodeImagesError::Failed`].
    pub fn usage(&self) -> Result<UsageDocument, NodeImagesError> {
        self.inventory.usage().map(UsageDocument::from).map_err(NodeImagesError::Failed)
    }

    /// Removes a name, or by id an image.
    ///
    /// # Errors
    /// See [`NodeImagesError`].
    pub fn remove(&self, request: &ImageRequest) -> Result<RemovalDocument, NodeImagesError> {
        Ok(remove(&self.inventory, request)?)
    }

    /// Removes unused images.
    ///
    /// # Errors
    /// [`NodeImagesError::Failed`].
    pub fn prune(&self, request: PruneRequest) -> Result<PruneDocument, NodeImagesError> {
        Ok(prune(&self.inventory, request)?)
    }

    /// Pins what names or ids mean, all of them or none; returns the names.
    ///
    /// # Errors
    /// See [`NodeImagesError`].
    pub fn pin(&self, images: &[String]) -> Result<Vec<String>, NodeImagesError> {
        Ok(self.inventory.pin(images, Timestamp::now())?)
    }

    /// Takes pins away again, from all of these or none; returns the names that were pinned.
    ///
    /// # Errors
    /// See [`NodeImagesError`].
    pub fn unpin(&self, images: &[String]) -> Result<Vec<String>, NodeImagesError> {
        Ok(self.inventory.unpin(images, Timestamp::now())?)
    }
}

/// All images as documents.
pub(crate) fn list(inventory: &Inventory) -> Result<Vec<ImageDocument>, InventoryError> {
    let mut list: Vec<ImageDocument> =
        inventory.list(Timestamp::now())?.iter().map(ImageDocument::from).collect();
    let missing = inventory.missing().into_iter();
    list.extend(missing.map(|(name, why)| ImageDocument::missing(name, why)));
    Ok(list)
}

/// Carries out a removal.
pub(crate) fn remove(
    inventory: &Inventory,
    request: &ImageRequest,
) -> Result<RemovalDocument, InventoryError> {
    let removal = if request.force { Removal::Forced } else { Removal::Unused };
    inventory.remove(&request.image, removal, Timestamp::now()).map(RemovalDocument::from)
}

/// Carries out a prune.
pub(crate) fn prune(
    inventory: &Inventory,
    request: PruneRequest,
) -> Result<PruneDocument, InventoryError> {
    let scope = if request.all { Scope::All } else { Scope::Fetched };
    let mode = if request.dry_run { Mode::Plan } else { Mode::Apply };
    let (images, Removed { freed_bytes, waiting_bytes, .. }) =
        inventory.prune(scope, mode, Timestamp::now())?;
    Ok(PruneDocument {
        dry_run: request.dry_run,
        images: images.iter().map(ImageDocument::from).collect(),
        freed_bytes,
        waiting_bytes,
    })
}
