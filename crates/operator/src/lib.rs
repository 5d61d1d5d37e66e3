//! Custom resources, reconcilers and webhooks for any cluster.
//!
//! This crate does not assume our own control plane.
#![forbid(unsafe_code)]

pub mod secret_sync;
