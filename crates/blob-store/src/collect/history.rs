//! What the last collection did, and why a blob stays.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_model::Digest;

use super::Collected;
use crate::durable::{FileLock, LockKind, replace_file};
use crate::error::{CollectError, DiskError, RefError};
use crate::lease;
use crate::ref_log::{LogMark, Record};
use crate::store::{BlobStore, last_use};

/// What the last collection did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCollection {
    /// When it began, to the second.
    pub at: SystemTime,
    /// What it did.
    pub collected: Collected,
}

/// Why a blob stays, or that it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepers {
    /// Its size in bytes; `None` if the store does not hold it.
    pub size: Option<u64>,
    /// When it was last used.
    pub last_use: Option<SystemTime>,
    /// Names of refs that keep it, at most as many as asked for.
    pub refs: Vec<String>,
    /// Whether a running process guards it with a lease.
    pub leased: bool,
    /// Whether damaged bytes of it are in quarantine.
    pub quarantined: bool,
}

impl BlobStore {
    /// What the last collection did; `None` before the first.
    pub fn last_collection(&self) -> Option<LastCollection> {
        let text = std::fs::read_to_string(self.root().join("collected")).ok()?;
        let numbers: HashMap<&str, u64> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(what, number)| Some((what, number.parse().ok()?)))
            .collect();
        let number = |what: &str| numbers.get(what).copied().unwrap_or_default();
        let collected = Collected {
            blobs: number("blobs"),
            bytes: number("bytes"),
            kept_blobs: number("kept"),
            waiting_blobs: number("waiting"),
            waiting_bytes: number("waiting-bytes"),
            uploads: usize::try_from(number("uploads")).unwrap_or(usize::MAX),
        };
        Some(LastCollection { at: UNIX_EPOCH + Duration::from_secs(number("at")), collected })
    }

    /// Why a blob stays: the refs that name it, at most `refs_max` of them, leases and last use.
    ///
    /// # Errors
    /// The refs cannot be read, or the disk failed.
    pub fn keepers(&self, digest: &Digest, refs_max: usize) -> Result<Keepers, CollectError> {
        let metadata = std::fs::metadata(self.path(digest)).ok();
        let leased = {
            let lock = self.root().join("locks/collect");
            let _lock = FileLock::acquire(&lock, LockKind::Exclusive)?;
            lease::living(self)?.contains(digest)
        };
        let mut refs = Vec::new();
        self.for_each_ref(|name, digests| {
            if refs.len() < refs_max && digests.contains(digest) {
                refs.push(name.to_owned());
            }
        })?;
        Ok(Keepers {
            size: metadata.as_ref().map(std::fs::Metadata::len),
            last_use: metadata.as_ref().map(last_use),
            refs,
            leased,
            quarantined: self.quarantine_path(digest).exists(),
        })
    }

    /// Calls `visit` with each ref and each of its blobs that the store does not hold, such as one
    /// in quarantine; returns how many blobs are missing.
    ///
    /// # Errors
    /// The refs cannot be read, or the disk failed.
    pub fn for_each_missing(
        &self,
        mut visit: impl FnMut(&str, &Digest),
    ) -> Result<u64, CollectError> {
        let mut present: HashSet<Digest> = HashSet::new();
        let mut missing: HashSet<Digest> = HashSet::new();
        self.for_each_ref(|name, digests| {
            for digest in digests {
                if present.contains(digest) {
                    continue;
                }
                if !missing.contains(digest) && self.contains(digest) {
                    present.insert(*digest);
                    continue;
                }
                missing.insert(*digest);
                visit(name, digest);
            }
        })?;
        Ok(missing.len() as u64)
    }

    /// Calls `visit` with every ref of every owner, in the order of their names.
    fn for_each_ref(&self, mut visit: impl FnMut(&str, &[Digest])) -> Result<(), RefError> {
        for owner in self.inner.refs.owners()? {
            let mut refs = std::collections::BTreeMap::new();
            let mut mark = LogMark::default();
            self.inner.refs.log(&owner).read_on(&mut mark, &mut |record| match record {
                Record::Set { name, digests } => drop(refs.insert(name, digests)),
                Record::Delete { name } => drop(refs.remove(&name)),
            })?;
            for (name, digests) in &refs {
                visit(name, digests);
            }
        }
        Ok(())
    }
}

/// Writes down what a collection did.
pub(super) fn note(
    store: &BlobStore,
    at: SystemTime,
    collected: &Collected,
) -> Result<(), DiskError> {
    let Collected { blobs, bytes, kept_blobs, waiting_blobs, waiting_bytes, uploads } = collected;
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = format!(
        "at {at}\nblobs {blobs}\nbytes {bytes}\nkept {kept_blobs}\nwaiting {waiting_blobs}\n\
         waiting-bytes {waiting_bytes}\nuploads {uploads}\n"
    );
    replace_file(&store.root().join("collected"), text.as_bytes())
}
