//! Directory descriptors below a root: the only way by which unpacking reaches a path.
//!
//! A directory is opened once per run of entries in it. Resolution goes through
//! `openat2(RESOLVE_IN_ROOT)`, so that symbolic links in the tree, absolute ones and `..`
//! included, mean what they would mean after a chroot, and never lead out.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Descriptors kept open. The usual limit of a process is 1024.
const OPEN_MAX: usize = 256;

/// An open directory below the root.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    /// Identity of the directory, whatever path led to it.
    pub(super) ino: u64,
    /// New entries inherit the directory's group.
    pub(super) setgid: bool,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    /// Opens a child directory without following a symbolic link.
    pub(super) fn child(&self, name: &OsStr) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?)
    }

    /// A descriptor of the same directory that can be read and changed.
    pub(super) fn readable(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, c".", flags, Mode::empty())
    }

    fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let setgid = stat.st_mode & 0o2000 != 0;
        Ok(Self { fd, ino: stat.st_ino, setgid })
    }
}

/// Opens directories below one root and remembers them.
#[derive(Debug)]
pub(super) struct Directories {
    root: Arc<Directory>,
    open: HashMap<PathBuf, Arc<Directory>>,
}

impl Directories {
    pub(super) fn new(root: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Directory::of(rustix::fs::open(root, flags, Mode::empty())?)?;
        Ok(Self { root: Arc::new(root), open: HashMap::new() })
    }

    /// Opens an existing directory.
    pub(super) fn get(&mut self, path: &Path) -> Result<Arc<Directory>, Errno> {
        if path.as_os_str().is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(directory) = self.open.get(path) {
            return Ok(directory.clone());
        }
        // Usually the parent is open and the name is a directory: then one plain step suffices.
        let step = match (path.parent().and_then(|parent| self.cached(parent)), path.file_name()) {
            (Some(parent), Some(name)) => parent.child(name).ok(),
            _ => None,
        };
        let directory = match step {
            Some(directory) => directory,
            None => self.resolve(path)?,
        };
        Ok(self.keep(path, directory))
    }

    /// Remembers a directory that is open already.
    pub(super) fn keep(&mut self, path: &Path, directory: Directory) -> Arc<Directory> {
        if OPEN_MAX <= self.open.len() {
            self.open.clear();
        }
        let directory = Arc::new(directory);
        self.open.insert(path.to_owned(), directory.clone());
        directory
    }

    /// Whether the path is known to be a directory.
    pub(super) fn knows(&self, path: &Path) -> bool {
        self.cached(path).is_some()
    }

    /// Forgets one directory, whose mode changed.
    pub(super) fn forget(&mut self, path: &Path) {
        self.open.remove(path);
    }

    /// Forgets everything: a name that was a directory or a link is one no longer.
    pub(super) fn forget_all(&mut self) {
        self.open.clear();
    }

    fn cached(&self, path: &Path) -> Option<&Arc<Directory>> {
        if path.as_os_str().is_empty() {
            return Some(&self.root);
        }
        self.open.get(path)
    }

    fn resolve(&self, path: &Path) -> Result<Directory, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0;
        loop {
            match rustix::fs::openat2(&*self.root, path, flags, Mode::empty(), resolve) {
                // The kernel could not rule out a race with a rename; openat2(2) says to retry.
                Err(Errno::AGAIN) if attempts < 128 => attempts += 1,
                Err(error) => return Err(error),
                Ok(fd) => return Directory::of(fd),
            }
        }
    }
}

/// Type of what stands at a name; nothing when the name is free.
pub(super) fn type_at(directory: &Directory, name: &OsStr) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names in a directory, without `.` and `..`.
pub(super) fn names(directory: &Directory) -> Result<Vec<std::ffi::OsString>, Errno> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(directory.readable()?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Removes a name and everything below it, following nothing.
pub(super) fn remove_tree(directory: &Directory, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let child = directory.child(name)?;
    for name in names(&child)? {
        remove_tree(&child, &name)?;
    }
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
}
