//! The log of one process: a thread that commits many changes with one sync.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use blob_store::{BlobStore, MirroredRefs, RefError};
use oci_model::{Digest, Repository};
use redb::ReadableTable as _;

use super::changes::{Change, ChangeError, Effect, Reply, Stamp, apply};
use super::journal::Journal;
use super::tables::{self, StoredLink, Tables};
use super::{MetadataError, Shared, lock};

/// Longest time that a link waits for a commit of its own.
const LINKS_WAIT_MAX: Duration = Duration::from_secs(1);

/// Changes that may wait for the committing thread; beyond it clients are told to come back.
const CHANGES_QUEUED_MAX: usize = 4096;

/// Changes committed at once.
const BATCH_CHANGES: usize = 256;

/// What the committing thread is asked for.
pub(super) enum Work {
    /// A change.
    Change(Change),
    /// To forget the links of blobs that a collection removed. Which those are is only known
    /// between two commits: outside, such a blob may come back.
    Tidy,
}

/// Work with the one who waits for it.
pub(super) struct Request {
    pub(super) work: Work,
    pub(super) stamp: Stamp,
    pub(super) reply: tokio::sync::oneshot::Sender<Result<Reply, ChangeError>>,
}

/// The way to the committing thread, which ends when the last sender is gone.
pub(super) struct Local {
    sender: Mutex<Option<SyncSender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Links that are in the journal and not yet in the database.
#[derive(Default)]
pub(super) struct Pending {
    /// None if links are changes like others.
    journal: Option<Journal>,
    pub(super) links: HashMap<(Repository, Digest), PendingLink>,
    /// Counts links, so that a commit removes only those that it wrote.
    sequence: u64,
}

#[derive(Clone, Copy)]
pub(super) struct PendingLink {
    pub(super) size: u64,
    sequence: u64,
}

impl Pending {
    /// Opens the journal and takes up what the last process left in it.
    pub(super) fn open(path: &Path, database: &redb::Database) -> Result<Self, MetadataError> {
        let (journal, links) = Journal::open(path)?;
        let known = tables::links_through(database)?;
        let mut pending = Self { journal: Some(journal), sequence: known, ..Self::default() };
        // Never a sequence twice: a line that the database has would count again.
        let numbered = links.iter().map(|(sequence, _)| *sequence).filter(|n| *n != u64::MAX);
        pending.sequence = numbered.fold(known, u64::max);
        for (_, link) in links.into_iter().filter(|(sequence, _)| *sequence > known) {
            pending.insert(link);
        }
        Ok(pending)
    }

    /// Writes a link to the journal; the next commit takes it.
    pub(super) fn append(&mut self, link: StoredLink) -> Result<(), MetadataError> {
        if let Some(journal) = &mut self.journal {
            journal.append(self.sequence + 1, &link)?;
        }
        self.insert(link);
        Ok(())
    }

    fn insert(&mut self, link: StoredLink) {
        self.sequence += 1;
        let entry = PendingLink { size: link.size, sequence: self.sequence };
        self.links.insert((link.repository, link.digest), entry);
    }
}

impl Local {
    /// Brings the refs of the blob store in line with the tables and starts the thread.
    pub(super) fn start(
        shared: Arc<Shared>,
        store: BlobStore,
        directory: &Path,
    ) -> Result<Self, MetadataError> {
        let file = |source| MetadataError::File { path: directory.to_owned(), source };
        let refs =
            store.mirrored_refs("registry").map_err(|error| file(std::io::Error::other(error)))?;
        refs.reconcile(tables::kept(&shared.database)?)?;
        let (sender, receiver) = std::sync::mpsc::sync_channel(CHANGES_QUEUED_MAX);
        let committer = Committer { shared, store, refs };
        let thread = std::thread::Builder::new()
            .name("registry-commit".to_owned())
            .spawn(move || committer.run(&receiver))
            .map_err(file)?;
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Queues work.
    pub(super) fn send(&self, request: Request) -> Result<(), ChangeError> {
        let sender = lock(&self.sender).clone().ok_or(ChangeError::Busy)?;
        match sender.try_send(request) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(ChangeError::Busy),
        }
    }

    /// Commits what is queued and stops the thread.
    pub(super) fn close(&self) {
        drop(lock(&self.sender).take());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the committing thread of the registry panicked");
        }
    }
}

/// The committing thread.
struct Committer {
    shared: Arc<Shared>,
    store: BlobStore,
    refs: MirroredRefs,
}

impl Committer {
    /// Commits until no sender is left.
    fn run(&self, requests: &Receiver<Request>) {
        loop {
            let mut batch = Vec::new();
            match requests.recv_timeout(LINKS_WAIT_MAX) {
                Ok(first) => {
                    batch.push(first);
                    batch.extend(requests.try_iter().take(BATCH_CHANGES - 1));
                }
                Err(RecvTimeoutError::Timeout) if lock(&self.shared.pending).links.is_empty() => {
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.commit(batch);
                    return;
                }
            }
            self.commit(batch);
        }
    }

    fn commit(&self, batch: Vec<Request>) {
        let (work, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|request| ((request.work, request.stamp), request.reply)).unzip();
        let answers = match self.try_commit(&work) {
            Ok(answers) => answers,
            // Nothing of the transaction stays, so every change of it fails.
            Err(error) => work.iter().map(|_| Err(error.again())).collect(),
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
    }

    fn try_commit(
        &self,
        work: &[(Work, Stamp)],
    ) -> Result<Vec<Result<Reply, ChangeError>>, ChangeError> {
        let (written, through): (Vec<_>, u64) = {
            let pending = lock(&self.shared.pending);
            let links = pending.links.iter().map(|(key, link)| (key.clone(), *link)).collect();
            (links, pending.sequence)
        };
        let began = std::time::Instant::now();
        let transaction = self.shared.database.begin_write()?;
        let mut batch = Batch::default();
        let answers = {
            let mut tables = Tables::open(&transaction)?;
            let system = Stamp::system();
            for ((repository, digest), link) in &written {
                let (repository, digest) = (repository.clone(), *digest);
                let link = Change::Link(StoredLink { repository, digest, size: link.size });
                match self.apply(&link, &system, &mut tables, &mut batch) {
                    Err(error) if !error.is_rejection() => return Err(error),
                    Ok(_) | Err(_) => {}
                }
            }
            let mut answers = Vec::with_capacity(work.len());
            for (work, stamp) in work {
                let tidy;
                let change = match work {
                    Work::Change(change) => change,
                    Work::Tidy => {
                        tidy = Change::Tidy(self.gone(&tables)?);
                        &tidy
                    }
                };
                let answer = self.apply(change, stamp, &mut tables, &mut batch);
                match answer {
                    Err(error) if !error.is_rejection() => return Err(error),
                    answer => answers.push(answer),
                }
            }
            answers
        };
        if written.is_empty() && !batch.applied {
            transaction.abort()?;
            return Ok(answers);
        }
        if !written.is_empty() {
            tables::note_links_through(&transaction, through)?;
        }
        // The blobs first, then what claims to have them.
        self.store.settle().map_err(|error| MetadataError::Refs(error.into()))?;
        transaction.commit()?;
        self.shared.meter.committed(work.len() + written.len(), began.elapsed());
        self.committed(batch, written);
        Ok(answers)
    }

    /// Makes a change in the transaction, with the refs that it needs.
    fn apply(
        &self,
        change: &Change,
        stamp: &Stamp,
        tables: &mut Tables<'_>,
        batch: &mut Batch,
    ) -> Result<Reply, ChangeError> {
        let outcome = apply(change, stamp, tables)?;
        for effect in &outcome.effects {
            let Effect::Keep(name, digests) = effect else { continue };
            match self.refs.set(name, digests) {
                Ok(()) => {}
                // Refs that were set by now keep blobs for longer; the next start removes them.
                Err(RefError::Missing { digest }) => {
                    tables.undo()?;
                    return Err(ChangeError::Missing(digest));
                }
                Err(error) => return Err(MetadataError::Refs(error).into()),
            }
        }
        for effect in outcome.effects {
            match effect {
                // What a change of the same batch keeps must not go when the batch is through.
                Effect::Keep(name, _) => drop(batch.released.remove(&name)),
                Effect::Release(name, digests) => drop(batch.released.insert(name, digests)),
            }
        }
        batch.applied |= tables.is_touched();
        batch.changed.extend(outcome.changed);
        Ok(outcome.reply)
    }

    /// Links whose blobs are not in the store.
    fn gone(&self, tables: &Tables<'_>) -> Result<Vec<(Repository, Digest)>, ChangeError> {
        let mut gone = Vec::new();
        for row in tables.links.iter()? {
            let (key, _) = row?;
            let (name, digest) = key.value();
            let (Ok(repository), Ok(digest)) = (Repository::new(name), digest.parse()) else {
                let key = format!("{name}@{digest}");
                return Err(MetadataError::Damaged { table: "links", key }.into());
            };
            if !self.store.contains(&digest) {
                gone.push((repository, digest));
            }
        }
        Ok(gone)
    }

    /// Everything that waited for the commit.
    fn committed(&self, batch: Batch, written: Vec<((Repository, Digest), PendingLink)>) {
        let mut cache = self.shared.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.drop_repositories(batch.changed.iter().map(String::as_str));
        drop(cache);
        let mut pending = lock(&self.shared.pending);
        for (key, link) in written {
            if pending.links.get(&key).is_some_and(|now| now.sequence == link.sequence) {
                pending.links.remove(&key);
            }
        }
        if pending.links.is_empty()
            && let Some(journal) = &mut pending.journal
        {
            // The commit stands. Lines that stay are known by their sequence.
            if let Err(error) = journal.clear() {
                tracing::warn!(%error, "the journal of links grows for now");
            }
        }
        drop(pending);
        for (name, digests) in batch.released {
            // A ref too many keeps a blob longer; the next start removes it.
            if let Err(error) = self.refs.remove(&name, &digests) {
                tracing::warn!(%error, name, "cannot remove a ref of the blob store");
            }
        }
    }
}

/// What a transaction leads to once it stands.
#[derive(Default)]
struct Batch {
    /// Whether any row differs.
    applied: bool,
    /// Repositories whose rows differ now.
    changed: BTreeSet<String>,
    /// Refs to remove.
    released: BTreeMap<String, Vec<Digest>>,
}
