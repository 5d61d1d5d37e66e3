//! Executes a [`dockerfile::Plan`]: cache lookups, steps, layers, image.
//!
//! This crate never sees Dockerfile text and knows no flags. Blocking work (file systems,
//! compression, steps) happens on tokio's blocking threads.

#![forbid(unsafe_code)]

mod archive;
mod content_digest;
mod context;
mod layer_stack;
mod layer_tree;
mod owners;
mod select;
mod transfer;
mod tree;
