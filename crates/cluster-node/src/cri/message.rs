//! Messages of CRI v1 (`runtime.v1`) by their field numbers (kubelet-images.md 11).
//!
//! Only what an image service reads and writes: fields of a request that have no meaning here,
//! such as most of a sandbox's configuration, are skipped by the decoder.

use std::collections::HashMap;
use std::fmt;

/// Which image, and how the caller came to it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ImageSpec {
    /// Name, digested name or id.
    #[prost(string, tag = "1")]
    pub(crate) image: String,
    /// The kubelet sends those of the pod.
    #[prost(map = "string, string", tag = "2")]
    pub(crate) annotations: HashMap<String, String>,
    #[prost(string, tag = "18")]
    pub(crate) user_specified_image: String,
    #[prost(string, tag = "19")]
    pub(crate) runtime_handler: String,
    #[prost(string, tag = "20")]
    pub(crate) image_ref: String,
}

/// A number that may be absent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Int64Value {
    #[prost(int64, tag = "1")]
    pub(crate) value: i64,
}

/// A number that may be absent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct UInt64Value {
    #[prost(uint64, tag = "1")]
    pub(crate) value: u64,
}

/// An image that is on the node.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Image {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) repo_tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub(crate) repo_digests: Vec<String>,
    /// Compressed size in bytes, never zero.
    #[prost(uint64, tag = "4")]
    pub(crate) size: u64,
    #[prost(message, optional, tag = "5")]
    pub(crate) uid: Option<Int64Value>,
    /// Exclusive with `uid`.
    #[prost(string, tag = "6")]
    pub(crate) username: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) spec: Option<ImageSpec>,
    #[prost(bool, tag = "8")]
    pub(crate) pinned: bool,
}

/// Which images to list.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ImageFilter {
    #[prost(message, optional, tag = "1")]
    pub(crate) image: Option<ImageSpec>,
}

/// Of `ListImages` and `StreamImages`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ListImagesRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) filter: Option<ImageFilter>,
}

/// Of `ListImages`; `StreamImages` sends several.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) images: Vec<Image>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ImageStatusRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) image: Option<ImageSpec>,
    #[prost(bool, tag = "2")]
    pub(crate) verbose: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ImageStatusResponse {
    /// Unset when the image is absent.
    #[prost(message, optional, tag = "1")]
    pub(crate) image: Option<Image>,
    /// JSON texts, if the caller asked for them.
    #[prost(map = "string, string", tag = "2")]
    pub(crate) info: HashMap<String, String>,
}

/// What the caller shows to the registry.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct AuthConfig {
    #[prost(string, tag = "1")]
    pub(crate) username: String,
    #[prost(string, tag = "2")]
    pub(crate) password: String,
    /// base64 of `username:password`.
    #[prost(string, tag = "3")]
    pub(crate) auth: String,
    #[prost(string, tag = "4")]
    pub(crate) server_address: String,
    #[prost(string, tag = "5")]
    pub(crate) identity_token: String,
    #[prost(string, tag = "6")]
    pub(crate) registry_token: String,
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthConfig(****)")
    }
}

/// The pod for which an image is pulled.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(crate) metadata: Option<PodSandboxMetadata>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    pub(crate) auth: Option<AuthConfig>,
    #[prost(message, optional, tag = "3")]
    pub(crate) sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PullImageResponse {
    /// Equal to `Image.id` (since 1.36 part of the contract).
    #[prost(string, tag = "1")]
    pub(crate) image_ref: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct RemoveImageRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) image: Option<ImageSpec>,
}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FilesystemIdentifier {
    #[prost(string, tag = "1")]
    pub(crate) mountpoint: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FilesystemUsage {
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "1")]
    pub(crate) timestamp: i64,
    #[prost(message, optional, tag = "2")]
    pub(crate) fs_id: Option<FilesystemIdentifier>,
    #[prost(message, optional, tag = "3")]
    pub(crate) used_bytes: Option<UInt64Value>,
    #[prost(message, optional, tag = "4")]
    pub(crate) inodes_used: Option<UInt64Value>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ImageFsInfoResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) image_filesystems: Vec<FilesystemUsage>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) container_filesystems: Vec<FilesystemUsage>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct VersionResponse {
    /// Version of the kubelet's runtime API.
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(string, tag = "2")]
    pub(crate) runtime_name: String,
    #[prost(string, tag = "3")]
    pub(crate) runtime_version: String,
    #[prost(string, tag = "4")]
    pub(crate) runtime_api_version: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct RuntimeCondition {
    #[prost(string, tag = "1")]
    pub(crate) r#type: String,
    #[prost(bool, tag = "2")]
    pub(crate) status: bool,
    #[prost(string, tag = "3")]
    pub(crate) reason: String,
    #[prost(string, tag = "4")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    pub(crate) conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<RuntimeStatus>,
}
