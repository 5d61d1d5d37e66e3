//! Executes a plan: cache, run steps, commit layers, write the image.
//!
//! This crate never sees Dockerfile text.
#![forbid(unsafe_code)]
