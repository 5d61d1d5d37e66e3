//! Manifests in memory, by the name under which they are asked for.

use std::collections::HashMap;
use std::sync::Arc;

use oci_model::Repository;

use super::StoredManifest;
use crate::route::ManifestReference;

/// Memory for cached manifests, in bytes. When it is full the cache starts over: simpler than an
/// order of use, and the database behind it is fast.
const CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What an entry costs beside the bytes of its manifest.
const ENTRY_BYTES: usize = 512;

/// Manifests by repository and reference.
///
/// Only what was read from the database is cached, and every commit drops the repositories that it
/// changed before it is acknowledged. A reader that was slower than a commit must not put back
/// what it read before: hence the generation.
#[derive(Default)]
pub(crate) struct ManifestCache {
    generation: u64,
    bytes: usize,
    repositories: HashMap<String, HashMap<String, Arc<StoredManifest>>>,
}

impl ManifestCache {
    /// A number that changes with every commit.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// The manifest, if it is cached.
    pub(crate) fn get(
        &self,
        repository: &Repository,
        reference: &ManifestReference,
    ) -> Option<Arc<StoredManifest>> {
        let manifests = self.repositories.get(repository.as_str())?;
        match reference {
            ManifestReference::Tag(tag) => manifests.get(tag.as_str()),
            ManifestReference::Digest(digest) => manifests.get(&digest.to_string()),
        }
        .cloned()
    }

    /// Caches a manifest that was read when `generation` was current.
    pub(crate) fn insert(
        &mut self,
        generation: u64,
        repository: &Repository,
        reference: &ManifestReference,
        manifest: Arc<StoredManifest>,
    ) {
        if generation != self.generation {
            return;
        }
        let cost = manifest.bytes.len() + ENTRY_BYTES;
        if self.bytes + cost > CACHE_BYTES_MAX {
            self.repositories.clear();
            self.bytes = 0;
        }
        let key = match reference {
            ManifestReference::Tag(tag) => tag.as_str().to_owned(),
            ManifestReference::Digest(digest) => digest.to_string(),
        };
        let manifests = self.repositories.entry(repository.as_str().to_owned()).or_default();
        if manifests.insert(key, manifest).is_none() {
            self.bytes += cost;
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.generation += 1;
        self.bytes = 0;
        self.repositories.clear();
    }

    /// Drops what a commit may have changed.
    pub(crate) fn drop_repositories<'a>(&mut self, changed: impl Iterator<Item = &'a str>) {
        self.generation += 1;
        for repository in changed {
            if let Some(manifests) = self.repositories.remove(repository) {
                let cost = |manifest: &Arc<StoredManifest>| manifest.bytes.len() + ENTRY_BYTES;
                self.bytes -= manifests.values().map(cost).sum::<usize>().min(self.bytes);
            }
        }
    }
}
