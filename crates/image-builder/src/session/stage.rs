//! One stage: what it starts from, its steps in order, what it leaves.

use std::sync::Arc;
use std::time::Instant;

use dockerfile::{Base, Stage, StageId, StepLayer, assemble_config};
use oci_model::ImageConfig;

use crate::builder::{Snapshots, empty_config};
use crate::cache::lookahead::Hit;
use crate::cache::record::StepOutput;
use crate::error::BuildError;
use crate::event::{BuildEvent, StepNumber};
use crate::layer_source::LayerRef;

use super::{Session, StageFiles, StageResult, layer_of};

/// What a stage starts from.
#[derive(Default)]
pub(super) struct StageStart {
    pub(super) layers: Vec<LayerRef>,
    pub(super) config: Option<ImageConfig>,
    pub(super) is_docker: Option<bool>,
    /// Outputs of the stages below.
    pub(super) outputs: Vec<StepOutput>,
}

impl StageResult {
    pub(super) fn as_start(&self) -> StageStart {
        StageStart {
            layers: self.files.layers.clone(),
            config: Some(self.config.clone()),
            is_docker: self.base_is_docker,
            outputs: self.outputs.clone(),
        }
    }

    pub(super) fn into_start(self) -> StageStart {
        StageStart {
            layers: self.files.layers,
            config: Some(self.config),
            is_docker: self.base_is_docker,
            outputs: self.outputs,
        }
    }
}

/// A stage in the making.
pub(super) struct StageWork {
    pub(super) files: StageFiles,
    pub(super) inherited: usize,
    pub(super) base_config: Option<ImageConfig>,
    pub(super) base_is_docker: Option<bool>,
    /// What every step that changes files made, from the image at the bottom on.
    pub(super) outputs: Vec<StepOutput>,
    pub(super) steps: Vec<StepLayer>,
    pub(super) made_at: Option<i64>,
}

impl StageWork {
    pub(super) fn new(start: StageStart) -> Self {
        Self {
            inherited: start.layers.len(),
            files: StageFiles { layers: start.layers },
            base_config: start.config,
            base_is_docker: start.is_docker,
            outputs: start.outputs,
            steps: Vec::new(),
            made_at: None,
        }
    }
}

impl Session {
    /// The result of a stage; `None` if the build has failed. Runs it if nobody did yet.
    pub(crate) fn stage(
        self: Arc<Self>,
        id: StageId,
    ) -> futures_util::future::BoxFuture<'static, Option<Arc<StageResult>>> {
        Box::pin(async move {
            let run = || async {
                match self.run_stage(id).await {
                    Ok(result) => Some(Arc::new(result)),
                    Err(error) => {
                        self.fail(error);
                        None
                    }
                }
            };
            self.stages[id.index()].get_or_init(run).await.clone()
        })
    }

    /// A finished stage that a step needs.
    pub(crate) async fn stage_needed(
        self: &Arc<Self>,
        id: StageId,
    ) -> Result<Arc<StageResult>, BuildError> {
        Arc::clone(self).stage(id).await.ok_or(BuildError::Cancelled)
    }

    /// How many things are announced: bases that are images or contexts, steps with work.
    pub(super) fn steps_to_show(&self) -> usize {
        let stages = self.plan.stages.iter();
        let of = |stage: &Stage| {
            let is_announced = self.needs(stage.id) && !matches!(stage.base, Base::Stage(_));
            usize::from(is_announced)
                + stage.steps.iter().filter(|step| step.definition().is_some()).count()
        };
        stages.map(of).sum()
    }

    pub(super) async fn run_stage(
        self: &Arc<Self>,
        id: StageId,
    ) -> Result<StageResult, BuildError> {
        let stage = self.plan.stage(id);
        let hit = self.ahead.get().and_then(|ahead| ahead.hit(id));
        let (start, mut known) = match hit {
            Some(hit) => {
                let own = stage.steps[..=hit.step].iter().filter(|s| s.definition().is_some());
                let below = hit.found.outputs.len().saturating_sub(own.count());
                let (below, own) = hit.found.outputs.split_at(below);
                (self.known_start(stage, below, hit).await?, own.iter())
            }
            None => (self.stage_start(stage).await?, [].iter()),
        };
        let mut work = StageWork::new(start);
        for (number, step) in stage.steps.iter().enumerate() {
            if self.has_failed() {
                return Err(BuildError::Cancelled);
            }
            let number = StepNumber { stage: id.index(), step: number };
            if step.definition().is_none() {
                work.steps.push(StepLayer::Empty);
                continue;
            }
            let (output, origin) = match known.next() {
                Some(output) => {
                    let origin = hit.and_then(|hit| hit.found.origin.clone());
                    let layer = layer_of(output, origin.as_ref());
                    self.announce_cached(step, number, layer.as_ref());
                    if let Some(hit) = hit {
                        self.note_known(number, &work, output, hit);
                    }
                    (output.clone(), origin)
                }
                None => self.step(stage, step, number, &work).await?,
            };
            let layer = layer_of(&output, origin.as_ref());
            work.made_at = work.made_at.max(Some(output.created));
            work.outputs.push(output);
            work.steps.push(match &layer {
                Some(layer) => StepLayer::Layer(layer.diff_id),
                None => StepLayer::Empty,
            });
            if let Some(layer) = layer {
                if self.is_wanted(id) && self.request.snapshots == Snapshots::PerStep {
                    self.push_ahead(&layer);
                }
                work.files.layers.push(layer);
            }
        }
        Ok(self.finish_stage(stage, work))
    }

    pub(super) fn finish_stage(&self, stage: &Stage, work: StageWork) -> StageResult {
        // An image whose steps are all cached is the image of the build that made them.
        let created = self.created_of(work.made_at);
        let base = work.base_config.as_ref();
        let config = assemble_config(stage, base, &work.steps, created.as_deref());
        StageResult {
            files: work.files,
            config,
            created,
            inherited: work.inherited,
            base_is_docker: work.base_is_docker,
            steps: work.steps,
            base_config: work.base_config,
            outputs: work.outputs,
        }
    }

    /// What a stage starts from, when the outputs of all stages below are known.
    pub(super) fn known_start<'a>(
        self: &'a Arc<Self>,
        stage: &'a Stage,
        outputs: &'a [StepOutput],
        hit: &'a Hit,
    ) -> futures_util::future::BoxFuture<'a, Result<StageStart, BuildError>> {
        Box::pin(async move {
            let Base::Stage(parent) = &stage.base else { return self.stage_start(stage).await };
            let parent = self.plan.stage(*parent);
            let own = parent.steps.iter().filter(|step| step.definition().is_some()).count();
            let (below, own) = outputs.split_at(outputs.len().saturating_sub(own));
            let mut work = StageWork::new(self.known_start(parent, below, hit).await?);
            let mut own = own.iter();
            for step in &parent.steps {
                let output = if step.definition().is_some() { own.next() } else { None };
                let layer = output.and_then(|output| layer_of(output, hit.found.origin.as_ref()));
                work.steps.push(match &layer {
                    Some(layer) => StepLayer::Layer(layer.diff_id),
                    None => StepLayer::Empty,
                });
                if let Some(output) = output {
                    work.made_at = work.made_at.max(Some(output.created));
                    work.outputs.push(output.clone());
                }
                work.files.layers.extend(layer);
            }
            Ok(self.finish_stage(parent, work).into_start())
        })
    }

    /// Whether the stage's files become an image.
    pub(super) fn is_wanted(&self, id: StageId) -> bool {
        let mut platforms = Vec::new();
        self.plan.targets().any(|target| {
            let first = !platforms.contains(&target.platform);
            platforms.push(target.platform);
            first && target.stage == id
        })
    }

    pub(super) async fn stage_start(
        self: &Arc<Self>,
        stage: &Stage,
    ) -> Result<StageStart, BuildError> {
        let begun = Instant::now();
        let start = self.base_of(stage).await?;
        if !matches!(stage.base, Base::Stage(_)) {
            let (stage, duration) = (stage.id.index(), begun.elapsed());
            self.inner.events.send(BuildEvent::StageReady { stage, duration });
        }
        Ok(start)
    }

    pub(super) async fn base_of(self: &Arc<Self>, stage: &Stage) -> Result<StageStart, BuildError> {
        let title = |what: &str| {
            self.inner.events.send(BuildEvent::StageStarted {
                stage: stage.id.index(),
                title: format!("{} {what}", stage.title),
            });
        };
        match &stage.base {
            Base::Scratch => {
                title("scratch");
                Ok(StageStart::default())
            }
            Base::Stage(parent) => {
                let parent = self.stage_needed(*parent).await?;
                Ok(parent.as_start())
            }
            Base::Image(request) => {
                title(&request.reference.to_string());
                self.image_start(request).await
            }
            Base::NamedContext { name, platform } => {
                title(name);
                let context = self.request.named_contexts.get(name).ok_or_else(|| {
                    BuildError::Request(format!("there is no context named {name}"))
                })?;
                if let Some(reference) = context.image(&self.inner.images)? {
                    let platform = platform.clone();
                    return self
                        .image_start(&dockerfile::ImageRequest { reference, platform })
                        .await;
                }
                let layer = self
                    .context_layer(name)
                    .await
                    .map_err(|source| BuildError::state(format!("context {name}"), source))?;
                let mut config = empty_config(platform);
                config.rootfs.diff_ids = layer.iter().map(|layer| layer.diff_id).collect();
                Ok(StageStart {
                    layers: layer.into_iter().collect(),
                    config: Some(config),
                    ..StageStart::default()
                })
            }
        }
    }

    pub(super) async fn image_start(
        &self,
        request: &dockerfile::ImageRequest,
    ) -> Result<StageStart, BuildError> {
        let image = self.inner.images.get(request).await?;
        Ok(StageStart {
            layers: image.layers.clone(),
            config: Some(image.config.parsed().clone()),
            is_docker: Some(image.manifest.media_type().is_docker()),
            outputs: Vec::new(),
        })
    }
}
