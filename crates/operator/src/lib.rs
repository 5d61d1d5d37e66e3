//! Custom resources, reconcilers and webhooks for any cluster.
//!
//! This crate does not assume our own control plane.
#![forbid(unsafe_code)]

pub mod explain;
pub mod secret_sync;
