//! Images in somebody's hands: between the question for them and the record of their use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use layers::{LayerHold, UnpackError, UnpackedLayers};
use oci_model::{DiffId, Digest};

/// The images in hand, by manifest or index.
#[derive(Clone, Debug, Default)]
pub(crate) struct InHand(Arc<Mutex<HashMap<Digest, usize>>>);

/// Keeps an image from collection, and its unpacked layers once somebody asked for them.
#[derive(Clone, Debug)]
pub(crate) struct ImageHold(Arc<Held>);

#[derive(Debug)]
struct Held {
    root: Digest,
    all: InHand,
    layers: Mutex<Option<LayerHold>>,
}

impl InHand {
    fn counts(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        // The counts stay whole whatever a panicking holder did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an image into hand.
    pub(crate) fn take(&self, root: Digest) -> ImageHold {
        *self.counts().entry(root).or_default() += 1;
        ImageHold(Arc::new(Held { root, all: self.clone(), layers: Mutex::default() }))
    }

    /// Whether somebody has the image in hand.
    pub(crate) fn has(&self, root: &Digest) -> bool {
        self.counts().contains_key(root)
    }

    /// Does `work` while nobody can take an image into hand; `None` if somebody has one of them.
    pub(crate) fn unless_held<T>(
        &self,
        mut roots: impl Iterator<Item = Digest>,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let counts = self.counts();
        let is_held = roots.any(|root| counts.contains_key(&root));
        (!is_held).then(work)
    }
}

impl ImageHold {
    /// Keeps the unpacked layers as well, from now on.
    ///
    /// # Errors
    /// The store of layers cannot be written.
    pub(crate) fn hold_layers(
        &self,
        layers: &UnpackedLayers,
        diff_ids: &[DiffId],
    ) -> Result<(), UnpackError> {
        let mut held = self.0.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(layers.hold(diff_ids)?);
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.root);
            }
        }
    }
}
