//! Makes pods real: images, containers, volumes, probes, logs, exec, status.
//!
//! This crate is one more API client: it never reads control-plane storage.
#![forbid(unsafe_code)]
