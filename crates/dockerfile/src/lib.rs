//! Dockerfile text to typed instructions with spans, to a [`Plan`] of content-addressed steps.
//!
//! This crate reads no files and does not know how a step runs.
#![forbid(unsafe_code)]
