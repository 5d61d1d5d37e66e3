//! What stands in a directory tree, as entries.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::entry::{Entry, EntryKind, Timestamp};

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path:?}")]
pub struct TreeReadError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the file system said.
    pub source: io::Error,
}

impl TreeReadError {
    pub(crate) fn new(path: &Path, error: Errno) -> Self {
        Self { path: path.to_owned(), source: error.into() }
    }
}

/// `stat` without following a final link.
pub(crate) fn stat(path: &Path) -> Result<Stat, TreeReadError> {
    rustix::fs::lstat(path).map_err(|error| TreeReadError::new(path, error))
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

/// Remembers the first path of each inode with several names.
#[derive(Debug, Default)]
pub(crate) struct LinkNames {
    first: HashMap<(u64, u64), PathBuf>,
}

/// Describes an inode as an entry at `path`; nothing for sockets, which layers do not hold.
///
/// `full` is where the inode stands on this machine.
pub(crate) fn entry_of(
    path: &Path,
    full: &Path,
    stat: &Stat,
    links: &mut LinkNames,
) -> Result<Option<Entry>, TreeReadError> {
    let kind = match file_type(stat) {
        FileType::Socket | FileType::Unknown => return Ok(None),
        FileType::Directory => EntryKind::Directory,
        other => {
            if 1 < stat.st_nlink {
                let inode = (stat.st_dev, stat.st_ino);
                if let Some(target) = links.first.get(&inode) {
                    let kind = EntryKind::Hardlink { target: target.clone() };
                    let entry = entry_with(path, kind, stat, BTreeMap::new());
                    return Ok(Some(entry));
                }
                links.first.insert(inode, path.to_owned());
            }
            plain_kind(other, full, stat)?
        }
    };
    let xattrs = match kind {
        // Links carry no attributes that an image could keep, nor do devices and pipes.
        EntryKind::File { .. } | EntryKind::Directory => xattrs(full)?,
        EntryKind::Symlink { .. }
        | EntryKind::Hardlink { .. }
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
        | EntryKind::Fifo => BTreeMap::new(),
    };
    Ok(Some(entry_with(path, kind, stat, xattrs)))
}

fn plain_kind(kind: FileType, full: &Path, stat: &Stat) -> Result<EntryKind, TreeReadError> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(match kind {
        FileType::RegularFile => EntryKind::File { size: stat.st_size as u64 },
        FileType::Symlink => {
            let target = rustix::fs::readlink(full, Vec::new())
                .map_err(|error| TreeReadError::new(full, error))?;
            EntryKind::Symlink { target: OsString::from_vec(target.into_bytes()).into() }
        }
        FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
        FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
        FileType::Fifo => EntryKind::Fifo,
        FileType::Directory | FileType::Socket | FileType::Unknown => EntryKind::Directory,
    })
}

fn entry_with(
    path: &Path,
    kind: EntryKind,
    stat: &Stat,
    xattrs: BTreeMap<OsString, Vec<u8>>,
) -> Entry {
    Entry {
        path: path.to_owned(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime(stat),
        xattrs,
    }
}

/// The attributes of a file that belong into a layer.
pub(crate) fn xattrs(full: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeReadError> {
    let failed = |error| TreeReadError::new(full, error);
    let mut list = vec![0; 1024];
    let length = loop {
        match rustix::fs::llistxattr(full, &mut list[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < 64 * 1024 => list.resize(list.len() * 4, 0),
            // A file system without attributes has none.
            Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
            Err(error) => return Err(failed(error)),
        }
    };
    let mut kept = BTreeMap::new();
    for key in list[..length].split(|byte| *byte == 0) {
        if !belongs_into_layer(key) {
            continue;
        }
        let key = OsStr::from_bytes(key);
        let mut value = vec![0; 64 * 1024];
        match rustix::fs::lgetxattr(full, key, &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(error) => return Err(failed(error)),
        }
        if key == "security.capability" {
            value = capability_revision_2(value);
        }
        kept.insert(key.to_owned(), value);
    }
    Ok(kept)
}

/// File capabilities and what users set themselves; overlayfs's own marks, labels and ACLs are
/// facts of this machine.
fn belongs_into_layer(key: &[u8]) -> bool {
    key == b"security.capability"
        || (key.starts_with(b"user.") && !key.starts_with(b"user.overlay."))
}

/// Capabilities read inside a user namespace name its root user (revision 3); images hold
/// revision 2, which has no such field (capabilities(7), "File capability extended attribute
/// versioning").
fn capability_revision_2(mut value: Vec<u8>) -> Vec<u8> {
    const REVISION_3: u8 = 3;
    if value.len() == 24 && value[3] == REVISION_3 {
        value[3] = 2;
        value.truncate(20);
    }
    value
}

/// Whether a directory is marked as hiding lower layers, by either kind of overlay mount.
pub(crate) fn is_opaque(full: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|key| {
        let mut value = [0; 2];
        matches!(rustix::fs::lgetxattr(full, *key, &mut value[..]), Ok(1) if value[0] == b'y')
    })
}

/// Whether an inode is overlayfs's mark for a removed name.
pub(crate) fn is_overlay_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Names in a directory in byte order, without `.` and `..`.
pub(crate) fn sorted_names(full: &Path) -> Result<Vec<OsString>, TreeReadError> {
    let failed = |error| TreeReadError::new(full, error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(full, flags, Mode::empty()).map_err(failed)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(handle).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a file's content without following a link and without touching its access time.
pub(crate) fn open_content(full: &Path) -> Result<std::fs::File, TreeReadError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(full, flags | OFlags::NOATIME, Mode::empty())
        // NOATIME is for owners only.
        .or_else(|_| rustix::fs::open(full, flags, Mode::empty()))
        .map(std::fs::File::from)
        .map_err(|error| TreeReadError::new(full, error))
}
