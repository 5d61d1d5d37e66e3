//! The thread that writes the log and applies what others wrote; the only one that writes the
//! tables of a replica.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redb::{Durability, ReadableDatabase as _, WriteTransaction};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::entry::{self, Entry};
use super::objects::Put;
use super::{Ground, Moment, Place, ReplicaError, keeper, snapshot};
use crate::metadata::changes::{Change, ChangeError, Reply, Stamp, apply};
use crate::metadata::local::{Request, Work};
use crate::metadata::tables::{self, META, Tables};
use crate::metadata::{MetadataError, Shared, lock};

/// Changes in one entry.
const BATCH_CHANGES: usize = 256;

/// Bytes of changes in one entry, unless a single change is larger.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What a change costs beside the bytes of a manifest.
const CHANGE_BYTES: usize = 1024;

/// How often a batch may lose its place to other replicas before its clients are told to come
/// back.
const ROUNDS_MAX: u32 = 64;

/// How often the bucket's client may give up on one entry.
const PUT_ATTEMPTS: u32 = 4;

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Entries fetched at once by a replica that is behind.
const FETCH_WINDOW: u64 = 16;

/// How often in a row a replica that fell behind the log may begin from a snapshot.
const RELOADS_MAX: u32 = 3;

/// Transactions after which the local database is synced, so that it can use its free space again.
const SYNC_TRANSACTIONS: u32 = 256;

/// Row of `meta` with the id of the log.
const LOG_ID: &str = "log";

/// Row of `meta` with the last entry that was applied.
const SEQUENCE: &str = "sequence";

/// What the writer is asked for.
pub(super) enum Message {
    /// To write a change.
    Change(Request),
    /// To apply what others wrote.
    Follow(oneshot::Sender<Result<(), ChangeError>>),
}

/// The writer.
pub(super) struct Writer {
    ground: Arc<Ground>,
    runtime: Handle,
    /// Together with a number that never comes again they tell whose an entry is.
    id: String,
    nonce: u64,
    /// Entries and bytes applied since this replica last thought of a snapshot.
    entries: u64,
    bytes: u64,
    unsynced: u32,
    keeper: Option<JoinHandle<()>>,
}

/// A batch as the tables of a transaction see it.
struct Judged<'a> {
    answers: Vec<Result<Reply, ChangeError>>,
    /// What has to be logged.
    changes: Vec<(&'a Change, &'a Stamp)>,
    /// Repositories whose rows differ.
    changed: BTreeSet<String>,
}

/// Makes the local database one of this log; returns up to where it is.
pub(super) fn prepare(shared: &Shared, id: &str) -> Result<u64, MetadataError> {
    let known = {
        let meta = shared.database.begin_read()?.open_table(META)?;
        let ours = meta.get(LOG_ID)?.is_some_and(|known| known.value() == id);
        let sequence = meta.get(SEQUENCE)?.and_then(|row| row.value().parse().ok());
        sequence.filter(|_| ours)
    };
    if let Some(sequence) = known {
        return Ok(sequence);
    }
    let transaction = shared.database.begin_write()?;
    tables::clear(&transaction)?;
    drop(Tables::open(&transaction)?);
    transaction.open_table(META)?.insert(LOG_ID, id)?;
    place_at(&transaction, 0)?;
    transaction.commit()?;
    Ok(0)
}

fn place_at(transaction: &WriteTransaction, sequence: u64) -> Result<(), MetadataError> {
    transaction.open_table(META)?.insert(SEQUENCE, sequence.to_string().as_str())?;
    Ok(())
}

fn weight(request: &Request) -> usize {
    match &request.work {
        Work::Change(Change::PutManifest(manifest)) => manifest.bytes.len() + CHANGE_BYTES,
        Work::Change(_) | Work::Tidy => CHANGE_BYTES,
    }
}

impl Writer {
    pub(super) fn new(ground: Arc<Ground>, runtime: Handle) -> Self {
        Self {
            ground,
            runtime,
            id: uuid::Uuid::new_v4().to_string(),
            nonce: 0,
            entries: 0,
            bytes: 0,
            unsynced: 0,
            keeper: None,
        }
    }

    /// Brings the tables up to date for the first time.
    pub(super) fn begin(&mut self) -> Result<(), MetadataError> {
        let snapshots = self.runtime.block_on(keeper::list(&*self.ground.objects))?;
        let newest = snapshots.last().map_or(0, |(sequence, _)| *sequence);
        let place = self.ground.place().sequence;
        if newest > place && (place == 0 || newest - place > self.ground.pace.snapshot_entries) {
            self.reload()?;
        }
        self.follow()
    }

    /// Works until no sender is left.
    pub(super) fn run(mut self, receiver: &Receiver<Message>) {
        let mut requests = VecDeque::new();
        loop {
            let mut followers = Vec::new();
            let first = if requests.is_empty() {
                match receiver.recv() {
                    Ok(message) => Some(message),
                    Err(_) => break,
                }
            } else {
                None
            };
            // Whatever else came meanwhile is for the same entry.
            for message in first.into_iter().chain(receiver.try_iter().take(BATCH_CHANGES)) {
                match message {
                    Message::Change(request) => requests.push_back(request),
                    Message::Follow(reply) => followers.push(reply),
                }
            }
            let batch = take_batch(&mut requests);
            let current = self.round(batch, !followers.is_empty());
            for reply in followers {
                // Whoever asked may be gone.
                let _ = reply.send(match &current {
                    Ok(()) => Ok(()),
                    Err(_) => Err(ChangeError::Unavailable),
                });
            }
        }
        self.end();
    }

    /// Writes a batch. If `current` everything that was written before the call is applied
    /// afterwards.
    fn round(&mut self, batch: Vec<Request>, current: bool) -> Result<(), ChangeError> {
        if batch.is_empty() {
            return Ok(self.follow()?);
        }
        let mut replies = Vec::new();
        let mut work = Vec::new();
        for request in batch {
            // What is gone the collection of the bucket knows and lists itself.
            let change = match request.work {
                Work::Change(change) => change,
                Work::Tidy => Change::Tidy(Vec::new()),
            };
            work.push((change, request.stamp));
            replies.push(request.reply);
        }
        let done = self.commit(&work);
        let (answers, wrote) = match done {
            Ok((answers, wrote)) => (answers, Ok(wrote)),
            Err(error) => (work.iter().map(|_| Err(error.again())).collect(), Err(error)),
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
        // An entry of ours that was written shows that there was none in its place before.
        if current && !wrote? { Ok(self.follow()?) } else { Ok(()) }
    }

    /// Judges the changes and logs what is accepted, until no other replica is in the way.
    fn commit(
        &mut self,
        work: &[(Change, Stamp)],
    ) -> Result<(Vec<Result<Reply, ChangeError>>, bool), ChangeError> {
        for _ in 0..ROUNDS_MAX {
            let sequence = self.ground.place().sequence + 1;
            let transaction = self.transaction()?;
            let judged = judge(work, &transaction)?;
            if judged.changes.is_empty() {
                transaction.abort()?;
                return Ok((judged.answers, false));
            }
            self.nonce += 1;
            let encoded = entry::encode(&self.id, self.nonce, judged.changes.into_iter())
                .map_err(|source| ReplicaError::Entry { sequence, source });
            let encoded = encoded.map_err(MetadataError::from)?;
            let size = encoded.len();
            let sent = Moment::now();
            if self.put(sequence, encoded)? {
                place_at(&transaction, sequence)?;
                transaction.commit()?;
                self.applied(Place { sequence, certain: Some(sent) }, 1, size, &judged.changed);
                self.ground.shared.meter.committed(work.len(), sent.age());
                return Ok((judged.answers, true));
            }
            transaction.abort()?;
            self.follow()?;
        }
        Ok((work.iter().map(|_| Err(ChangeError::Busy)).collect(), false))
    }

    /// Writes an entry; says whether the place was ours.
    fn put(&self, sequence: u64, bytes: Bytes) -> Result<bool, MetadataError> {
        let (key, objects) = (entry::key(sequence), &self.ground.objects);
        let mut failure = None;
        for attempt in 0..PUT_ATTEMPTS {
            self.pause(attempt);
            let refused = match self.runtime.block_on(objects.create(&key, bytes.clone())) {
                Ok(Put::Done(_)) => return self.is_behind_its_log(sequence).map(|behind| !behind),
                Ok(Put::Refused) => None,
                Err(error) => Some(error),
            };
            // Whether refused or lost: the entry says whose it is.
            match self.runtime.block_on(objects.get(&key)) {
                Ok(Some(found)) => {
                    let found = Entry::decode(&found)
                        .map_err(|source| ReplicaError::Entry { sequence, source })?;
                    let ours = found.is(&self.id, self.nonce);
                    return Ok(ours && !self.is_behind_its_log(sequence)?);
                }
                Ok(None) => failure = refused.or(failure),
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.unwrap_or_else(|| super::ObjectsError {
            action: "create",
            key,
            source: "it is refused and not there".into(),
        });
        Err(ReplicaError::from(failure).into())
    }

    /// Whether the entry that was just written is where the log was long removed. Nobody stands
    /// before it, so nobody will read it; it goes with the next old end.
    fn is_behind_its_log(&self, sequence: u64) -> Result<bool, MetadataError> {
        let ground = &self.ground;
        Ok(!ground.is_trusted() && !self.runtime.block_on(ground.still_has(sequence - 1))?)
    }

    fn pause(&self, attempt: u32) {
        if attempt > 0 {
            let longest = self.ground.pace.pause_first.saturating_mul(1 << attempt.min(16));
            let pause = longest.min(PAUSE_MAX).mul_f64(0.5 + fastrand::f64() / 2.);
            std::thread::sleep(pause);
        }
    }

    /// Applies entries until there is no next one.
    fn follow(&mut self) -> Result<(), MetadataError> {
        let (mut window, mut reloads) = (1, 0);
        loop {
            let sequence = self.ground.place().sequence;
            let asked = Moment::now();
            let found = self.fetch(sequence + 1, window)?;
            // After the answer: see `replica`, "The old end".
            if !self.ground.is_trusted()
                && !self.runtime.block_on(self.ground.still_has(sequence))?
            {
                if reloads == RELOADS_MAX {
                    return Err(ReplicaError::NoSnapshot.into());
                }
                reloads += 1;
                self.reload()?;
                continue;
            }
            let is_last = (found.len() as u64) < window;
            let place = Place {
                sequence: sequence + found.len() as u64,
                certain: if is_last { Some(asked) } else { self.ground.place().certain },
            };
            if found.is_empty() {
                *lock(&self.ground.place) = place;
            } else {
                self.apply(found, place)?;
            }
            if is_last {
                return Ok(());
            }
            window = FETCH_WINDOW;
        }
    }

    /// The entries from `first` on, at most `window`, up to the first that is not there.
    fn fetch(&self, first: u64, window: u64) -> Result<Vec<Bytes>, MetadataError> {
        let gets = (first..first + window)
            .map(|sequence| async move { self.ground.objects.get(&entry::key(sequence)).await });
        let mut found = Vec::new();
        for got in self.runtime.block_on(futures_util::future::join_all(gets)) {
            match got? {
                Some(bytes) => found.push(bytes),
                None => break,
            }
        }
        Ok(found)
    }

    /// Applies entries of others, or ours of which we did not know.
    fn apply(&mut self, found: Vec<Bytes>, place: Place) -> Result<(), MetadataError> {
        let transaction = self.transaction()?;
        let mut changed = BTreeSet::new();
        let first = self.ground.place().sequence + 1;
        for (sequence, bytes) in (first..).zip(&found) {
            let entry =
                Entry::decode(bytes).map_err(|source| ReplicaError::Entry { sequence, source })?;
            let mut tables = Tables::open(&transaction)?;
            for logged in &entry.changes {
                let outcome = apply(&logged.change, &logged.stamp, &mut tables);
                let outcome = outcome.map_err(|error| {
                    tracing::error!(%error, sequence, "a change of the log cannot be made here");
                    ReplicaError::Diverged { sequence }
                })?;
                changed.extend(outcome.changed);
            }
        }
        place_at(&transaction, place.sequence)?;
        transaction.commit()?;
        let size = found.iter().map(Bytes::len).sum();
        self.applied(place, found.len() as u64, size, &changed);
        Ok(())
    }

    /// Everything that waited for a transaction.
    fn applied(&mut self, place: Place, entries: u64, size: usize, changed: &BTreeSet<String>) {
        let mut cache = self.ground.shared.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.drop_repositories(changed.iter().map(String::as_str));
        drop(cache);
        *lock(&self.ground.place) = place;
        self.entries += entries;
        self.bytes += size as u64;
        let pace = self.ground.pace;
        if self.entries < pace.snapshot_entries && self.bytes < pace.snapshot_bytes
            || self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished())
        {
            return;
        }
        match self.ground.shared.database.begin_read() {
            Ok(transaction) => {
                (self.entries, self.bytes) = (0, 0);
                let objects = Arc::clone(&self.ground.objects);
                let work = keeper::run(objects, pace, place.sequence, transaction);
                self.keeper = Some(self.runtime.spawn(work));
            }
            Err(error) => tracing::warn!(%error, "the tables cannot be read for a snapshot"),
        }
    }

    /// Begins again from the newest snapshot that can be read, or from the first entry.
    fn reload(&mut self) -> Result<(), MetadataError> {
        let objects = Arc::clone(&self.ground.objects);
        let snapshots = self.runtime.block_on(keeper::list(&*objects))?;
        for (sequence, _) in snapshots.iter().rev() {
            let Some(bytes) = self.runtime.block_on(objects.get(&snapshot::key(*sequence)))? else {
                continue;
            };
            match self.load(Some(&bytes), *sequence) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    sequence,
                    "a snapshot of the metadata cannot be read"
                ),
            }
        }
        match self.runtime.block_on(objects.get(&entry::key(1)))? {
            Some(_) => self.load(None, 0),
            None => Err(ReplicaError::NoSnapshot.into()),
        }
    }

    fn load(&mut self, snapshot: Option<&[u8]>, sequence: u64) -> Result<(), MetadataError> {
        let transaction = self.ground.shared.database.begin_write()?;
        tables::clear(&transaction)?;
        let mut tables = Tables::open(&transaction)?;
        if let Some(snapshot) = snapshot {
            snapshot::load(snapshot, &mut tables)?;
        }
        drop(tables);
        place_at(&transaction, sequence)?;
        transaction.commit()?;
        self.ground.shared.cache.write().unwrap_or_else(PoisonError::into_inner).clear();
        *lock(&self.ground.place) = Place { sequence, certain: None };
        (self.entries, self.bytes, self.unsynced) = (0, 0, 0);
        Ok(())
    }

    /// A transaction of which the death of the machine may leave nothing: the log has it all.
    fn transaction(&mut self) -> Result<WriteTransaction, MetadataError> {
        let mut transaction = self.ground.shared.database.begin_write()?;
        self.unsynced += 1;
        if self.unsynced < SYNC_TRANSACTIONS {
            // Only savepoints forbid it, and there are none.
            let _ = transaction.set_durability(Durability::None);
        } else {
            self.unsynced = 0;
        }
        Ok(transaction)
    }

    fn end(mut self) {
        if let Some(keeper) = self.keeper.take()
            && self.runtime.block_on(keeper).is_err()
        {
            tracing::error!("the keeper of snapshots panicked");
        }
        let synced = self.ground.shared.database.begin_write().map_err(MetadataError::from);
        if let Err(error) = synced.and_then(|transaction| Ok(transaction.commit()?)) {
            tracing::warn!(%error, "the next start reads more of the log than it had to");
        }
    }
}

/// The next changes that fit one entry.
fn take_batch(requests: &mut VecDeque<Request>) -> Vec<Request> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH_CHANGES {
        let Some(next) = requests.front().map(weight) else { break };
        if !batch.is_empty() && bytes + next > BATCH_BYTES {
            break;
        }
        bytes += next;
        batch.extend(requests.pop_front());
    }
    batch
}

/// Makes the changes in a transaction. What changes nothing need not be logged.
fn judge<'a>(
    work: &'a [(Change, Stamp)],
    transaction: &WriteTransaction,
) -> Result<Judged<'a>, ChangeError> {
    let mut judged = Judged { answers: Vec::new(), changes: Vec::new(), changed: BTreeSet::new() };
    let mut tables = Tables::open(transaction)?;
    for (change, stamp) in work {
        let answer = match apply(change, stamp, &mut tables) {
            Ok(outcome) => {
                if tables.is_touched() {
                    judged.changes.push((change, stamp));
                }
                judged.changed.extend(outcome.changed);
                Ok(outcome.reply)
            }
            Err(error) if error.is_rejection() => Err(error),
            Err(error) => return Err(error),
        };
        judged.answers.push(answer);
    }
    Ok(judged)
}
