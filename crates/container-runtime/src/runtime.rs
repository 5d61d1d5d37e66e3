//! The directory of containers: create one, find them all again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::FlockOperation;
use thiserror::Error;

use crate::container::Container;
use crate::on_disk;
use crate::reexec::{self, Entry};
use crate::wire::message::{LaunchReply, ShimLaunch};
use crate::wire::{ContainerSpec, Failure};

/// Longest name of a container in bytes; leaves room for suffixes in a file name.
const ID_BYTES_MAX: usize = 200;

/// The containers below one directory.
///
/// Holds no state: several processes may use one directory, and whoever opens it after a crash
/// finds every container again.
#[derive(Clone, Debug)]
pub struct Runtime {
    dir: PathBuf,
}

/// Why the directory of containers cannot be used.
#[derive(Debug, Error)]
#[error("container directory {path}")]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

/// Why a container was not created; nothing of it is left.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The name is empty, too long, or has other characters than `[A-Za-z0-9_.-]`.
    #[error("container name {id:?} is not valid")]
    InvalidName {
        /// What was given.
        id: String,
    },
    /// The name is taken.
    #[error("container {id} exists")]
    Exists {
        /// The name.
        id: String,
    },
    /// The container cannot be as the spec says: program, user, mount.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The shim could not be started or died.
    #[error("start the shim of container {id}: {detail}")]
    Shim {
        /// The container.
        id: String,
        /// The last words of the shim, or what is known.
        detail: String,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl Runtime {
    /// Uses the containers below `dir`, which is created (0700) if it is missing.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let dir = dir.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .and_then(|()| dir.canonicalize())
            .map(|dir| Self { dir })
            .map_err(|source| OpenError { path: dir, source })
    }

    /// Makes a container up to the point where its program would start: namespaces, mounts and
    /// limits are in place, user and program were found.
    ///
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is left behind.
    pub fn create(&self, id: &str, spec: &ContainerSpec) -> Result<Container, CreateError> {
        if !is_valid_id(id) {
            return Err(CreateError::InvalidName { id: id.to_owned() });
        }
        let dir = self.dir.join(id);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CreateError::Exists { id: id.to_owned() });
            }
            Err(source) => return Err(shim_error(id, &dir, source)),
        }
        let reply = launch(id, &dir, spec).map_err(|source| shim_error(id, &dir, source));
        let created = match reply {
            Ok(LaunchReply::Created { .. }) => Ok(Container::new(id, dir.clone())),
            Ok(LaunchReply::Failed(failure)) => Err(failure.into()),
            Err(error) => Err(error),
        };
        if created.is_err() {
            // The directory is ours alone and holds nothing of value; a rest is found by `list`.
            let _ = fs::remove_dir_all(&dir);
        }
        created
    }

    /// The container of that name, if there is one.
    pub fn container(&self, id: &str) -> Option<Container> {
        let dir = self.dir.join(id);
        (is_valid_id(id) && dir.is_dir()).then(|| Container::new(id, dir))
    }

    /// All containers, by name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Container>, OpenError> {
        let open_error = |source| OpenError { path: self.dir.clone(), source };
        let mut containers = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(open_error)? {
            let name = entry.map_err(open_error)?.file_name();
            containers.extend(name.to_str().and_then(|id| self.container(id)));
        }
        containers.sort_by(|a, b| a.id().cmp(b.id()));
        Ok(containers)
    }
}

fn launch(id: &str, dir: &Path, spec: &ContainerSpec) -> io::Result<LaunchReply> {
    let creating = File::create(dir.join(on_disk::CREATING))?;
    rustix::fs::flock(&creating, FlockOperation::LockExclusive)?;
    let stderr = File::create(dir.join(on_disk::SHIM_LOG))?;
    // The lock is the shim's from here on: stdout is a handle on it that the shim closes when
    // the record of the container is written.
    let (mut starter, mut channel) =
        reexec::start(Entry::Shim, id, Stdio::from(creating), Stdio::from(stderr))?;
    // The starter forks the shim proper and ends, so that the shim is nobody's child.
    starter.wait()?;
    let launch = ShimLaunch { id: id.to_owned(), dir: dir.to_owned(), spec: spec.clone() };
    channel.send(&launch, &[])?;
    Ok(channel.receive()?.0)
}

fn shim_error(id: &str, dir: &Path, source: io::Error) -> CreateError {
    let words = fs::read_to_string(dir.join(on_disk::SHIM_LOG)).unwrap_or_default();
    let detail = match words.trim() {
        "" if source.kind() == io::ErrorKind::UnexpectedEof => {
            "it ended without a word; does main call container_runtime::reexec first?".to_owned()
        }
        "" => "no further detail".to_owned(),
        words => words.to_owned(),
    };
    CreateError::Shim { id: id.to_owned(), detail, source }
}

fn is_valid_id(id: &str) -> bool {
    let first = id.bytes().next();
    id.len() <= ID_BYTES_MAX
        && first.is_some_and(|byte| byte.is_ascii_alphanumeric())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_invalid() {
        for id in ["", ".", "..", "a/b", "-a", ".a", "a b", &"a".repeat(201)] {
            assert!(!is_valid_id(id), "{id}");
        }
        for id in ["a", "0b9f", "web-1_x.y"] {
            assert!(is_valid_id(id), "{id}");
        }
    }
}
