//! The writer thread: checks, commits and publishes batches of writes.

use std::collections::HashMap;
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
    let writer = Writer { database, shared, queue };
    std::thread::Builder::new()
        .name("api-storage".to_owned())
        .spawn(move || writer.run())
        .map(drop)
        .map_err(StorageError::Thread)
}

struct Writer {
    database: Database,
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
        match self.database.commit(&rows, revision) {
            Ok(()) => self.publish(accepted, revision),
            Err(error) => self.refuse(accepted, &error),
        }
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
    fn refuse(&mut self, accepted: Vec<Accepted>, error: &StorageError) {
        tracing::error!(path = %self.database.path().display(), error = %error, "storage commit failed");
        for write in accepted {
            let text = std::error::Error::source(error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            drop(write.reply.send(Err(WriteError::Storage(text))));
        }
        if !self.database.is_usable() {
            tracing::error!("storage refuses writes until the server restarts");
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
