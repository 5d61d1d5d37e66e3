//! The lower directories of an overlay mount for a list of layers.
//!
//! Overlayfs shows a merged directory with the metadata of its topmost copy. A layer whose
//! archive holds `home/me/file` and does not describe `home/me` would so turn that directory
//! into one of mode 0755 owned by root. Where that happens, one more layer goes on top that
//! holds nothing but the right directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_model::{ChainId, DiffId};
use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid};

use super::{UnpackError, UnpackedLayer, UnpackedLayers, make_directory};
use crate::inode_read::{file_type, is_opaque, is_overlay_whiteout};

impl UnpackedLayers {
    /// The trees to mount for an image's layers, the topmost first, as overlayfs's `lowerdir=`
    /// wants them. Takes the layers bottom first, as an image config lists them; nothing is
    /// returned unless all of them are unpacked.
    ///
    /// A layer that occurs several times is mounted once, at its topmost place: overlayfs refuses
    /// a directory twice, and whatever the layer did further down it does there again.
    ///
    /// # Errors
    /// [`UnpackError::Store`].
    pub fn lower_directories(
        &self,
        diff_ids: &[DiffId],
    ) -> Result<Option<Vec<PathBuf>>, UnpackError> {
        let mut layers = Vec::new();
        for diff_id in diff_ids {
            let Some(layer) = self.get(diff_id)? else { return Ok(None) };
            layers.push(layer);
        }
        let patch = self.patch(diff_ids, &layers)?;
        let mut seen = BTreeSet::new();
        let trees = layers.into_iter().rev().map(|layer| layer.path);
        let trees = trees.filter(|path| seen.insert(path.clone()));
        Ok(Some(patch.into_iter().chain(trees).collect()))
    }

    fn patch(
        &self,
        diff_ids: &[DiffId],
        layers: &[UnpackedLayer],
    ) -> Result<Option<PathBuf>, UnpackError> {
        let described = described_below(layers);
        if described.is_empty() {
            return Ok(None);
        }
        let Some(chain) = ChainId::of(diff_ids) else { return Ok(None) };
        let home = self.root().join("patches").join(chain.to_string().replace(':', "-"));
        let tree = home.join("fs");
        if tree.exists() {
            return Ok(Some(tree));
        }
        let staging = self.stage()?;
        let staged = staging.path.join("fs");
        make_directory(&staged)?;
        for (path, stat) in &described {
            copy_directory(&staged.join(path), stat)?;
        }
        // Times last: making a child changes those of its parent.
        for (path, stat) in &described {
            set_times(&staged.join(path), stat)?;
        }
        match fs::rename(&staging.path, &home) {
            Ok(()) => {}
            // Another process was faster with the same.
            Err(_) if tree.exists() => {}
            Err(source) => return Err(UnpackError::store(&home, source)),
        }
        Ok(Some(tree))
    }
}

/// Directories whose topmost copy was merely implied while a lower layer describes them, with
/// the metadata that they should have; and all directories above them.
fn described_below(layers: &[UnpackedLayer]) -> BTreeMap<PathBuf, Stat> {
    let mut found = BTreeMap::new();
    for path in layers.iter().flat_map(|layer| &layer.implied_directories) {
        let Some((top, _)) = shown(layers, path) else { continue };
        if !layers[top].implied_directories.contains(path) {
            continue;
        }
        let Some(stat) = described(layers, path) else { continue };
        found.insert(path.clone(), stat);
        for ancestor in path.ancestors().skip(1) {
            if let Some(stat) = described(layers, ancestor)
                .or_else(|| shown(layers, ancestor).map(|(_, stat)| stat))
            {
                found.entry(ancestor.to_owned()).or_insert(stat);
            }
        }
    }
    found
}

/// The topmost layer that has the path.
fn shown(layers: &[UnpackedLayer], path: &Path) -> Option<(usize, Stat)> {
    layers.iter().enumerate().rev().find_map(|(at, layer)| {
        let stat = rustix::fs::lstat(layer.path.join(path)).ok()?;
        is_directory(&stat).then_some((at, stat))
    })
}

/// The metadata of the topmost described copy that no layer above removed.
fn described(layers: &[UnpackedLayer], path: &Path) -> Option<Stat> {
    for layer in layers.iter().rev() {
        let full = layer.path.join(path);
        if let Ok(stat) = rustix::fs::lstat(&full) {
            if is_overlay_whiteout(&stat) || !is_directory(&stat) {
                return None;
            }
            if !layer.implied_directories.iter().any(|implied| implied == path) {
                return Some(stat);
            }
        }
        // Whatever is further down is hidden if an ancestor was removed or replaced here.
        for ancestor in path.ancestors() {
            let full = layer.path.join(ancestor);
            match rustix::fs::lstat(&full) {
                Ok(stat) if !is_directory(&stat) || is_opaque(&full) => return None,
                Ok(_) | Err(_) => {}
            }
        }
    }
    None
}

fn is_directory(stat: &Stat) -> bool {
    file_type(stat) == rustix::fs::FileType::Directory
}

fn copy_directory(path: &Path, stat: &Stat) -> Result<(), UnpackError> {
    let failed = |error: rustix::io::Errno| UnpackError::store(path, error);
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(UnpackError::store(path, source)),
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chown(path, Some(uid), Some(gid)).map_err(failed)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed)
}

fn set_times(path: &Path, stat: &Stat) -> Result<(), UnpackError> {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| UnpackError::store(path, error))
}
