//! Makes pods real on one machine: images, containers, volumes, probes, logs, exec, status.
//! It is one more client of the Kubernetes API and never reads control-plane storage.
//!
//! Start reading at [`Node::start`].

#![forbid(unsafe_code)]

mod containers;
mod credential_options;
mod cri;
mod descriptors;
mod directories;
mod dispatcher;
mod events;
mod exec;
mod grpc_health;
mod images;
mod logs;
mod node;
mod options;
mod pods;
mod prober;
mod process;
mod registration;
mod registry_access;
mod serve;
mod shared;
mod tasks;
mod volumes;
mod worker;

pub use credential_options::{CredentialOptions, ExecProviders};
pub use cri::CriOptions;
pub use images::collection::CollectionOptions;
pub use images::executor::executor_image_shortage;
pub use images::failure::PullFailureKind;
pub use images::kept::KeptImages;
pub use images::offline::{NodeImages, NodeImagesError};
pub use images::providers::ProvidersError;
pub use images::queue::{OverRate, PullLimits, PullLimitsError};
pub use images::wire::{
    ImageDocument, ImageRequest, PinRequest, PruneDocument, PruneRequest, PullCredential, PullLine,
    PullRequest, RemovalDocument, UsageDocument,
};
pub use node::{Node, NodeError, Running};
/// Name of the preloaded executor image, made of our own program.
pub const EXECUTOR_IMAGE: &str = "shipway.local/executor:latest";

pub use options::{Options, executor_mirror};
pub use registry_access::RegistryAccess;
