//! The writer thread: checks, commits and publishes batches of writes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::sync::mpsc;

use super::cache::{Change, Event};
use super::database::{Database, Row, StorageError};
use super::{Expected, Key, Operation, QueuedWrite, Shared, Write, WriteError};
use crate::object;

/// Writes that share one sync.
const BATCH_WRITES_MAX: usize = 256;

/// Largest stored object in bytes (1.5 MiB), etcd's usual limit.
const OBJECT_BYTES_MAX: usize = 1536 * 1024;

pub(super) fn spawn(
    database: Database,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<QueuedWrite>,
) -> Result<(), StorageError> {
    let writer = Writer {
        path: database.path().to_owned(),
        database: Some(database),
        doubtful: Vec::new(),
        shared,
        queue,
    };
    std::thread::Builder::new()
        .name("api-storage".to_owned())
        .spawn(move || writer.run())
        .map(drop)
        .map_err(StorageError::Thread)
}

struct Writer {
    path: PathBuf,
    /// Absent after a failure, until the file could be opened again.
    database: Option<Database>,
    /// Places whose state on disk is not known: a commit that failed late may be there or not.
    doubtful: Vec<(&'static str, Key)>,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<QueuedWrite>,
}

/// An accepted write of the current batch.
struct Accepted {
    storage: &'static str,
    event: Arc<Event>,
    answer: Arc<Value>,
    reply: tokio::sync::oneshot::Sender<Result<Arc<Value>, WriteError>>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_WRITES_MAX
                && let Ok(next) = self.queue.try_recv()
            {
                batch.push(next);
            }
            self.process(batch);
        }
    }

    fn process(&mut self, batch: Vec<QueuedWrite>) {
        let mut revision = self.shared.published.load(Ordering::Acquire);
        let mut overlay: HashMap<(&'static str, Key), Option<Arc<Value>>> = HashMap::new();
        let mut rows: Vec<Row> = Vec::new();
        let mut accepted: Vec<Accepted> = Vec::new();
        for QueuedWrite { write, reply } in batch {
            let place = (write.storage, write.key.clone());
            let current = match overlay.get(&place) {
                Some(pending) => pending.clone(),
                None => self.shared.kinds.get(write.storage).and_then(|kind| kind.get(&write.key)),
            };
            match prepare(write, current, revision + 1) {
                Ok((event, answer, row)) => {
                    revision += 1;
                    let newest = match &event.change {
                        Change::Put(object) => Some(Arc::clone(object)),
                        Change::Delete(_) => None,
                    };
                    overlay.insert(place, newest);
                    accepted.push(Accepted {
                        storage: row.storage,
                        event: Arc::new(event),
                        answer,
                        reply,
                    });
                    rows.push(row);
                }
                // A caller that went away does not need the answer.
                Err(error) => drop(reply.send(Err(error))),
            }
        }
        if accepted.is_empty() {
            return;
        }
        match self.commit(&rows, revision) {
            Ok(()) => self.publish(accepted, revision),
            Err(error) => self.refuse(accepted, &error),
        }
    }

    /// Commits a batch. After a failure (a full disk, say) the database refuses everything until it
    /// is opened anew, so the next batch begins with that, and with putting what is doubtful right.
    fn commit(&mut self, rows: &[Row], revision: u64) -> Result<(), StorageError> {
        let outcome = self.try_commit(rows, revision);
        match outcome {
            Ok(()) => self.doubtful.clear(),
            Err(_) => self.doubtful.extend(rows.iter().map(|row| (row.storage, row.key.clone()))),
        }
        outcome
    }

    fn try_commit(&mut self, rows: &[Row], revision: u64) -> Result<(), StorageError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let database = Database::open(&self.path)?;
                let repairs = self.repairs();
                database.commit(&repairs, self.shared.published.load(Ordering::Acquire))?;
                database
            }
        };
        database.commit(rows, revision)?;
        self.database = Some(database);
        Ok(())
    }

    /// What readers see at the doubtful places, as rows.
    fn repairs(&self) -> Vec<Row> {
        let rows = self.doubtful.iter().map(|(storage, key)| {
            let seen = self.shared.kinds.get(storage).and_then(|kind| kind.get(key));
            let bytes = seen.map(|object| object.to_string().into_bytes());
            Row { storage, key: key.clone(), bytes }
        });
        rows.collect()
    }

    fn publish(&self, accepted: Vec<Accepted>, revision: u64) {
        for write in &accepted {
            if let Some(kind) = self.shared.kinds.get(write.storage) {
                kind.publish(Arc::clone(&write.event));
            }
        }
        self.shared.published.store(revision, Ordering::Release);
        for write in accepted {
            drop(write.reply.send(Ok(write.answer)));
        }
    }

    /// Nothing of the batch is visible; its revisions are used again.
    fn refuse(&self, accepted: Vec<Accepted>, error: &StorageError) {
        let cause = std::error::Error::source(error);
        let text = cause.map_or_else(|| error.to_string(), ToString::to_string);
        tracing::error!(path = %self.path.display(), error = text, "storage commit failed");
        for write in accepted {
            drop(write.reply.send(Err(WriteError::Storage(text.clone()))));
        }
    }
}

fn prepare(
    write: Write,
    current: Option<Arc<Value>>,
    revision: u64,
) -> Result<(Event, Arc<Value>, Row), WriteError> {
    let holds = match (write.expected, &current) {
        (Expected::Absent, None) => true,
        (Expected::Revision(expected), Some(object)) => {
            object::resource_version(object) == expected
        }
        (Expected::Absent, Some(_)) | (Expected::Revision(_), None) => false,
    };
    if !holds {
        return Err(WriteError::Unexpected);
    }
    let (mut object, removes) = match write.operation {
        Operation::Put(object) => (object, false),
        Operation::DeleteAs(last) => (last, true),
        Operation::Delete => (current.as_deref().cloned().unwrap_or_default(), true),
    };
    object::set(&mut object, &["metadata", "resourceVersion"], revision.to_string());
    let bytes =
        serde_json::to_vec(&object).map_err(|error| WriteError::Storage(error.to_string()))?;
    if OBJECT_BYTES_MAX < bytes.len() {
        return Err(WriteError::TooLarge { bytes: bytes.len(), bytes_max: OBJECT_BYTES_MAX });
    }
    let object = Arc::new(object);
    let change = if removes {
        Change::Delete(Arc::clone(&object))
    } else {
        Change::Put(Arc::clone(&object))
    };
    let event =
        Event { revision, key: write.key.clone(), change, previous: current, bytes: bytes.len() };
    let row = Row { storage: write.storage, key: write.key, bytes: (!removes).then_some(bytes) };
    Ok((event, object, row))
}
