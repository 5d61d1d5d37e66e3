//! What a layer says about one path: the common word of archives, trees and changes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One path of a layer with its metadata; the content of a file travels beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root of the tree, without `.` or `..`; empty for the root itself.
    pub path: PathBuf,
    /// What stands at the path.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky (at most `0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Extended attributes by full name (`security.capability`); values are raw bytes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Entry {
    /// A directory owned by root, of the given mode, at time zero.
    pub fn directory(path: impl Into<PathBuf>, mode: u32) -> Self {
        Self::new(path, EntryKind::Directory, mode)
    }

    /// A regular file owned by root, of the given mode and size in bytes, at time zero.
    pub fn file(path: impl Into<PathBuf>, mode: u32, size: u64) -> Self {
        Self::new(path, EntryKind::File { size }, mode)
    }

    /// A symbolic link owned by root, at time zero.
    pub fn symlink(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self::new(path, EntryKind::Symlink { target: target.into() }, 0o777)
    }

    /// An entry of any kind owned by root, at time zero.
    pub fn new(path: impl Into<PathBuf>, kind: EntryKind, mode: u32) -> Self {
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: BTreeMap::new(),
        }
    }

    /// Bytes of content that follow the entry in an archive.
    pub fn content_bytes(&self) -> u64 {
        match self.kind {
            EntryKind::File { size } => size,
            EntryKind::Directory
            | EntryKind::Symlink { .. }
            | EntryKind::Hardlink { .. }
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo => 0,
        }
    }

    /// Whether the entry is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, EntryKind::Directory)
    }

    /// What the entry's name says in an image layer: a plain entry or a removal.
    pub fn whiteout(&self) -> Option<Whiteout<'_>> {
        Whiteout::of(&self.path)
    }
}

/// The kinds of inode a layer can hold; sockets are never part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes of content.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The text of the link, verbatim.
        target: PathBuf,
    },
    /// One more name of a file that stands earlier in the same layer.
    Hardlink {
        /// Path of that file, relative to the root of the tree.
        target: PathBuf,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before it.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1 000 000 000.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A whole second since the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// Prefix of the names that mark removals (OCI image-spec, layer, "Whiteouts").
pub const WHITEOUT_PREFIX: &str = ".wh.";
/// Name of the marker that hides everything a directory holds in lower layers.
pub const OPAQUE_MARKER: &str = ".wh..wh..opq";

/// A removal, as spelt by an entry's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// The named child of the directory is removed.
    Name {
        /// The directory.
        directory: &'a Path,
        /// The removed name; may be empty, `.` or `..` in a hostile archive.
        name: &'a std::ffi::OsStr,
    },
    /// All children that lower layers gave the directory are removed.
    Opaque {
        /// The directory.
        directory: &'a Path,
    },
    /// Bookkeeping of the extinct aufs driver (`.wh..wh.plnk` and the like): no content.
    AufsMetadata,
}

impl<'a> Whiteout<'a> {
    /// Reads the removal that a path spells, if it spells one.
    pub fn of(path: &'a Path) -> Option<Self> {
        const AUFS: &[u8] = b".wh..wh.";
        let name = path.file_name()?;
        let directory = path.parent().unwrap_or(Path::new(""));
        if name.as_bytes() == OPAQUE_MARKER.as_bytes() {
            return Some(Self::Opaque { directory });
        }
        let aufs_ancestor = directory.iter().any(|part| part.as_bytes().starts_with(AUFS));
        if aufs_ancestor || name.as_bytes().starts_with(AUFS) {
            return Some(Self::AufsMetadata);
        }
        let removed = name.as_bytes().strip_prefix(WHITEOUT_PREFIX.as_bytes())?;
        Some(Self::Name { directory, name: std::ffi::OsStr::from_bytes(removed) })
    }
}
