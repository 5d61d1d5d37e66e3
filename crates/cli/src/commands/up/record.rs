//! What a running machine leaves in its state directory: a lock that dies with it, and a record of
//! where it listens.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// Longest time that a killed machine may take to let go of its lock.
const DYING_MAX: Duration = Duration::from_secs(2);

/// Time between two looks at the lock.
const DYING_POLL: Duration = Duration::from_millis(20);

/// Where a machine listens; the JSON of `shipway up -o json` and `shipway status -o json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Process number of the daemon.
    pub(crate) pid: u32,
    /// Address of the Kubernetes API.
    pub(crate) api_address: String,
    /// Address of the registry.
    pub(crate) registry_address: String,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// Name of the node.
    pub(crate) node_name: String,
    /// User and file with the password that were made for the registry.
    pub(crate) registry_user: String,
    /// File with that user's password, mode 0600.
    pub(crate) registry_password_file: PathBuf,
    /// Where the node looks for credentials, for `shipway explain`.
    #[serde(default)]
    pub(crate) node: NodeRecord,
}

/// Where a node looks for credentials, and how it reaches registries.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeRecord {
    /// The kubelet's root directory.
    pub(crate) root_dir: PathBuf,
    /// Its working directory.
    pub(crate) working_dir: PathBuf,
    /// Its home directory.
    pub(crate) home: Option<PathBuf>,
    /// `/`, or another directory in tests.
    pub(crate) filesystem_root: PathBuf,
    /// Registries that may speak plain HTTP.
    pub(crate) insecure_registries: Vec<String>,
    /// Rewrites of image names, as pairs of from and to.
    pub(crate) mirrors: Vec<(String, String)>,
    /// The configuration of its exec credential providers, if it has some: a file, or a directory
    /// of files.
    pub(crate) credential_provider_config: Option<PathBuf>,
    /// Names of the clouds that it asks itself.
    pub(crate) cloud_credentials: Vec<String>,
}

impl NodeRecord {
    /// The directories of the node's docker config files.
    pub(crate) fn search_dirs(&self) -> credentials::SearchDirs {
        credentials::SearchDirs {
            root_dir: self.root_dir.clone(),
            working_dir: self.working_dir.clone(),
            home: self.home.clone(),
            filesystem_root: self.filesystem_root.clone(),
        }
    }
}

/// The lock of a running machine; released when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; `None` if a machine runs on this state directory.
    pub(crate) fn take(state_dir: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state_dir.join("up.lock"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock, and gives a machine that was just killed a moment to let go of it: the
    /// kernel closes its files some time after `kill -9` has returned.
    pub(crate) fn take_patiently(state_dir: &Path) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + DYING_MAX;
        loop {
            match Self::take(state_dir)? {
                None if Instant::now() < deadline => std::thread::sleep(DYING_POLL),
                taken => return Ok(taken),
            }
        }
    }

    /// Waits until no machine runs on this state directory.
    pub(crate) fn wait(state_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(state_dir.join("up.lock"))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self { _file: file })
    }
}

impl Record {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("up.json")
    }

    /// Writes the record for `status`, `down` and the next start.
    pub(crate) fn write(&self, state_dir: &Path) -> io::Result<()> {
        let staged = state_dir.join("up.json.new");
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&staged)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(staged, Self::path(state_dir))
    }

    /// The record of the last start, if there was one.
    pub(crate) fn read(state_dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(Self::path(state_dir)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
