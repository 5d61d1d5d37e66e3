//! One kind in memory: its objects, and the recent events that watches and paged lists read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;
use tokio::sync::watch;

use super::Key;

/// Events kept per kind; a watch or page token older than the oldest gets 410.
const HISTORY_EVENTS_MAX: usize = 1024;

/// Bytes of encoded objects kept in one kind's history.
const HISTORY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What an event did.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The object was created or replaced by this.
    Put(Arc<Value>),
    /// The object was removed; this is its last state with the revision of the removal.
    Delete(Arc<Value>),
}

/// One write, as watches see it.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) change: Change,
    pub(crate) previous: Option<Arc<Value>>,
    pub(crate) bytes: usize,
}

struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// Events up to this revision are not in `history`.
    compacted: u64,
    /// Revision of the newest event.
    newest: u64,
}

/// One kind's objects and recent events.
pub(crate) struct KindCache {
    state: RwLock<State>,
    /// Wakes watches; carries the newest revision of this kind.
    changed: watch::Sender<u64>,
}

/// A consistent view of a kind.
pub(crate) struct Snapshot {
    pub(crate) items: Vec<(Key, Arc<Value>)>,
    pub(crate) revision: u64,
}

/// The revision asked for left the history.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    pub(crate) oldest: u64,
}

impl KindCache {
    pub(super) fn new(revision: u64) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            compacted: revision,
            newest: revision,
        };
        Self { state: RwLock::new(state), changed: watch::Sender::new(revision) }
    }

    // A panic while the lock is held cannot leave half a change behind that matters more than
    // serving: every update below is a few container operations.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an object read from disk.
    pub(super) fn load(&self, key: Key, object: Arc<Value>) {
        self.write().objects.insert(key, object);
    }

    /// The object of a key.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.read().objects.len()
    }

    /// Makes an event visible.
    pub(super) fn publish(&self, event: Arc<Event>) {
        let revision = event.revision;
        {
            let mut state = self.write();
            match &event.change {
                Change::Put(object) => {
                    state.objects.insert(event.key.clone(), Arc::clone(object));
                }
                Change::Delete(_) => {
                    state.objects.remove(&event.key);
                }
            }
            state.newest = revision;
            state.history_bytes += event.bytes;
            state.history.push_back(event);
            while HISTORY_EVENTS_MAX < state.history.len()
                || HISTORY_BYTES_MAX < state.history_bytes
            {
                let Some(oldest) = state.history.pop_front() else {
                    break;
                };
                state.history_bytes -= oldest.bytes;
                state.compacted = oldest.revision;
            }
        }
        self.changed.send_replace(revision);
    }

    /// A receiver that wakes on every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Objects of one namespace (or all, when `namespace` is empty) after a key, now.
    ///
    /// `published` must have been read before the call: every event up to it is included.
    pub(crate) fn snapshot(
        &self,
        namespace: &str,
        after: Option<&Key>,
        published: u64,
    ) -> Snapshot {
        let state = self.read();
        let items = range(&state.objects, namespace, after)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        Snapshot { items, revision: published.max(state.newest) }
    }

    /// The one object of a key, now; `published` as for [`KindCache::snapshot`].
    pub(crate) fn snapshot_of(&self, key: &Key, published: u64) -> Snapshot {
        let state = self.read();
        let found = state.objects.get_key_value(key);
        let items = found.map(|(key, object)| (key.clone(), Arc::clone(object)));
        Snapshot { items: items.into_iter().collect(), revision: published.max(state.newest) }
    }

    /// The same as [`KindCache::snapshot`], as it was at a past revision, by undoing the events since.
    pub(crate) fn snapshot_at(
        &self,
        namespace: &str,
        after: Option<&Key>,
        revision: u64,
    ) -> Result<Snapshot, Compacted> {
        let state = self.read();
        if revision < state.compacted {
            return Err(Compacted { oldest: state.compacted });
        }
        let mut undone: BTreeMap<Key, Option<Arc<Value>>> = BTreeMap::new();
        for event in state.history.iter().rev().take_while(|event| revision < event.revision) {
            undone.insert(event.key.clone(), event.previous.clone());
        }
        let mut view: BTreeMap<Key, Arc<Value>> = range(&state.objects, namespace, after)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        for (key, previous) in undone {
            let covered = (namespace.is_empty() || key.namespace == namespace)
                && after.is_none_or(|after| *after < key);
            match previous {
                _ if !covered => {}
                Some(object) => {
                    view.insert(key, object);
                }
                None => {
                    view.remove(&key);
                }
            }
        }
        Ok(Snapshot { items: view.into_iter().collect(), revision })
    }

    /// At most `events_max` events after a revision, oldest first.
    pub(crate) fn events_after(
        &self,
        revision: u64,
        events_max: usize,
    ) -> Result<Vec<Arc<Event>>, Compacted> {
        let state = self.read();
        if revision < state.compacted {
            return Err(Compacted { oldest: state.compacted });
        }
        let start = state.history.partition_point(|event| event.revision <= revision);
        Ok(state.history.iter().skip(start).take(events_max).cloned().collect())
    }
}

fn range<'a>(
    objects: &'a BTreeMap<Key, Arc<Value>>,
    namespace: &'a str,
    after: Option<&Key>,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
    use std::ops::Bound;
    let first = Key::new(namespace, "");
    let start = match after {
        Some(key) => Bound::Excluded(key.clone()),
        None => Bound::Included(first),
    };
    objects
        .range((start, Bound::Unbounded))
        .take_while(move |(key, _)| namespace.is_empty() || key.namespace == namespace)
}
