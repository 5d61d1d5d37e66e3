//! What can go wrong, one enum per operation.

use std::io;
use std::path::{Path, PathBuf};

use oci_model::Digest;

/// A system call on a path of the store failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct DiskError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl DiskError {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.to_owned(), source: source.into() }
    }

    /// The path that the call was about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the machine lacked files or memory: nothing is wrong with the path.
    pub(crate) fn is_shortage(&self) -> bool {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(&self.source);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
    }

    /// Whether the disk or the quota is full.
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Whether `error` says that the disk or the quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Adds the action and the path to the error of a system call.
pub(crate) trait Context<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|source| DiskError::new(action, path, source))
    }
}

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another version of shipway wrote this store.
    #[error("{} holds a blob store of another format: {found:?}", path.display())]
    Format {
        /// The store.
        path: PathBuf,
        /// What its `format` file says.
        found: String,
    },
    /// The disk failed or is full.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why bytes did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The bytes are not what was promised; nothing of them stays.
    #[error("content has digest {actual}, not {expected}")]
    DigestMismatch {
        /// What the caller expected.
        expected: Box<Digest>,
        /// What the bytes hash to.
        actual: Box<Digest>,
    },
    /// The disk is full.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(DiskError),
}

impl From<DiskError> for IngestError {
    fn from(error: DiskError) -> Self {
        if error.is_full() { Self::NoSpace { path: error.path } } else { Self::Disk(error) }
    }
}

/// Why a resumable upload did not go on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// There is no upload of this id: finished, cancelled, expired or never begun.
    #[error("no upload {id}")]
    Unknown {
        /// The id asked for.
        id: super::UploadId,
    },
    /// Somebody else is writing to this upload now.
    #[error("upload {id} is being written by somebody else")]
    Busy {
        /// The id asked for.
        id: super::UploadId,
    },
    /// The bytes could not be stored or are not what was promised.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

impl From<DiskError> for UploadError {
    fn from(error: DiskError) -> Self {
        Self::Ingest(error.into())
    }
}

/// Why a blob could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store does not hold the blob.
    #[error("no blob {digest} in the store")]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// The blob is larger than the caller allows.
    #[error("blob {digest} has {size} bytes, more than the {bytes_max} allowed here")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// What the caller allows, in bytes.
        bytes_max: u64,
    },
    /// The bytes on disk no longer hash to the name; the blob was put into quarantine.
    #[error("blob {digest} was damaged on disk and is in quarantine now")]
    Corrupt {
        /// The blob.
        digest: Digest,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a ref did not change.
#[derive(Debug, thiserror::Error)]
pub enum RefError {
    /// The ref would name a blob that the store does not hold.
    #[error("no blob {digest} in the store")]
    Missing {
        /// The first such blob.
        digest: Digest,
    },
    /// A line of the log does not check.
    #[error("{} is damaged at byte {offset}", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where the first bad line begins.
        offset: u64,
    },
    /// The disk is full.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(DiskError),
}

impl From<DiskError> for RefError {
    fn from(error: DiskError) -> Self {
        if error.is_full() { Self::NoSpace { path: error.path } } else { Self::Disk(error) }
    }
}

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Another collection runs on this store.
    #[error("another collection of {} is running", path.display())]
    Running {
        /// The store.
        path: PathBuf,
    },
    /// After a crash of the machine, this owner has not compared its refs with its own records
    /// yet; open it once, see [`super::MirroredRefs`].
    #[error("the machine restarted and {owner} has not checked its refs since")]
    OwnerNotReconciled {
        /// The first part of the owner's ref names.
        owner: String,
    },
    /// The refs could not be read.
    #[error(transparent)]
    Refs(#[from] RefError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
