//! Collection: removes what no ref and no lease keeps.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use oci_model::Digest;

use crate::durable::{FileLock, LockKind, remove_file};
use crate::error::{CollectError, Context as _, DiskError, RefError};
use crate::ingest::sweep_staging;
use crate::lease;
use crate::ref_log::{LogMark, Record, RefLog};
use crate::refs::is_reconciled;
use crate::store::{BlobStore, LAST_USE_GRANULARITY, last_use};

mod history;

pub use self::history::{Keepers, LastCollection};

/// Blobs removed under one hold of the lock, so that a pull or a push never waits for long.
const BATCH_BLOBS: usize = 256;

/// What a collection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectMode {
    /// Remove.
    Apply,
    /// Only tell what would be removed.
    Plan,
}

/// How a collection behaves.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// The time by which delays are measured.
    pub now: SystemTime,
    /// How long after its last use an unneeded blob is still kept: whoever saw it (a client that
    /// skips an upload, say) has this long to set a ref.
    pub delay: Duration,
    /// How long an upload may receive nothing before it is dropped.
    pub upload_idle_max: Duration,
    /// Remove or only tell.
    pub mode: CollectMode,
}

/// What a collection did or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that stay.
    pub kept_blobs: u64,
    /// Of those, blobs that nothing keeps and whose delay is not over.
    pub waiting_blobs: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Uploads dropped.
    pub uploads: usize,
}

impl CollectOptions {
    /// How long after the noted last use a blob goes. A use is noted only if the last note is
    /// older than a minute, so a minute is added; not to shorter delays, which promise nothing to
    /// those who saw a blob.
    pub fn effective_delay(delay: Duration) -> Duration {
        if delay >= LAST_USE_GRANULARITY { delay + LAST_USE_GRANULARITY } else { delay }
    }
}

impl Collected {
    pub(crate) fn wait(&mut self, metadata: &std::fs::Metadata) {
        self.kept_blobs += 1;
        self.waiting_blobs += 1;
        self.waiting_bytes += metadata.len();
    }
}

impl BlobStore {
    /// Removes blobs that no ref and no lease keeps and that were not used for the delay; calls
    /// `removed` for each. Pushes, pulls and other processes go on meanwhile.
    ///
    /// # Errors
    /// [`CollectError::Running`] if another collection runs; [`CollectError::OwnerNotReconciled`]
    /// and [`RefError::Damaged`] if it is not known what must be kept: then nothing is removed.
    pub fn collect(
        &self,
        options: &CollectOptions,
        mut removed: impl FnMut(&Digest, u64),
    ) -> Result<Collected, CollectError> {
        let root = &self.inner.root;
        let Some(_only_one) = FileLock::try_exclusive(&root.join("locks/collector"))? else {
            return Err(CollectError::Running { path: root.clone() });
        };
        let mut collected = Collected::default();
        if options.mode == CollectMode::Apply {
            sweep_staging(self)?;
            self.empty_trash()?;
            self.drop_repaired()?;
            let lock = FileLock::acquire(&root.join("locks/collect"), LockKind::Exclusive)?;
            lease::living(self)?;
            drop(lock);
            collected.uploads = self.remove_idle_uploads(options.now, options.upload_idle_max)?;
        }
        let mut roots = Roots::default();
        roots.read_on(self)?;
        let mut candidates = Vec::new();
        self.walk(|digest, metadata| -> Result<(), CollectError> {
            if roots.live.contains(&digest) {
                collected.kept_blobs += 1;
                return Ok(());
            }
            if !is_due(metadata, options) {
                collected.wait(metadata);
                return Ok(());
            }
            candidates.push(digest);
            if candidates.len() == BATCH_BLOBS {
                let batch = std::mem::take(&mut candidates);
                self.remove_batch(&batch, &mut roots, options, &mut collected, &mut removed)?;
            }
            Ok(())
        })?;
        self.remove_batch(&candidates, &mut roots, options, &mut collected, &mut removed)?;
        if options.mode == CollectMode::Apply {
            for owner in self.inner.refs.owners()? {
                self.inner.refs.log(&owner).compact()?;
            }
            history::note(self, options.now, &collected)?;
        }
        Ok(collected)
    }

    /// Looks at the candidates again with everybody else kept out, and removes those still unkept.
    pub(crate) fn remove_batch(
        &self,
        candidates: &[Digest],
        roots: &mut Roots,
        options: &CollectOptions,
        collected: &mut Collected,
        removed: &mut impl FnMut(&Digest, u64),
    ) -> Result<(), CollectError> {
        if candidates.is_empty() {
            return Ok(());
        }
        let root = &self.inner.root;
        let mut doomed = Vec::new();
        {
            let _lock = FileLock::acquire(&root.join("locks/collect"), LockKind::Exclusive)?;
            roots.read_on(self)?;
            let leased: HashSet<Digest> = lease::living(self)?.into_iter().collect();
            for digest in candidates {
                let path = self.path(digest);
                // Gone meanwhile: quarantined.
                let Ok(metadata) = std::fs::metadata(&path) else { continue };
                if roots.live.contains(digest) {
                    collected.kept_blobs += 1;
                    continue;
                }
                if leased.contains(digest) || !is_due(&metadata, options) {
                    collected.wait(&metadata);
                    continue;
                }
                collected.blobs += 1;
                collected.bytes += metadata.len();
                removed(digest, metadata.len());
                if options.mode == CollectMode::Apply {
                    let trash = root.join("trash").join(uuid::Uuid::new_v4().simple().to_string());
                    std::fs::rename(&path, &trash).doing("remove", &path)?;
                    doomed.push(trash);
                }
            }
        }
        // Freeing the space of large files takes time: after the lock.
        for path in doomed {
            remove_file(&path)?;
        }
        Ok(())
    }

    fn empty_trash(&self) -> Result<(), DiskError> {
        let directory = self.inner.root.join("trash");
        for entry in std::fs::read_dir(&directory).doing("list", &directory)? {
            remove_file(&entry.doing("list", &directory)?.path())?;
        }
        Ok(())
    }
}

/// Everything a ref keeps, read from the logs piece by piece.
///
/// A ref that is removed while the collection runs still counts: its blobs go next time.
#[derive(Default)]
pub(crate) struct Roots {
    live: HashSet<Digest>,
    marks: Vec<(String, LogMark)>,
}

impl Roots {
    fn read_on(&mut self, store: &BlobStore) -> Result<(), CollectError> {
        for owner in store.inner.refs.owners()? {
            if !is_reconciled(store, &owner)? {
                return Err(CollectError::OwnerNotReconciled { owner });
            }
            let log = store.inner.refs.log(&owner);
            let mark = match self.marks.iter_mut().find(|(known, _)| *known == owner) {
                Some((_, mark)) => mark,
                None => {
                    let mark = self.first_read(&log)?;
                    self.marks.push((owner, mark));
                    continue;
                }
            };
            let live = &mut self.live;
            log.read_on(mark, &mut |record| {
                if let Record::Set { digests, .. } = record {
                    live.extend(digests);
                }
            })?;
        }
        Ok(())
    }

    /// Reads a whole log, where later records undo earlier ones.
    fn first_read(&mut self, log: &RefLog) -> Result<LogMark, RefError> {
        let mut mark = LogMark::default();
        let mut refs = std::collections::HashMap::new();
        log.read_on(&mut mark, &mut |record| match record {
            Record::Set { name, digests } => drop(refs.insert(name, digests)),
            Record::Delete { name } => drop(refs.remove(&name)),
        })?;
        self.live.extend(refs.into_values().flatten());
        Ok(mark)
    }
}

/// Whether the delay after the last use is over.
fn is_due(metadata: &std::fs::Metadata, options: &CollectOptions) -> bool {
    let delay = CollectOptions::effective_delay(options.delay);
    options.now.duration_since(last_use(metadata)).is_ok_and(|unused| unused >= delay)
}
