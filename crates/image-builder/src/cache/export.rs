//! What a build found and made, written to the caches that the caller named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dockerfile::{Base, StageId};
use oci_model::{DiffId, Digest, Reference, Repository};

use super::document::Records;
use super::mounts::{self, MountRecord};
use super::place::{CacheError, CachePlace, CacheScope, CacheSink};
use super::record::{CachedStep, StepKind};
use super::{layout, remote};
use crate::error::{BuildError, StepError};
use crate::event::BuildEvent;
use crate::layer_source::{LayerRef, blocking};
use crate::run::caches;
use crate::session::{Session, platforms};

/// Longest time after which the use of a record is written again.
const REFRESH_MAX: Duration = Duration::from_secs(24 * 3600);
/// Part of its time to live after which the use of a record is written again.
const REFRESH_PART: u32 = 10;

/// What a build found and made.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    noted: Mutex<Vec<Noted>>,
    mounts: Mutex<BTreeMap<Digest, UsedMount>>,
}

#[derive(Debug)]
struct Noted {
    stage: usize,
    records: Records,
    origin: Option<Reference>,
}

/// A cache mount that a step used.
#[derive(Clone, Debug)]
pub(crate) struct UsedMount {
    pub(crate) id: String,
    /// The record it was restored from or is known by.
    pub(crate) known: Option<MountRecord>,
}

impl Exports {
    /// Notes records of a stage; `origin` is where layers that are not here can be had.
    pub(crate) fn note(&self, stage: usize, records: Records, origin: Option<&Reference>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(Noted { stage, records, origin: origin.cloned() });
    }

    /// Notes that a step used a cache mount, and says whether it is the first of the build.
    pub(crate) fn note_mount(&self, mount: UsedMount) -> bool {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        mounts.insert(caches::identity(&mount.id), mount).is_none()
    }

    /// Records of the given stages.
    fn of(&self, stages: &BTreeSet<usize>) -> Records {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = Records::default();
        for one in noted.iter().filter(|one| stages.contains(&one.stage)) {
            records.merge(&one.records);
        }
        records
    }

    /// Where layers of these records can be had that are not in the store.
    fn origins(&self) -> BTreeMap<Digest, Reference> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut origins = BTreeMap::new();
        for one in noted.iter() {
            let Some(origin) = &one.origin else { continue };
            for (layer, _) in one.records.steps.values().flat_map(CachedStep::layers) {
                origins.insert(layer.digest, origin.clone());
            }
        }
        origins
    }
}

/// The records that an image carries: the chains of its own steps, and nothing that would differ
/// between two builds of the same image.
pub(crate) fn inline_records(session: &Session, stage: StageId) -> Records {
    let mut records = session.exports.of(&below(session, stage));
    records.steps.retain(|_, step| step.kind == StepKind::Chain);
    for step in records.steps.values_mut() {
        step.content = None;
        for output in &mut step.outputs {
            output.created = session.request.epoch.unwrap_or(output.created);
        }
        step.used = step.own().map_or(0, |output| output.created);
    }
    records
}

/// The stages whose steps belong to a scope.
fn scope(session: &Session, scope: CacheScope) -> BTreeSet<usize> {
    match scope {
        CacheScope::Max => (0..session.plan.stages.len()).collect(),
        CacheScope::Min => {
            session.plan.targets().flat_map(|target| below(session, target.stage)).collect()
        }
    }
}

/// A stage and those it is built on.
fn below(session: &Session, stage: StageId) -> BTreeSet<usize> {
    let mut stages = BTreeSet::new();
    let mut at = stage;
    while stages.insert(at.index()) {
        let Base::Stage(parent) = &session.plan.stage(at).base else { break };
        at = *parent;
    }
    stages
}

/// Writes all caches, one after the other.
pub(crate) async fn write_all(session: &Arc<Session>) -> Result<(), BuildError> {
    for sink in &session.request.cache_to {
        let Err(error) = write_one(session, sink).await else { continue };
        match sink.on_error {
            CacheError::Fails => {
                return Err(BuildError::Cache { place: sink.place.to_string(), source: error });
            }
            CacheError::Warns => {
                let text = format!("cannot write the cache {}: {error}", sink.place);
                session.inner.events.send(BuildEvent::Warning(text));
            }
        }
    }
    Ok(())
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn write_one(session: &Arc<Session>, sink: &CacheSink) -> Result<(), Failure> {
    let mut new = session.exports.of(&scope(session, sink.scope));
    if let Some(bytes_max) = sink.mounts_bytes_max {
        new.mounts = pack_mounts(session, bytes_max).await;
    }
    let layers: BTreeSet<DiffId> =
        new.steps.values().flat_map(CachedStep::layers).map(|(_, diff_id)| *diff_id).collect();
    let (ttl, now) = (sink.ttl, session.clock);
    let change = |records: &mut Records| {
        let changes = differs(records, &new, ttl, now);
        records.merge(&new);
        records.refresh(&layers, now);
        0 < records.expire(ttl, now) || changes
    };
    match &sink.place {
        CachePlace::Registry(reference) => {
            let mount_from = fetch_for(session, &new, Some(reference)).await?;
            let write = remote::Write {
                registry: &session.inner.registry,
                store: &session.inner.store,
                reference,
                platforms: &platforms(&session.plan),
                mount_from,
            };
            write.run(change).await?;
        }
        CachePlace::Layout { directory, name } => {
            let missing = without_layers_in(&new, directory);
            fetch_for(session, &missing, None).await?;
            let (directory, name) = (directory.clone(), name.clone());
            let store = session.inner.store.clone();
            let (new, layers) = (new.clone(), layers.clone());
            let written = tokio::task::spawn_blocking(move || {
                layout::write(&directory, &name, &store, |records| {
                    records.merge(&new);
                    records.refresh(&layers, now);
                    records.expire(ttl, now);
                })
            });
            written.await??;
        }
    }
    Ok(())
}

/// Whether `known` has to be written anew for `new` to be in it, or for its use to count.
fn differs(known: &Records, new: &Records, ttl: Option<Duration>, now: i64) -> bool {
    let refresh = ttl.map_or(REFRESH_MAX, |ttl| (ttl / REFRESH_PART).min(REFRESH_MAX));
    let refresh = i64::try_from(refresh.as_secs()).unwrap_or(i64::MAX);
    let is_current = |used: i64| now.saturating_sub(used) <= refresh;
    let steps = new.steps.iter().any(|(key, step)| {
        known
            .steps
            .get(key)
            .is_none_or(|known| known.outputs != step.outputs || !is_current(known.used))
    });
    let mounts = new.mounts.iter().any(|(id, mount)| {
        known
            .mounts
            .get(id)
            .is_none_or(|known| known.layer.digest != mount.layer.digest || !is_current(known.used))
    });
    steps || mounts
}

fn without_layers_in(records: &Records, directory: &std::path::Path) -> Records {
    let mut missing = records.clone();
    missing.steps.retain(|_, step| step.layers().any(|(layer, _)| !layout::has(directory, layer)));
    missing
}

/// Sees to it that layers can be written: those that are elsewhere are fetched, unless the
/// registry that is written has them. Returns the repositories it may take them from.
async fn fetch_for(
    session: &Arc<Session>,
    records: &Records,
    to: Option<&Reference>,
) -> Result<Vec<Repository>, Failure> {
    let origins = session.exports.origins();
    let mut mount_from = Vec::new();
    for (layer, diff_id) in records.steps.values().flat_map(CachedStep::layers) {
        // Held first: a collection may run beside us.
        let is_held = session.source.lease().add(&layer.digest)?;
        if is_held && session.inner.store.contains(&layer.digest) {
            continue;
        }
        let Some(origin) = origins.get(&layer.digest) else { continue };
        if let Some(to) = to
            && origin.registry() == to.registry()
        {
            if origin.repository() == to.repository() {
                continue;
            }
            if !mount_from.contains(origin.repository()) {
                mount_from.push(origin.repository().clone());
            }
            if session.inner.registry.has_or_mounts(to, &layer.digest, &mount_from).await? {
                continue;
            }
        }
        let layer =
            LayerRef { descriptor: layer.clone(), diff_id: *diff_id, origin: Some(origin.clone()) };
        session.source.ensure_blob(&layer).await?;
    }
    Ok(mount_from)
}

/// Packs the cache mounts that steps used. One that cannot be packed is left out with a warning.
async fn pack_mounts(session: &Arc<Session>, bytes_max: u64) -> BTreeMap<Digest, MountRecord> {
    let used = session.exports.mounts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let home = session.inner.directory.join("cache-mounts");
    let mut packed = BTreeMap::new();
    let mut left = bytes_max;
    for (identity, mount) in used {
        let id = mount.id.clone();
        match pack_one(session, mount, home.clone(), left).await {
            Ok(Some(record)) => {
                left = left.saturating_sub(record.bytes);
                packed.insert(identity, record);
            }
            Ok(None) => {}
            Err(error) => {
                let text = format!("cache mount {id} is not exported: {error}");
                session.inner.events.send(BuildEvent::Warning(text));
            }
        }
    }
    packed
}

async fn pack_one(
    session: &Arc<Session>,
    mount: UsedMount,
    home: PathBuf,
    bytes_max: u64,
) -> Result<Option<MountRecord>, StepError> {
    let (source, now) = (Arc::clone(&session.source), session.clock);
    blocking(move || {
        let directory = caches::usual_directory(&home, &mount.id);
        let failed = |error| StepError::io(&directory, error);
        if !directory.is_dir() {
            return Ok(None);
        }
        // Nobody writes while it is packed.
        let Some(_lock) = caches::lock_usual(&home, &mount.id).map_err(failed)? else {
            return Err(StepError::Mount("another build is using it".to_owned()));
        };
        let summary = mounts::summarize(&directory).map_err(failed)?;
        if let Some(known) = &mount.known
            && known.fingerprint == summary.fingerprint
        {
            return Ok(Some(MountRecord { used: now, ..known.clone() }));
        }
        if bytes_max < summary.bytes {
            return Err(StepError::Mount(format!(
                "it has {} bytes and {bytes_max} are left for cache mounts",
                summary.bytes
            )));
        }
        mounts::pack(&mount.id, &directory, summary, &source.store, source.lease(), now)
    })
    .await
}

#[cfg(test)]
mod tests {
    use oci_model::{Descriptor, MediaType};

    use super::*;
    use crate::cache::record::StepOutput;

    fn records(used: i64, bytes: &[u8]) -> Records {
        let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, bytes);
        let layer = Some((descriptor, DiffId(Digest::of(bytes))));
        let outputs = vec![StepOutput { created: 1, layer }];
        let kind = StepKind::Chain;
        let step = CachedStep { kind, outputs, used, about: None, content: None };
        Records { steps: [(Digest::of(b"key"), step)].into(), ..Records::default() }
    }

    #[test]
    fn a_cache_is_written_for_new_results_and_when_uses_get_old() {
        let ttl = Some(Duration::from_secs(1000));
        let differs = |known: &Records, now| differs(known, &records(now, b"a"), ttl, now);
        assert!(differs(&Records::default(), 10));
        assert!(differs(&records(10, b"other"), 10));
        assert!(!differs(&records(10, b"a"), 110));
        assert!(differs(&records(10, b"a"), 111));
    }
}
