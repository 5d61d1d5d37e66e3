//! The step cache: key → layer, on this machine and in a registry.
//!
//! # On this machine
//! `<cache>/steps/<first two hex digits>/<sha256 hex of the key>` holds one JSON record
//! ([`on_disk::Record`]); the ref `build-cache/<hex>` keeps the record's layer in the store.
//! A record whose layer is gone counts as a miss.
//!
//! # In a registry
//! One OCI manifest under the tag `shipway-cache`: its config is a document of all records, its
//! layers are the layers of the records, so that no registry collects them. One GET answers all
//! questions of a build.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blob_store::{BlobStore, RefName};
use oci_model::{Descriptor, DiffId, Digest, MediaType};

use crate::workspace::make_private;

/// Media type of the document of a registry cache.
pub(crate) const CACHE_CONFIG: &str = "application/vnd.shipway.build-cache.v1+json";
/// Tag of a registry cache.
pub(crate) const CACHE_TAG: &str = "shipway-cache";
/// Largest document of a registry cache that is read, in bytes (32 MiB: some 100 000 records).
pub(crate) const CACHE_CONFIG_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Most records a registry cache keeps: a manifest of 4 MiB holds some 20 000 layers.
const RECORDS_MAX: usize = 10_000;

/// What a step made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedStep {
    /// Its layer; `None` if it changed nothing.
    pub(crate) layer: Option<(Descriptor, DiffId)>,
    /// When it was executed, unix seconds.
    pub(crate) created: i64,
}

/// The cache on this machine.
#[derive(Clone, Debug)]
pub(crate) struct LocalCache {
    steps: PathBuf,
    store: BlobStore,
}

impl LocalCache {
    pub(crate) fn open(cache: &Path, store: BlobStore) -> io::Result<Self> {
        let steps = cache.join("steps");
        make_private(&steps)?;
        Ok(Self { steps, store })
    }

    /// What a step made earlier, if it still exists.
    pub(crate) fn lookup(&self, key: &Digest) -> Option<CachedStep> {
        let bytes = std::fs::read(self.path(key)).ok()?;
        let step = on_disk::read(&bytes)?;
        let present = step
            .layer
            .as_ref()
            .is_none_or(|(descriptor, _)| self.store.contains(&descriptor.digest));
        present.then_some(step)
    }

    /// Notes what a step made. A failure costs the next build time and nothing else.
    pub(crate) fn record(&self, key: &Digest, step: &CachedStep) {
        if let Err(error) = self.try_record(key, step) {
            tracing::warn!(%key, %error, "step is not cached");
        }
    }

    fn try_record(
        &self,
        key: &Digest,
        step: &CachedStep,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some((descriptor, _)) = &step.layer {
            let name: RefName = format!("build-cache/{}", key.encoded()).parse()?;
            self.store.set_ref(&name, &[descriptor.digest])?;
        }
        let path = self.path(key);
        let parent = path.parent().unwrap_or(&self.steps);
        make_private(parent)?;
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        io::Write::write_all(&mut file, &on_disk::write(step)?)?;
        file.persist(&path)?;
        Ok(())
    }

    fn path(&self, key: &Digest) -> PathBuf {
        let hex = key.encoded();
        self.steps.join(&hex[..2]).join(hex)
    }
}

/// The records of a registry cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct RemoteRecords {
    records: BTreeMap<Digest, CachedStep>,
}

impl RemoteRecords {
    /// Reads the document; one that we do not understand is empty.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let document: Option<on_disk::Document> = serde_json::from_slice(bytes).ok();
        let records = document.map(on_disk::Document::into_records).unwrap_or_default();
        Self { records }
    }

    pub(crate) fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        on_disk::write_document(&self.records)
    }

    /// A record that is not older than `ttl`; `now` is in unix seconds.
    pub(crate) fn lookup(&self, key: &Digest, ttl: Duration, now: i64) -> Option<&CachedStep> {
        self.records.get(key).filter(|step| is_fresh(step, ttl, now))
    }

    /// Adds records of this build and drops those that are too old, or the oldest if there are
    /// too many.
    pub(crate) fn merge(&mut self, new: &BTreeMap<Digest, CachedStep>, ttl: Duration, now: i64) {
        self.records.extend(new.iter().map(|(key, step)| (*key, step.clone())));
        self.records.retain(|_, step| is_fresh(step, ttl, now));
        while RECORDS_MAX < self.records.len() {
            let oldest = self.records.iter().min_by_key(|(_, step)| step.created);
            let Some(key) = oldest.map(|(key, _)| *key) else { break };
            self.records.remove(&key);
        }
    }

    /// The layers of all records, each once.
    pub(crate) fn layers(&self) -> Vec<Descriptor> {
        let mut layers: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        for (descriptor, _) in self.records.values().filter_map(|step| step.layer.as_ref()) {
            layers.insert(descriptor.digest, descriptor.clone());
        }
        layers.into_values().collect()
    }
}

fn is_fresh(step: &CachedStep, ttl: Duration, now: i64) -> bool {
    now.saturating_sub(step.created) <= i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)
}

mod on_disk {
    //! The JSON of records and documents.

    use super::{BTreeMap, CachedStep, Descriptor, DiffId, Digest, MediaType};
    use serde::{Deserialize, Serialize};

    /// Version of the format.
    const VERSION: u32 = 1;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Record {
        version: u32,
        created: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<Layer>,
    }

    #[derive(Serialize, Deserialize)]
    struct Layer {
        media_type: MediaType,
        digest: Digest,
        size: u64,
        diff_id: DiffId,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Document {
        version: u32,
        records: BTreeMap<String, Record>,
    }

    impl Document {
        pub(super) fn into_records(self) -> BTreeMap<Digest, CachedStep> {
            if self.version != VERSION {
                return BTreeMap::new();
            }
            let records = self.records.into_iter();
            records.filter_map(|(key, record)| Some((key.parse().ok()?, step(record)?))).collect()
        }
    }

    fn record(step: &CachedStep) -> Record {
        let layer = step.layer.as_ref().map(|(descriptor, diff_id)| Layer {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            diff_id: *diff_id,
        });
        Record { version: VERSION, created: step.created, layer }
    }

    fn step(record: Record) -> Option<CachedStep> {
        if record.version != VERSION {
            return None;
        }
        let layer = record.layer.map(|layer| {
            (Descriptor::new(layer.media_type, layer.digest, layer.size), layer.diff_id)
        });
        Some(CachedStep { layer, created: record.created })
    }

    pub(super) fn read(bytes: &[u8]) -> Option<CachedStep> {
        step(serde_json::from_slice(bytes).ok()?)
    }

    pub(super) fn write(step: &CachedStep) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&record(step))
    }

    pub(super) fn write_document(
        records: &BTreeMap<Digest, CachedStep>,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let records = records.iter().map(|(key, step)| (key.to_string(), record(step))).collect();
        serde_json::to_vec(&Document { version: VERSION, records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(bytes: &[u8], created: i64) -> CachedStep {
        let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, bytes);
        CachedStep { layer: Some((descriptor, DiffId(Digest::of(bytes)))), created }
    }

    #[test]
    fn a_record_counts_only_while_its_layer_exists() {
        let root = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(root.path().join("blobs")).expect("a store");
        let cache = LocalCache::open(root.path(), store.clone()).expect("a cache");
        let key = Digest::of(b"key");
        let digest = store.put(b"layer").expect("a blob");
        cache.record(&key, &step(b"layer", 1));
        assert_eq!(cache.lookup(&key), Some(step(b"layer", 1)));
        std::fs::remove_file(store.path(&digest)).expect("ours");
        assert_eq!(cache.lookup(&key), None);
        assert_eq!(cache.lookup(&Digest::of(b"other")), None);
    }

    #[test]
    fn remote_records_survive_a_round_trip_and_expire() {
        let mut records = RemoteRecords::default();
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let ttl = Duration::from_secs(10);
        records.merge(&BTreeMap::from([(old, step(b"a", 0)), (new, step(b"b", 95))]), ttl, 100);
        let read = RemoteRecords::parse(&records.write().expect("json"));
        assert_eq!(read.lookup(&old, ttl, 100), None);
        assert_eq!(read.lookup(&new, ttl, 100), Some(&step(b"b", 95)));
        assert_eq!(read.lookup(&new, ttl, 106), None);
        assert_eq!(read.layers().len(), 1);
    }

    #[test]
    fn documents_of_others_are_empty() {
        assert!(RemoteRecords::parse(b"not json").layers().is_empty());
        assert!(RemoteRecords::parse(br#"{"version":9,"records":{}}"#).layers().is_empty());
    }
}
