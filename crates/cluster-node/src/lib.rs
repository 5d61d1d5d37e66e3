//! Makes pods real on one machine: images, containers, volumes, probes, logs, exec, status.
//! It is one more client of the Kubernetes API and never reads control-plane storage.
//!
//! Start reading at [`Node::start`].

#![forbid(unsafe_code)]

mod node;
mod options;
mod pods;
mod process;
mod registration;
mod tasks;
mod volumes;

pub use node::{Node, NodeError, Running};
pub use options::{ImageMirror, Options};
