//! Release: refs given up for good, and the blobs that only they kept, at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use oci_model::Digest;

use crate::collect::{CollectMode, CollectOptions, Collected, Roots};
use crate::durable::{FileLock, LockKind};
use crate::error::{CollectError, RefError};
use crate::ref_log::Record;
use crate::refs::RefName;
use crate::store::{BlobStore, last_use};

impl BlobStore {
    /// Removes refs, durably, that still keep what the caller saw, and returns what they kept.
    /// Other than with [`BlobStore::remove_ref`] no delay begins for it.
    ///
    /// # Errors
    /// [`RefError::NoSpace`] or a failure of the disk.
    pub fn forget_refs(
        &self,
        refs: &[(RefName, Vec<Digest>)],
    ) -> Result<BTreeSet<Digest>, RefError> {
        let mut by_owner: BTreeMap<&str, Vec<&(RefName, Vec<Digest>)>> = BTreeMap::new();
        for known in refs {
            by_owner.entry(known.0.owner()).or_default().push(known);
        }
        let mut digests = BTreeSet::new();
        for (owner, refs) in by_owner {
            let log = self.inner.refs.log(owner);
            // Who sets a ref shares this lock, so that the look and the removal are one.
            let path = self.inner.root.join("locks/collect");
            let lock = FileLock::acquire(&path, LockKind::Exclusive)?;
            let mut records = Vec::new();
            for (name, seen) in refs {
                let kept = log.with_refs(|refs| refs.get(name.as_str()).cloned())?;
                if kept.as_ref() == Some(seen) {
                    records.push(Record::Delete { name: name.to_string() });
                    digests.extend(seen.iter().copied());
                }
            }
            if records.is_empty() {
                continue;
            }
            let sync = log.append(&records)?;
            drop(lock);
            sync.settle(log.path())?;
        }
        Ok(digests)
    }

    /// Removes those of the blobs that no ref and no lease keeps and of which `is_due` says so,
    /// by the digest and the time of its last use; a use that comes later than this call counts.
    /// All of them stay, for a later collection, if it is not known what must be kept.
    ///
    /// # Errors
    /// [`CollectError`]; then blobs may be left.
    pub fn free(
        &self,
        digests: impl IntoIterator<Item = Digest>,
        is_due: impl Fn(&Digest, SystemTime) -> bool,
    ) -> Result<Collected, CollectError> {
        let options = CollectOptions {
            now: SystemTime::now(),
            delay: Duration::ZERO,
            upload_idle_max: Duration::MAX,
            mode: CollectMode::Apply,
        };
        let mut due = Vec::new();
        let mut collected = Collected::default();
        for digest in digests {
            let Ok(metadata) = std::fs::metadata(self.path(&digest)) else { continue };
            if is_due(&digest, last_use(&metadata)) {
                due.push(digest);
            } else {
                collected.wait(&metadata);
            }
        }
        let mut roots = Roots::default();
        match self.remove_batch(&due, &mut roots, &options, &mut collected, &mut |_, _| {}) {
            Ok(()) | Err(CollectError::OwnerNotReconciled { .. }) => Ok(collected),
            Err(error) => Err(error),
        }
    }
}
