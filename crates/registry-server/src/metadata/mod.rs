//! What the registry knows beside the bytes of blobs: one database and one journal.
//!
//! Reads go to the database directly. Changes go through one thread that commits many of them at
//! once (`commit`): a commit costs a sync, and a sync is what a push waits for. A manifest is
//! acknowledged only after its commit; the refs that keep its blobs are set before it.
//!
//! That a repository may show a blob (a link) is different: it is made with each uploaded blob,
//! and a push would pay a sync for each. So links go to a journal that is written, not synced, and
//! join the next commit, at the latest after [`LINKS_WAIT_MAX`]. The death of the process loses
//! nothing; a failure of the machine may lose links of blobs that no manifest has yet, and the
//! client uploads them again.

mod cache;
mod commit;
mod journal;
mod tables;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use blob_store::{BlobStore, RefError};
use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository};
use redb::ReadableDatabase as _;

use self::cache::ManifestCache;
use self::commit::Request;
pub(crate) use self::commit::{Change, ChangeError, Child, Expected, NewManifest};
use self::journal::Journal;
pub(crate) use self::tables::StoredLink;
use self::tables::{
    HOLDERS, LINKS, MANIFESTS, REFERRERS, REPOSITORIES, TAGS, decode_manifest, upper_bound,
};
use crate::route::ManifestReference;

/// Longest time that a link waits for a commit of its own.
const LINKS_WAIT_MAX: Duration = Duration::from_secs(1);

/// Changes that may wait for the committing thread; beyond it clients are told to come back.
const CHANGES_QUEUED_MAX: usize = 4096;

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
            Self::InUse { .. } | Self::Damaged { .. } => false,
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
    queue: Arc<Queue>,
}

/// The way to the committing thread, which ends when the last sender is gone.
struct Queue {
    sender: Mutex<Option<SyncSender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What requests and the committing thread share.
pub(crate) struct Shared {
    database: redb::Database,
    store: BlobStore,
    /// Links that are in the journal and not yet in the database.
    pending: Mutex<Pending>,
    cache: RwLock<ManifestCache>,
}

pub(crate) struct Pending {
    journal: Journal,
    links: HashMap<(Repository, Digest), PendingLink>,
    /// Counts links, so that a commit removes only those that it wrote.
    sequence: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct PendingLink {
    size: u64,
    sequence: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metadata {
    /// Opens or creates the metadata below `directory` and brings the refs of the blob store in
    /// line with it.
    pub(crate) fn open(directory: &Path, store: BlobStore) -> Result<Self, MetadataError> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| MetadataError::File { path: directory.to_owned(), source })?;
        let path = directory.join("metadata.redb");
        let database = open_database(path)?;
        tables::prepare(&database)?;
        let (journal, links) = Journal::open(&directory.join("links.journal"))?;
        let mut pending = Pending { journal, links: HashMap::new(), sequence: 0 };
        for link in links {
            pending.insert(link);
        }
        let refs = store.mirrored_refs("registry").map_err(|error| MetadataError::File {
            path: directory.to_owned(),
            source: std::io::Error::other(error),
        })?;
        refs.reconcile(tables::kept(&database)?)?;
        let (sender, receiver) = std::sync::mpsc::sync_channel(CHANGES_QUEUED_MAX);
        let shared = Arc::new(Shared {
            database,
            store,
            pending: Mutex::new(pending),
            cache: RwLock::default(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("registry-commit".to_owned())
            .spawn(move || commit::run(&for_thread, &refs, &receiver))
            .map_err(|source| MetadataError::File { path: directory.to_owned(), source })?;
        let queue = Queue { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) };
        Ok(Self { shared, queue: Arc::new(queue) })
    }

    /// Commits what is queued and stops the committing thread. Later changes are refused.
    pub(crate) fn close(&self) {
        drop(lock(&self.queue.sender).take());
        let thread = lock(&self.queue.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the committing thread of the registry panicked");
        }
    }

    /// Carries out a change, durably, together with others that wait.
    pub(crate) async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let sender = lock(&self.queue.sender).clone().ok_or(ChangeError::Busy)?;
        match sender.try_send(Request { change, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                return Err(ChangeError::Busy);
            }
        }
        drop(sender);
        answer.await.unwrap_or(Err(ChangeError::Busy))
    }

    /// Lets a repository show a blob.
    pub(crate) fn link(&self, link: StoredLink) -> Result<(), MetadataError> {
        let mut pending = lock(&self.shared.pending);
        pending.journal.append(&link)?;
        pending.insert(link);
        Ok(())
    }

    /// The size of a blob that the repository may show.
    pub(crate) fn linked(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, MetadataError> {
        let key = (repository.clone(), *digest);
        if let Some(link) = lock(&self.shared.pending).links.get(&key) {
            return Ok(Some(link.size));
        }
        let table = self.shared.database.begin_read()?.open_table(LINKS)?;
        let size = table.get((repository.as_str(), digest.to_string().as_str()))?;
        Ok(size.map(|size| size.value()))
    }

    /// Some repositories that may show a blob, at most `names_max`.
    pub(crate) fn holders(
        &self,
        digest: &Digest,
        names_max: usize,
    ) -> Result<Vec<Repository>, MetadataError> {
        let mut holders: Vec<Repository> = lock(&self.shared.pending)
            .links
            .keys()
            .filter(|(_, linked)| linked == digest)
            .map(|(repository, _)| repository.clone())
            .collect();
        let table = self.shared.database.begin_read()?.open_table(HOLDERS)?;
        let text = digest.to_string();
        let end = upper_bound(&text);
        for row in table.range((text.as_str(), "")..(end.as_str(), ""))? {
            if holders.len() >= names_max {
                break;
            }
            holders.extend(Repository::new(row?.0.value().1).ok());
        }
        Ok(holders)
    }

    /// A manifest by tag or digest.
    pub(crate) fn manifest(
        &self,
        repository: &Repository,
        reference: &ManifestReference,
    ) -> Result<Option<Arc<StoredManifest>>, MetadataError> {
        let generation = {
            let cache = self.shared.cache.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = cache.get(repository, reference) {
                return Ok(Some(found));
            }
            cache.generation()
        };
        let transaction = self.shared.database.begin_read()?;
        let digest = match reference {
            ManifestReference::Digest(digest) => digest.to_string(),
            ManifestReference::Tag(tag) => {
                let tags = transaction.open_table(TAGS)?;
                match tags.get((repository.as_str(), tag.as_str()))? {
                    Some(digest) => digest.value().to_owned(),
                    None => return Ok(None),
                }
            }
        };
        let manifests = transaction.open_table(MANIFESTS)?;
        let Some(row) = manifests.get((repository.as_str(), digest.as_str()))? else {
            return Ok(None);
        };
        let damaged =
            || MetadataError::Damaged { table: "manifests", key: format!("{repository}@{digest}") };
        let (media_type, bytes) = decode_manifest(row.value()).ok_or_else(damaged)?;
        let manifest = Arc::new(StoredManifest {
            digest: digest.parse().map_err(|_| damaged())?,
            media_type: MediaType::new(media_type),
            bytes: Bytes::copy_from_slice(bytes),
        });
        let mut cache = self.shared.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.insert(generation, repository, reference, Arc::clone(&manifest));
        Ok(Some(manifest))
    }

    /// Whether anything was ever pushed to the repository and is not wholly gone.
    pub(crate) fn knows(&self, repository: &Repository) -> Result<bool, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(REPOSITORIES)?;
        Ok(table.get(repository.as_str())?.is_some())
    }

    /// Tags of a repository in byte order, strictly after `last`.
    pub(crate) fn tags(
        &self,
        repository: &Repository,
        last: Option<&str>,
        names_max: usize,
    ) -> Result<Page, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(TAGS)?;
        let name = repository.as_str();
        let after = upper_bound(last.unwrap_or_default());
        let start = if last.is_some() { after.as_str() } else { "" };
        let end = upper_bound(name);
        let mut page = Page { names: Vec::new(), more: false };
        for row in table.range((name, start)..(end.as_str(), ""))? {
            if page.names.len() == names_max {
                page.more = true;
                break;
            }
            page.names.push(row?.0.value().1.to_owned());
        }
        Ok(page)
    }

    /// Repositories in byte order, strictly after `last`, that `visible` accepts.
    pub(crate) fn repositories(
        &self,
        last: Option<&str>,
        names_max: usize,
        visible: impl Fn(&str) -> bool,
    ) -> Result<Page, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(REPOSITORIES)?;
        let start = last.map(upper_bound).unwrap_or_default();
        let mut page = Page { names: Vec::new(), more: false };
        for row in table.range(start.as_str()..)? {
            let row = row?;
            let name = row.0.value();
            if !visible(name) {
                continue;
            }
            if page.names.len() == names_max {
                page.more = true;
                break;
            }
            page.names.push(name.to_owned());
        }
        Ok(page)
    }

    /// Calls `visit` with the digest and the descriptor (JSON) of each manifest whose subject is
    /// `subject`, strictly after the digest `last`, until it returns `false`.
    pub(crate) fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        last: &str,
        mut visit: impl FnMut(&str, &[u8]) -> bool,
    ) -> Result<(), MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(REFERRERS)?;
        let subject = subject.to_string();
        let start = if last.is_empty() { String::new() } else { upper_bound(last) };
        let end = upper_bound(&subject);
        let name = repository.as_str();
        for row in
            table.range((name, subject.as_str(), start.as_str())..(name, end.as_str(), ""))?
        {
            let (key, value) = row?;
            if !visit(key.value().2, value.value()) {
                break;
            }
        }
        Ok(())
    }

    /// Forgets links of blobs that a collection removed, and repositories that hold nothing.
    pub(crate) async fn tidy(&self) -> Result<(), ChangeError> {
        self.change(Change::Tidy).await
    }
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

impl Pending {
    fn insert(&mut self, link: StoredLink) {
        self.sequence += 1;
        let entry = PendingLink { size: link.size, sequence: self.sequence };
        self.links.insert((link.repository, link.digest), entry);
    }
}

#[cfg(test)]
mod tests;
