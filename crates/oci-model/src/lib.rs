//! The nouns of container images: digests, references, media types, descriptors, manifests,
//! image configs and registry error codes.
//!
//! This crate does no I/O, knows no async runtime and never re-serialises what it parsed: the
//! bytes of a manifest or a config are its identity, so [`RawManifest`] and [`RawConfig`] carry
//! them beside the parsed value.
//!
//! Start reading at [`Digest`], then [`Reference`], then [`Manifest`].

#![forbid(unsafe_code)]

mod config;
mod descriptor;
mod digest;
mod error_code;
mod manifest;
mod media_type;
mod nullable;
mod platform;
mod reference;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RawConfig, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, ChainId, DiffId, Digest, DigestError, Hasher, SavedHasherError};
pub use error_code::{ErrorBody, ErrorCode, ErrorEntry};
pub use manifest::{
    ImageIndex, ImageManifest, MANIFEST_BYTES_MAX, Manifest, ManifestError, RawManifest,
};
pub use media_type::{ManifestKind, MediaType};
pub use platform::{Platform, PlatformError};
pub use reference::{NAME_LENGTH_MAX, Reference, ReferenceError, Repository, TAG_LENGTH_MAX, Tag};
