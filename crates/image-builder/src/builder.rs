//! The public face: open a builder, look up bases, build plans.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blob_store::BlobStore;
use container_runtime::{Cancel, Mode};
use dockerfile::{Base, IgnoreFile, ImageRequest, Plan};
use layers::{Compression, UnpackedLayers};
use oci_model::{Digest, ImageConfig, Platform, RawManifest, Reference};
use registry_client::Client;

use crate::annotations::Annotations;
use crate::attest::{Attestations, Invocation, Statements};
use crate::cache::place::{CacheSink, CacheSource, CachedKinds};
use crate::commit::Family;
use crate::context_source::ContextLocation;
use crate::error::BuildError;
use crate::event::Events;
use crate::git::GitCredentials;
use crate::image::BuiltImage;
use crate::images::Images;
use crate::registry::{CredentialSource, Registry};
use crate::run::mounts::Secrets;
use crate::run::resources::RunResources;
use crate::session;
use crate::warmed::WarmedBases;

/// What a builder works with.
#[derive(Debug)]
pub struct BuilderOptions {
    /// Directory of the builder below the state directory: cache and scratch space.
    pub directory: PathBuf,
    /// Where blobs are.
    pub store: BlobStore,
    /// Where unpacked layers are.
    pub unpacked: UnpackedLayers,
    /// Client for bases and caches.
    pub pull: Client,
    /// Client for results and caches.
    pub push: Client,
    /// Credentials for both.
    pub credentials: CredentialSource,
    /// Which copy of a base counts.
    pub bases: BasePolicy,
    /// Base images that a warmer put into a directory.
    pub warmed: Option<WarmedBases>,
    /// How RUN steps run.
    pub isolation: IsolationChoice,
    /// Who hears what happens.
    pub events: Events,
}

/// Which copy of a base image counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasePolicy {
    /// An image of this name in the store, else that of the registry.
    LocalFirst,
    /// That of the registry.
    Registry,
}

/// How RUN steps run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsolationChoice {
    /// The best way that the machine permits.
    Auto {
        /// What is not the image's if the root of this process may be used; `None` forbids it.
        in_place: Option<Vec<PathBuf>>,
    },
    /// Exactly this way, or an error that says why not.
    Exactly {
        /// Which.
        mode: Mode,
        /// What is not the image's with [`Mode::InPlace`].
        keep: Vec<PathBuf>,
    },
}

/// The build context, fetched already.
#[derive(Clone, Debug)]
pub struct ContextDirectory {
    /// The directory.
    pub root: PathBuf,
    /// What of it is left out.
    pub ignore: IgnoreFile,
}

/// What the caller gave under a name (`--build-context`).
#[derive(Clone, Debug)]
pub enum NamedContext {
    /// A directory.
    Directory(ContextDirectory),
    /// An image.
    Image(Reference),
    /// An image in an OCI layout directory; without a name it holds one only.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Its ref name or digest.
        name: Option<String>,
    },
    /// A repository, archive or file elsewhere, fetched when a step needs it.
    Remote(ContextLocation),
}

impl NamedContext {
    /// The image it stands for, under a name that [`Images`] knows.
    pub(crate) fn image(&self, images: &Images) -> Result<Option<Reference>, BuildError> {
        Ok(match self {
            Self::Image(reference) => Some(reference.clone()),
            Self::Layout { directory, name } => {
                Some(images.name_layout(directory, name.as_deref())?)
            }
            Self::Directory(_) | Self::Remote(_) => None,
        })
    }
}

/// Whether earlier results count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// They do.
    Use,
    /// Everything is executed; cache mounts hold what they held.
    Fresh,
    /// Everything is executed, with empty cache mounts.
    Ignore,
}

/// How many layers the target's own steps become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshots {
    /// One per step that changes files.
    PerStep,
    /// One for all.
    Single,
}

/// Which family of media types the image gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyChoice {
    /// This one.
    Exactly(Family),
    /// That of the base; of scratch, Docker's, as kaniko does.
    OfBase,
}

/// One build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The context; `None` if the Dockerfile came alone.
    pub context: Option<ContextDirectory>,
    /// Contexts by name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Secrets by id.
    pub secrets: Secrets,
    /// Agent sockets by id (`default` is the usual one).
    pub agents: BTreeMap<String, PathBuf>,
    /// Limits and surroundings of commands.
    pub resources: RunResources,
    /// Credentials for git repositories; ADD uses them for their own server only.
    pub git: GitCredentials,
    /// Whether earlier results count.
    pub cache: CacheUse,
    /// Stages whose steps are executed anyway, with empty cache mounts: by name in lower case or
    /// by number.
    pub uncached_stages: BTreeSet<String>,
    /// Steps whose results are kept.
    pub cached_kinds: CachedKinds,
    /// Caches to look into, after that of this machine.
    pub cache_from: Vec<CacheSource>,
    /// Caches to write.
    pub cache_to: Vec<CacheSink>,
    /// Whether the image carries the cache of its own steps.
    pub inline_cache: bool,
    /// Whether [`crate::BuildEvent::Cache`] tells of every step why it was found or not.
    pub explain_cache: bool,
    /// Media types.
    pub family: FamilyChoice,
    /// Compression of new layers.
    pub compression: Compression,
    /// Layers of the target.
    pub snapshots: Snapshots,
    /// Unix seconds that stand for now, and that no file is newer than; `None` is the clock.
    pub epoch: Option<i64>,
    /// Annotations of manifests and index.
    pub annotations: Annotations,
    /// Statements about the image.
    pub attest: Attestations,
    /// What those say about the call.
    pub invocation: Invocation,
    /// Where layers are sent to as soon as they exist; the image follows with [`Builder::push`].
    pub push_to: Vec<Reference>,
    /// Paths at which nothing that RUN does becomes part of the image.
    pub ignored_paths: Vec<PathBuf>,
}

impl BuildRequest {
    /// A build of a context with nothing else decided: OCI types, gzip, the cache in use.
    pub fn new(context: Option<ContextDirectory>) -> Self {
        Self {
            context,
            named_contexts: BTreeMap::new(),
            secrets: Secrets::new(),
            agents: BTreeMap::new(),
            resources: RunResources::default(),
            git: GitCredentials::default(),
            cache: CacheUse::Use,
            uncached_stages: BTreeSet::new(),
            cached_kinds: CachedKinds::ALL,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            inline_cache: false,
            explain_cache: false,
            family: FamilyChoice::Exactly(Family::Oci),
            compression: Compression::GZIP_DEFAULT,
            snapshots: Snapshots::PerStep,
            epoch: None,
            annotations: Annotations::default(),
            attest: Attestations::default(),
            invocation: Invocation::default(),
            push_to: Vec::new(),
            ignored_paths: Vec::new(),
        }
    }
}

/// A finished build. Its own blobs are in the store; layers of the base may not be.
#[derive(Debug)]
pub struct BuildOutcome {
    /// What a name refers to: the manifest of the only image, or the index of all.
    pub root: RawManifest,
    /// One per platform, in the order asked for; never empty.
    pub images: Vec<BuiltImage>,
    /// The manifest of the first image.
    pub manifest: RawManifest,
    /// Digest of the config of the first image: Docker's image ID.
    pub config: Digest,
    /// The config of the first image.
    pub image: ImageConfig,
    /// Steps that were found in the cache.
    pub steps_cached: usize,
    /// Steps that were executed.
    pub steps_executed: usize,
    /// How long it took.
    pub duration: Duration,
    /// Statements about each image, in the order of `images`.
    pub statements: Vec<Statements>,
    /// Manifests that refer to the images.
    pub(crate) referrers: Vec<RawManifest>,
    /// Manifests besides the images that the index names.
    pub(crate) attached: Vec<RawManifest>,
    /// Annotations of the entry in an OCI layout.
    pub(crate) layout_annotations: BTreeMap<String, String>,
    pub(crate) source: Arc<crate::layer_source::LayerSource>,
    pub(crate) _workspace: Arc<crate::workspace::Workspace>,
}

/// Builds images.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) directory: PathBuf,
    pub(crate) store: BlobStore,
    pub(crate) unpacked: UnpackedLayers,
    pub(crate) registry: Registry,
    pub(crate) images: Images,
    pub(crate) isolation: IsolationChoice,
    pub(crate) events: Events,
    /// One handle per build.
    cancels: Mutex<Vec<Cancel>>,
}

impl Inner {
    pub(crate) fn register_cancel(&self) -> Result<Cancel, BuildError> {
        let cancel =
            Cancel::new().map_err(|error| BuildError::state("cannot make an event", error))?;
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        cancels.push(cancel.clone());
        Ok(cancel)
    }
}

impl Builder {
    /// Makes a builder; nothing is probed or fetched yet.
    pub fn new(options: BuilderOptions) -> Self {
        let registry = Registry::new(
            options.pull,
            options.push,
            options.credentials,
            options.warmed,
            options.events.clone(),
        );
        let images = Images::new(registry.clone(), options.store.clone(), options.bases);
        Self {
            inner: Arc::new(Inner {
                directory: options.directory,
                store: options.store,
                unpacked: options.unpacked,
                registry,
                images,
                isolation: options.isolation,
                events: options.events,
                cancels: Mutex::default(),
            }),
        }
    }

    /// The config of a base, as [`dockerfile::Draft::supply_base`] wants it. Fetches no layer.
    ///
    /// # Errors
    /// [`BuildError::Image`] or [`BuildError::Platform`].
    pub async fn base_config(
        &self,
        base: &Base,
        contexts: &BTreeMap<String, NamedContext>,
        platform: &Platform,
    ) -> Result<ImageConfig, BuildError> {
        let request = match base {
            Base::Image(request) => request.clone(),
            Base::NamedContext { name, platform } => {
                let context = contexts.get(name).ok_or_else(|| {
                    BuildError::Request(format!("there is no context named {name}"))
                })?;
                match context.image(&self.inner.images)? {
                    Some(reference) => ImageRequest { reference, platform: platform.clone() },
                    None => return Ok(empty_config(platform)),
                }
            }
            Base::Scratch | Base::Stage(_) => return Ok(empty_config(platform)),
        };
        Ok(self.inner.images.get(&request).await?.config.parsed().clone())
    }

    /// Builds the targets of a plan: the first of each platform is its image, others are only
    /// built.
    ///
    /// # Errors
    /// The first failure, usually [`BuildError::Step`]; nothing of the build runs or is mounted
    /// then.
    pub async fn build(
        &self,
        plan: Plan,
        request: BuildRequest,
    ) -> Result<BuildOutcome, BuildError> {
        session::build(Arc::clone(&self.inner), plan, request).await
    }

    /// Builds several plans of one file, for several platforms or targets, as one: what they have
    /// in common is done once. See [`Builder::build`].
    ///
    /// # Errors
    /// [`BuildError::Request`] for no plans; else as [`Builder::build`].
    pub async fn build_all(
        &self,
        mut plans: Vec<Plan>,
        request: BuildRequest,
    ) -> Result<BuildOutcome, BuildError> {
        for (name, context) in &request.named_contexts {
            if let Some(reference) = context.image(&self.inner.images)? {
                for plan in &mut plans {
                    plan.bind_image_context(name, &reference);
                }
            }
        }
        let plan = Plan::merge(plans)
            .ok_or_else(|| BuildError::Request("there is nothing to build".to_owned()))?;
        self.build(plan, request).await
    }

    /// Ends every running step; builds then fail with [`BuildError::Cancelled`].
    pub fn cancel(&self) {
        let cancels = self.inner.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        cancels.iter().for_each(Cancel::cancel);
    }

    /// Pushes a finished build.
    ///
    /// # Errors
    /// [`BuildError::Push`].
    pub async fn push(
        &self,
        outcome: &BuildOutcome,
        reference: &Reference,
    ) -> Result<(), BuildError> {
        let mut pushed = self.push_all(outcome, std::slice::from_ref(reference)).await;
        pushed.pop().unwrap_or(Ok(()))
    }

    /// Pushes a finished build to several destinations, registries side by side, the bytes once
    /// per registry; one result per destination, in order.
    pub async fn push_all(
        &self,
        outcome: &BuildOutcome,
        references: &[Reference],
    ) -> Vec<Result<(), BuildError>> {
        crate::push::push_all(&self.inner, outcome, references).await
    }

    /// Checks that a push will be allowed, before the work is done.
    ///
    /// # Errors
    /// [`BuildError::Push`].
    pub async fn check_push(&self, reference: &Reference) -> Result<(), BuildError> {
        self.inner.registry.check_push(reference).await.map_err(|error| BuildError::Push {
            reference: reference.to_string(),
            source: error.into(),
        })
    }

    /// Keeps a finished image in the store under the ref `images/<canonical reference>`, whose
    /// first digest is the manifest and whose others are everything that it names. The node, and
    /// `push` and `inspect` of the command line, find it there.
    ///
    /// # Errors
    /// A layer of the base cannot be fetched, or the store does not take the ref.
    pub async fn keep(
        &self,
        outcome: &BuildOutcome,
        reference: &Reference,
    ) -> Result<(), BuildError> {
        crate::push::keep(&self.inner, outcome, reference).await
    }
}

pub(crate) fn empty_config(platform: &Platform) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    }
}
