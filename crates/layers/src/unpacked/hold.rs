//! Holds: layers that a running process uses, and the removal of those that nobody does.

use std::fs::{self, File};
use std::io;

use oci_model::{ChainId, DiffId};
use rustix::fs::FlockOperation;

use super::{UnpackError, UnpackedLayers, lock_file};

/// Keeps layers from [`UnpackedLayers::remove_unheld`] until it is dropped or its process dies.
#[derive(Debug)]
pub struct LayerHold {
    _locks: Vec<File>,
}

/// What [`UnpackedLayers::remove_unheld`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedLayers {
    /// The layers.
    pub diff_ids: Vec<DiffId>,
    /// Bytes of their uncompressed archives, about what they took on the disk.
    pub bytes: u64,
}

impl UnpackedLayers {
    /// Keeps layers, whether they are unpacked already or will be. Take the hold before you look
    /// for them; it ends with its process.
    ///
    /// # Errors
    /// [`UnpackError::Store`].
    pub fn hold(&self, diff_ids: &[DiffId]) -> Result<LayerHold, UnpackError> {
        let lock = |diff_id| lock_file(&self.hold_path(diff_id), FlockOperation::LockShared);
        Ok(LayerHold { _locks: diff_ids.iter().map(lock).collect::<Result<_, _>>()? })
    }

    /// Removes those layers of one stack, bottom first, that are unpacked, held by nobody, and not
    /// `wanted`. The questions are asked while no hold on any of them can begin: whoever writes
    /// down a want before letting go of a hold is heard.
    ///
    /// # Errors
    /// [`UnpackError::Store`].
    pub fn remove_unheld(
        &self,
        stack: &[DiffId],
        mut wanted: impl FnMut(&DiffId) -> bool,
    ) -> Result<RemovedLayers, UnpackError> {
        let mut removed = RemovedLayers::default();
        let mut locked: Vec<(DiffId, File, File)> = Vec::new();
        for diff_id in stack {
            if locked.iter().any(|(known, ..)| known == diff_id) {
                continue;
            }
            let Some(hold) = try_lock(&self.hold_path(diff_id))? else { continue };
            let Some(busy) = try_lock(&self.lock_path(diff_id))? else { continue };
            locked.push((*diff_id, hold, busy));
        }
        // Their trees are deleted when these are dropped: after the locks.
        let mut graves = Vec::new();
        for (diff_id, ..) in &locked {
            if wanted(diff_id) {
                continue;
            }
            let home = self.home(diff_id);
            let bytes = self.get(diff_id)?.map_or(0, |layer| layer.tar_bytes);
            let grave = self.stage()?;
            match fs::rename(&home, grave.path.join("removed")) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(UnpackError::store(&home, source)),
            }
            graves.push(grave);
            removed.diff_ids.push(*diff_id);
            removed.bytes += bytes;
        }
        if !removed.diff_ids.is_empty()
            && let Some(chain) = ChainId::of(stack)
        {
            // Whoever mounts the patch of the stack holds all of its layers.
            let grave = self.stage()?;
            let patch = self.root().join("patches").join(chain.to_string().replace(':', "-"));
            match fs::rename(&patch, grave.path.join("removed")) {
                Ok(()) => graves.push(grave),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(UnpackError::store(&patch, source)),
            }
        }
        drop(locked);
        drop(graves);
        Ok(removed)
    }

    fn hold_path(&self, diff_id: &DiffId) -> std::path::PathBuf {
        let name = format!("held-{}", diff_id.to_string().replace(':', "-"));
        self.root().join("locks").join(name)
    }
}

/// An exclusive lock, unless somebody has one.
fn try_lock(path: &std::path::Path) -> Result<Option<File>, UnpackError> {
    match lock_file(path, FlockOperation::NonBlockingLockExclusive) {
        Ok(file) => Ok(Some(file)),
        Err(UnpackError::Store { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
