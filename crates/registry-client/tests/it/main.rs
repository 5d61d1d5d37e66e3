//! Whole-crate tests of `registry-client`: odd registries written by hand, and Debian's
//! docker-registry.
#![allow(missing_docs, clippy::unwrap_used)]

mod auth;
mod docker_registry;
mod failures;
mod fake;
mod files;
mod images;
mod leaks;
mod names;
mod own_registry;
mod proxying;
mod transfer;
