//! What `RUN --mount` asks for, made ready on this machine before the command starts.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dockerfile::Requirement;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};

use super::agent::AgentSocket;
use super::caches::CacheDirectory;
use crate::error::StepError;
use crate::workspace::{Workspace, make_private, sweep_dead};

/// Where secrets live while a command runs: memory, if the machine has such a place.
const MEMORY: &str = "/dev/shm";

/// The directory in memory for what must not reach a disk, if this user has one to itself.
fn in_memory() -> Option<PathBuf> {
    let uid = rustix::process::geteuid();
    let place = Path::new(MEMORY).join(format!("shipway-{uid}"));
    make_private(&place).ok()?;
    let metadata = fs::symlink_metadata(&place).ok()?;
    // Everybody may write there: it could be somebody else's.
    let is_ours =
        metadata.is_dir() && metadata.uid() == uid.as_raw() && metadata.mode() & 0o077 == 0;
    is_ours.then_some(place)
}

/// Removes secrets of builds that were killed.
pub(crate) fn remove_left_secrets() {
    if let Some(place) = in_memory() {
        sweep_dead(&place);
    }
}

/// A secret of the caller.
#[derive(Clone)]
pub enum SecretSource {
    /// A file, read when a step asks for the secret.
    File(PathBuf),
    /// The bytes.
    Value(SecretBytes),
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(****)"),
        }
    }
}

/// Bytes that are never printed and are overwritten when dropped.
#[derive(Clone)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for the place that they are meant for.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

/// The secrets of a build by id.
pub type Secrets = BTreeMap<String, SecretSource>;

/// Something that stands at `target` while a command runs.
#[derive(Debug)]
pub(crate) struct ReadyMount {
    /// Path relative to the root of the stage, links not resolved.
    pub(crate) target: PathBuf,
    pub(crate) from: ReadySource,
    pub(crate) is_writable: bool,
}

/// What a mount shows.
#[derive(Debug)]
pub(crate) enum ReadySource {
    /// A directory that is ours to move, or not.
    Directory { path: PathBuf, ownership: Ownership },
    /// A file.
    File(PathBuf),
    /// A directory that keeps what is written, or a directory inside of it.
    Cache {
        directory: CacheDirectory,
        /// Relative path of the part that is shown, links resolved.
        below: PathBuf,
    },
    /// An empty directory in memory.
    Tmpfs { bytes_max: Option<u64> },
    /// A socket that is ours to move.
    Socket(PathBuf),
}

/// Whether a directory was made for the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// It was: it may be moved and written.
    Scratch,
    /// It belongs to someone else.
    Foreign,
}

/// Everything that stands ready for one command. Secrets vanish when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) mounts: Vec<ReadyMount>,
    /// Secrets that were asked for as variables, and the agent socket.
    pub(crate) env: Vec<(String, String)>,
    secrets: Option<Workspace>,
    /// Sockets of the mounts, which listen as long as this lives.
    pub(crate) agents: Vec<AgentSocket>,
}

/// Looks of a file that is mounted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileLook {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Ready {
    /// Reads a secret; `None` if it is missing and may be.
    pub(crate) fn secret(
        secrets: &Secrets,
        id: &str,
        requirement: Requirement,
    ) -> Result<Option<Vec<u8>>, StepError> {
        let missing = || match requirement {
            Requirement::Optional => Ok(None),
            Requirement::Required => Err(StepError::Mount(format!("secret {id}: not found"))),
        };
        match secrets.get(id) {
            None => missing(),
            Some(SecretSource::Value(bytes)) => Ok(Some(bytes.0.clone())),
            Some(SecretSource::File(path)) => match fs::read(path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing(),
                Err(error) => Err(StepError::io(path, error)),
            },
        }
    }

    /// Puts bytes into a file of their own, in memory where that is possible.
    pub(crate) fn file(
        &mut self,
        bytes: &[u8],
        look: FileLook,
        scratch: &Path,
    ) -> Result<PathBuf, StepError> {
        if self.secrets.is_none() {
            let made = in_memory()
                .and_then(|place| Workspace::create(&place).ok())
                .map_or_else(|| Workspace::create(scratch), Ok);
            self.secrets = Some(made.map_err(|error| StepError::io(scratch, error))?);
        }
        let Some(directory) = &self.secrets else { return Err(StepError::Panicked) };
        let path = directory.path().join(self.mounts.len().to_string());
        let failed = |error: std::io::Error| StepError::io(&path, error);
        let created = File::options().write(true).create_new(true).mode(0o600).open(&path);
        created.and_then(|mut file| file.write_all(bytes)).map_err(failed)?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(look.uid), Gid::from_raw(look.gid));
            rustix::fs::chown(&path, Some(uid), Some(gid)).map_err(|e| failed(e.into()))?;
        }
        let mode = Mode::from_raw_mode(look.mode);
        rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty()).map_err(|e| failed(e.into()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_secret_fails_only_if_it_is_required() {
        let secrets = Secrets::new();
        assert!(matches!(Ready::secret(&secrets, "x", Requirement::Optional), Ok(None)));
        let error = Ready::secret(&secrets, "x", Requirement::Required).expect_err("missing");
        assert_eq!(error.to_string(), "secret x: not found");
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = SecretSource::Value(SecretBytes::new("hunter2"));
        assert_eq!(format!("{secret:?}"), "Value(****)");
    }

    #[test]
    fn files_vanish_with_their_step() {
        let scratch = tempfile::tempdir().expect("a directory");
        let mut ready = Ready::default();
        let look = FileLook { mode: 0o400, uid: 0, gid: 0 };
        let path = ready.file(b"x", look, scratch.path()).expect("a file");
        assert_eq!(fs::read(&path).expect("there"), b"x");
        drop(ready);
        assert!(!path.exists());
    }
}
