//! Removals: from a merged tree, or as the marks by which overlayfs hides lower layers.
//!
//! Both forms spare what the same layer creates, wherever in the archive the marker stands.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use super::applier::Applier;
use super::directories::{Directory, names, remove_tree, type_at};
use super::inode::mknod;
use super::{ApplyError, Whiteouts};

impl Applier<'_, '_> {
    /// `.wh.<name>`: the child is removed.
    pub(super) fn whiteout(
        &mut self,
        marker: &Path,
        parent: &Path,
        name: &OsStr,
    ) -> Result<(), ApplyError> {
        if name.is_empty() || name == "." || name == ".." {
            return Err(ApplyError::refused(marker, "the removal names no child"));
        }
        let path = parent.join(name);
        if self.options.whiteouts == Whiteouts::Remove {
            // What is not there need not be removed, nor its parents made.
            let Some(directory) = self.existing(parent)? else { return Ok(()) };
            self.writers.drain()?;
            return self.remove_lower(&directory, name, &path);
        }
        let directory = self.parent(parent, marker)?;
        if self.seen.contains(&path) {
            self.writers.drain()?;
            // Only a directory would let the lower one show through.
            if let Ok(child) = directory.child(name) {
                self.mark_opaque(&child, &path)?;
            }
            return Ok(());
        }
        if !self.whited_out.insert(&path) {
            return Ok(());
        }
        match mknod(&*directory, name, FileType::CharacterDevice, (0, 0)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.replace(&directory, name, &path)?;
                mknod(&*directory, name, FileType::CharacterDevice, (0, 0))
                    .map_err(|error| ApplyError::write(&path, error))
            }
            Err(error) => Err(ApplyError::write(&path, error)),
        }
    }

    /// `.wh..wh..opq`: everything that lower layers put into the directory is removed.
    pub(super) fn opaque(&mut self, path: &Path) -> Result<(), ApplyError> {
        if self.options.whiteouts != Whiteouts::Remove {
            let marker = path.join(crate::entry::OPAQUE_MARKER);
            let directory = self.parent(path, &marker)?;
            return self.mark_opaque(&directory, path);
        }
        let Some(directory) = self.existing(path)? else { return Ok(()) };
        self.writers.drain()?;
        let children = names(&directory).map_err(|error| ApplyError::write(path, error))?;
        for name in children {
            self.remove_lower(&directory, &name, &path.join(&name))?;
        }
        Ok(())
    }

    /// Removes what stands at a name, except for what this layer put there.
    fn remove_lower(
        &mut self,
        directory: &Directory,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ApplyError> {
        let failed = |error| ApplyError::write(path, error);
        if self.options.is_excluded(path) {
            return Ok(());
        }
        if !self.seen.contains(path) && !self.options.holds_excluded(path) {
            self.directories.forget_all();
            return remove_tree(directory, name).map_err(failed);
        }
        if type_at(directory, name).map_err(failed)? != Some(FileType::Directory) {
            return Ok(());
        }
        let child = directory.child(name).map_err(failed)?;
        for name in names(&child).map_err(failed)? {
            self.remove_lower(&child, &name, &path.join(&name))?;
        }
        Ok(())
    }

    /// Makes overlayfs hide what lower layers hold below the directory.
    pub(super) fn mark_opaque(
        &mut self,
        directory: &Directory,
        path: &Path,
    ) -> Result<(), ApplyError> {
        let failed = |error| ApplyError::write(path, error);
        let handle = directory.readable().map_err(failed)?;
        let mark = |key: &str| rustix::fs::fsetxattr(&handle, key, b"y", XattrFlags::empty());
        match self.options.whiteouts {
            Whiteouts::Remove | Whiteouts::Literal => Ok(()),
            Whiteouts::OverlayTrusted => mark("trusted.overlay.opaque").map_err(failed),
            Whiteouts::OverlayUser => mark("user.overlay.opaque").map_err(failed),
            Whiteouts::OverlayBoth => {
                mark("user.overlay.opaque").map_err(failed)?;
                mark("trusted.overlay.opaque").map_err(failed)
            }
        }
    }

    fn existing(&mut self, path: &Path) -> Result<Option<std::sync::Arc<Directory>>, ApplyError> {
        match self.directories.get(path) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(ApplyError::write(path, error)),
        }
    }
}
