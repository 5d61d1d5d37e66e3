//! Scratch directories of builds, which disappear with the process that made them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// A scratch directory; removed when dropped, or by the next build if the process was killed.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    /// Locked as long as the process lives: how others know that the directory is in use.
    _lock: File,
}

impl Workspace {
    /// Makes a new one below `parent` and removes those of dead processes.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        make_private(parent)?;
        sweep(parent)?;
        loop {
            let directory = tempfile::Builder::new().prefix("build-").tempdir_in(parent)?.keep();
            let lock = File::create(directory.join("lock"))?;
            // A sweep may have come between the two calls; then the directory is gone.
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && directory.join("lock").exists()
            {
                return Ok(Self { path: directory, _lock: lock });
            }
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A new empty directory in it.
    pub(crate) fn directory(&self, prefix: &str) -> io::Result<PathBuf> {
        Ok(tempfile::Builder::new().prefix(prefix).tempdir_in(&self.path)?.keep())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "scratch directory stays");
        }
    }
}

/// Makes a directory with all parents, mode 0700.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a tree whatever the modes in it are and however deep it is.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::empty());
    let top = match open() {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ACCESS) => {
            rustix::fs::chmod(path, Mode::RWXU)?;
            open()?
        }
        opened => opened?,
    };
    let mut removal = Removal { top: &top, moved: 0 };
    loop {
        let before = removal.moved;
        removal.empty(&top, 0)?;
        // What was too deep stands at the top now.
        if removal.moved == before {
            break;
        }
    }
    match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

/// Deepest directory that is entered; what lies deeper is moved up first, so that neither the
/// stack nor the descriptors of the process run out.
const REMOVAL_DEPTH_MAX: usize = 64;

struct Removal<'a> {
    top: &'a OwnedFd,
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        let mut names = Vec::new();
        for item in rustix::fs::Dir::read_from(directory)? {
            let item = item?;
            if item.file_name() != c"." && item.file_name() != c".." {
                names.push(item.file_name().to_owned());
            }
        }
        for name in names {
            match unlink(directory, &name) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            if REMOVAL_DEPTH_MAX <= depth {
                self.moved += 1;
                let up = format!(".deep-{}", self.moved);
                rustix::fs::renameat(directory, &name, self.top, up)?;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || rustix::fs::openat(directory, &name, flags, Mode::empty());
            let below = match open() {
                Err(Errno::ACCESS) => {
                    rustix::fs::chmodat(directory, &name, Mode::RWXU, AtFlags::empty())?;
                    open()?
                }
                opened => opened?,
            };
            self.empty(&below, depth + 1)?;
            rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }
}

/// Removes a name that is no directory; opens up a directory that its owner may not write to.
fn unlink(directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(directory, Mode::RWXU)?;
            rustix::fs::unlinkat(directory, name, AtFlags::empty())
        }
        removed => removed,
    }
}

/// Removes scratch directories of dead processes below `parent`, if there is such a place.
pub(crate) fn sweep_dead(parent: &Path) {
    if parent.is_dir()
        && let Err(error) = sweep(parent)
    {
        tracing::warn!(path = %parent.display(), %error, "cannot look for old directories");
    }
}

fn sweep(parent: &Path) -> io::Result<()> {
    for item in std::fs::read_dir(parent)? {
        let path = item?.path();
        let named_so =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("build-"));
        if !named_so {
            continue;
        }
        let Ok(lock) = File::open(path.join("lock")) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = remove_tree(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old scratch directory");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let root = tempfile::tempdir().expect("a directory");
        let tree = root.path().join("tree");
        std::fs::create_dir(&tree).expect("a directory");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = rustix::fs::open(&tree, flags, Mode::empty()).expect("there");
        for depth in 0..3000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).expect("a directory");
            let file = format!("file-{depth}");
            let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&directory, file, create, Mode::RUSR).expect("a file");
            directory = rustix::fs::openat(&directory, "d", flags, Mode::empty()).expect("there");
        }
        drop(directory);
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        remove_tree(&tree).expect("nothing to do");
    }

    #[test]
    fn directories_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let root = tempfile::tempdir().expect("a directory");
        let dead = root.path().join("build-dead");
        std::fs::create_dir_all(dead.join("upper")).expect("a directory");
        std::fs::write(dead.join("lock"), "").expect("a file");
        let living = Workspace::create(root.path()).expect("a workspace");
        let second = Workspace::create(root.path()).expect("a workspace");
        assert!(!dead.exists());
        assert!(living.path().exists());
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }
}
