//! What the cache remembers without a database: it only saves requests to upstreams.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci_model::{Digest, Repository, Tag};

use super::manifests::Check;
use super::upstream::UpstreamError;

/// Entries of each kind; when there are more the memory starts over.
const ENTRIES_MAX: usize = 50_000;

/// How long the absence of something upstream is believed.
pub(crate) const NEGATIVE_LIFE: Duration = Duration::from_secs(30);

/// How long after a look at a tag a client may come for the manifest that it named.
const LOOK_LIFE: Duration = Duration::from_secs(3600);

/// Tags that a manifest gets when it comes.
const TAGS_MAX: usize = 64;

/// Uses of cached content closer together than this count as one, in milliseconds.
const USE_GRAIN: u64 = 60_000;

/// Values by key, each with the time when it was learnt.
#[derive(Debug)]
struct Timed<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Timed<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Timed<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &K, life: Duration) -> Option<V> {
        let entries = self.lock();
        entries.get(key).filter(|(at, _)| at.elapsed() < life).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut entries = self.lock();
        if ENTRIES_MAX <= entries.len() {
            entries.clear();
        }
        entries.insert(key, (Instant::now(), value));
    }
}

/// What tags named when their registry was last asked.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    checks: Timed<(Repository, Tag), Check>,
    /// Tags by what they named.
    tags: Timed<(Repository, Digest), BTreeSet<Tag>>,
}

impl Recent {
    /// What the tag named not longer than `life` ago.
    pub(crate) fn get(&self, repository: &Repository, tag: &Tag, life: Duration) -> Option<Check> {
        self.checks.get(&(repository.clone(), tag.clone()), life)
    }

    /// The tags that name a manifest as far as is known: clients look at a tag and then ask for
    /// the digest, and the tag is wanted again when the upstream is down.
    pub(crate) fn tags(&self, repository: &Repository, digest: &Digest) -> Vec<Tag> {
        let key = (repository.clone(), *digest);
        let tags = self.tags.get(&key, LOOK_LIFE).unwrap_or_default();
        let names = |tag: &Tag| {
            self.get(repository, tag, LOOK_LIFE).is_some_and(|check| check.digest == *digest)
        };
        tags.into_iter().filter(names).take(TAGS_MAX).collect()
    }

    pub(crate) fn put(&self, repository: &Repository, tag: &Tag, check: Check) {
        let key = (repository.clone(), check.digest);
        let mut tags = self.tags.get(&key, LOOK_LIFE).unwrap_or_default();
        tags.insert(tag.clone());
        self.tags.put(key, tags);
        self.checks.put((repository.clone(), tag.clone()), check);
    }

    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag) {
        self.checks.lock().remove(&(repository.clone(), tag.clone()));
    }
}

/// What upstreams said that they do not have, or do not show.
#[derive(Debug, Default)]
pub(crate) struct Negatives(Timed<(Repository, String), UpstreamError>);

impl Negatives {
    /// What the upstream said not long ago.
    pub(crate) fn check(&self, repository: &Repository, what: &str) -> Result<(), UpstreamError> {
        match self.0.get(&(repository.clone(), what.to_owned()), NEGATIVE_LIFE) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Notes an error that is an answer; passes all on.
    pub(crate) fn note(&self, repository: &Repository, what: &str, error: &UpstreamError) {
        match error {
            UpstreamError::NotFound
            | UpstreamError::Denied { .. }
            | UpstreamError::Malformed { .. } => {
                self.0.put((repository.clone(), what.to_owned()), error.clone());
            }
            UpstreamError::RateLimited { .. } | UpstreamError::Unavailable { .. } => {}
        }
    }
}

/// Uses of cached content that are not in the database yet.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    pending: Mutex<HashMap<(Repository, Digest), u64>>,
    /// The last use of each that was noted.
    noted: Mutex<HashMap<(Repository, Digest), u64>>,
}

impl Uses {
    /// Notes a use at a time in milliseconds since 1970.
    pub(crate) fn add(&self, repository: &Repository, digest: &Digest, at: u64) {
        let key = (repository.clone(), *digest);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(&key).is_some_and(|last| at < last + USE_GRAIN) {
            return;
        }
        if ENTRIES_MAX <= noted.len() {
            noted.clear();
        }
        noted.insert(key.clone(), at);
        drop(noted);
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(key, at);
    }

    /// Whether something was used and that is not in the database yet.
    pub(crate) fn is_pending(&self, repository: &Repository, digest: &Digest) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.contains_key(&(repository.clone(), *digest))
    }

    /// Takes the uses that are to be written.
    pub(crate) fn take(&self) -> Vec<(Repository, Digest, u64)> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.drain().map(|((repository, digest), at)| (repository, digest, at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_close_together_are_written_once() {
        let (uses, repository) = (Uses::default(), Repository::new("a/b").expect("a name"));
        let digest = Digest::of(b"x");
        uses.add(&repository, &digest, 1_000_000);
        uses.add(&repository, &digest, 1_059_999);
        assert!(uses.is_pending(&repository, &digest));
        assert_eq!(uses.take(), [(repository.clone(), digest, 1_000_000)]);
        uses.add(&repository, &digest, 1_059_999);
        assert_eq!(uses.take(), []);
        uses.add(&repository, &digest, 1_060_000);
        assert_eq!(uses.take(), [(repository, digest, 1_060_000)]);
    }

    #[test]
    fn only_answers_are_remembered_as_absence() {
        let (negatives, repository) = (Negatives::default(), Repository::new("a").expect("a name"));
        negatives.note(&repository, "v1", &UpstreamError::RateLimited { retry_after: None });
        assert_eq!(negatives.check(&repository, "v1"), Ok(()));
        negatives.note(&repository, "v1", &UpstreamError::NotFound);
        assert_eq!(negatives.check(&repository, "v1"), Err(UpstreamError::NotFound));
        assert_eq!(negatives.check(&repository, "v2"), Ok(()));
        assert!(NEGATIVE_LIFE <= Duration::from_secs(30));
    }
}
