//! The documents of `/shipway/v1/images` on the node's socket; `shipway node` prints them.

use std::collections::BTreeSet;

use credentials::{RegistryAuth, Secret};
use serde::{Deserialize, Serialize};

use super::failure::PullFailureKind;
use super::inventory::{NodeImage, Pin, Removed};
use super::progress::PullState;
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
    /// Why it is never collected: `byHand`, `keptList`, `local` or `builtIn`; absent if it may be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pinned: Option<String>,
    /// Pods (`namespace/name`) that have a container in any state, or a volume, of it.
    pub used_by: BTreeSet<String>,
    /// When something used it last, RFC 3339; absent = not since the node started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_used: Option<String>,
    /// When the node first saw it since it started, RFC 3339; empty for a missing image.
    pub detected: String,
    /// Of an image that the node should keep and that is not here: why. It has no id then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<String>,
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
    /// Also what is in use or pinned.
    #[serde(default)]
    pub force: bool,
}

/// Which images are pinned, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinRequest {
    /// Names, `name@digest`, ids, or the beginnings of ids; all must be known.
    pub images: Vec<String>,
}

/// Which unused images go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PruneRequest {
    /// Also those that were made or loaded here and cannot be pulled again.
    pub all: bool,
    /// Only tell.
    pub dry_run: bool,
}

/// What went, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneDocument {
    /// Whether nothing happened yet.
    pub dry_run: bool,
    /// The images.
    pub images: Vec<ImageDocument>,
    /// Bytes of blobs and unpacked layers that were freed.
    pub freed_bytes: u64,
    /// Bytes that follow later, because somebody else used the blobs lately.
    pub waiting_bytes: u64,
}

/// A pull for the node itself. Travels over the node's socket only, which is root's.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullRequest {
    /// Name with tag or digest.
    pub image: String,
    /// Whether its name is pinned as soon as it is here.
    #[serde(default)]
    pub pin: bool,
    /// Credentials to try in order; absent = those that the node has itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub credentials: Option<Vec<PullCredential>>,
}

/// One credential of a [`PullRequest`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PullCredential {
    /// User and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// A refresh token.
    IdentityToken(String),
    /// A bearer token.
    RegistryToken(String),
}

/// One line of the answer to a [`PullRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PullLine {
    /// How far it is.
    Progress {
        /// Place in the queue of the node; absent once the pull runs.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        place: Option<usize>,
        /// Bytes that came in.
        bytes: u64,
        /// Bytes that have to come in; 0 before they are known.
        bytes_total: u64,
        /// Layers that are not complete yet.
        layers_left: usize,
        /// Layers of the image; 0 before they are known.
        layers_total: usize,
    },
    /// The image is here.
    Done {
        /// Canonical name.
        image: String,
        /// Digest of the manifest or index.
        digest: String,
        /// Compressed size.
        bytes: u64,
        /// Whether anything keeps it from being removed, also since before.
        pinned: bool,
    },
    /// The pull failed.
    Failed {
        /// What kind of failure it is.
        kind: PullFailureKind,
        /// What a pod's event would say.
        message: String,
    },
}

impl From<PullCredential> for RegistryAuth {
    fn from(credential: PullCredential) -> Self {
        match credential {
            PullCredential::Basic { username, password } => {
                let (password, email) = (Secret::from(password), String::new());
                RegistryAuth::Basic { username, password, email }
            }
            PullCredential::IdentityToken(token) => {
                RegistryAuth::IdentityToken { token: token.into() }
            }
            PullCredential::RegistryToken(token) => {
                RegistryAuth::RegistryToken { token: token.into() }
            }
        }
    }
}

impl From<&PullState> for PullLine {
    fn from(state: &PullState) -> Self {
        PullLine::Progress {
            place: state.place,
            bytes: state.bytes,
            bytes_total: state.bytes_total,
            layers_left: state.layers_left,
            layers_total: state.layers_total,
        }
    }
}

impl From<&NodeImage> for ImageDocument {
    fn from(image: &NodeImage) -> Self {
        let pinned = image.pin.map(|pin| match pin {
            Pin::Person => "byHand",
            Pin::KeptList => "keptList",
            Pin::Local => "local",
            Pin::BuiltIn => "builtIn",
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
            missing: None,
        }
    }
}

impl ImageDocument {
    /// An image on the list of kept ones that is not here.
    pub(crate) fn missing(name: String, why: String) -> Self {
        ImageDocument {
            id: String::new(),
            tags: vec![name],
            digests: Vec::new(),
            bytes: 0,
            unpacked_bytes: 0,
            pinned: Some("keptList".to_owned()),
            used_by: BTreeSet::new(),
            last_used: None,
            detected: String::new(),
            missing: Some(why),
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
