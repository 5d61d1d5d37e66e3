//! What the registry knows beside the bytes of blobs: a log of changes, applied in order to the
//! tables of one database.
//!
//! | file | job |
//! |---|---|
//! | `changes/` | what can happen: one file per group of changes, and `apply`, which makes one |
//! | `tables` | the tables and their rows |
//! | `rows` | writing a table with the way back |
//! | `local` | the log of one process: a batch of changes is one commit, one sync |
//! | `replica/` | the log that many replicas share: a batch is one object in a bucket |
//! | `journal` | links on their way to a local commit |
//! | `reads`, `holdings`, `outbox`, `cache` | questions |
//!
//! # One log
//! `apply(change, stamp, tables)` is a pure function: no clock, no disk, no randomness, nothing of
//! this machine. Time and principal come with the stamp; what the configuration says (a quota, a
//! rule) comes inside a change, or is a row that a change wrote (`policies`). So two replicas with
//! the same log have the same tables, and what is checked in `apply` holds however many replicas
//! there are.
//!
//! # Adding a change
//! 1. A file in `changes/` for your group, with a struct that has what the change needs (serde;
//!    fields added later get `#[serde(default)]`, meanings never change) and a function
//!    `(…, &Stamp, &mut Tables, &mut Outcome) -> Result<(), ChangeError>`.
//! 2. A variant in `Change` and a line in `apply`. Answers beyond "done" are variants of `Reply`,
//!    reasons to refuse are variants of `ChangeError`.
//! 3. New tables: a line in `tables!` of `tables.rs` and a row in its documentation. The table is
//!    made in old databases by itself and is in snapshots by itself. Values that may grow are
//!    JSON.
//! 4. To do more with an existing change (count it, refuse it, record it), call your function from
//!    its function or from `apply`.
//!
//! `apply` may fail at any point: what the change wrote is taken back. It must not read the clock
//! (`stamp.at`), and must list in `outcome.changed` the repositories whose manifests or tags
//! differ, for the cache. What has to happen to blobs on local disk is an `Effect`.
//!
//! Handlers call [`Metadata::submit`] with the stamp of their request.
//!
//! # Links
//! That a repository may show a blob (a link) is made with each uploaded blob, and a push on local
//! disk would pay a sync for each. So there links go to a journal that is written, not synced, and
//! join the next commit, at the latest after a second. The death of the process loses nothing; a
//! failure of the machine may lose links of blobs that no manifest has yet, and the client uploads
//! them again.

mod cache;
mod changes;
mod garbage;
mod holdings;
mod journal;
mod local;
mod outbox;
mod reads;
mod replica;
mod rows;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use blob_store::{BlobStore, RefError};
use bytes::Bytes;
use oci_model::{Digest, MediaType};

use self::cache::ManifestCache;
pub(crate) use self::changes::{Action, DeadLetter, Event, OutboxChange};
#[allow(unused_imports, reason = "for blobs in a bucket")]
pub(crate) use self::changes::{AddBlob, Burial, CachedBlob, CachedUse, Collection, Uncached};
pub(crate) use self::changes::{
    Buried, COARSE, Change, ChangeError, Child, Counted, EmptyTrash, Expected, NewManifest,
    OverQuota, Reply, Reservation, Restore, Retain, Stamp, TagMove, Usage,
};
pub(crate) use self::garbage::Garbage;
use self::local::{Local, Pending, Request, Work};
pub(crate) use self::replica::{Objects, Pace, ReplicaError};
use self::replica::{ObjectsError, Replica, snapshot};
pub(crate) use self::tables::StoredLink;
#[allow(unused_imports, reason = "for blobs in a bucket")]
pub(crate) use self::tables::{BlobRow, BlobState};
pub(crate) use self::tables::{CachedKind, CachedRow};
use crate::operations::metrics::CommitMeter;

/// How long a start waits for the locks and the port of a killed predecessor.
pub(crate) const PREDECESSOR_WAIT_MAX: Duration = Duration::from_secs(2);

/// Pause between looks at what the predecessor held.
pub(crate) const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);

/// Memory of the database for its pages, in bytes.
const DATABASE_CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Why the metadata could not be read or opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    /// Another registry has the database open.
    #[error("another registry uses {}", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The database failed.
    #[error("registry database failed")]
    Database(#[source] Box<redb::Error>),
    /// A row is not what this version writes.
    #[error("row of {table} for {key} is damaged")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
    },
    /// A file failed.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The refs of the blob store failed.
    #[error("refs of the blob store failed")]
    Refs(#[from] RefError),
    /// The log in the bucket cannot be followed.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

impl MetadataError {
    /// Whether the disk is full.
    pub(crate) fn is_no_space(&self) -> bool {
        let full = |error: &std::io::Error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        };
        match self {
            Self::Database(error) => matches!(&**error, redb::Error::Io(error) if full(error)),
            Self::File { source, .. } => full(source),
            Self::Refs(error) => matches!(error, RefError::NoSpace { .. }),
            Self::InUse { .. } | Self::Damaged { .. } | Self::Replica(_) => false,
        }
    }
}

macro_rules! database_error {
    ($($error:ty),+) => {
        $(impl From<$error> for MetadataError {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })+
    };
}

database_error!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

/// A stored manifest, ready to be sent.
#[derive(Debug)]
pub(crate) struct StoredManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
}

/// A page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) names: Vec<String>,
    /// Whether there is more behind the last name.
    pub(crate) more: bool,
}

/// The metadata of a registry; clones share it.
#[derive(Clone)]
pub(crate) struct Metadata {
    shared: Arc<Shared>,
    log: Log,
}

/// Who orders the changes.
#[derive(Clone)]
enum Log {
    /// This process.
    Local(Arc<Local>),
    /// A bucket.
    Replica(Arc<Replica>),
}

/// What requests and whoever writes the tables share.
pub(crate) struct Shared {
    database: redb::Database,
    pending: Mutex<Pending>,
    cache: RwLock<ManifestCache>,
    /// Wakes those who tell of events.
    made: tokio::sync::Notify,
    meter: CommitMeter,
}

impl From<ObjectsError> for MetadataError {
    fn from(error: ObjectsError) -> Self {
        Self::Replica(error.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metadata {
    /// Opens or creates the metadata below `directory` and brings the refs of the blob store in
    /// line with it.
    pub(crate) fn open(directory: &Path, store: BlobStore) -> Result<Self, MetadataError> {
        make_directory(directory)?;
        let path = directory.join("metadata.redb");
        let is_new = !path.exists();
        let database = open_database(path)?;
        tables::prepare(&database)?;
        if is_new {
            sync_new_directory(directory)
                .map_err(|source| MetadataError::File { path: directory.to_owned(), source })?;
        }
        let pending = Mutex::new(Pending::open(&directory.join("links.journal"), &database)?);
        let (cache, meter) = (RwLock::default(), CommitMeter::default());
        let made = tokio::sync::Notify::new();
        let shared = Arc::new(Shared { database, pending, cache, made, meter });
        let log = Log::Local(Arc::new(Local::start(Arc::clone(&shared), store, directory)?));
        Ok(Self { shared, log })
    }

    /// Takes part in the log that is in a bucket. What is kept below `directory` may be lost; no
    /// two replicas share it. Waits for the bucket: not to be called on a thread of the runtime.
    pub(crate) fn join(
        directory: &Path,
        objects: Arc<dyn Objects>,
        pace: Pace,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, MetadataError> {
        make_directory(directory)?;
        let path = directory.join("replica.redb");
        let database = match open_database(path.clone()) {
            Err(MetadataError::Database(error)) => {
                tracing::warn!(%error, "the local copy of the metadata is made anew");
                std::fs::remove_file(&path)
                    .map_err(|source| MetadataError::File { path: path.clone(), source })?;
                open_database(path)?
            }
            opened => opened?,
        };
        tables::prepare(&database)?;
        let pending = Mutex::default();
        let (cache, meter) = (RwLock::default(), CommitMeter::default());
        let made = tokio::sync::Notify::new();
        let shared = Arc::new(Shared { database, pending, cache, made, meter });
        let replica = Replica::start(Arc::clone(&shared), objects, pace, directory, runtime)?;
        Ok(Self { shared, log: Log::Replica(Arc::new(replica)) })
    }

    /// What commits take.
    pub(crate) fn meter(&self) -> &CommitMeter {
        &self.shared.meter
    }

    /// Commits what is queued. Later changes are refused.
    pub(crate) fn close(&self) {
        match &self.log {
            Log::Local(log) => log.close(),
            Log::Replica(log) => log.close(),
        }
    }

    /// Makes a change of the registry's own accord, durably, together with others that wait.
    #[allow(dead_code, reason = "for what the registry does by itself")]
    pub(crate) async fn change(&self, change: Change) -> Result<(), ChangeError> {
        self.submit(change, Stamp::system()).await.map(|_| ())
    }

    /// Makes a change, durably, together with others that wait.
    pub(crate) async fn submit(&self, change: Change, stamp: Stamp) -> Result<Reply, ChangeError> {
        let reply = self.send(Work::Change(change), stamp).await?;
        self.shared.made.notify_waiters();
        Ok(reply)
    }

    /// Waits until this process makes another change.
    pub(crate) fn made(&self) -> tokio::sync::futures::Notified<'_> {
        self.shared.made.notified()
    }

    async fn send(&self, work: Work, stamp: Stamp) -> Result<Reply, ChangeError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let request = Request { work, stamp, reply };
        match &self.log {
            Log::Local(log) => log.send(request)?,
            Log::Replica(log) => log.send(request)?,
        }
        answer.await.unwrap_or(Err(ChangeError::Busy))
    }

    /// Returns when every change that any replica acknowledged before the call is in the tables
    /// that reads look at. With one process that is always so.
    pub(crate) async fn current(&self) -> Result<(), ChangeError> {
        match &self.log {
            Log::Local(_) => Ok(()),
            Log::Replica(log) => log.current().await,
        }
    }

    /// Lets a repository show a blob of the local store. Blobs in a bucket come with changes.
    pub(crate) fn link(&self, link: StoredLink) -> Result<(), MetadataError> {
        match &self.log {
            Log::Local(_) => lock(&self.shared.pending).append(link),
            Log::Replica(_) => Err(ReplicaError::Link.into()),
        }
    }

    /// All tables as they are now.
    pub(crate) fn snapshot(&self) -> Result<Bytes, MetadataError> {
        use redb::ReadableDatabase as _;
        snapshot::encode(&self.shared.database.begin_read()?)
    }

    /// What the manifests of a snapshot need: `<repository>@<manifest>` with its blobs.
    pub(crate) fn kept_in(snapshot: &[u8]) -> Result<Vec<(String, Vec<Digest>)>, MetadataError> {
        let backend = redb::backends::InMemoryBackend::new();
        let database = redb::Builder::new().create_with_backend(backend)?;
        fill(&database, snapshot)?;
        tables::kept(&database)
    }

    /// Keeps every registry away from the database below `directory`, which is created if need be,
    /// while what is returned lives.
    pub(crate) fn hold(directory: &Path) -> Result<Held, MetadataError> {
        make_directory(directory)?;
        let database = open_database(directory.join("metadata.redb"))?;
        sync_new_directory(directory)
            .map_err(|source| MetadataError::File { path: directory.to_owned(), source })?;
        Ok(Held { database })
    }

    /// Makes the database below `directory`, which no registry uses, hold exactly what a snapshot
    /// does. A crash leaves the old one or the new one.
    pub(crate) fn replace(directory: &Path, snapshot: &[u8]) -> Result<(), MetadataError> {
        make_directory(directory)?;
        let (staged, path) = (directory.join("metadata.redb.new"), directory.join("metadata.redb"));
        let file = |path: &Path, done: std::io::Result<()>| match done {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(MetadataError::File { path: path.to_owned(), source })
            }
            Ok(()) | Err(_) => Ok(()),
        };
        file(&staged, std::fs::remove_file(&staged))?;
        let database = open_database(staged.clone())?;
        fill(&database, snapshot)?;
        drop(database);
        // Links of the former state mean nothing in the new one.
        let journal = directory.join("links.journal");
        file(&journal, std::fs::remove_file(&journal))?;
        std::fs::rename(&staged, &path)
            .and_then(|()| sync_new_directory(directory))
            .map_err(|source| MetadataError::File { path, source })
    }

    /// Forgets links of blobs that a collection removed, and repositories that hold nothing.
    pub(crate) async fn tidy(&self) -> Result<(), ChangeError> {
        self.send(Work::Tidy, Stamp::system()).await.map(|_| ())
    }
}

/// A database that no registry uses meanwhile.
pub(crate) struct Held {
    database: redb::Database,
}

impl Held {
    /// Whether no registry ever used the database: each makes its tables first.
    pub(crate) fn is_unused(&self) -> Result<bool, MetadataError> {
        use redb::ReadableDatabase as _;
        let transaction = self.database.begin_read()?;
        Ok(transaction.list_tables()?.next().is_none())
    }
}

/// Writes a snapshot into an empty database.
fn fill(database: &redb::Database, snapshot: &[u8]) -> Result<(), MetadataError> {
    tables::prepare(database)?;
    let transaction = database.begin_write()?;
    {
        let mut tables = tables::Tables::open(&transaction)?;
        snapshot::load(snapshot, &mut tables)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Makes the names of a new database and of its directory durable: syncing a file does not promise
/// its name (POSIX `fsync`, rationale).
fn sync_new_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()?;
    directory.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}

fn make_directory(directory: &Path) -> Result<(), MetadataError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| MetadataError::File { path: directory.to_owned(), source })
}

/// Opens the database, waiting a moment for a predecessor that was killed and is not quite gone.
fn open_database(path: PathBuf) -> Result<redb::Database, MetadataError> {
    let mut waited = Duration::ZERO;
    loop {
        match redb::Builder::new().set_cache_size(DATABASE_CACHE_BYTES).create(&path) {
            Ok(database) => return Ok(database),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if waited < PREDECESSOR_WAIT_MAX => {
                std::thread::sleep(PREDECESSOR_PAUSE);
                waited += PREDECESSOR_PAUSE;
            }
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(MetadataError::InUse { path });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
