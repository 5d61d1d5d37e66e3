//! Paths inside the root of a container: opened and created without ever leaving it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::root::RootMount;

/// What a mount point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// The root of a container, with a list of what had to be created in it.
pub(crate) struct Inside<'a> {
    root: &'a RootMount,
    stubs: &'a mut Vec<PathBuf>,
}

/// How often a path is tried again when something is renamed on the way (openat2(2), EAGAIN).
const RACES_MAX: usize = 32;

fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RACES_MAX {
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a path inside a root without access to its content.
pub(crate) fn open_path(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    open_in(root, path, OFlags::PATH)
}

/// Opens an existing file inside a root for writing.
pub(crate) fn open_for_writing(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    open_in(root, path, OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK)
}

impl<'a> Inside<'a> {
    pub(crate) fn new(root: &'a RootMount, stubs: &'a mut Vec<PathBuf>) -> Self {
        Self { root, stubs }
    }

    /// Opens a mount point, creating it and the directories above it if it is missing.
    pub(crate) fn ensure(&mut self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        match open_path(&self.root.fd, path) {
            Ok(found) => return Ok(found),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut names = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("..")),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        });
        let Some(mut name) = names.next() else { return Err(io::ErrorKind::NotFound.into()) };
        let mut reached = PathBuf::from("/");
        loop {
            let next = names.next();
            let kind = if next.is_some() { Kind::Directory } else { kind };
            let parent = open_path(&self.root.fd, &reached)?;
            reached.push(name);
            self.ensure_one(parent, name, kind, &reached)?;
            match next {
                Some(next) => name = next,
                None => return Ok(open_path(&self.root.fd, path)?),
            }
        }
    }

    fn ensure_one(
        &mut self,
        parent: OwnedFd,
        name: &OsStr,
        kind: Kind,
        path: &Path,
    ) -> io::Result<()> {
        match open_path(&self.root.fd, path) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let created = match kind {
            Kind::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
            Kind::File => rustix::fs::openat(
                &parent,
                name,
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o644),
            )
            .map(drop),
        };
        match created {
            Ok(()) => {}
            // Someone who shares the directory was quicker; a symbolic link to nowhere exists
            // and still cannot be opened.
            Err(Errno::EXIST) => return Ok(open_path(&self.root.fd, path).map(drop)?),
            Err(error) => return Err(error.into()),
        }
        self.note_stub(&parent, name)
    }

    /// Remembers a new mount point if it lies in the root itself and not on a mount below.
    fn note_stub(&mut self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        if rustix::fs::fstat(parent)?.st_dev != rustix::fs::fstat(&self.root.fd)?.st_dev {
            return Ok(());
        }
        let parent = super::root::path_of(parent)?;
        if let Ok(below) = parent.strip_prefix(&self.root.attached_at) {
            self.stubs.push(Path::new("/").join(below).join(name));
        }
        Ok(())
    }
}

/// Whether something open is a directory.
pub(crate) fn kind_of(fd: impl AsFd) -> rustix::io::Result<Kind> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    Ok(match FileType::from_raw_mode(mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    })
}

/// Whether what is missing is made on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// As directories with mode 0750.
    Create,
    Refuse,
}

/// Opens a path below a volume without leaving it.
///
/// Unlike in a container's root an absolute symbolic link is refused: it would mean another
/// place on the host (mini-kubernetes.md 8.4, subPath).
pub(crate) fn open_beneath(
    base: &Path,
    path: &Path,
    missing: Missing,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut reached =
        rustix::fs::openat(rustix::fs::CWD, base, flags | OFlags::DIRECTORY, Mode::empty())?;
    let base = reached.try_clone().map_err(|_| Errno::MFILE)?;
    let mut so_far = PathBuf::new();
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for component in path.components() {
        let Component::Normal(name) = component else {
            match component {
                Component::CurDir => continue,
                _ => return Err(Errno::XDEV),
            }
        };
        so_far.push(name);
        let open = || {
            for _ in 0..RACES_MAX {
                match rustix::fs::openat2(&base, &so_far, flags, Mode::empty(), resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    other => return other,
                }
            }
            Err(Errno::AGAIN)
        };
        reached = match open() {
            Err(Errno::NOENT) if missing == Missing::Create => {
                rustix::fs::mkdirat(&reached, name, Mode::from_raw_mode(0o750))?;
                open()?
            }
            other => other?,
        };
    }
    Ok(reached)
}

/// Whether a name exists in a directory.
pub(crate) fn exists_at(dir: impl AsFd, name: &str) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
