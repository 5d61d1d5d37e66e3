//! Scratch directories of builds, which disappear with the process that made them.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

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

/// Removes a tree whatever the modes in it are.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error),
    }
    // A directory without write permission, made by a user that is not root.
    open_up(path)?;
    std::fs::remove_dir_all(path)
}

fn open_up(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    for item in std::fs::read_dir(directory)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            open_up(&item.path())?;
        }
    }
    Ok(())
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
