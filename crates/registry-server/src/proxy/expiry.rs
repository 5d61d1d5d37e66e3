//! What is cached goes when it was not used for long, or when there is too much of it: what was
//! not used for longest first. Pinned images stay.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_model::{Digest, RawManifest, Repository, Tag};

use super::{Behind, Proxy};
use crate::metadata::{
    CachedKind, CachedRow, CachedUse, Change, ChangeError, MetadataError, Uncached,
};
use crate::pattern::{self, Wildcards};
use crate::route::ManifestReference;

/// Tags of a repository that are looked at for pins.
const TAGS_MAX: usize = 10_000;

/// Manifests below a pinned index that are followed.
const PINNED_MAX: usize = 10_000;

/// Changes that are made at once.
const BATCH: usize = 500;

/// Cached content, in the order of the database.
type Cached = Vec<(Repository, Digest, CachedRow)>;

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Limits of the cache.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes_max: Option<u64>,
    /// In milliseconds.
    unused_max: u64,
}

/// Which cached content has to go, and the bytes of the blobs that stay. A blob that several
/// repositories show counts once, and goes with the last of them.
fn plan(
    cached: &Cached,
    pinned: &HashSet<(Repository, Digest)>,
    limits: Limits,
    now: u64,
) -> (Vec<Uncached>, u64) {
    let mut going = Vec::new();
    let mut order: Vec<&(Repository, Digest, CachedRow)> = Vec::new();
    // How many repositories show a blob, and its size.
    let mut shown: BTreeMap<Digest, (usize, u64)> = BTreeMap::new();
    let go = |(repository, digest, row): &(Repository, Digest, CachedRow)| Uncached {
        repository: repository.clone(),
        digest: *digest,
        used: row.used,
    };
    for entry in cached {
        let (repository, digest, row) = entry;
        let is_pinned = pinned.contains(&(repository.clone(), *digest));
        if !is_pinned && limits.unused_max < now.saturating_sub(row.used) {
            going.push(go(entry));
            continue;
        }
        if row.kind == CachedKind::Blob {
            shown.entry(*digest).or_insert((0, row.size)).0 += 1;
            if !is_pinned {
                order.push(entry);
            }
        }
    }
    let mut bytes: u64 = shown.values().map(|(_, size)| size).sum();
    let bytes_max = limits.bytes_max.unwrap_or(u64::MAX);
    order.sort_by_key(|(_, _, row)| row.used);
    for entry in order {
        if bytes <= bytes_max {
            break;
        }
        going.push(go(entry));
        if let Some((count, size)) = shown.get_mut(&entry.1) {
            *count -= 1;
            if *count == 0 {
                bytes -= *size;
            }
        }
    }
    (going, bytes)
}

impl Proxy {
    /// Notes a use of cached content.
    pub(super) fn used(&self, repository: &Repository, digest: &Digest) {
        self.uses.add(repository, digest, now());
    }

    /// Sweeps at intervals, and when the cache is too large.
    pub(super) async fn keep(self: &Arc<Self>) {
        loop {
            if let Err(error) = self.sweep_once(now()).await {
                tracing::warn!(%error, "the cache was not swept");
            }
            tokio::select! {
                () = tokio::time::sleep(self.sweep_interval) => {}
                () = self.sweep.notified() => {}
            }
        }
    }

    /// Removes what has to go.
    async fn sweep_once(self: &Arc<Self>, now: u64) -> Result<(), ChangeError> {
        self.note_uses().await?;
        let proxy = Arc::clone(self);
        let planned = tokio::task::spawn_blocking(move || -> Result<_, MetadataError> {
            let cached = proxy.metadata.cached()?;
            let pinned = proxy.pinned(&cached)?;
            let unused_max = u64::try_from(proxy.unused_max.as_millis()).unwrap_or(u64::MAX);
            let limits = Limits { bytes_max: proxy.bytes_max, unused_max };
            Ok(plan(&cached, &pinned, limits, now))
        });
        let Ok(planned) = planned.await else { return Err(ChangeError::Failed) };
        let (going, bytes) = planned?;
        self.bytes.store(bytes, Ordering::Relaxed);
        for batch in going.chunks(BATCH) {
            // What was used since the plan stays: the change looks at the database's own time, and
            // uses that are not there yet are looked at here.
            let batch: Vec<Uncached> = batch
                .iter()
                .filter(|entry| !self.uses.is_pending(&entry.repository, &entry.digest))
                .cloned()
                .collect();
            self.metadata.change(Change::Uncache(batch)).await?;
        }
        if !going.is_empty() {
            tracing::info!(entries = going.len(), bytes, "cached content was not used and went");
        }
        Ok(())
    }

    /// Writes the times of use to the database.
    pub(super) async fn note_uses(&self) -> Result<(), ChangeError> {
        let uses: Vec<CachedUse> = self
            .uses
            .take()
            .into_iter()
            .map(|(repository, digest, at)| CachedUse { repository, digest, at })
            .collect();
        for batch in uses.chunks(BATCH) {
            self.metadata.change(Change::UseCached(batch.to_vec())).await?;
        }
        Ok(())
    }

    /// Everything that pinned images need.
    fn pinned(&self, cached: &Cached) -> Result<HashSet<(Repository, Digest)>, MetadataError> {
        let mut pinned = HashSet::new();
        let names: BTreeSet<&Repository> = cached.iter().map(|(name, ..)| name).collect();
        for name in names {
            let Ok(Some(named)) = self.names.find(name, None, "") else { continue };
            let behind = &self.upstreams[named.upstream];
            if behind.options.pins.is_empty() {
                continue;
            }
            let tags = self.metadata.tags(name, None, TAGS_MAX)?.names;
            for tag in tags.iter().filter(|tag| behind.pins(named.remote.as_str(), tag)) {
                let Ok(tag) = Tag::new(tag) else { continue };
                self.pin(name, ManifestReference::Tag(tag), &mut pinned)?;
            }
        }
        Ok(pinned)
    }

    /// A manifest and all that is below it.
    fn pin(
        &self,
        name: &Repository,
        reference: ManifestReference,
        pinned: &mut HashSet<(Repository, Digest)>,
    ) -> Result<(), MetadataError> {
        let mut waiting = vec![reference];
        while let Some(reference) = waiting.pop() {
            let Some(manifest) = self.metadata.manifest(name, &reference)? else { continue };
            if PINNED_MAX <= waiting.len() || !pinned.insert((name.clone(), manifest.digest)) {
                continue;
            }
            let parsed = RawManifest::parse(Some(&manifest.media_type), manifest.bytes.to_vec());
            let Ok(parsed) = parsed else { continue };
            for child in parsed.parsed().references() {
                // A blob of that digest is pinned as well; a manifest is followed.
                let reference = ManifestReference::Digest(child.digest);
                if self.metadata.manifest(name, &reference)?.is_some() {
                    waiting.push(reference);
                } else {
                    pinned.insert((name.clone(), child.digest));
                }
            }
        }
        Ok(())
    }
}

impl Behind {
    fn pins(&self, remote: &str, tag: &str) -> bool {
        let full = format!("{remote}:{tag}");
        let is = |pin: &str, name: &str| pattern::matches(pin, name, Wildcards::NAMES);
        self.options.pins.iter().any(|pin| is(pin, remote) || is(pin, &full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(
        name: &str,
        content: &str,
        kind: CachedKind,
        used: u64,
    ) -> (Repository, Digest, CachedRow) {
        let repository = Repository::new(name).expect("a name");
        (repository, Digest::of(content.as_bytes()), CachedRow { kind, size: 10, used })
    }

    fn going(cached: &Cached, pinned: &[usize], bytes_max: Option<u64>) -> (Vec<usize>, u64) {
        let key = |at: &usize| (cached[*at].0.clone(), cached[*at].1);
        let pinned = pinned.iter().map(key).collect();
        let (plan, bytes) = plan(cached, &pinned, Limits { bytes_max, unused_max: 100 }, 1000);
        let at = |gone: &Uncached| {
            let is = |(name, digest, row): &(Repository, Digest, CachedRow)| {
                *name == gone.repository && *digest == gone.digest && row.used == gone.used
            };
            cached.iter().position(is).expect("an entry")
        };
        (plan.iter().map(at).collect(), bytes)
    }

    #[test]
    fn what_was_not_used_for_long_goes_unless_it_is_pinned() {
        use CachedKind::{Blob, Manifest};
        let cached = vec![
            entry("a", "old blob", Blob, 899),
            entry("a", "new blob", Blob, 900),
            entry("a", "old manifest", Manifest, 1),
            entry("b", "pinned blob", Blob, 1),
            entry("b", "from the future", Blob, 2000),
        ];
        assert_eq!(going(&cached, &[3], None), (vec![0, 2], 30));
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room_and_shared_bytes_count_once() {
        use CachedKind::{Blob, Manifest};
        let cached = vec![
            entry("a", "x", Blob, 950),
            entry("a", "y", Blob, 960),
            entry("b", "x", Blob, 990),
            entry("b", "z", Blob, 970),
            entry("b", "m", Manifest, 901),
        ];
        assert_eq!(going(&cached, &[], Some(30)), (vec![], 30));
        assert_eq!(going(&cached, &[], Some(29)), (vec![0, 1], 20), "x stays for b");
        assert_eq!(going(&cached, &[1], Some(20)), (vec![0, 3], 20));
        assert_eq!(going(&cached, &[], Some(0)), (vec![0, 1, 3, 2], 0));
    }
}
