//! The log that many replicas share: objects in a bucket.
//!
//! | object | content |
//! |---|---|
//! | `format` | version of this layout and the id of the log |
//! | `log/<sequence>` | one batch of changes (`entry`) |
//! | `snapshots/<sequence>` | the tables after that entry (`snapshot`) |
//! | `probe/<id>` | what a starting replica tries conditional writes on (`probe`) |
//!
//! # Writing
//! A replica applies a batch to its tables in a transaction, writes the accepted changes as the
//! next entry, on the condition that there is none, and commits. If another replica was first, the
//! transaction is given up, the winner's entry is applied, and the batch is judged again from the
//! start. So what `apply` checked is true at the entry's place in the log, whoever else writes. A
//! write whose answer is lost is resolved by reading the entry: it says who wrote it.
//!
//! # Reading
//! The tables of a replica are current if there was no next entry when it was asked for. One
//! question serves every request that arrived before it was sent (`freshness`).
//!
//! # The tables are a cache
//! They are in a local database, not synced with each commit, with the sequence up to which they
//! are true in the same transaction. A replica that has none begins with the newest snapshot.
//!
//! # The old end
//! Whoever has applied enough since the last snapshot writes one (`keeper`). Entries and snapshots
//! go, oldest first and one by one, when there is a snapshot behind them that is itself older than
//! [`Pace::lag`]. A replica that slept through that would find no next entry and believe itself
//! current, or write one where nobody reads. Therefore: what it learnt less than
//! [`Pace::trusted`] ago it trusts, because the lag is longer; otherwise it checks, after each
//! answer, that the entry it stands on is still there. As entries go in order, then no later one
//! is gone.

mod entry;
mod freshness;
mod keeper;
mod objects;
mod probe;
pub(super) mod snapshot;
mod writer;

use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use self::freshness::Freshness;
use self::objects::Put;
pub(crate) use self::objects::{Objects, ObjectsError};
use self::writer::{Message, Writer};
use super::changes::ChangeError;
use super::local::Request;
use super::{MetadataError, Shared, lock};

/// Version of the layout of the bucket.
const FORMAT: u32 = 1;

/// Key of the object that says what the bucket is.
const FORMAT_KEY: &str = "format";

/// Messages that may wait for the writer; beyond it clients are told to come back.
const MESSAGES_QUEUED_MAX: usize = 4096;

/// How fast things happen. Tests have another pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Entries after which somebody writes a snapshot.
    pub(crate) snapshot_entries: u64,
    /// Bytes of entries after which somebody writes a snapshot.
    pub(crate) snapshot_bytes: u64,
    /// Age of the snapshot, by the clock of the bucket, behind which the log may go.
    pub(crate) lag: Duration,
    /// How long a replica trusts that the log around its place is whole; far less than the lag.
    pub(crate) trusted: Duration,
    /// First pause before the bucket is asked again, after the bucket's client gave up; it doubles,
    /// with jitter.
    pub(crate) pause_first: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            snapshot_entries: 1000,
            snapshot_bytes: 16 * 1024 * 1024,
            lag: Duration::from_secs(24 * 3600),
            trusted: Duration::from_secs(10 * 60),
            pause_first: Duration::from_millis(200),
        }
    }
}

/// Why a replica cannot take part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    /// The store ignores conditions.
    #[error(
        "the bucket does not enforce {condition}: replicas would overwrite each other's changes; \
         use a store with conditional writes (S3, GCS, Azure, MinIO, Ceph RGW, R2)"
    )]
    NotEnforced {
        /// Which one.
        condition: &'static str,
    },
    /// The bucket is laid out by a later version.
    #[error("the bucket has the layout of another version")]
    Layout,
    /// The bucket failed.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// An entry of the log cannot be read.
    #[error("entry {sequence} of the log is damaged or written by a later version")]
    Entry {
        /// Its sequence.
        sequence: u64,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// An entry of the log cannot be applied, though its writer could.
    #[error("entry {sequence} of the log does not fit these tables")]
    Diverged {
        /// Its sequence.
        sequence: u64,
    },
    /// A blob of the local store was to be linked.
    #[error("blobs of a registry with replicas are in the bucket")]
    Link,
    /// The log has a beginning that is gone and no snapshot.
    #[error("the log of the bucket has no beginning and no readable snapshot")]
    NoSnapshot,
}

/// What the object `format` says.
#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
    id: String,
}

/// A moment, by whatever clock ran on meanwhile: one of them stops when the machine sleeps, the
/// other can be set back.
#[derive(Clone, Copy, Debug)]
struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    fn age(&self) -> Duration {
        self.steady.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

/// Where a replica is in the log.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The last entry in its tables.
    sequence: u64,
    /// When it was certain that there was no next entry yet.
    certain: Option<Moment>,
}

/// What the threads and tasks of a replica share.
struct Ground {
    shared: Arc<Shared>,
    objects: Arc<dyn Objects>,
    pace: Pace,
    place: Mutex<Place>,
}

impl Ground {
    fn place(&self) -> Place {
        *lock(&self.place)
    }

    /// Whether the place was certain lately.
    fn is_trusted(&self) -> bool {
        self.place().certain.is_some_and(|moment| moment.age() < self.pace.trusted)
    }

    /// Whether the entry at `sequence` is still there; for the place before the first one, whether
    /// the log still has its beginning.
    async fn still_has(&self, sequence: u64) -> Result<bool, ObjectsError> {
        if sequence == 0 {
            Ok(self.objects.list(snapshot::SNAPSHOTS).await?.is_empty())
        } else {
            Ok(self.objects.get(&entry::key(sequence)).await?.is_some())
        }
    }
}

/// One of the replicas that share a log.
pub(super) struct Replica {
    sender: Mutex<Option<SyncSender<Message>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    freshness: Freshness,
}

impl Replica {
    /// Checks the bucket, brings the tables up to date and starts the threads. Waits for the
    /// bucket, so it is called where waiting is allowed.
    pub(super) fn start(
        shared: Arc<Shared>,
        objects: Arc<dyn Objects>,
        pace: Pace,
        directory: &Path,
        runtime: &Handle,
    ) -> Result<Self, MetadataError> {
        runtime.block_on(probe::run(&*objects))?;
        let id = runtime.block_on(identity(&*objects))?;
        let sequence = writer::prepare(&shared, &id)?;
        let place = Mutex::new(Place { sequence, certain: None });
        let ground = Arc::new(Ground { shared, objects, pace, place });
        let (sender, receiver) = std::sync::mpsc::sync_channel(MESSAGES_QUEUED_MAX);
        let mut writer = Writer::new(Arc::clone(&ground), runtime.clone());
        writer.begin()?;
        let thread = std::thread::Builder::new()
            .name("registry-log".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|source| MetadataError::File { path: directory.to_owned(), source })?;
        let freshness = Freshness::start(ground, sender.clone(), runtime);
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)), freshness })
    }

    /// Queues a change.
    pub(super) fn send(&self, request: Request) -> Result<(), ChangeError> {
        let sender = lock(&self.sender).clone().ok_or(ChangeError::Busy)?;
        match sender.try_send(Message::Change(request)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(ChangeError::Busy),
        }
    }

    /// Returns when the tables have every entry that was written before the call.
    pub(super) async fn current(&self) -> Result<(), ChangeError> {
        self.freshness.current().await
    }

    /// Writes what is queued and stops.
    pub(super) fn close(&self) {
        self.freshness.close();
        drop(lock(&self.sender).take());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer of the registry's log panicked");
        }
    }
}

/// The id of the log; the first replica gives it one.
async fn identity(objects: &dyn Objects) -> Result<String, ReplicaError> {
    let format = Format { format: FORMAT, id: uuid::Uuid::new_v4().to_string() };
    let bytes = serde_json::to_vec(&format).map_err(|_| ReplicaError::Layout)?;
    let known = match objects.get(FORMAT_KEY).await? {
        Some(known) => known,
        None => match objects.create(FORMAT_KEY, Bytes::from(bytes)).await? {
            Put::Done(_) => return Ok(format.id),
            Put::Refused => objects.get(FORMAT_KEY).await?.ok_or(ReplicaError::Layout)?,
        },
    };
    match serde_json::from_slice::<Format>(&known) {
        Ok(known) if known.format == FORMAT => Ok(known.id),
        Ok(_) | Err(_) => Err(ReplicaError::Layout),
    }
}

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;
