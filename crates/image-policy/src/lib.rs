//! Kubernetes' pure image rules: default pull policy, pull decision, back-off, admission, texts.
//!
//! This crate does no I/O.
#![forbid(unsafe_code)]
