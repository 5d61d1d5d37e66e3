//! Whole-crate tests of `layers`: spec rows, hostile archives, peers, the store.
#![allow(missing_docs, clippy::unwrap_used)]

mod apply_rules;
mod compression;
mod describe;
mod fuzz;
mod hostile;
mod index;
mod packing;
mod peers;
mod round_trip;
mod store;
