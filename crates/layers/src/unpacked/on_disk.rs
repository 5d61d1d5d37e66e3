//! The record that stands beside each unpacked layer. Format version 1:
//!
//! ```text
//! {"version":1,"tar_bytes":10240,"entries":3,"implied":["dmFyL2xpYg=="],"boot":"<boot id>"}
//! ```
//!
//! `implied` holds base64 of the paths of directories that no entry described; `boot` the
//! kernel's boot id at the time of unpacking, absent where the kernel does not tell.

use serde::{Deserialize, Serialize};

/// Version of the record that this code writes and reads.
pub(super) const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) tar_bytes: u64,
    pub(super) entries: u64,
    pub(super) implied: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) boot: Option<String>,
}
