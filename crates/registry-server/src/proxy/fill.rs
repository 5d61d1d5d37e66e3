//! A blob on its way from an upstream into the store, and to everybody who asks for it meanwhile.
//!
//! One task receives it, whoever comes or goes. The bytes go into a staged file of the store;
//! readers follow that file from its beginning, each at its own pace, so a slow one costs no
//! memory. The last bytes are withheld until the digest was found right: a client of wrong bytes
//! always fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blob_store::{BlobStore, Ingest, IngestError, Lease};
use bytes::Bytes;
use oci_model::{Digest, Repository};
use tokio::sync::{mpsc, watch};

use super::upstream::UpstreamError;

/// Bytes at the end of what has come that nobody sees before the digest was found right.
pub(crate) const WITHHELD_BYTES: u64 = 4 * 1024;

/// Bytes read from the staged file at once, per reader; two such pieces are in memory.
const PIECE_BYTES: u64 = 64 * 1024;

/// Bytes after which readers see what came in even while more is waiting.
const SHOWN_BYTES: usize = 256 * 1024;

/// Pieces of an upstream's body that may wait for the disk.
const PIECES_QUEUED_MAX: usize = 8;

/// A blob that is coming in.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) digest: Digest,
    progress: watch::Sender<Progress>,
    holders: Mutex<Holders>,
}

/// How far a fill is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// What can be followed, once the upstream began to answer.
    opened: Option<Opened>,
    /// Bytes in the file.
    written: u64,
    end: Option<Result<(), FillError>>,
}

/// The staged file.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    file: Arc<File>,
    /// Size of the whole blob in bytes, if the upstream told it.
    pub(crate) size: Option<u64>,
}

impl Opened {
    /// The file itself.
    pub(crate) fn file(self) -> Arc<File> {
        self.file
    }
}

/// Why a blob did not come in.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum FillError {
    /// The upstream.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The bytes are not those of the digest.
    #[error("the upstream sent other bytes: {reason}")]
    Mismatch {
        /// What came.
        reason: String,
    },
    /// The disk is full.
    #[error("no space left for a cached blob")]
    NoSpace,
    /// The disk or the database failed.
    #[error("a cached blob cannot be stored: {reason}")]
    Store {
        /// What happened.
        reason: String,
    },
}

impl From<IngestError> for FillError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::DigestMismatch { .. } => Self::Mismatch { reason: error.to_string() },
            IngestError::NoSpace { .. } => Self::NoSpace,
            IngestError::Disk(error) => Self::Store { reason: error.to_string() },
        }
    }
}

/// Repositories that get the blob when it is there.
#[derive(Debug, Default)]
struct Holders {
    repositories: BTreeSet<String>,
    /// The blob was given to them: too late for more.
    closed: bool,
}

impl Fill {
    pub(crate) fn new(digest: Digest, repository: &Repository) -> Self {
        let holders = Holders {
            repositories: BTreeSet::from([repository.as_str().to_owned()]),
            closed: false,
        };
        let progress = watch::Sender::new(Progress::default());
        Self { digest, progress, holders: Mutex::new(holders) }
    }

    /// Whether the repository was found to have the blob upstream.
    pub(crate) fn is_for(&self, repository: &Repository) -> bool {
        self.holders().repositories.contains(repository.as_str())
    }

    /// Gives the blob to one more repository; `false` if it is too late.
    pub(crate) fn add(&self, repository: &Repository) -> bool {
        let mut holders = self.holders();
        if !holders.closed {
            holders.repositories.insert(repository.as_str().to_owned());
        }
        !holders.closed
    }

    /// The repositories to give the blob to; no more can join.
    pub(crate) fn close(&self) -> Vec<Repository> {
        let mut holders = self.holders();
        holders.closed = true;
        holders.repositories.iter().filter_map(|name| Repository::new(name).ok()).collect()
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, as soon as the upstream began to answer.
    pub(crate) async fn opened(&self) -> Result<Opened, FillError> {
        let mut progress = self.progress.subscribe();
        let known = progress
            .wait_for(|progress| progress.opened.is_some() || progress.end.is_some())
            .await
            .map_err(|_| FillError::Store { reason: "its task died".to_owned() })?;
        match (&known.opened, &known.end) {
            (Some(opened), _) => Ok(opened.clone()),
            (None, Some(Err(error))) => Err(error.clone()),
            (None, _) => Err(FillError::Store { reason: "it ended early".to_owned() }),
        }
    }

    /// Returns when it ended.
    pub(crate) async fn ended(&self) {
        // The sender lives in here.
        let _ = self.progress.subscribe().wait_for(|progress| progress.end.is_some()).await;
    }

    /// Tells everybody how it ended.
    pub(crate) fn end(&self, end: Result<(), FillError>) {
        self.progress.send_modify(|progress| {
            progress.end.get_or_insert(end);
        });
    }

    /// Begins to write into the store.
    pub(crate) fn open(
        self: &Arc<Self>,
        store: &BlobStore,
        size: Option<u64>,
    ) -> Result<Writer, IngestError> {
        let ingest = store.ingest_with(self.digest.algorithm())?;
        let file =
            File::open(ingest.path()).map_err(|error| IngestError::from_write(error, &ingest))?;
        let opened = Opened { file: Arc::new(file), size };
        self.progress.send_modify(|progress| progress.opened = Some(opened));
        Ok(Writer { fill: Arc::clone(self), ingest })
    }

    /// The bytes `first..end` as they come; all to the end without `end`.
    pub(crate) fn read(
        self: &Arc<Self>,
        opened: Opened,
        first: u64,
        end: Option<u64>,
    ) -> mpsc::Receiver<io::Result<Bytes>> {
        let (pieces, received) = mpsc::channel(1);
        let progress = self.progress.subscribe();
        // It ends with the fill, or when the one who reads is gone.
        tokio::spawn(follow(progress, opened.file, first, end, pieces));
        received
    }
}

/// Writes a fill's bytes; on a thread that may block.
#[derive(Debug)]
pub(crate) struct Writer {
    fill: Arc<Fill>,
    ingest: Ingest,
}

impl Writer {
    /// Writes what comes in, until the sender is gone.
    pub(crate) fn write_all(
        mut self,
        received: &mut mpsc::Receiver<Bytes>,
    ) -> Result<Self, IngestError> {
        let mut unseen = 0;
        while let Some(bytes) = received.blocking_recv() {
            let write = self.ingest.write_all(&bytes);
            write.map_err(|error| IngestError::from_write(error, &self.ingest))?;
            unseen += bytes.len();
            // Many small pieces share a write, but nobody waits for bytes that are here.
            if received.is_empty() || SHOWN_BYTES <= unseen {
                self.show()?;
                unseen = 0;
            }
        }
        self.show()?;
        Ok(self)
    }

    /// Lets readers see what was written.
    fn show(&mut self) -> Result<(), IngestError> {
        let flushed = self.ingest.flush();
        flushed.map_err(|error| IngestError::from_write(error, &self.ingest))?;
        let written = self.ingest.size();
        self.fill.progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.written, written) != written
        });
        Ok(())
    }

    /// Checks the bytes, which stay readable until the writer goes; for blobs in a bucket.
    pub(crate) fn verify(mut self) -> Result<(u64, Self), IngestError> {
        let size = self.ingest.size();
        let digest = self.fill.digest;
        self.ingest.verify(&digest)?;
        Ok((size, self))
    }

    /// Makes the bytes a blob of the store if they are right.
    ///
    /// The lease keeps it until somebody keeps it in a better way.
    pub(crate) fn commit(self, store: &BlobStore) -> Result<(u64, Lease), IngestError> {
        let size = self.ingest.size();
        let lease = store.lease()?;
        self.ingest.guarded_by(&lease).commit_deferred(&self.fill.digest)?;
        Ok((size, lease))
    }
}

/// The channel from the network to the disk.
pub(crate) fn pieces() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
    mpsc::channel(PIECES_QUEUED_MAX)
}

async fn follow(
    mut progress: watch::Receiver<Progress>,
    file: Arc<File>,
    mut at: u64,
    end: Option<u64>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
) {
    loop {
        let (visible, ended) = {
            let now = progress.borrow_and_update();
            let visible = match now.end {
                Some(Ok(())) => now.written,
                Some(Err(_)) | None => now.written.saturating_sub(WITHHELD_BYTES),
            };
            (visible, now.end.clone())
        };
        let visible = end.map_or(visible, |end| visible.min(end));
        if at < visible {
            let size = (visible - at).min(PIECE_BYTES);
            let piece = read_at(Arc::clone(&file), at, size).await;
            at += size;
            let broken = piece.is_err();
            if pieces.send(piece).await.is_err() || broken {
                return;
            }
            continue;
        }
        if end.is_some_and(|end| end <= at) {
            return;
        }
        match ended {
            Some(Ok(())) => return,
            Some(Err(error)) => {
                // The connection breaks: a client must not take this for the end.
                let _ = pieces.send(Err(io::Error::other(error))).await;
                return;
            }
            None => {}
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() {
                let reason = io::Error::other("the task that filled the cache died");
                let _ = pieces.send(Err(reason)).await;
                return;
            },
            () = pieces.closed() => return,
        }
    }
}

async fn read_at(file: Arc<File>, at: u64, size: u64) -> io::Result<Bytes> {
    let read = move || {
        let mut piece = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut piece, at)?;
        Ok(piece.into())
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}
