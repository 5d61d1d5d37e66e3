//! The files of a stack of unpacked layers, looked up where they lie.
//!
//! Unpacked layers are overlay lower directories: a character device 0/0 removes a name, an
//! `opaque` attribute hides what lies below a directory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use layers::{Entry, EntryKind, Timestamp};

use crate::tree::{Content, Files, Node, TreeError, read_local, root_node};

/// Largest extended attribute read, in bytes (Linux `XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// Unpacked layers, base first.
#[derive(Clone, Debug)]
pub(crate) struct LayerStack {
    /// Top first, which is the order of lookup.
    layers: Vec<PathBuf>,
}

impl LayerStack {
    /// A stack of directories, base first.
    pub(crate) fn new(mut layers: Vec<PathBuf>) -> Self {
        layers.reverse();
        Self { layers }
    }

    /// The directories that together are `directory`, top first; empty when it is none.
    fn merged(&self, directory: &Path) -> Result<Vec<PathBuf>, TreeError> {
        let mut merged = self.layers.clone();
        for name in directory {
            merged = match self.step(&merged, name)? {
                Some(Found::Directories(directories)) => directories,
                Some(Found::Other(..)) | None => return Ok(Vec::new()),
            };
        }
        Ok(merged)
    }

    fn step(&self, merged: &[PathBuf], name: &OsStr) -> Result<Option<Found>, TreeError> {
        let mut directories = Vec::new();
        for directory in merged {
            let path = directory.join(name);
            let Some(metadata) = metadata_of(&path)? else { continue };
            if is_whiteout(&metadata) {
                break;
            }
            if !metadata.is_dir() {
                if directories.is_empty() {
                    return Ok(Some(Found::Other(path, metadata)));
                }
                break;
            }
            let opaque = is_opaque(&path);
            directories.push(path);
            if opaque {
                break;
            }
        }
        Ok((!directories.is_empty()).then_some(Found::Directories(directories)))
    }
}

enum Found {
    Directories(Vec<PathBuf>),
    Other(PathBuf, Metadata),
}

impl Files for LayerStack {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let Some(name) = path.file_name() else {
            let top = self.layers.first();
            return top.map_or_else(|| Ok(Some(root_node())), |top| disk_node(top, path).map(Some));
        };
        let merged = self.merged(path.parent().unwrap_or(Path::new("")))?;
        match self.step(&merged, name)? {
            Some(Found::Directories(directories)) => {
                directories.first().map(|on_disk| disk_node(on_disk, path)).transpose()
            }
            Some(Found::Other(on_disk, metadata)) => node_of(&on_disk, path, &metadata),
            None => Ok(None),
        }
    }

    fn children(&self, directory: &Path) -> Result<Vec<OsString>, TreeError> {
        // A name belongs to the topmost directory that mentions it, as a removal or as a thing.
        let mut names: BTreeMap<OsString, bool> = BTreeMap::new();
        for on_disk in self.merged(directory)? {
            let listing = std::fs::read_dir(&on_disk).map_err(|e| TreeError::io(&on_disk, e))?;
            for item in listing {
                let item = item.map_err(|error| TreeError::io(&on_disk, error))?;
                let device = item.file_type().is_ok_and(|kind| kind.is_char_device());
                let removed = device && item.metadata().is_ok_and(|m| is_whiteout(&m));
                names.entry(item.file_name()).or_insert(!removed);
            }
        }
        Ok(names.into_iter().filter_map(|(name, present)| present.then_some(name)).collect())
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(node) = self.node(path)? else { return Ok(None) };
        read_local(&node, bytes_max)
    }
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 8];
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        rustix::fs::lgetxattr(directory, *name, &mut value).is_ok_and(|n| value[..n] == *b"y")
    })
}

fn metadata_of(path: &Path) -> Result<Option<Metadata>, TreeError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(TreeError::io(path, error)),
    }
}

fn disk_node(on_disk: &Path, path: &Path) -> Result<Node, TreeError> {
    let metadata = std::fs::symlink_metadata(on_disk).map_err(|e| TreeError::io(on_disk, e))?;
    Ok(node_of(on_disk, path, &metadata)?.unwrap_or_else(root_node))
}

/// A path of this machine as a node of a tree; `None` for a socket.
pub(crate) fn node_of(
    on_disk: &Path,
    path: &Path,
    metadata: &Metadata,
) -> Result<Option<Node>, TreeError> {
    let kind = metadata.file_type();
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let kind = if kind.is_dir() {
        EntryKind::Directory
    } else if kind.is_symlink() {
        let target = std::fs::read_link(on_disk).map_err(|e| TreeError::io(on_disk, e))?;
        EntryKind::Symlink { target }
    } else if kind.is_file() {
        EntryKind::File { size: metadata.len() }
    } else if kind.is_fifo() {
        EntryKind::Fifo
    } else if kind.is_char_device() {
        EntryKind::CharDevice { major, minor }
    } else if kind.is_block_device() {
        EntryKind::BlockDevice { major, minor }
    } else {
        return Ok(None);
    };
    let file = matches!(kind, EntryKind::File { size } if 0 < size);
    let mut entry = Entry::new(path, kind, metadata.mode() & 0o7777);
    entry.uid = metadata.uid();
    entry.gid = metadata.gid();
    entry.mtime = Timestamp {
        seconds: metadata.mtime(),
        nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    };
    if !metadata.is_symlink() {
        entry.xattrs = xattrs_of(on_disk);
    }
    Ok(Some(Node {
        content: if file { Content::File(on_disk.to_owned()) } else { Content::Empty },
        link: (1 < metadata.nlink() && !metadata.is_dir())
            .then(|| metadata.ino() ^ metadata.dev().rotate_left(40)),
        entry,
    }))
}

/// The attributes that belong into layers: file capabilities and those of users. Others are of
/// this machine (SELinux, ACLs, overlay) and not of the image. Best effort, as in BuildKit.
fn xattrs_of(on_disk: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut names = [0; 4096];
    let Ok(length) = rustix::fs::llistxattr(on_disk, &mut names) else { return found };
    let kept = |name: &[u8]| {
        name == b"security.capability"
            || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| kept(name)) {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; XATTR_BYTES_MAX];
        if let Ok(length) = rustix::fs::lgetxattr(on_disk, name, &mut value) {
            value.truncate(length);
            found.insert(name.to_owned(), value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_directories_hide_files_and_merge_directories() {
        let root = tempfile::tempdir().expect("a directory");
        let (low, up) = (root.path().join("low"), root.path().join("up"));
        for path in ["low/d", "up/d", "low/f"] {
            std::fs::create_dir_all(root.path().join(path)).expect("a directory");
        }
        std::fs::write(low.join("d/a"), "low").expect("a file");
        std::fs::write(low.join("d/b"), "low").expect("a file");
        std::fs::write(up.join("d/b"), "upper").expect("a file");
        std::fs::write(up.join("f"), "file").expect("a file");
        let stack = LayerStack::new(vec![low, up]);
        assert_eq!(stack.children(Path::new("")).expect("readable"), ["d", "f"]);
        assert_eq!(stack.children(Path::new("d")).expect("readable"), ["a", "b"]);
        let read = |path| stack.read(Path::new(path), 10).expect("readable");
        assert_eq!(read("d/b").as_deref(), Some(&b"upper"[..]));
        assert_eq!(read("d/a").as_deref(), Some(&b"low"[..]));
        assert_eq!(read("f").as_deref(), Some(&b"file"[..]));
        assert_eq!(stack.node(Path::new("d/none")).expect("readable"), None);
    }
}
