//! The Kubernetes API: revisioned storage, watch, patch, discovery, tables, admission, controllers.
//!
//! This crate touches no images, no containers and not the node's disk: the node is one more client
//! of the API served here. Start reading at [`ControlPlane::start`], then `server` (a request's way
//! in), `api` (the generic verbs) and `storage` (revisions, durability, watch history).
#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod auth;
pub mod client;
pub mod controllers;
pub mod discovery;
pub mod error;
pub mod identity;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod resources;
pub mod schema;
pub mod selectors;
pub mod storage;
pub mod table;
pub mod wire;

mod retention;
mod server;
mod start;

pub use server::TlsError;
pub use start::{ControlPlane, Options, Running, StartError};
