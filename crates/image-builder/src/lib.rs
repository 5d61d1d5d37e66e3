//! Executes a [`dockerfile::Plan`]: cache lookups, steps, layers, image.
//!
//! This crate never sees Dockerfile text and knows no flags. Blocking work (file systems,
//! compression, steps) happens on tokio's blocking threads.
//!
//! # How it works
//! * A stage is a stack of layers, known by name long before anybody needs their bytes. COPY,
//!   ADD and WORKDIR are functions from trees to layer entries (`transfer`); the
//!   trees come from archive headers or unpacked layers, so a build without RUN unpacks nothing
//!   and a build whose steps are all cached fetches no layer.
//! * A step has a key made of how its files come about, known before anything runs, and one made
//!   of what it does, the files below it and the files it reads (`cache`). Because the latter
//!   identifies files by their content, a step that was executed again with the same result lets
//!   everything after it stay cached.
//! * RUN happens in an overlay mount (with or without a user namespace) whose upper directory
//!   becomes the layer, or in a root file system without namespaces, where inventories are
//!   compared (`run`).
//!
//! Start reading at [`Builder::build`], then `session`, then `steps`.

#![forbid(unsafe_code)]

mod annotations;
mod archive;
mod attest;
mod builder;
mod cache;
mod commit;
mod content_digest;
mod context;
mod context_artifact;
mod context_source;
mod emulation;
mod epoch;
mod error;
mod event;
mod fetch;
mod git;
mod image;
mod images;
mod index;
mod isolation;
mod layer_source;
mod layer_stack;
mod layer_tree;
mod object_storage;
mod output;
mod owners;
mod push;
mod registry;
mod run;
mod run_steps;
mod select;
mod session;
mod sources;
mod squash;
mod steps;
mod transfer;
mod tree;
mod warmed;
mod workspace;

pub use annotations::{Annotations, Level};
pub use archive::ExtractError;
pub use attest::{AttestationForm, Attestations, Invocation, Material, ProvenanceMode, Statements};
pub use builder::{
    BasePolicy, BuildOutcome, BuildRequest, Builder, BuilderOptions, CacheUse, ContextDirectory,
    FamilyChoice, IsolationChoice, NamedContext, Snapshots,
};
pub use cache::explain::{CacheDecision, KeyKind};
pub use cache::place::{CacheError, CachePlace, CacheScope, CacheSink, CacheSource, CachedKinds};
pub use cache::prune::{CacheEntry, CacheKind, LocalCaches, PruneOptions, Pruned};
pub use commit::Family;
pub use context_artifact::{CONTEXT_ARTIFACT, pack_context};
pub use context_source::{
    ContextAccess, ContextLimits, ContextLocation, FetchedContext, below_context, fetch_context,
    file_below_context,
};
pub use error::{BuildError, StepError};
pub use event::{BuildEvent, Events, OutputStream, PushEnd, StepEnd, StepNumber};
pub use fetch::redacted;
pub use git::{GitCredentials, GitReference, GitTimes, Submodules};
pub use image::BuiltImage;
pub use object_storage::{Cloud, ObjectLocation};
pub use output::{Output, OutputTarget};
pub use owners::OwnerError;
pub use registry::CredentialSource;
pub use run::mounts::{SecretBytes, SecretSource, Secrets};
pub use run::resources::RunResources;
pub use transfer::TransferError;
pub use tree::TreeError;
pub use warmed::WarmedBases;
