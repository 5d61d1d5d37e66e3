//! One build: stages in parallel, steps in order, the cache before everything.

mod notes;
mod stage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use container_runtime::{Cancel, Mode};
use dockerfile::{
    Action, Base, FileSource, Linking, Plan, Principal, Stage, StageId, Step, StepLayer, Target,
};
use layers::{Timestamp, Timestamps};
use oci_model::{ChainId, DiffId, Digest, ImageConfig, Platform, Reference};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::annotations::Level;
use crate::attest::Times;
use crate::builder::{BuildOutcome, BuildRequest, CacheUse, Inner};
use crate::cache::export::Exports;
use crate::cache::key::content_key;
use crate::cache::local::LocalCache;
use crate::cache::lookahead::Lookahead;
use crate::cache::record::{About, StepOutput};
use crate::cache::shelf::{Found, Shelf};
use crate::commit::LayerForm;
use crate::content_digest::Framed;
use crate::error::{BuildError, StepError, error_text};
use crate::event::{BuildEvent, StepEnd, StepNumber};
use crate::isolation::Engine;
use crate::layer_source::{LayerRef, LayerSource};
use crate::sources::Sources;
use crate::workspace::Workspace;

use self::notes::StepKeys;
use self::stage::StageWork;

/// The files of a stage so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct StageFiles {
    pub(crate) layers: Vec<LayerRef>,
}

impl StageFiles {
    /// Identity of the files: what later keys build on. `None` for no files.
    pub(crate) fn identity(&self) -> Option<Digest> {
        let diff_ids: Vec<DiffId> = self.layers.iter().map(|layer| layer.diff_id).collect();
        ChainId::of(&diff_ids).map(|chain| chain.0)
    }
}

/// A finished stage.
#[derive(Debug)]
pub(crate) struct StageResult {
    pub(crate) files: StageFiles,
    /// Config of the stage as an image.
    pub(crate) config: ImageConfig,
    /// When the last of its steps was executed, as configs have it.
    pub(crate) created: Option<String>,
    /// Layers that were there before the stage's own.
    pub(crate) inherited: usize,
    /// Media types of the image at the bottom, if there is one.
    pub(crate) base_is_docker: Option<bool>,
    /// What became of each step.
    pub(crate) steps: Vec<StepLayer>,
    /// Config of what the stage starts from.
    pub(crate) base_config: Option<ImageConfig>,
    /// What every step that changes files made, from the image at the bottom on.
    outputs: Vec<StepOutput>,
}

/// Everything the parts of one build share.
pub(crate) struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) plan: Plan,
    pub(crate) request: BuildRequest,
    pub(crate) source: Arc<LayerSource>,
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) sources: Sources,
    pub(crate) form: LayerForm,
    /// Unix seconds that stand for now.
    pub(crate) now: i64,
    /// Unix seconds when the build began.
    pub(crate) clock: i64,
    abouts: OnceLock<Vec<(i64, Arc<About>)>>,
    pub(crate) cancel: Cancel,
    engine: OnceCell<Arc<Engine>>,
    pub(crate) shelf: Shelf,
    ahead: OnceLock<Lookahead>,
    /// What this build found or made.
    pub(crate) exports: Exports,
    /// Steps of this build by key, and who is at work on one.
    made: Mutex<BTreeMap<Digest, Found>>,
    turns: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    stages: Vec<OnceCell<Option<Arc<StageResult>>>>,
    failure: Mutex<Option<BuildError>>,
    pushes: Mutex<JoinSet<()>>,
    cached: AtomicUsize,
    executed: AtomicUsize,
}

/// Identity of the paths at which commands leave nothing; none for no paths.
fn ignored_identity(paths: &[PathBuf]) -> Option<Digest> {
    let mut framed = Framed::new("ignored");
    for path in paths {
        framed.field(path.as_os_str().as_encoded_bytes());
    }
    (!paths.is_empty()).then(|| framed.finish())
}

/// Builds the target of a plan.
pub(crate) async fn build(
    inner: Arc<Inner>,
    plan: Plan,
    request: BuildRequest,
) -> Result<BuildOutcome, BuildError> {
    let start = Instant::now();
    let session = Arc::new(Session::open(inner, plan, request).await?);
    let ahead = session.look_ahead().await;
    let _ = session.ahead.set(ahead);
    session.inner.events.send(BuildEvent::Planned { steps: session.steps_to_show() });
    session.announce_unneeded();
    if session.runs_stages_in_parallel().await {
        let mut tasks = JoinSet::new();
        for stage in session.plan.stages.iter().filter(|stage| session.needs(stage.id)) {
            let (session, id) = (Arc::clone(&session), stage.id);
            tasks.spawn(async move { session.stage(id).await });
        }
        while let Some(done) = tasks.join_next().await {
            if done.is_err() {
                session.fail(BuildError::state("a stage panicked", "defect"));
            }
        }
    }
    let mut wanted: Vec<(Target, Arc<StageResult>)> = Vec::new();
    for target in session.plan.targets() {
        let Some(result) = Arc::clone(&session).stage(target.stage).await else {
            return Err(session.take_failure());
        };
        // The first target of a platform is its image; others are only built.
        if !wanted.iter().any(|(other, _)| other.platform == target.platform) {
            wanted.push((target, result));
        }
    }
    if let Some(error) = session.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let images = crate::image::assemble(&session, &wanted).await?;
    let targets: Vec<Target> = wanted.iter().map(|(target, _)| target.clone()).collect();
    let times = session.times();
    let attested = crate::attest::attest(&session, &targets, &images, times).await?;
    let annotations = &session.request.annotations;
    let root = crate::index::root(&images, &attested.in_index, annotations)?;
    crate::image::put(&session, root.bytes())?;
    let ahead = std::mem::take(&mut *session.pushes.lock().unwrap_or_else(PoisonError::into_inner));
    ahead.join_all().await;
    crate::cache::export::write_all(&session).await?;
    session.inner.events.send(BuildEvent::ImageReady { digest: root.digest().to_string() });
    let first = images.first().ok_or_else(|| BuildError::state("no image was made", "defect"))?;
    Ok(BuildOutcome {
        manifest: first.manifest.clone(),
        config: first.config,
        image: first.image.clone(),
        layout_annotations: session.request.annotations.at(Level::IndexDescriptor, None),
        root,
        images,
        statements: attested.statements,
        referrers: attested.referrers,
        attached: attested.in_index.into_iter().map(|(_, manifest)| manifest).collect(),
        steps_cached: session.cached.load(Ordering::Relaxed),
        steps_executed: session.executed.load(Ordering::Relaxed),
        duration: start.elapsed(),
        source: Arc::clone(&session.source),
        _workspace: Arc::clone(&session.workspace),
    })
}

impl Session {
    async fn open(
        inner: Arc<Inner>,
        plan: Plan,
        request: BuildRequest,
    ) -> Result<Self, BuildError> {
        let lease =
            inner.store.lease().map_err(|error| BuildError::state("cannot hold a lease", error))?;
        let scratch = inner.directory.join("work");
        crate::run::mounts::remove_left_secrets();
        let workspace = Workspace::create(&scratch).map_err(|error| {
            BuildError::state(format!("scratch space {}", scratch.display()), error)
        })?;
        let local = LocalCache::open(&inner.directory.join("cache"), inner.store.clone())
            .map_err(|error| BuildError::state("cache directory", error))?;
        let source = LayerSource::new(
            inner.store.clone(),
            inner.unpacked.clone(),
            inner.registry.clone(),
            inner.events.clone(),
            lease,
        );
        let clock = jiff::Timestamp::now().as_second();
        let timestamps = match request.epoch {
            Some(epoch) => Timestamps::Clamp(epoch),
            None => Timestamps::Keep,
        };
        let sources = match request.cache {
            CacheUse::Use => &request.cache_from[..],
            // Steps are not looked up, but cache mounts may come from there.
            CacheUse::Fresh => &request.cache_from[..],
            CacheUse::Ignore => &[],
        };
        let warn = |text| inner.events.send(BuildEvent::Warning(text));
        let shelf =
            Shelf::open(local, sources, &platforms(&plan), &inner.registry, clock, warn).await;
        let stages = plan.stages.iter().map(|_| OnceCell::new()).collect();
        Ok(Self {
            sources: Sources::default(),
            form: LayerForm {
                compression: request.compression,
                timestamps,
                ignored: ignored_identity(&request.ignored_paths),
            },
            now: request.epoch.unwrap_or(clock),
            clock,
            abouts: OnceLock::new(),
            source: Arc::new(source),
            workspace: Arc::new(workspace),
            cancel: inner.register_cancel()?,
            engine: OnceCell::new(),
            shelf,
            ahead: OnceLock::new(),
            exports: Exports::default(),
            made: Mutex::default(),
            turns: Mutex::default(),
            stages,
            failure: Mutex::default(),
            pushes: Mutex::default(),
            cached: AtomicUsize::new(0),
            executed: AtomicUsize::new(0),
            inner,
            plan,
            request,
        })
    }

    /// Time of directories that are created along the way.
    pub(crate) fn now_timestamp(&self) -> Timestamp {
        Timestamp::from_seconds(self.now)
    }

    /// The time of a stage as configs have it; `made_at` is when its last step was executed.
    fn created_of(&self, made_at: Option<i64>) -> Option<String> {
        let second = self.request.epoch.or(made_at).unwrap_or(self.now);
        jiff::Timestamp::from_second(second).ok().map(|created| created.to_string())
    }

    /// When the build began and ended, as far as documents tell.
    fn times(&self) -> Times {
        let clock = || jiff::Timestamp::now().as_second();
        Times { begin: self.now, end: self.request.epoch.unwrap_or_else(clock) }
    }

    /// A file or directory of this build's scratch space that does not exist yet.
    pub(crate) fn scratch_path(&self, prefix: &str) -> Result<PathBuf, StepError> {
        let directory = self.workspace.directory(prefix);
        directory
            .map(|directory| directory.join("0"))
            .map_err(|error| StepError::io(self.workspace.path(), error))
    }

    /// How RUN steps run here; found out at the first of them.
    pub(crate) async fn engine(&self) -> Result<Arc<Engine>, StepError> {
        let find = || async {
            let engine =
                Engine::choose(&self.inner.isolation, &self.inner.directory, self.workspace.path());
            let engine = engine.await?;
            let (mode, reason) = engine.describe();
            self.inner.events.send(BuildEvent::Isolation { mode, reason });
            Ok(Arc::new(engine))
        };
        self.engine.get_or_try_init(find).await.cloned()
    }

    /// Whether a stage runs commands, so that its files will be unpacked anyway.
    pub(crate) fn has_run(stage: &Stage) -> bool {
        stage.steps.iter().any(|step| matches!(step.action, Action::Run(_)))
    }

    async fn runs_stages_in_parallel(&self) -> bool {
        if self.plan.stages.len() < 2 {
            return false;
        }
        if !self.plan.stages.iter().any(|stage| self.executes_run(stage)) {
            return true;
        }
        // One root file system serves one stage at a time. An error shows at the first RUN.
        self.engine().await.is_ok_and(|engine| !engine.is_single_root())
    }

    /// Whether a command of the stage may have to be executed.
    fn executes_run(&self, stage: &Stage) -> bool {
        self.open_steps(stage).any(|step| matches!(step.action, Action::Run(_)))
    }

    /// The steps of a stage that are not known to be cached; none if nobody needs the stage.
    pub(crate) fn open_steps<'a>(&self, stage: &'a Stage) -> impl Iterator<Item = &'a Step> {
        let known = self.ahead.get().and_then(|ahead| ahead.hit(stage.id));
        let first = known.map_or(0, |hit| hit.step + 1);
        let first = if self.needs(stage.id) { first } else { stage.steps.len() };
        stage.steps.iter().skip(first)
    }

    /// Whether the build has to go through a stage.
    fn needs(&self, stage: StageId) -> bool {
        self.ahead.get().is_none_or(|ahead| ahead.needs(stage))
    }

    /// Whether steps of a stage may be found.
    pub(crate) fn uses_cache(&self, stage: StageId) -> bool {
        self.request.cache == CacheUse::Use && !self.is_uncached(stage)
    }

    /// Whether the caller wants a stage without what earlier builds left.
    pub(crate) fn is_uncached(&self, stage: StageId) -> bool {
        let stage = self.plan.stage(stage);
        let names = &self.request.uncached_stages;
        self.request.cache == CacheUse::Ignore
            || stage.name.as_ref().is_some_and(|name| names.contains(name))
            || names.contains(&stage.number.to_string())
    }

    /// Tells of stages that only steps would read that are known already.
    fn announce_unneeded(&self) {
        for stage in self.plan.stages.iter().filter(|stage| !self.needs(stage.id)) {
            for (at, step) in stage.steps.iter().enumerate() {
                if step.definition().is_some() {
                    let number = StepNumber { stage: stage.id.index(), step: at };
                    self.announce_cached(step, number, None);
                }
            }
        }
    }

    fn announce_cached(&self, step: &Step, number: StepNumber, layer: Option<&LayerRef>) {
        self.inner.events.send(BuildEvent::StepStarted {
            step: number,
            title: step.title.clone(),
            span: step.span,
        });
        self.cached.fetch_add(1, Ordering::Relaxed);
        self.inner.events.send(BuildEvent::StepFinished {
            step: number,
            how: StepEnd::Cached,
            layer_bytes: layer.map(|layer| layer.descriptor.size),
            duration: std::time::Duration::ZERO,
        });
    }

    fn fail(&self, error: BuildError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = Some(error);
            // Other stages work for nothing from here on.
            self.cancel.cancel();
        }
    }

    fn take_failure(&self) -> BuildError {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().unwrap_or(BuildError::Cancelled)
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    async fn step(
        self: &Arc<Self>,
        stage: &Stage,
        step: &Step,
        number: StepNumber,
        work: &StageWork,
    ) -> Result<(StepOutput, Option<Reference>), BuildError> {
        // Waiting for another stage is no part of the step.
        for input in step.inputs() {
            if let dockerfile::Source::Stage(needed) = input.source {
                self.stage_needed(*needed).await?;
            }
        }
        let events = &self.inner.events;
        events.send(BuildEvent::StepStarted {
            step: number,
            title: step.title.clone(),
            span: step.span,
        });
        let start = Instant::now();
        let placed = |error: StepOrBuild| match error {
            // A stage that this step needs has failed, and has said so itself.
            StepOrBuild::Build(error @ BuildError::Cancelled) => {
                events.send(BuildEvent::StepCancelled { step: number });
                error
            }
            StepOrBuild::Build(error) => {
                let reason = error_text(&error);
                events.send(BuildEvent::StepFailed { step: number, reason });
                error
            }
            StepOrBuild::Step(StepError::Start(container_runtime::StepError::Cancelled)) => {
                events.send(BuildEvent::StepCancelled { step: number });
                BuildError::Cancelled
            }
            StepOrBuild::Step(source) => {
                let reason = error_text(&source);
                events.send(BuildEvent::StepFailed { step: number, reason });
                BuildError::Step {
                    title: step.title.clone(),
                    span: step.span,
                    source: Box::new(source),
                }
            }
        };
        let keys = StepKeys::new(self, step, number, &work.files).await.map_err(placed)?;
        let may_hit = self.uses_cache(stage.id) && self.caches_kind(step);
        let look = |key: &Digest| {
            let earlier = || may_hit.then(|| self.shelf.lookup(key, &self.source)).flatten();
            self.made_here(key).or_else(earlier)
        };
        let mut asked = vec![keys.quick];
        // Stages that begin alike (one per platform) wait here for the first of them.
        let turn = self.turn(&keys.quick);
        let _turn = turn.lock().await;
        let mut found = look(&keys.quick);
        let mut exact_parts = Vec::new();
        if found.is_none()
            // Reading what is taken of a stage may find that it is what it was.
            && let Some((exact, parts)) =
                self.exact_inputs(step, &keys.inputs).await.map_err(placed)?
        {
            let key = content_key(self.form, &keys.definition, keys.base.as_ref(), &exact);
            found = look(&key);
            exact_parts = parts;
            asked.push(key);
        }
        let about = Arc::new(self.about(stage, step, number, &keys, exact_parts));
        self.explain(stage, number, &about, found.as_ref(), work);
        let (output, origin, how) = match found.and_then(own_output) {
            Some((output, origin)) => (output, origin, StepEnd::Cached),
            None => {
                let layer = self.execute(stage, step, number, &work.files).await.map_err(placed)?;
                let layer = layer.map(|layer| (layer.descriptor, layer.diff_id));
                let created = jiff::Timestamp::now().as_second();
                (StepOutput { created, layer }, None, StepEnd::Executed)
            }
        };
        if self.caches_kind(step) {
            self.note_made(number, work, &output, origin.as_ref(), &asked, about);
        }
        let made = Found { outputs: vec![output.clone()], origin, from: "this build".to_owned() };
        {
            let mut known = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            for key in &asked {
                known.insert(*key, made.clone());
            }
        }
        let origin = made.origin;
        match how {
            StepEnd::Cached => self.cached.fetch_add(1, Ordering::Relaxed),
            StepEnd::Executed => self.executed.fetch_add(1, Ordering::Relaxed),
        };
        events.send(BuildEvent::StepFinished {
            step: number,
            how,
            layer_bytes: output.layer.as_ref().map(|(descriptor, _)| descriptor.size),
            duration: start.elapsed(),
        });
        Ok((output, origin))
    }
}

/// The platforms that are wanted, each once.
pub(crate) fn platforms(plan: &Plan) -> Vec<Platform> {
    let mut platforms = Vec::new();
    for target in plan.targets() {
        if !platforms.contains(&target.platform) {
            platforms.push(target.platform);
        }
    }
    platforms
}

fn layer_of(output: &StepOutput, origin: Option<&Reference>) -> Option<LayerRef> {
    let (descriptor, diff_id) = output.layer.clone()?;
    Some(LayerRef { descriptor, diff_id, origin: origin.cloned() })
}

fn own_output(found: Found) -> Option<(StepOutput, Option<Reference>)> {
    Some((found.outputs.into_iter().next_back()?, found.origin))
}

/// The title of a step without its place: `RUN make` of `[build 2/5] RUN make`.
fn plain_title(title: &str) -> String {
    match title.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, plain)) => plain.to_owned(),
        None => title.to_owned(),
    }
}

fn base_name(base: &Base) -> String {
    match base {
        Base::Scratch => "scratch".to_owned(),
        Base::Image(request) => request.reference.to_string(),
        Base::NamedContext { name, .. } => name.clone(),
        Base::Stage(_) => "stage".to_owned(),
    }
}

/// A failure of a step, or one that has nothing to do with it.
pub(crate) enum StepOrBuild {
    Step(StepError),
    Build(BuildError),
}

impl From<StepError> for StepOrBuild {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<crate::tree::TreeError> for StepOrBuild {
    fn from(error: crate::tree::TreeError) -> Self {
        Self::Step(error.into())
    }
}

impl From<BuildError> for StepOrBuild {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

/// Whether the result of a step is the same whatever the files below it are.
fn needs_no_base(step: &Step) -> bool {
    let Action::Transfer(transfer) = &step.action else { return false };
    let named =
        |principal: &Principal| matches!(principal, Principal::Name(name) if name != "root");
    let by_name = transfer
        .owner
        .as_ref()
        .is_some_and(|owner| named(&owner.user) || owner.group.as_ref().is_some_and(named));
    transfer.link == Linking::Independent
        && !by_name
        && !transfer.files.iter().any(|file| matches!(file, FileSource::Git(_)))
}

/// Name of a way to run commands.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Overlay => "overlay",
        Mode::UserNamespace => "userns",
        Mode::InPlace => "inplace",
        Mode::Chroot => "chroot",
        Mode::None => "none",
    }
}
