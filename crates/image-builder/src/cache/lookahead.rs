//! What is known before anything runs: chain keys of all steps of all stages, which stages end
//! in a hit, and which need not be built.
//!
//! What steps read from outside (contexts, images, URLs) is digested all at once. No step waits
//! for the lookup of another.

use std::sync::Arc;

use dockerfile::{Action, Base, Source, Stage, StageId, Step};
use futures_util::future::join_all;
use oci_model::Digest;

use super::key::{chain_key, scratch_chain};
use super::shelf::Found;
use crate::content_digest::Framed;
use crate::event::StepNumber;
use crate::session::{Session, StepOrBuild};

/// What is known of the stages of a plan.
#[derive(Debug)]
pub(crate) struct Lookahead {
    stages: Vec<StageAhead>,
    needed: Vec<bool>,
}

/// What is known of one stage.
#[derive(Debug, Default)]
struct StageAhead {
    /// The chain key of each step; `None` if it changes no files or its key is unknown.
    chains: Vec<Option<Digest>>,
    hit: Option<Hit>,
}

/// The last step of a stage that a cache knows with everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// Its place in the stage.
    pub(crate) step: usize,
    /// Outputs of the stages below, and of the steps up to this one.
    pub(crate) found: Found,
}

/// What a step reads, as far as chains go.
enum Part {
    Known(Digest),
    Stage(StageId),
}

/// Chain at the end of a stage.
#[derive(Clone, Copy)]
struct End {
    /// `None` if it is unknown.
    chain: Option<Digest>,
    /// Whether a hit on it counts: it does not after a step that must be executed anew.
    counts: bool,
    outputs: usize,
}

impl Lookahead {
    /// Whether the build has to go through a stage.
    pub(crate) fn needs(&self, stage: StageId) -> bool {
        self.needed.get(stage.index()).copied().unwrap_or(true)
    }

    /// The last step of a stage that is known.
    pub(crate) fn hit(&self, stage: StageId) -> Option<&Hit> {
        self.stages.get(stage.index())?.hit.as_ref()
    }

    /// The chain key of a step.
    pub(crate) fn chain(&self, step: StepNumber) -> Option<Digest> {
        *self.stages.get(step.stage)?.chains.get(step.step)?
    }
}

impl Session {
    /// Looks at all stages.
    pub(crate) async fn look_ahead(self: &Arc<Self>) -> Lookahead {
        let stages = &self.plan.stages;
        let bases = join_all(stages.iter().map(|stage| self.base_part(stage)));
        let reads = join_all(stages.iter().map(|stage| {
            let steps = stage.steps.iter().enumerate();
            join_all(steps.map(|(at, step)| {
                self.parts(step, StepNumber { stage: stage.id.index(), step: at })
            }))
        }));
        let (bases, reads) = tokio::join!(bases, reads);
        let mut ends: Vec<End> = Vec::with_capacity(stages.len());
        let mut ahead = Lookahead { stages: Vec::new(), needed: vec![false; stages.len()] };
        for ((stage, base), reads) in stages.iter().zip(bases).zip(reads) {
            let (one, end) = self.stage_ahead(stage, base, &reads, &ends);
            ends.push(end);
            ahead.stages.push(one);
        }
        for target in self.plan.targets() {
            self.mark_needed(&mut ahead, target.stage);
        }
        ahead
    }

    fn stage_ahead(
        &self,
        stage: &Stage,
        base: Option<Part>,
        reads: &[Option<Vec<Part>>],
        ends: &[End],
    ) -> (StageAhead, End) {
        let of = |part: &Part| match part {
            Part::Known(digest) => End { chain: Some(*digest), counts: true, outputs: 0 },
            Part::Stage(id) => {
                let unknown = End { chain: None, counts: false, outputs: 0 };
                ends.get(id.index()).copied().unwrap_or(unknown)
            }
        };
        let mut end = base.as_ref().map_or(End { chain: None, counts: false, outputs: 0 }, of);
        let mut one = StageAhead::default();
        end.counts &= self.uses_cache(stage.id);
        let mut candidates = Vec::new();
        for (at, (step, reads)) in stage.steps.iter().zip(reads).enumerate() {
            let Some(definition) = step.definition() else {
                one.chains.push(None);
                continue;
            };
            end.outputs += 1;
            let inputs: Option<Vec<End>> =
                reads.as_ref().map(|parts| parts.iter().map(of).collect());
            let digests: Option<Vec<Digest>> =
                inputs.as_ref().and_then(|inputs| inputs.iter().map(|input| input.chain).collect());
            end.counts &= inputs.is_some_and(|inputs| inputs.iter().all(|input| input.counts));
            end.chain = match (end.chain, digests) {
                (Some(below), Some(inputs)) if self.caches_kind(step) => {
                    Some(chain_key(self.form, &definition, &below, &inputs))
                }
                _ => None,
            };
            if let (Some(chain), true) = (end.chain, end.counts) {
                candidates.push((at, chain, end.outputs));
            }
            one.chains.push(end.chain);
        }
        one.hit = candidates.into_iter().rev().find_map(|(step, chain, outputs)| {
            let found = self.shelf.lookup(&chain, &self.source)?;
            (found.outputs.len() == outputs).then_some(Hit { step, found })
        });
        (one, end)
    }

    fn mark_needed(&self, ahead: &mut Lookahead, id: StageId) {
        if std::mem::replace(&mut ahead.needed[id.index()], true) {
            return;
        }
        let stage = self.plan.stage(id);
        let hit = ahead.stages[id.index()].hit.as_ref().map(|hit| hit.step);
        if let (Base::Stage(parent), None) = (&stage.base, hit) {
            self.mark_needed(ahead, *parent);
        }
        for (at, step) in stage.steps.iter().enumerate() {
            if hit.is_some_and(|hit| at <= hit) {
                continue;
            }
            for input in step.inputs() {
                if let Source::Stage(read) = input.source {
                    self.mark_needed(ahead, *read);
                }
            }
        }
    }

    /// What a stage starts from. A failure shows when the stage's turn comes.
    async fn base_part(self: &Arc<Self>, stage: &Stage) -> Option<Part> {
        match &stage.base {
            Base::Scratch => Some(Part::Known(scratch_chain())),
            Base::Stage(parent) => Some(Part::Stage(*parent)),
            Base::Image(_) | Base::NamedContext { .. } => {
                let identity = self.base_identity(&stage.base).await.ok()?;
                let mut framed = Framed::new("chain of base");
                framed.field(identity.as_ref().map_or(&[][..], |identity| identity.raw()));
                Some(Part::Known(framed.finish()))
            }
        }
    }

    /// What a step reads; `None` if that cannot be found out before its turn comes.
    async fn parts(self: &Arc<Self>, step: &Step, number: StepNumber) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        for (at, input) in step.inputs().into_iter().enumerate() {
            parts.push(match input.source {
                Source::Stage(id) => Part::Stage(*id),
                Source::Image(_) | Source::Context | Source::NamedContext(_) => {
                    let digest = self.outside_digest(&input, number, at).await;
                    Part::Known(said(digest)?)
                }
            });
        }
        let remote = self.remote_digests(step).await;
        parts.extend(said(remote.map_err(StepOrBuild::from))?.into_iter().map(Part::Known));
        Some(parts)
    }

    /// Whether results of a kind of step are kept at all.
    pub(crate) fn caches_kind(&self, step: &Step) -> bool {
        match step.action {
            Action::Run(_) => self.request.cached_kinds.run,
            Action::Transfer(_) | Action::Workdir(_) => self.request.cached_kinds.copy,
            Action::Configure => false,
        }
    }

    /// Whether the directory of a named context stands for it.
    pub(crate) fn named_image(&self, name: &str) -> Option<oci_model::Reference> {
        self.request.named_contexts.get(name)?.image(&self.inner.images).ok()?
    }
}

fn said<T>(result: Result<T, StepOrBuild>) -> Option<T> {
    result.ok()
}
