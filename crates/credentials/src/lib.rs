//! Which identity for which registry: docker config, helpers, pull secrets, keyring.
//!
//! This crate opens no socket and starts no process: it says what to ask, the caller performs.
#![forbid(unsafe_code)]
