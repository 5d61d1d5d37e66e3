//! Layer archives to directory trees and back: diff, pack, whiteouts, compression, safe unpack.
//!
//! This crate never writes outside the root it is given.
#![forbid(unsafe_code)]
