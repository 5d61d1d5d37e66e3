//! What the cache is told of a step, and asked: keys, records made here, what goes ahead to a
//! registry.

use std::sync::{Arc, PoisonError};

use dockerfile::{Stage, Step};
use oci_model::{Digest, Reference};

use crate::cache::document::Records;
use crate::cache::explain::{CacheDecision, KeyKind};
use crate::cache::key::{content_key, definition_parts};
use crate::cache::lookahead::Hit;
use crate::cache::record::{About, CachedStep, KeyPart, StepKind, StepOutput};
use crate::cache::shelf::Found;
use crate::event::{BuildEvent, StepNumber};
use crate::layer_source::LayerRef;

use super::stage::StageWork;
use super::{Session, StageFiles, StepOrBuild, base_name, needs_no_base, plain_title};

/// The keys of a step whose turn has come.
pub(super) struct StepKeys {
    pub(super) definition: dockerfile::Definition,
    /// Identity of the files below, if the result depends on them.
    pub(super) base: Option<Digest>,
    pub(super) inputs: Vec<Digest>,
    pub(super) quick: Digest,
}

impl StepKeys {
    pub(super) async fn new(
        session: &Arc<Session>,
        step: &Step,
        number: StepNumber,
        files: &StageFiles,
    ) -> Result<Self, StepOrBuild> {
        let definition = step.definition().unwrap_or(dockerfile::Definition { parts: Vec::new() });
        let base = if needs_no_base(step) { None } else { files.identity() };
        let inputs = session.quick_inputs(step, number).await?;
        let quick = content_key(session.form, &definition, base.as_ref(), &inputs);
        Ok(Self { definition, base, inputs, quick })
    }
}

impl Session {
    /// What only one step with this key may do at a time.
    pub(super) fn turn(&self, key: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(*key).or_default())
    }

    /// What another stage of this build made of the same step.
    pub(super) fn made_here(&self, key: &Digest) -> Option<Found> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(key).cloned()
    }

    /// What the keys of a step are made of.
    pub(super) fn about(
        &self,
        stage: &Stage,
        step: &Step,
        number: StepNumber,
        keys: &StepKeys,
        exact_parts: Vec<KeyPart>,
    ) -> About {
        let mut parts = definition_parts(self.form, &keys.definition);
        if let Some(base) = &keys.base {
            parts.push(KeyPart::new("base", base));
        }
        parts.extend(self.input_parts(step, number, &keys.inputs));
        parts.extend(exact_parts);
        let stage = stage.name.clone().unwrap_or_else(|| stage.number.to_string());
        About { stage, title: plain_title(&step.title), parts }
    }

    pub(super) fn explain(
        &self,
        stage: &Stage,
        number: StepNumber,
        about: &About,
        found: Option<&Found>,
        work: &StageWork,
    ) {
        if !self.request.explain_cache {
            return;
        }
        let decision = match found {
            Some(found) => CacheDecision::Hit { from: found.from.clone(), by: KeyKind::Content },
            None if !self.uses_cache(stage.id) => CacheDecision::Miss {
                nearest: None,
                differences: vec!["the cache of this stage is not in use".to_owned()],
            },
            None => {
                let parent = stage.steps[..number.step]
                    .iter()
                    .rfind(|step| step.definition().is_some())
                    .map_or_else(
                        || format!("the base {}", base_name(&stage.base)),
                        |step| format!("parent step {:?}", plain_title(&step.title)),
                    );
                let parent = match work.outputs.is_empty() && number.step == 0 {
                    true => format!("the base {}", base_name(&stage.base)),
                    false => parent,
                };
                crate::cache::explain::miss(about, &parent, self.known_abouts())
            }
        };
        self.inner.events.send(BuildEvent::Cache { step: number, decision });
    }

    /// What earlier builds noted of their keys; read once.
    pub(super) fn known_abouts(&self) -> &[(i64, Arc<About>)] {
        self.abouts.get_or_init(|| self.shelf.abouts())
    }

    /// Notes what a step made or was found to have made.
    pub(super) fn note_made(
        &self,
        number: StepNumber,
        work: &StageWork,
        output: &StepOutput,
        origin: Option<&Reference>,
        keys: &[Digest],
        about: Arc<About>,
    ) {
        let used = self.clock;
        let mut records = Records::default();
        for key in keys {
            let step = CachedStep {
                kind: StepKind::Content,
                outputs: vec![output.clone()],
                used,
                about: Some(Arc::clone(&about)),
                content: None,
            };
            records.steps.insert(*key, step);
        }
        if let Some(chain) = self.ahead.get().and_then(|ahead| ahead.chain(number)) {
            let outputs = work.outputs.iter().chain([output]).cloned().collect();
            let content = keys.first().copied();
            let kind = StepKind::Chain;
            records.steps.insert(chain, CachedStep { kind, outputs, used, about: None, content });
        }
        if origin.is_none() {
            // First what keeps the layer, then what points to it.
            let (chains, contents): (Vec<_>, Vec<_>) =
                records.steps.iter().partition(|(_, step)| step.kind == StepKind::Chain);
            for (key, step) in contents.into_iter().chain(chains) {
                self.shelf.local.record(key, step);
            }
        }
        self.exports.note(number.stage, records, origin);
    }

    /// Notes a step that was known with everything below it.
    pub(super) fn note_known(
        &self,
        number: StepNumber,
        work: &StageWork,
        output: &StepOutput,
        hit: &Hit,
    ) {
        let Some(chain) = self.ahead.get().and_then(|ahead| ahead.chain(number)) else { return };
        self.shelf.local.touch_chain(&chain);
        let outputs = work.outputs.iter().chain([output]).cloned().collect();
        let (kind, used) = (StepKind::Chain, self.clock);
        let step = CachedStep { kind, outputs, used, about: None, content: None };
        let mut records = Records::default();
        records.steps.insert(chain, step);
        self.exports.note(number.stage, records, hit.found.origin.as_ref());
        if self.request.explain_cache {
            let from = hit.found.from.clone();
            let decision = CacheDecision::Hit { from, by: KeyKind::Chain };
            self.inner.events.send(BuildEvent::Cache { step: number, decision });
        }
    }

    /// Sends a layer of the target to where the image will go, while the build goes on.
    pub(super) fn push_ahead(&self, layer: &LayerRef) {
        if layer.origin.is_some() {
            return;
        }
        for reference in &crate::push::first_of_each_registry(&self.request.push_to) {
            let (registry, store) = (self.inner.registry.clone(), self.inner.store.clone());
            let (reference, digest) = (reference.clone(), layer.descriptor.digest);
            let mut pushes = self.pushes.lock().unwrap_or_else(PoisonError::into_inner);
            pushes.spawn(async move {
                // The push of the image finds out whether it worked, and repeats it if not.
                if let Err(error) = registry.push_blob(&reference, &digest, &store).await {
                    tracing::debug!(%reference, %digest, %error, "layer was not sent ahead");
                }
            });
        }
    }
}
