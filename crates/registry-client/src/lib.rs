//! The client side of the OCI distribution API: pulls into and pushes from a blob store.
//!
//! Verified digests, resumed downloads, retries that honour what the registry asks for, mirrors,
//! and an authentication handshake that is a pure step function ([`handshake`]). This crate
//! reads no environment and no home directory: certificates, proxies and credentials come in as
//! values.
//!
//! Start reading at [`Client`], then [`Client::pull`] and [`Client::push`].
#![forbid(unsafe_code)]

mod administration;
mod advice;
mod blobs;
mod challenge;
mod client;
mod cloud_http;
mod copy;
mod docker_archive;
mod endpoint;
mod error;
mod guard;
pub mod handshake;
mod login;
mod manifests;
mod oci_layout;
mod onward;
mod options;
mod owners;
mod progress;
mod proxying;
mod pull;
mod push;
mod realm;
mod redirects;
mod referrers;
mod retry;
mod tags;
mod tls;
mod token_service;
mod tokens;
mod transport;
mod uploads;

pub use administration::AdminRequest;
pub use challenge::{Challenge, Scheme};
pub use client::{Client, Remote};
pub use cloud_http::CloudHttp;
pub use copy::CopyOptions;
pub use credentials::RegistryAuth;
pub use docker_archive::{read_docker_archive, write_docker_archive};
pub use error::{RegistryError, RegistryErrorKind};
pub use guard::Guard;
pub use manifests::Expected;
pub use oci_layout::{ImageFileError, read_oci_layout, write_oci_layout};
pub use options::{
    ClientCertificate, ClientOptions, ClientOptionsError, Fallback, HostTls, Mirror, Proxy,
};
pub use progress::{Progress, ProgressEvent};
pub use proxying::{BlobReader, ManifestBody, ManifestHead, Observed, RateLimit, TagsPage};
pub use pull::{Layers, Platforms, PullOptions, Pulled, PulledImage};
pub use push::{PushOptions, Pushed};
pub use uploads::BlobUpload;
