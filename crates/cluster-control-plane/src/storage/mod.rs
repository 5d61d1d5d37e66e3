//! Revisioned storage: one counter for all writes, durable before visible, with a watch history.
//!
//! A single writer thread owns the database. It collects waiting writes, checks each against the
//! newest state, commits them in one transaction with one sync, and only then publishes them, in
//! revision order, to the in-memory caches that serve every read (group commit). A crash can lose
//! only writes nobody was told about.

mod cache;
mod database;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub(crate) use cache::{Change, Event, KindCache};
pub use database::StorageError;

use database::Database;

use crate::resources;

/// Writes that may wait for the writer; more make their callers wait (a client's own pace).
const QUEUED_WRITES_MAX: usize = 1024;

/// An object's place within its kind; the order of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Empty for cluster-scoped kinds.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// No object of that key.
    Absent,
    /// The object was last written at this revision.
    Revision(u64),
}

/// What a write does.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Store this object; `metadata.resourceVersion` is filled by the writer.
    Put(Value),
    /// Remove the object.
    Delete,
    /// Remove the object; watches see this as its last state.
    DeleteAs(Value),
}

/// One conditional write.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) storage: &'static str,
    pub(crate) key: Key,
    pub(crate) expected: Expected,
    pub(crate) operation: Operation,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The condition does not hold.
    #[error("the object is not in the expected state")]
    Unexpected,
    /// The object is over the size limit.
    #[error("object of {bytes} bytes is over the limit of {bytes_max} bytes")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// The database refused; nothing was stored.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The writer has stopped.
    #[error("storage is shut down")]
    Stopped,
}

pub(crate) struct QueuedWrite {
    write: Write,
    reply: oneshot::Sender<Result<Arc<Value>, WriteError>>,
}

/// The caches and the way to the writer. Cheap to clone; the last clone stops the writer.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<QueuedWrite>,
}

pub(crate) struct Shared {
    kinds: HashMap<&'static str, KindCache>,
    /// Every write up to here is visible in the caches.
    published: AtomicU64,
}

impl Store {
    /// Opens (or makes) the database file and loads every object.
    ///
    /// # Errors
    /// When the file is in use by another process, damaged beyond repair, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let database = Database::open(path)?;
        let loaded = database.load()?;
        let mut kinds: HashMap<&'static str, KindCache> = HashMap::new();
        for resource in resources::ALL.iter().filter(|resource| resource.is_stored()) {
            kinds.entry(resource.storage).or_insert_with(|| KindCache::new(loaded.revision));
        }
        for (storage, key, object) in loaded.objects {
            // Kinds this version does not serve stay in the file, untouched.
            if let Some(kind) = kinds.get(storage.as_str()) {
                kind.load(key, Arc::new(object));
            }
        }
        let shared = Arc::new(Shared { kinds, published: AtomicU64::new(loaded.revision) });
        let (queue, receiver) = mpsc::channel(QUEUED_WRITES_MAX);
        writer::spawn(database, Arc::clone(&shared), receiver)?;
        Ok(Self { shared, queue })
    }

    /// Revision up to which reads see every write.
    pub(crate) fn revision(&self) -> u64 {
        self.shared.published.load(Ordering::Acquire)
    }

    /// The cache of one kind.
    pub(crate) fn kind(&self, storage: &str) -> Option<&KindCache> {
        self.shared.kinds.get(storage)
    }

    /// Queues a write and waits until it is durable and visible, or refused.
    pub(crate) async fn write(&self, write: Write) -> Result<Arc<Value>, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(QueuedWrite { write, reply }).await.map_err(|_| WriteError::Stopped)?;
        answer.await.map_err(|_| WriteError::Stopped)?
    }
}

#[cfg(test)]
mod tests;
