//! The cache on this machine.
//!
//! `<cache>/steps/<first two hex digits>/<sha256 hex of the key>` holds a document of one record;
//! its modification time is that of its last use. The ref `build-cache/<hex>` keeps the step's
//! own layer in the store. A record whose layers are gone counts as a miss.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use blob_store::{BlobStore, Lease, RefName};
use oci_model::Digest;

use super::document::Records;
use super::record::{CachedStep, StepKind};
use crate::workspace::make_private;

/// What the names of our refs begin with.
pub(crate) const REF_PREFIX: &str = "build-cache/";

/// The cache on this machine.
#[derive(Clone, Debug)]
pub(crate) struct LocalCache {
    pub(crate) steps: PathBuf,
    pub(crate) store: BlobStore,
}

impl LocalCache {
    pub(crate) fn open(cache: &Path, store: BlobStore) -> io::Result<Self> {
        let steps = cache.join("steps");
        make_private(&steps)?;
        Ok(Self { steps, store })
    }

    /// What is known under a key, if all its layers are here; the lease holds them then.
    pub(crate) fn lookup(&self, key: &Digest, lease: &Lease) -> Option<CachedStep> {
        let path = self.path(key);
        let step = self.read(&path, key)?;
        for (descriptor, _) in step.layers() {
            if !matches!(lease.add(&descriptor.digest), Ok(true))
                || !self.store.contains(&descriptor.digest)
            {
                return None;
            }
        }
        touch(&path);
        Some(step)
    }

    /// Notes that what is under a chain key was of use, and with it the record that keeps it.
    pub(crate) fn touch_chain(&self, key: &Digest) {
        let path = self.path(key);
        let Some(step) = self.read(&path, key) else { return };
        touch(&path);
        if let Some(content) = &step.content {
            touch(&self.path(content));
        }
    }

    /// The record in a file.
    pub(crate) fn read(&self, path: &Path, key: &Digest) -> Option<CachedStep> {
        Records::parse(&std::fs::read(path).ok()?).steps.remove(key)
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
        // What lies below has records of its own, which keep it.
        if let ([output], StepKind::Content) = (&step.outputs[..], step.kind)
            && let Some((descriptor, _)) = &output.layer
        {
            self.store.set_ref(&ref_name(key)?, &[descriptor.digest])?;
        }
        let path = self.path(key);
        let parent = path.parent().unwrap_or(&self.steps);
        make_private(parent)?;
        let mut records = Records::default();
        records.steps.insert(*key, step.clone());
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        io::Write::write_all(&mut file, &records.write()?)?;
        file.persist(&path)?;
        Ok(())
    }

    /// All records by key. What cannot be listed does not exist.
    pub(crate) fn files(&self) -> Vec<(Digest, PathBuf)> {
        let list = |directory: &Path| {
            let items = std::fs::read_dir(directory).into_iter().flatten();
            items.filter_map(Result::ok).map(|item| item.path()).collect::<Vec<_>>()
        };
        let mut files = Vec::new();
        for path in list(&self.steps).iter().flat_map(|directory| list(directory)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Ok(key) = format!("sha256:{name}").parse() {
                files.push((key, path));
            }
        }
        files
    }

    /// Removes a record; one that is gone is removed already.
    pub(crate) fn remove(&self, key: &Digest) {
        // What cannot be removed is found again by the next pruning.
        let _ = std::fs::remove_file(self.path(key));
    }

    /// Removes records that can never be found: of chains with a layer that is kept by no ref.
    pub(crate) fn remove_dangling(&self) {
        let Ok(kept) = self.store.refs(REF_PREFIX) else { return };
        let kept: std::collections::HashSet<Digest> =
            kept.into_iter().flat_map(|(_, digests)| digests).collect();
        for (key, path) in self.files() {
            let step = self.read(&path, &key);
            let complete = step.is_some_and(|step| {
                step.layers().all(|(descriptor, _)| kept.contains(&descriptor.digest))
            });
            if !complete {
                self.remove(&key);
            }
        }
    }

    fn path(&self, key: &Digest) -> PathBuf {
        let hex = key.encoded();
        self.steps.join(&hex[..2]).join(hex)
    }
}

/// The ref that keeps the layer of a record.
pub(crate) fn ref_name(key: &Digest) -> Result<RefName, blob_store::RefNameError> {
    format!("{REF_PREFIX}{}", key.encoded()).parse()
}

/// When the record in a file was last used, unix seconds.
pub(crate) fn used_at(path: &Path) -> Option<i64> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// Notes a use; without rights the record only looks older than it is.
fn touch(path: &Path) {
    let now = SystemTime::now();
    let touched = File::options().append(true).open(path).and_then(|file| file.set_modified(now));
    if let Err(error) = touched {
        tracing::debug!(path = %path.display(), %error, "use of a record is not noted");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oci_model::{Descriptor, DiffId, MediaType};

    use super::*;
    use crate::cache::record::{About, StepOutput};

    #[test]
    fn a_record_counts_only_while_its_layers_exist() {
        let root = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(root.path().join("blobs")).expect("a store");
        let cache = LocalCache::open(root.path(), store.clone()).expect("a cache");
        let lease = store.lease().expect("a lease");
        let key = Digest::of(b"key");
        let digest = store.put(b"layer").expect("a blob");
        let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"layer");
        let layer = Some((descriptor, DiffId(digest)));
        let step = CachedStep {
            kind: StepKind::Content,
            outputs: vec![StepOutput { created: 1, layer }],
            used: 1,
            about: Some(Arc::new(About::default())),
            content: None,
        };
        cache.record(&key, &step);
        assert_eq!(cache.lookup(&key, &lease), Some(step));
        let kept = store.get_ref(&ref_name(&key).expect("a name")).expect("a log");
        assert_eq!(kept, Some(vec![digest]));
        std::fs::remove_file(store.path(&digest)).expect("ours");
        assert_eq!(cache.lookup(&key, &lease), None);
        assert_eq!(cache.lookup(&Digest::of(b"other"), &lease), None);
    }
}
