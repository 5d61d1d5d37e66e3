//! All caches of one build: this machine's first, then those it was given, in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oci_model::{Digest, Platform, Reference};

use super::document::{Records, is_fresh};
use super::layout;
use super::local::LocalCache;
use super::mounts::MountRecord;
use super::place::{CachePlace, CacheSource};
use super::record::{About, StepOutput};
use super::remote;
use crate::layer_source::LayerSource;
use crate::registry::Registry;

/// Caches of a build.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) local: LocalCache,
    loaded: Vec<Loaded>,
    /// Unix seconds.
    now: i64,
}

/// A cache that was given, its records read.
#[derive(Debug)]
pub(crate) struct Loaded {
    place: CachePlace,
    ttl: Option<Duration>,
    records: Records,
}

/// A hit.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) outputs: Vec<StepOutput>,
    /// Where layers that are not here are fetched from.
    pub(crate) origin: Option<Reference>,
    /// Which cache knew it.
    pub(crate) from: String,
}

impl Shelf {
    /// Reads the given caches, all at once. One that cannot be read is empty; `warn` is told if
    /// that is not because it does not exist.
    pub(crate) async fn open(
        local: LocalCache,
        sources: &[CacheSource],
        platforms: &[Platform],
        registry: &Registry,
        now: i64,
        warn: impl Fn(String),
    ) -> Self {
        let read = sources.iter().map(|source| async move {
            let records = match &source.place {
                CachePlace::Registry(reference) => {
                    remote::read(registry, reference, platforms).await.map_err(|e| e.to_string())
                }
                CachePlace::Layout { directory, name } => {
                    layout::read(directory, name).map_err(|error| error.to_string())
                }
            };
            (source, records)
        });
        let mut loaded = Vec::new();
        for (source, records) in futures_util::future::join_all(read).await {
            match records {
                Ok(Some(records)) => {
                    loaded.push(Loaded { place: source.place.clone(), ttl: source.ttl, records })
                }
                Ok(None) => {}
                Err(error) => warn(format!("cannot read the cache {}: {error}", source.place)),
            }
        }
        Self { local, loaded, now }
    }

    /// What is known under a key.
    pub(crate) fn lookup(&self, key: &Digest, layers: &LayerSource) -> Option<Found> {
        if let Some(step) = self.local.lookup(key, layers.lease()) {
            let from = "this machine".to_owned();
            return Some(Found { outputs: step.outputs, origin: None, from });
        }
        self.loaded.iter().find_map(|loaded| {
            let step = loaded.records.lookup(key, loaded.ttl, self.now)?;
            let origin = match &loaded.place {
                CachePlace::Registry(reference) => Some(reference.clone()),
                CachePlace::Layout { directory, .. } => {
                    for (descriptor, _) in step.layers() {
                        let (store, lease) = (&layers.store, layers.lease());
                        layout::take(directory, descriptor, store, lease).ok()?;
                    }
                    None
                }
            };
            Some(Found { outputs: step.outputs.clone(), origin, from: loaded.place.to_string() })
        })
    }

    /// An exported cache mount and where its layer is.
    pub(crate) fn mount(&self, identity: &Digest) -> Option<(MountRecord, MountHome)> {
        self.loaded.iter().find_map(|loaded| {
            let record = loaded.records.mounts.get(identity)?;
            let home = match &loaded.place {
                CachePlace::Registry(reference) => MountHome::Registry(reference.clone()),
                CachePlace::Layout { directory, .. } => MountHome::Layout(directory.clone()),
            };
            is_fresh(record.used, loaded.ttl, self.now).then(|| (record.clone(), home))
        })
    }

    /// Everything that says what its key was made of, each once.
    pub(crate) fn abouts(&self) -> Vec<(i64, Arc<About>)> {
        let mut found: BTreeMap<Digest, (i64, Arc<About>)> = BTreeMap::new();
        let given = self.loaded.iter().flat_map(|loaded| loaded.records.steps.iter());
        for (key, step) in given {
            if let Some(about) = &step.about {
                found.insert(*key, (step.used, Arc::clone(about)));
            }
        }
        for (key, path) in self.local.files() {
            let Some(about) = self.local.read(&path, &key).and_then(|step| step.about) else {
                continue;
            };
            let used = super::local::used_at(&path).unwrap_or_default();
            found.insert(key, (used, about));
        }
        found.into_values().collect()
    }
}

/// Where the layer of a cache mount is.
#[derive(Clone, Debug)]
pub(crate) enum MountHome {
    Registry(Reference),
    Layout(PathBuf),
}
