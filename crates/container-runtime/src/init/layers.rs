//! A union of directories as a mount that can be read and nothing else.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::inside::{self, Missing};
use super::mounts::{beneath_error, clone_of, clone_tree, new_detached};
use super::root::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, attach, overlay,
};
use crate::syscall::{self, MountChange};
use crate::wire::{Failure, Sandbox};

/// Makes the mount, attached nowhere yet.
///
/// Nothing that is mounted in this mount namespace may reach the host any more.
pub(super) fn mount(
    sandbox: &Sandbox,
    lowers: &[PathBuf],
    beneath: Option<&Path>,
) -> Result<OwnedFd, Failure> {
    let below = |base: &Path, path: &Path| {
        inside::open_beneath(base, path, Missing::Refuse).and_then(clone_of).map_err(|error| {
            Failure::setup(format!("bind {} of the volume", path.display()), beneath_error(error))
        })
    };
    let tree = match (lowers, beneath) {
        ([], None) => {
            let options = [("mode", "755".to_owned()), ("size", "0".to_owned())];
            new_detached("tmpfs", &options, MountAttrFlags::empty())
                .map_err(|error| Failure::setup("file system tmpfs", error))?
        }
        ([], Some(path)) => {
            let what = format!("bind {} of the volume", path.display());
            return Err(Failure::setup(what, Errno::NOENT));
        }
        // The kernel makes no union of one directory.
        ([only], None) => clone_tree(only)?,
        ([only], Some(path)) => below(only, path)?,
        (_, None) => overlay(sandbox, lowers, None, &[])?,
        ([top, ..], Some(path)) => {
            let union = overlay(sandbox, lowers, None, &[])?;
            // Only what is attached can be cloned in part, before Linux 6.15. It is taken away
            // again at once: the next volume may have the same layers.
            attach(&union, top).map_err(|error| Failure::setup("attach the layers", error))?;
            let found = below(top, path);
            rustix::mount::unmount(top, UnmountFlags::DETACH)
                .map_err(|error| Failure::setup("detach the layers", error))?;
            found?
        }
    };
    let change = MountChange {
        set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID,
        recursive: true,
        propagation: libc::MS_PRIVATE,
        ..MountChange::default()
    };
    syscall::mount_setattr(&tree, change)
        .map_err(|error| Failure::setup("protect the layers", error))?;
    Ok(tree)
}
