//! The Kubernetes API: revisioned storage, watch, patch, discovery, tables, admission, controllers.
//!
//! This crate touches no images, no containers and not the node's disk.
#![forbid(unsafe_code)]
