//! The documents of `/shipway/v1/images` on the node's socket; `shipway node` prints them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::inventory::{NodeImage, Pin, Removed};
use super::usage::ImageFileSystem;

/// One image of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDocument {
    /// Digest of the config, the id that CRI clients see.
    pub id: String,
    /// Names with a tag, canonical.
    pub tags: Vec<String>,
    /// Names with the digest of what was pulled.
    pub digests: Vec<String>,
    /// Compressed size of config and layers.
    pub bytes: u64,
    /// Bytes of the archives of those layers that are unpacked.
    pub unpacked_bytes: u64,
    /// Why it is never collected: `byHand`, `keptList` or `local`; absent if it may be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pinned: Option<String>,
    /// Pods (`namespace/name`) that have a container in any state, or a volume, of it.
    pub used_by: BTreeSet<String>,
    /// When something used it last, RFC 3339; absent = not since the node started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_used: Option<String>,
    /// When the node first saw it since it started, RFC 3339.
    pub detected: String,
}

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovalDocument {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Id of the image if its last name went.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deleted: Option<String>,
    /// Bytes of blobs and unpacked layers that were freed.
    pub freed_bytes: u64,
    /// Bytes that follow later, because somebody else used the blobs lately.
    pub waiting_bytes: u64,
}

/// The file system that images are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageDocument {
    /// The directory of the blobs.
    pub path: String,
    /// Size of the file system.
    pub capacity_bytes: u64,
    /// What may still be written to it.
    pub available_bytes: u64,
    /// What blobs and unpacked layers take.
    pub used_bytes: u64,
    /// Their files and directories.
    pub inodes_used: u64,
    /// When this was measured, RFC 3339.
    pub at: String,
}

/// Which image a request means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRequest {
    /// Name, `name@digest`, id, or the beginning of an id.
    pub image: String,
    /// For a removal: also what is in use or pinned.
    #[serde(default)]
    pub force: bool,
}

impl From<&NodeImage> for ImageDocument {
    fn from(image: &NodeImage) -> Self {
        let pinned = image.pin.map(|pin| match pin {
            Pin::Person => "byHand",
            Pin::KeptList => "keptList",
            Pin::Local => "local",
        });
        ImageDocument {
            id: image.id(),
            tags: image.stored.tags(),
            digests: image.stored.repo_digests(),
            bytes: image.stored.facts.bytes,
            unpacked_bytes: image.unpacked_bytes,
            pinned: pinned.map(str::to_owned),
            used_by: image.used_by.clone(),
            last_used: image.last_used.map(|at| at.to_string()),
            detected: image.detected.to_string(),
        }
    }
}

impl From<Removed> for RemovalDocument {
    fn from(removed: Removed) -> Self {
        RemovalDocument {
            untagged: removed.names,
            deleted: removed.id,
            freed_bytes: removed.freed_bytes,
            waiting_bytes: removed.waiting_bytes,
        }
    }
}

impl From<ImageFileSystem> for UsageDocument {
    fn from(usage: ImageFileSystem) -> Self {
        UsageDocument {
            path: usage.path,
            capacity_bytes: usage.capacity_bytes,
            available_bytes: usage.available_bytes,
            used_bytes: usage.used_bytes,
            inodes_used: usage.inodes_used,
            at: usage.at.to_string(),
        }
    }
}
