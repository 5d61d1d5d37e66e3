//! The work queue of one controller: each key waits once, failures wait longer each time.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Pause after the first failure of a key; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// Longest pause between two tries of a key.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Doublings after which the pause is the longest anyway.
const RETRY_DOUBLINGS_MAX: u32 = 13;

/// The object a controller looks at next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// Namespace; empty for cluster-scoped kinds.
    pub(super) namespace: String,
    /// Name.
    pub(super) name: String,
}

impl Key {
    /// The key of an object.
    pub(super) fn of(object: &serde_json::Value) -> Self {
        Self::new(crate::object::namespace(object), crate::object::name(object))
    }

    /// The key of a namespace and a name.
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Keys that are due now, and keys that are due later. Its size is that of the objects watched.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Key>,
    waiting: HashSet<Key>,
    delayed: BTreeMap<(Instant, u64), Key>,
    due: HashMap<Key, (Instant, u64)>,
    failures: HashMap<Key, u32>,
    ticket: u64,
}

impl Queue {
    /// Adds a key that is due now; a key that already waits stays where it is.
    pub(super) fn add(&mut self, key: Key) {
        if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Adds a key that is due at a time; of several times the earliest counts.
    pub(super) fn add_at(&mut self, key: Key, at: Instant) {
        if let Some(earlier) = self.due.get(&key).copied() {
            if earlier.0 <= at {
                return;
            }
            self.delayed.remove(&earlier);
        }
        self.ticket += 1;
        self.due.insert(key.clone(), (at, self.ticket));
        self.delayed.insert((at, self.ticket), key);
    }

    /// Notes that a key failed and adds it after its pause, which is returned.
    pub(super) fn add_failed(&mut self, key: Key, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let pause = (RETRY_FIRST * 2_u32.pow((*failures).min(RETRY_DOUBLINGS_MAX))).min(RETRY_MAX);
        *failures = failures.saturating_add(1);
        self.add_at(key, now + pause);
        pause
    }

    /// Notes that a key succeeded.
    pub(super) fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// The next key that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Key> {
        while let Some(entry) = self.delayed.first_entry() {
            if now < entry.key().0 {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        Some(key)
    }

    /// When the next delayed key is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_waits_once_and_the_earliest_time_counts() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let key = Key::new("a", "b");
        queue.add(key.clone());
        queue.add(key.clone());
        assert_eq!(queue.pop(now), Some(key.clone()));
        assert_eq!(queue.pop(now), None);
        queue.add_at(key.clone(), now + Duration::from_secs(9));
        queue.add_at(key.clone(), now + Duration::from_secs(3));
        queue.add_at(key.clone(), now + Duration::from_secs(6));
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(3)));
        assert_eq!(queue.pop(now + Duration::from_secs(2)), None);
        assert_eq!(queue.pop(now + Duration::from_secs(3)), Some(key));
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn failures_double_the_pause_until_success() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let key = Key::new("", "n");
        let pauses: Vec<u128> =
            (0..3).map(|_| queue.add_failed(key.clone(), now).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40]);
        for _ in 0..20 {
            queue.add_failed(key.clone(), now);
        }
        assert_eq!(queue.add_failed(key.clone(), now), RETRY_MAX);
        queue.forget(&key);
        assert_eq!(queue.add_failed(key, now), RETRY_FIRST);
    }
}
