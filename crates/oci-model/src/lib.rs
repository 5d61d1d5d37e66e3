//! The nouns of container images: digests, references, media types, descriptors, manifests,
//! image configs and registry error codes.
//!
//! This crate does no I/O, knows no async runtime and never re-serialises what it parsed.
#![forbid(unsafe_code)]
