//! The distribution API, spoken: pull into and push from a store; retry, resume, mirrors, auth.
//!
//! This crate reads no environment and no home directory.
#![forbid(unsafe_code)]
