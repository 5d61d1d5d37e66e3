//! The distribution API, served: uploads, tags, referrers, auth, tenancy.
//!
//! This crate keeps no state outside its stores.
#![forbid(unsafe_code)]
