//! What the directory of a container holds.
//!
//! | file | content |
//! |---|---|
//! | `container.json` | a [`ContainerRecord`]; absent while the container is being created |
//! | `exit.json` | an [`ExitRecord`]; appears when the container has ended |
//! | `shim.sock` | the shim's socket |
//! | `creating` | locked while the container is being created |
//! | `shim.log` | what the shim had to say before it failed |
//!
//! Records appear whole: they are written beside and renamed. They need not survive a crash of
//! the machine, because no process does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kill::MountNamespace;
use crate::process_id::ProcessId;
use crate::wire::Exit;
use crate::wire::ResolvedUser;

pub(crate) const CONTAINER: &str = "container.json";
pub(crate) const EXIT: &str = "exit.json";
pub(crate) const SOCKET: &str = "shim.sock";
pub(crate) const CREATING: &str = "creating";
pub(crate) const SHIM_LOG: &str = "shim.log";

/// Everything another process needs to take a container over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) boot_id: String,
    pub(crate) shim: ProcessId,
    pub(crate) init: ProcessId,
    /// Every process of the container is in it.
    pub(crate) mount_namespace: MountNamespace,
    /// Whether the end of the first process ends all others.
    pub(crate) own_pid_namespace: bool,
    pub(crate) user: ResolvedUser,
    pub(crate) started_at_nanos: Option<u64>,
    /// Directories of the control groups, to be removed with the container.
    pub(crate) cgroups: Vec<PathBuf>,
    /// What could not be done here, one line each.
    pub(crate) degraded: Vec<String>,
}

/// How a container ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    /// `None`: the shim was killed and nobody saw the end.
    pub(crate) exit: Option<Exit>,
    pub(crate) oom_killed: bool,
    pub(crate) started_at_nanos: Option<u64>,
    pub(crate) finished_at_nanos: u64,
}

pub(crate) fn write<T: Serialize>(dir: &Path, name: &str, record: &T) -> io::Result<()> {
    let staged = dir.join(format!(".{name}.{}", std::process::id()));
    fs::write(&staged, serde_json::to_vec(record)?)?;
    fs::rename(staged, dir.join(name))
}

pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn nanos_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn time_of_nanos(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}
