//! Content-addressed store: verified ingest, refs as the only roots, leases, collection.
//!
//! This crate never shows an unverified blob and does not know what a blob means.
#![forbid(unsafe_code)]
