//! One build: stages in parallel, steps in order, the cache before everything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use container_runtime::{Cancel, Mode};
use dockerfile::{
    Action, Base, FileSource, Linking, Plan, Principal, Stage, StageId, Step, StepKey, StepLayer,
    Target, assemble_config,
};
use layers::{Timestamp, Timestamps};
use oci_model::{ChainId, DiffId, Digest, ImageConfig};
use registry_client::Progress;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::annotations::Level;
use crate::builder::{
    BuildOutcome, BuildRequest, CacheUse, CacheWrite, Inner, RegistryCache, Snapshots, empty_config,
};
use crate::cache::{CACHE_CONFIG_BYTES_MAX, CACHE_TAG, CachedStep, LocalCache, RemoteRecords};
use crate::commit::LayerForm;
use crate::content_digest::Framed;
use crate::error::{BuildError, StepError};
use crate::event::{BuildEvent, StepEnd, StepNumber};
use crate::isolation::Engine;
use crate::layer_source::{LayerRef, LayerSource};
use crate::sources::Sources;
use crate::workspace::Workspace;

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
    pub(crate) cancel: Cancel,
    engine: OnceCell<Arc<Engine>>,
    cache: LocalCache,
    remote: RemoteRecords,
    /// What this build looked up or made, for the registry cache.
    records: Mutex<BTreeMap<Digest, CachedStep>>,
    /// Steps of this build by key, and who is at work on one.
    made: Mutex<BTreeMap<Digest, Found>>,
    turns: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    stages: Vec<OnceCell<Option<Arc<StageResult>>>>,
    failure: Mutex<Option<BuildError>>,
    pushes: Mutex<JoinSet<()>>,
    cached: AtomicUsize,
    executed: AtomicUsize,
}

/// Builds the target of a plan.
pub(crate) async fn build(
    inner: Arc<Inner>,
    plan: Plan,
    request: BuildRequest,
) -> Result<BuildOutcome, BuildError> {
    let start = Instant::now();
    let session = Arc::new(Session::open(inner, plan, request).await?);
    if session.runs_stages_in_parallel().await {
        let mut tasks = JoinSet::new();
        for stage in &session.plan.stages {
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
    let root = crate::index::root(&images, &[], &session.request.annotations)?;
    crate::image::put(&session, root.bytes())?;
    let ahead = std::mem::take(&mut *session.pushes.lock().unwrap_or_else(PoisonError::into_inner));
    ahead.join_all().await;
    session.export_cache().await;
    session.inner.events.send(BuildEvent::ImageReady { digest: root.digest().to_string() });
    let first = images.first().ok_or_else(|| BuildError::state("no image was made", "defect"))?;
    Ok(BuildOutcome {
        manifest: first.manifest.clone(),
        config: first.config,
        image: first.image.clone(),
        layout_annotations: session.request.annotations.at(Level::IndexDescriptor, None),
        root,
        images,
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
        let workspace = Workspace::create(&scratch).map_err(|error| {
            BuildError::state(format!("scratch space {}", scratch.display()), error)
        })?;
        let cache = LocalCache::open(&inner.directory.join("cache"), inner.store.clone())
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
        let remote = match &request.registry_cache {
            Some(cache) if request.cache == CacheUse::Use => read_remote(&inner, cache).await,
            Some(_) | None => RemoteRecords::default(),
        };
        let stages = plan.stages.iter().map(|_| OnceCell::new()).collect();
        Ok(Self {
            sources: Sources::default(),
            form: LayerForm { compression: request.compression, timestamps },
            now: request.epoch.unwrap_or(clock),
            source: Arc::new(source),
            workspace: Arc::new(workspace),
            cancel: inner.register_cancel()?,
            engine: OnceCell::new(),
            cache,
            remote,
            records: Mutex::default(),
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
        if !self.plan.stages.iter().any(Self::has_run) {
            return true;
        }
        // One root file system serves one stage at a time. An error shows at the first RUN.
        self.engine().await.is_ok_and(|engine| !engine.is_single_root())
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

    async fn run_stage(self: &Arc<Self>, id: StageId) -> Result<StageResult, BuildError> {
        let stage = self.plan.stage(id);
        let start = self.stage_start(stage).await?;
        let mut files = StageFiles { layers: start.layers };
        let inherited = files.layers.len();
        let mut steps = Vec::with_capacity(stage.steps.len());
        // An image whose steps are all cached is the image of the build that made them.
        let mut made_at = None;
        for (number, step) in stage.steps.iter().enumerate() {
            if self.has_failed() {
                return Err(BuildError::Cancelled);
            }
            let number = StepNumber { stage: id.index(), step: number };
            let made = self.step(stage, step, number, &files).await?;
            let layer = made.and_then(|(layer, at)| {
                made_at = made_at.max(Some(at));
                layer
            });
            steps.push(match &layer {
                Some(layer) => StepLayer::Layer(layer.diff_id),
                None => StepLayer::Empty,
            });
            if let Some(layer) = layer {
                if self.is_wanted(id) && self.request.snapshots == Snapshots::PerStep {
                    self.push_ahead(&layer);
                }
                files.layers.push(layer);
            }
        }
        let created = self.created_of(made_at);
        let base = start.config.as_ref();
        let config = assemble_config(stage, base, &steps, created.as_deref());
        Ok(StageResult {
            files,
            config,
            created,
            inherited,
            base_is_docker: start.is_docker,
            steps,
            base_config: start.config,
        })
    }

    /// Whether the stage's files become an image.
    fn is_wanted(&self, id: StageId) -> bool {
        let mut platforms = Vec::new();
        self.plan.targets().any(|target| {
            let first = !platforms.contains(&target.platform);
            platforms.push(target.platform);
            first && target.stage == id
        })
    }

    async fn stage_start(self: &Arc<Self>, stage: &Stage) -> Result<StageStart, BuildError> {
        let title = |what: &str| {
            let name = stage.name.clone().unwrap_or_else(|| format!("stage-{}", stage.number));
            self.inner.events.send(BuildEvent::StageStarted {
                stage: stage.id.index(),
                title: format!("[{name}] FROM {what}"),
            });
        };
        match &stage.base {
            Base::Scratch => {
                title("scratch");
                Ok(StageStart { layers: Vec::new(), config: None, is_docker: None })
            }
            Base::Stage(parent) => {
                let parent = self.stage_needed(*parent).await?;
                Ok(StageStart {
                    layers: parent.files.layers.clone(),
                    config: Some(parent.config.clone()),
                    is_docker: parent.base_is_docker,
                })
            }
            Base::Image(request) => {
                title(&request.reference.to_string());
                self.image_start(request).await
            }
            Base::NamedContext { name, platform } => {
                title(name);
                match self.request.named_contexts.get(name) {
                    Some(crate::builder::NamedContext::Image(reference)) => {
                        let request = dockerfile::ImageRequest {
                            reference: reference.clone(),
                            platform: platform.clone(),
                        };
                        self.image_start(&request).await
                    }
                    Some(crate::builder::NamedContext::Directory(_)) => {
                        let layer = self.context_layer(name).await.map_err(|source| {
                            BuildError::state(format!("context {name}"), source)
                        })?;
                        let mut config = empty_config(platform);
                        config.rootfs.diff_ids = layer.iter().map(|layer| layer.diff_id).collect();
                        Ok(StageStart {
                            layers: layer.into_iter().collect(),
                            config: Some(config),
                            is_docker: None,
                        })
                    }
                    None => Err(BuildError::Request(format!("there is no context named {name}"))),
                }
            }
        }
    }

    async fn image_start(
        &self,
        request: &dockerfile::ImageRequest,
    ) -> Result<StageStart, BuildError> {
        let image = self.inner.images.get(request).await?;
        Ok(StageStart {
            layers: image.layers.clone(),
            config: Some(image.config.parsed().clone()),
            is_docker: Some(image.manifest.media_type().is_docker()),
        })
    }

    async fn step(
        self: &Arc<Self>,
        stage: &Stage,
        step: &Step,
        number: StepNumber,
        files: &StageFiles,
    ) -> Result<Option<(Option<LayerRef>, i64)>, BuildError> {
        let Some(definition) = step.definition() else { return Ok(None) };
        let events = &self.inner.events;
        events.send(BuildEvent::StepStarted {
            step: number,
            title: step.title.clone(),
            span: step.span,
        });
        let start = Instant::now();
        let placed = |error: StepOrBuild| match error {
            StepOrBuild::Build(error) => error,
            StepOrBuild::Step(source) => {
                events.send(BuildEvent::StepFailed { step: number });
                BuildError::Step {
                    title: step.title.clone(),
                    span: step.span,
                    source: Box::new(source),
                }
            }
        };
        let (base, key_files) = (files.identity(), files);
        let base = if needs_no_base(step) { None } else { base };
        let quick = self.quick_inputs(step).await.map_err(placed)?;
        let mut keys = vec![self.key(&definition, base.as_ref(), &quick)];
        // Stages that begin alike (one per platform) wait here for the first of them.
        let turn = self.turn(&keys[0]);
        let _turn = turn.lock().await;
        let mut found = self.made_here(&keys[0]).or_else(|| self.lookup_if_wanted(&keys[0]));
        if found.is_none() {
            // Reading what is taken of a stage may find that it is what it was.
            if let Some(exact) = self.exact_inputs(step, &quick).await.map_err(placed)? {
                let key = self.key(&definition, base.as_ref(), &exact);
                found = self.lookup_if_wanted(&key);
                keys.push(key);
            }
        }
        let (made, how) = match found {
            Some(made) => (made, StepEnd::Cached),
            None => {
                let layer = self.execute(stage, step, number, key_files).await.map_err(placed)?;
                let layer = layer.map(|layer| (layer.descriptor, layer.diff_id));
                let created = jiff::Timestamp::now().as_second();
                let origin = None;
                (Found { step: CachedStep { layer, created }, origin }, StepEnd::Executed)
            }
        };
        for key in &keys {
            if how == StepEnd::Executed || made.origin.is_none() {
                self.cache.record(key, &made.step);
            }
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            records.insert(*key, made.step.clone());
            drop(records);
            let mut known = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(*key, made.clone());
        }
        match how {
            StepEnd::Cached => self.cached.fetch_add(1, Ordering::Relaxed),
            StepEnd::Executed => self.executed.fetch_add(1, Ordering::Relaxed),
        };
        let created = made.step.created;
        let layer = made.step.layer.map(|(descriptor, diff_id)| LayerRef {
            descriptor,
            diff_id,
            origin: made.origin,
        });
        events.send(BuildEvent::StepFinished {
            step: number,
            how,
            layer_bytes: layer.as_ref().map(|layer| layer.descriptor.size),
            duration: start.elapsed(),
        });
        Ok(Some((layer, created)))
    }

    /// The key of a step over its inputs and the form of its layer.
    fn key(
        &self,
        definition: &dockerfile::Definition,
        base: Option<&Digest>,
        inputs: &[Digest],
    ) -> Digest {
        let key = StepKey::of(definition, base, inputs);
        let mut framed = Framed::new("step");
        framed.field(key.digest().raw()).field(format!("{:?}", self.form).as_bytes());
        framed.finish()
    }

    /// What only one step with this key may do at a time.
    fn turn(&self, key: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(*key).or_default())
    }

    /// What another stage of this build made of the same step.
    fn made_here(&self, key: &Digest) -> Option<Found> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(key).cloned()
    }

    fn lookup_if_wanted(&self, key: &Digest) -> Option<Found> {
        (self.request.cache == CacheUse::Use).then(|| self.lookup(key)).flatten()
    }

    fn lookup(&self, key: &Digest) -> Option<Found> {
        if let Some(step) = self.cache.lookup(key) {
            if let Some((descriptor, _)) = &step.layer
                && !matches!(self.source.lease().add(&descriptor.digest), Ok(true))
            {
                return None;
            }
            return Some(Found { step, origin: None });
        }
        let cache = self.request.registry_cache.as_ref()?;
        let now = jiff::Timestamp::now().as_second();
        let step = self.remote.lookup(key, cache.ttl, now)?.clone();
        Some(Found { step, origin: Some(cache.repository.clone()) })
    }

    /// Sends a layer of the target to where the image will go, while the build goes on.
    fn push_ahead(&self, layer: &LayerRef) {
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

    async fn export_cache(&self) {
        let Some(cache) = &self.request.registry_cache else { return };
        if cache.write == CacheWrite::ReadOnly {
            return;
        }
        if let Err(error) = self.try_export(cache).await {
            let text = format!("cannot write the cache {}: {error}", cache.repository);
            self.inner.events.send(BuildEvent::Warning(text));
        }
    }

    async fn try_export(
        &self,
        cache: &RegistryCache,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        use oci_model::{Descriptor, ImageManifest, MediaType, RawManifest, Tag};
        let now = jiff::Timestamp::now().as_second();
        // Somebody else may have written meanwhile.
        let mut records = read_remote(&self.inner, cache).await;
        let new = self.records.lock().unwrap_or_else(PoisonError::into_inner).clone();
        records.merge(&new, cache.ttl, now);
        let config = records.write()?;
        self.inner.store.put(&config)?;
        let manifest = RawManifest::from_image(ImageManifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config: Descriptor::of(MediaType::new(crate::cache::CACHE_CONFIG), &config),
            layers: records.layers(),
            subject: None,
            annotations: BTreeMap::new(),
        });
        let reference = cache.repository.with_tag(Tag::new(CACHE_TAG)?);
        self.inner.registry.push(&reference, &manifest, &self.inner.store, Vec::new()).await?;
        Ok(())
    }
}

struct StageStart {
    layers: Vec<LayerRef>,
    config: Option<ImageConfig>,
    is_docker: Option<bool>,
}

#[derive(Clone)]
struct Found {
    step: CachedStep,
    /// Where the layer is to be fetched from.
    origin: Option<oci_model::Reference>,
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

async fn read_remote(inner: &Inner, cache: &RegistryCache) -> RemoteRecords {
    let read = || async {
        let tag = oci_model::Tag::new(CACHE_TAG).ok()?;
        let reference = cache.repository.with_tag(tag);
        let manifest = inner.registry.manifest(&reference).await.ok()?;
        let oci_model::Manifest::Image(image) = manifest.parsed() else { return None };
        let none = Progress::none();
        inner.registry.fetch_blob(&reference, &image.config, &inner.store, &none).await.ok()?;
        let bytes = inner.store.read(&image.config.digest, CACHE_CONFIG_BYTES_MAX).ok()?;
        Some(RemoteRecords::parse(&bytes))
    };
    read().await.unwrap_or_default()
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
