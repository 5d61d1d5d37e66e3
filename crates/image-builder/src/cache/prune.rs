//! What is in the caches, and what may go.
//!
//! On this machine: records of steps with the layers they keep, and cache mounts. Elsewhere:
//! the records of one document, which is written anew. Builds may run meanwhile: they hold what
//! they found by leases and locks.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, CollectMode};
use oci_model::{Digest, Platform};

use super::document::{Records, is_fresh};
use super::local::{LocalCache, ref_name, used_at};
use super::mounts::summarize;
use super::place::CachePlace;
use super::record::{CachedStep, StepKind};
use super::{layout, remote};
use crate::builder::Builder;
use crate::error::BuildError;
use crate::run::caches;

/// What something in a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheKind {
    /// The result of a step.
    Step,
    /// A directory of `RUN --mount=type=cache`.
    Mount,
}

/// Something in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// What it is.
    pub kind: CacheKind,
    /// The key of a step, or the identity of a cache mount.
    pub key: Digest,
    /// The step as its Dockerfile had it, or the id of the mount; `?` if it is not on record any
    /// more.
    pub title: String,
    /// Bytes: the compressed layer of the step, or all files of the directory.
    pub bytes: u64,
    /// The layer, if there is one.
    pub layer: Option<Digest>,
    /// When it was last used, unix seconds.
    pub used: i64,
}

/// What may go. Without any of the limits everything may.
#[derive(Clone, Copy, Debug)]
pub struct PruneOptions {
    /// Only what was not used for longer.
    pub older_than: Option<Duration>,
    /// Only until no more bytes than these are left, what was not used for longest first.
    pub keep_bytes: Option<u64>,
    /// Remove, or only tell.
    pub mode: CollectMode,
}

/// What a pruning did or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What went.
    pub removed: Vec<CacheEntry>,
    /// Cache mounts that stayed because a build uses them.
    pub busy: Vec<String>,
}

/// The caches below a builder's directory.
#[derive(Clone, Debug)]
pub struct LocalCaches {
    directory: PathBuf,
    store: BlobStore,
}

impl LocalCaches {
    /// Those of a builder with this directory and store
    /// ([`crate::BuilderOptions::directory`]).
    pub fn new(directory: impl Into<PathBuf>, store: BlobStore) -> Self {
        Self { directory: directory.into(), store }
    }

    fn steps(&self) -> Result<LocalCache, BuildError> {
        LocalCache::open(&self.directory.join("cache"), self.store.clone())
            .map_err(|error| BuildError::state("cache directory", error))
    }

    fn mounts(&self) -> PathBuf {
        self.directory.join("cache-mounts")
    }

    /// Everything, what was used last first.
    ///
    /// # Errors
    /// [`BuildError::State`] if a directory cannot be read.
    pub fn list(&self) -> Result<Vec<CacheEntry>, BuildError> {
        let mut entries = self.list_steps()?;
        let mounts = self.mounts();
        let failed = |error| BuildError::state(format!("cache mounts {}", mounts.display()), error);
        for cache in caches::list(&mounts).map_err(failed)? {
            if caches::has_files(&cache) {
                entries.push(mount_entry(&cache));
            }
        }
        entries.sort_by(|a, b| (b.used, &a.title).cmp(&(a.used, &b.title)));
        Ok(entries)
    }

    fn list_steps(&self) -> Result<Vec<CacheEntry>, BuildError> {
        let steps = self.steps()?;
        let mut entries = Vec::new();
        for (key, path) in steps.files() {
            let Some(step) = steps.read(&path, &key) else { continue };
            entries.extend(step_entry(key, &step, used_at(&path).unwrap_or(step.used)));
        }
        Ok(entries)
    }

    /// Removes what may go. Layers of steps become blobs that nothing keeps; a collection of the
    /// store frees their space.
    ///
    /// # Errors
    /// [`BuildError::State`] if a directory or the store fails.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, BuildError> {
        let state = |error: &dyn std::fmt::Display| {
            BuildError::state("cannot prune the cache", error.to_string())
        };
        let now = jiff::Timestamp::now().as_second();
        let entries = self.list()?;
        let doomed = chosen(&entries, options, now);
        let mut pruned = Pruned::default();
        let steps = self.steps()?;
        let apply = options.mode == CollectMode::Apply;
        let known = caches::list(&self.mounts()).map_err(|error| state(&error))?;
        for entry in doomed {
            match entry.kind {
                CacheKind::Step if apply => {
                    steps.remove(&entry.key);
                    let name = ref_name(&entry.key).map_err(|error| state(&error))?;
                    self.store.remove_ref(&name).map_err(|error| state(&error))?;
                }
                CacheKind::Step => {}
                CacheKind::Mount => {
                    let Some(cache) = known.iter().find(|cache| mount_key(cache) == entry.key)
                    else {
                        continue;
                    };
                    let Some(_locks) = caches::lock_all(cache).map_err(|error| state(&error))?
                    else {
                        pruned.busy.push(cache.id.clone());
                        continue;
                    };
                    if apply {
                        caches::remove_files(cache).map_err(|error| state(&error))?;
                    }
                }
            }
            pruned.removed.push(entry);
        }
        if apply {
            steps.remove_dangling();
        }
        Ok(pruned)
    }
}

/// The entries that may go, by what they are not used for longest.
fn chosen(entries: &[CacheEntry], options: &PruneOptions, now: i64) -> Vec<CacheEntry> {
    let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut oldest_first: Vec<&CacheEntry> = entries.iter().collect();
    oldest_first.sort_by_key(|entry| entry.used);
    let mut chosen = Vec::new();
    for entry in oldest_first {
        let is_old = options.older_than.is_none_or(|age| !is_fresh(entry.used, Some(age), now));
        let is_too_much = options.keep_bytes.is_none_or(|keep| keep < total);
        if is_old && is_too_much {
            total -= entry.bytes;
            chosen.push(entry.clone());
        }
    }
    chosen
}

fn mount_key(cache: &caches::KnownCache) -> Digest {
    let name = cache.home.file_name().unwrap_or_default().to_string_lossy();
    format!("sha256:{name}").parse().unwrap_or_else(|_| caches::identity(&cache.id))
}

fn mount_entry(cache: &caches::KnownCache) -> CacheEntry {
    let used = cache.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    CacheEntry {
        kind: CacheKind::Mount,
        key: mount_key(cache),
        title: cache.id.clone(),
        // A directory that changes while it is read counts as what was seen of it.
        bytes: summarize(&cache.home).map_or(0, |summary| summary.bytes),
        layer: None,
        used: i64::try_from(used.as_secs()).unwrap_or(i64::MAX),
    }
}

/// A record that keeps something; chains only point to what other records keep.
fn step_entry(key: Digest, step: &CachedStep, used: i64) -> Option<CacheEntry> {
    if step.kind == StepKind::Chain {
        return None;
    }
    let layer = step.own().and_then(|output| output.layer.as_ref());
    Some(CacheEntry {
        kind: CacheKind::Step,
        key,
        title: step.about.as_ref().map_or_else(|| "?".to_owned(), |about| about.title.clone()),
        bytes: layer.map_or(0, |(descriptor, _)| descriptor.size),
        layer: layer.map(|(descriptor, _)| descriptor.digest),
        used,
    })
}

fn record_entries(records: &Records) -> Vec<CacheEntry> {
    let mut entries: Vec<CacheEntry> = Vec::new();
    for (key, step) in &records.steps {
        entries.extend(step_entry(*key, step, step.used));
    }
    for (key, mount) in &records.mounts {
        entries.push(CacheEntry {
            kind: CacheKind::Mount,
            key: *key,
            title: mount.id.clone(),
            bytes: mount.layer.size,
            layer: Some(mount.layer.digest),
            used: mount.used,
        });
    }
    entries.sort_by(|a, b| (b.used, &a.title).cmp(&(a.used, &b.title)));
    entries
}

/// Takes entries out of records, and with them every chain that needs a layer of theirs.
fn without(records: &mut Records, removed: &[CacheEntry]) {
    for entry in removed {
        match entry.kind {
            CacheKind::Step => drop(records.steps.remove(&entry.key)),
            CacheKind::Mount => drop(records.mounts.remove(&entry.key)),
        }
    }
    let kept: std::collections::BTreeSet<Digest> = records
        .steps
        .values()
        .filter(|step| step.kind == StepKind::Content)
        .flat_map(|step| step.layers().map(|(layer, _)| layer.digest))
        .collect();
    records.steps.retain(|_, step| {
        step.kind == StepKind::Content
            || step.layers().all(|(layer, _)| kept.contains(&layer.digest))
    });
}

impl Builder {
    /// Everything in a cache of a registry or layout, what was used last first; `None` if there
    /// is no cache.
    ///
    /// # Errors
    /// [`BuildError::Cache`].
    pub async fn list_cache(
        &self,
        place: &CachePlace,
    ) -> Result<Option<Vec<CacheEntry>>, BuildError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Cache {
            place: place.to_string(),
            source,
        };
        let records = match place {
            CachePlace::Registry(reference) => {
                let platforms = [Platform::host()];
                let read = remote::read(&self.inner.registry, reference, &platforms);
                read.await.map_err(|error| failed(error.into()))?
            }
            CachePlace::Layout { directory, name } => {
                layout::read(directory, name).map_err(|error| failed(error.into()))?
            }
        };
        Ok(records.as_ref().map(record_entries))
    }

    /// Takes what may go out of a cache of a registry or layout and writes its document anew. The
    /// manifest that the tag named before is deleted, if the registry lets us; layers go when the
    /// registry collects.
    ///
    /// # Errors
    /// [`BuildError::Cache`].
    pub async fn prune_cache(
        &self,
        place: &CachePlace,
        options: &PruneOptions,
    ) -> Result<Pruned, BuildError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Cache {
            place: place.to_string(),
            source,
        };
        let now = jiff::Timestamp::now().as_second();
        let removed = std::sync::Mutex::new(Vec::new());
        let change = |records: &mut Records| {
            let doomed = chosen(&record_entries(records), options, now);
            without(records, &doomed);
            let changes = !doomed.is_empty() && options.mode == CollectMode::Apply;
            *removed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = doomed;
            changes
        };
        match place {
            CachePlace::Registry(reference) => {
                let write = remote::Write {
                    registry: &self.inner.registry,
                    store: &self.inner.store,
                    reference,
                    platforms: &[Platform::host()],
                    mount_from: Vec::new(),
                };
                let written = write.run(change).await.map_err(|error| failed(error.into()))?;
                if let remote::Written::Replaced(Some(old)) = written {
                    let old = reference.with_digest(old);
                    if let Err(error) = self.inner.registry.delete_manifest(&old).await {
                        tracing::debug!(%old, %error, "the old manifest stays");
                    }
                }
            }
            CachePlace::Layout { directory, name } => {
                if options.mode == CollectMode::Apply {
                    layout::write(directory, name, &self.inner.store, |records| {
                        change(records);
                    })
                    .map_err(failed)?;
                } else if let Some(mut records) =
                    layout::read(directory, name).map_err(|error| failed(error.into()))?
                {
                    change(&mut records);
                }
            }
        }
        let removed = removed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Pruned { removed, busy: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use oci_model::{Descriptor, DiffId, MediaType};

    use super::*;
    use crate::cache::record::StepOutput;

    fn entry(title: &str, bytes: u64, used: i64) -> CacheEntry {
        let key = Digest::of(title.as_bytes());
        CacheEntry { kind: CacheKind::Step, key, title: title.into(), bytes, layer: None, used }
    }

    #[test]
    fn records_that_lost_their_explanation_are_listed_and_keep_their_chains() {
        let layer = |bytes: &[u8]| {
            let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, bytes);
            StepOutput { created: 1, layer: Some((descriptor, DiffId(Digest::of(bytes)))) }
        };
        let step =
            |kind, outputs| CachedStep { kind, outputs, used: 1, about: None, content: None };
        let key = |name: &str| Digest::of(name.as_bytes());
        let mut records = Records::default();
        records.steps.insert(key("one"), step(StepKind::Content, vec![layer(b"1")]));
        records.steps.insert(key("two"), step(StepKind::Content, vec![layer(b"2")]));
        records.steps.insert(key("chain"), step(StepKind::Chain, vec![layer(b"1"), layer(b"2")]));
        records.steps.insert(key("start"), step(StepKind::Chain, vec![layer(b"1")]));
        let mut records = Records::parse(&records.write().expect("json"));
        let entries = record_entries(&records);
        assert_eq!(entries.len(), 2);
        without(&mut records, &entries[..0]);
        assert_eq!(records.steps.len(), 4);
        let two: Vec<CacheEntry> =
            entries.into_iter().filter(|entry| entry.key == key("two")).collect();
        without(&mut records, &two);
        let left: Vec<&Digest> = records.steps.keys().collect();
        let mut expected = [key("one"), key("start")];
        expected.sort();
        assert_eq!(left, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn age_and_size_decide_together_what_goes() {
        let entries = [entry("new", 10, 95), entry("old", 10, 10), entry("older", 10, 5)];
        let titles = |older_than, keep_bytes| {
            let mode = CollectMode::Plan;
            let older_than = Option::map(older_than, Duration::from_secs);
            let options = PruneOptions { older_than, keep_bytes, mode };
            let chosen = chosen(&entries, &options, 100);
            chosen.into_iter().map(|entry| entry.title).collect::<Vec<_>>()
        };
        assert_eq!(titles(None, None), ["older", "old", "new"]);
        assert_eq!(titles(Some(50), None), ["older", "old"]);
        assert_eq!(titles(None, Some(20)), ["older"]);
        assert_eq!(titles(Some(92), Some(0)), ["older"]);
        assert!(titles(Some(50), Some(30)).is_empty());
    }
}
