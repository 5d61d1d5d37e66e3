//! The document of a cache: all its records, and the JSON of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use oci_model::{Descriptor, DiffId, Digest, MediaType};
use serde::{Deserialize, Serialize};

use super::mounts::MountRecord;
use super::record::{About, CachedStep, KeyPart, StepKind, StepOutput};

/// Media type of the document where it stands alone.
pub(crate) const CACHE_CONFIG: &str = "application/vnd.shipway.build-cache.v2+json";
/// Largest document, in bytes: what `registry-client` reads into memory.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most records a document keeps.
const RECORDS_MAX: usize = 5_000;
/// Most key parts a document keeps; the oldest records lose theirs first.
const PARTS_MAX: usize = 40_000;
/// Version of the format.
const VERSION: u32 = 3;
/// Oldest version that is read. Its records do not say their kind: those that tell what their
/// key was made of are known to be of contents.
const VERSION_MIN: u32 = 2;

/// All records of one cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// Steps by key.
    pub(crate) steps: BTreeMap<Digest, CachedStep>,
    /// Exported cache mounts by the digest of their identity.
    pub(crate) mounts: BTreeMap<Digest, MountRecord>,
}

impl Records {
    /// A record that is not older than `ttl`; `now` is in unix seconds.
    pub(crate) fn lookup(
        &self,
        key: &Digest,
        ttl: Option<Duration>,
        now: i64,
    ) -> Option<&CachedStep> {
        self.steps.get(key).filter(|step| is_fresh(step.used, ttl, now))
    }

    /// Adds what another one knows; of two records of one key the one used last counts.
    pub(crate) fn merge(&mut self, new: &Self) {
        for (key, step) in &new.steps {
            match self.steps.get_mut(key) {
                Some(known) if known.outputs == step.outputs => {
                    known.used = known.used.max(step.used);
                    if step.kind == StepKind::Content {
                        known.kind = step.kind;
                    }
                    known.about = step.about.clone().or_else(|| known.about.take());
                }
                Some(known) if step.used < known.used => {}
                Some(_) | None => drop(self.steps.insert(*key, step.clone())),
            }
        }
        for (id, mount) in &new.mounts {
            match self.mounts.get(id) {
                Some(known) if mount.used < known.used => {}
                Some(_) | None => drop(self.mounts.insert(*id, mount.clone())),
            }
        }
    }

    /// Notes that layers are still of use: everything that made one of them stays fresh.
    pub(crate) fn refresh(&mut self, layers: &BTreeSet<DiffId>, now: i64) {
        for step in self.steps.values_mut() {
            let own = step.own().and_then(|output| output.layer.as_ref());
            if own.is_some_and(|(_, diff_id)| layers.contains(diff_id)) {
                step.used = step.used.max(now);
            }
        }
    }

    /// Drops what is too old, and the oldest if there is too much; says how many it dropped.
    pub(crate) fn expire(&mut self, ttl: Option<Duration>, now: i64) -> usize {
        let before = self.steps.len() + self.mounts.len();
        self.steps.retain(|_, step| is_fresh(step.used, ttl, now));
        self.mounts.retain(|_, mount| is_fresh(mount.used, ttl, now));
        let mut by_age: Vec<(i64, Digest)> =
            self.steps.iter().map(|(key, step)| (step.used, *key)).collect();
        by_age.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in by_age.iter().skip(RECORDS_MAX) {
            self.steps.remove(key);
        }
        let mut parts = 0;
        for (_, key) in by_age.iter().take(RECORDS_MAX) {
            let Some(step) = self.steps.get_mut(key) else { continue };
            parts += step.about.as_ref().map_or(0, |about| about.parts.len());
            if PARTS_MAX < parts {
                step.about = None;
            }
        }
        before - self.steps.len() - self.mounts.len()
    }

    /// All layers that records name, each once.
    pub(crate) fn layers(&self) -> Vec<Descriptor> {
        let mut layers: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        for (descriptor, _) in self.steps.values().flat_map(CachedStep::layers) {
            layers.insert(descriptor.digest, descriptor.clone());
        }
        for mount in self.mounts.values() {
            layers.insert(mount.layer.digest, mount.layer.clone());
        }
        layers.into_values().collect()
    }

    /// The records as JSON of at most [`DOCUMENT_BYTES_MAX`]; if there is too much, explanations
    /// go first, then the older half of the records.
    pub(crate) fn write(&mut self) -> Result<Vec<u8>, serde_json::Error> {
        loop {
            let document = serde_json::to_vec(&Document::of(self))?;
            if document.len() as u64 <= DOCUMENT_BYTES_MAX {
                return Ok(document);
            }
            if self.steps.values().any(|step| step.about.is_some()) {
                self.steps.values_mut().for_each(|step| step.about = None);
                continue;
            }
            let mut used: Vec<i64> = self.steps.values().map(|step| step.used).collect();
            used.sort_unstable();
            let Some(median) = used.get(used.len() / 2).copied() else { return Ok(document) };
            self.steps.retain(|_, step| median < step.used);
        }
    }

    /// The records as JSON that can be part of another document.
    pub(crate) fn to_value(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(Document::of(self))
    }

    /// Reads JSON; a document that we do not understand is empty.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let document: Option<Document> = serde_json::from_slice(bytes).ok();
        document.map(Document::into_records).unwrap_or_default()
    }

    /// The same for JSON that is part of another document.
    pub(crate) fn from_value(value: serde_json::Value) -> Self {
        let document: Option<Document> = serde_json::from_value(value).ok();
        document.map(Document::into_records).unwrap_or_default()
    }
}

/// Whether something that was used at `used` counts at `now`; both in unix seconds.
pub(crate) fn is_fresh(used: i64, ttl: Option<Duration>, now: i64) -> bool {
    ttl.is_none_or(|ttl| {
        now.saturating_sub(used) <= i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)
    })
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Layers by number: records of later steps name those of earlier ones again and again.
    layers: Vec<Layer>,
    records: BTreeMap<String, Record>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    mounts: BTreeMap<String, MountRecord>,
}

#[derive(Serialize, Deserialize)]
struct Layer {
    media_type: MediaType,
    digest: Digest,
    size: u64,
    diff_id: DiffId,
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// Missing before version 3.
    #[serde(default)]
    kind: Option<StepKind>,
    used: i64,
    outputs: Vec<Output>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<WrittenAbout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
struct Output {
    created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct WrittenAbout {
    stage: String,
    title: String,
    parts: Vec<(String, String)>,
}

impl Document {
    fn of(records: &Records) -> Self {
        let mut layers = Vec::new();
        let mut numbers: HashMap<(Digest, DiffId), usize> = HashMap::new();
        let mut number = |descriptor: &Descriptor, diff_id: &DiffId| {
            *numbers.entry((descriptor.digest, *diff_id)).or_insert_with(|| {
                layers.push(Layer {
                    media_type: descriptor.media_type.clone(),
                    digest: descriptor.digest,
                    size: descriptor.size,
                    diff_id: *diff_id,
                });
                layers.len() - 1
            })
        };
        let mut written = BTreeMap::new();
        for (key, step) in &records.steps {
            let outputs = step.outputs.iter().map(|output| Output {
                created: output.created,
                layer: output.layer.as_ref().map(|(descriptor, id)| number(descriptor, id)),
            });
            let record = Record {
                kind: Some(step.kind),
                used: step.used,
                content: step.content,
                outputs: outputs.collect(),
                about: step.about.as_deref().map(|about| WrittenAbout {
                    stage: about.stage.clone(),
                    title: about.title.clone(),
                    parts: about
                        .parts
                        .iter()
                        .map(|part| (part.name.clone(), part.value.clone()))
                        .collect(),
                }),
            };
            written.insert(key.to_string(), record);
        }
        let mounts =
            records.mounts.iter().map(|(id, mount)| (id.to_string(), mount.clone())).collect();
        Self { version: VERSION, layers, records: written, mounts }
    }

    fn into_records(self) -> Records {
        if !(VERSION_MIN..=VERSION).contains(&self.version) {
            return Records::default();
        }
        let layers: Vec<(Descriptor, DiffId)> = self
            .layers
            .into_iter()
            .map(|layer| {
                (Descriptor::new(layer.media_type, layer.digest, layer.size), layer.diff_id)
            })
            .collect();
        let step = |record: Record| {
            let outputs = record.outputs.into_iter().map(|output| {
                // A number that names no layer makes the record worthless.
                let layer = match output.layer {
                    Some(number) => Some(layers.get(number)?.clone()),
                    None => None,
                };
                Some(StepOutput { created: output.created, layer })
            });
            let about = record.about.map(|about| {
                let parts = about.parts.into_iter().map(|(name, value)| KeyPart { name, value });
                Arc::new(About { stage: about.stage, title: about.title, parts: parts.collect() })
            });
            let outputs: Vec<StepOutput> = outputs.collect::<Option<_>>()?;
            let (used, content) = (record.used, record.content);
            let told = if about.is_some() { StepKind::Content } else { StepKind::Chain };
            let kind = record.kind.unwrap_or(told);
            (!outputs.is_empty()).then_some(CachedStep { kind, outputs, used, about, content })
        };
        let steps = self.records.into_iter();
        let mounts = self.mounts.into_iter();
        Records {
            steps: steps
                .filter_map(|(key, record)| Some((key.parse().ok()?, step(record)?)))
                .collect(),
            mounts: mounts.filter_map(|(id, mount)| Some((id.parse().ok()?, mount))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(bytes: &[u8], created: i64) -> StepOutput {
        let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, bytes);
        StepOutput { created, layer: Some((descriptor, DiffId(Digest::of(bytes)))) }
    }

    fn step(bytes: &[u8], used: i64) -> CachedStep {
        let outputs = vec![output(bytes, 1)];
        CachedStep { kind: StepKind::Content, outputs, used, about: None, content: None }
    }

    fn records(steps: &[(&[u8], CachedStep)]) -> Records {
        let steps = steps.iter().map(|(key, step)| (Digest::of(key), step.clone())).collect();
        Records { steps, mounts: BTreeMap::new() }
    }

    const TTL: Option<Duration> = Some(Duration::from_secs(10));

    #[test]
    fn a_document_says_what_it_was_told() {
        let parts = vec![KeyPart::new("env PATH", &Digest::of(b"value"))];
        let about = About { stage: "0".into(), title: "RUN x".into(), parts };
        let nothing = StepOutput { created: 3, layer: None };
        let stack = vec![output(b"a", 1), nothing, output(b"b", 2)];
        let mut told = records(&[
            (b"chain", CachedStep { kind: StepKind::Chain, outputs: stack, ..step(b"", 5) }),
            (b"content", CachedStep { about: Some(Arc::new(about)), ..step(b"b", 4) }),
        ]);
        assert_eq!(Records::parse(&told.write().expect("json")), told);
        assert_eq!(Records::from_value(told.to_value().expect("json")), told);
        assert_eq!(told.layers().len(), 2);
    }

    #[test]
    fn records_expire_by_their_last_use() {
        let mut known = records(&[(b"old", step(b"a", 0)), (b"new", step(b"b", 95))]);
        assert!(known.lookup(&Digest::of(b"old"), TTL, 100).is_none());
        assert!(known.lookup(&Digest::of(b"old"), None, 100).is_some());
        assert!(known.lookup(&Digest::of(b"new"), TTL, 105).is_some());
        assert!(known.lookup(&Digest::of(b"new"), TTL, 106).is_none());
        known.refresh(&BTreeSet::from([DiffId(Digest::of(b"a"))]), 100);
        assert_eq!(known.expire(TTL, 106), 1);
        assert!(known.lookup(&Digest::of(b"old"), TTL, 106).is_some());
    }

    #[test]
    fn a_merge_loses_nothing_and_keeps_the_newer_of_two() {
        let mut one = records(&[(b"mine", step(b"a", 1)), (b"both", step(b"b", 5))]);
        one.merge(&records(&[(b"theirs", step(b"c", 1)), (b"both", step(b"d", 4))]));
        assert_eq!(one.steps.len(), 3);
        assert_eq!(one.steps[&Digest::of(b"both")], step(b"b", 5));
        one.merge(&records(&[(b"both", step(b"d", 9))]));
        assert_eq!(one.steps[&Digest::of(b"both")], step(b"d", 9));
    }

    #[test]
    fn records_of_version_2_are_of_contents_if_they_tell_what_their_key_was_made_of() {
        let key = Digest::of(b"key");
        for (about, kind) in [
            (r#","about":{"stage":"a","title":"RUN x","parts":[]}"#, StepKind::Content),
            ("", StepKind::Chain),
        ] {
            let outputs = r#"[{"created":1}]"#;
            let text = format!(
                r#"{{"version":2,"layers":[],"records":{{"{key}":{{"used":1,"outputs":{outputs}{about}}}}}}}"#
            );
            assert_eq!(Records::parse(text.as_bytes()).steps[&key].kind, kind);
        }
    }

    #[test]
    fn documents_of_others_and_broken_ones_are_empty() {
        let broken = br#"{"version":2,"layers":[],"records":{"sha256:0000000000000000000000000000000000000000000000000000000000000000":{"used":1,"outputs":[{"created":1,"layer":7}]}}}"#;
        for text in [&b"not json"[..], br#"{"version":9,"layers":[],"records":{}}"#, broken] {
            assert_eq!(Records::parse(text), Records::default());
        }
    }
}
