//! Who owns the files of a volume: `fsGroup` and the owner of tokens (mini-kubernetes.md 8.4).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Owner of what the agent writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: Option<u32>,
    /// The pod's `fsGroup`; files become readable for it.
    pub(crate) group: Option<u32>,
}

impl Owner {
    /// Gives a path to the owner.
    pub(crate) fn apply(self, path: &Path) -> io::Result<()> {
        if self == Owner::default() {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, self.user, self.group)
    }

    /// Permission bits of a file: with a group it is readable for the group.
    pub(crate) fn file_mode(self, mode: u32) -> u32 {
        if self.group.is_some() { mode | 0o040 } else { mode }
    }
}

/// Gives a whole tree to a group, as `fsGroup` asks: group-writable, directories set-group-ID.
///
/// # Errors
/// An entry cannot be changed.
pub(crate) fn give_tree_to_group(path: &Path, group: u32) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    std::os::unix::fs::lchown(path, None, Some(group))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    if metadata.is_dir() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o2770))?;
        for entry in std::fs::read_dir(path)? {
            give_tree_to_group(&entry?.path(), group)?;
        }
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o660))
}
