//! What the caller decides about a node.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use blob_store::BlobStore;
use credentials::SearchDirs;
use image_policy::ImageMirror;
use image_policy::verification::VerificationPolicy;

use crate::credential_options::CredentialOptions;

/// Everything a node is told; nothing is read from the environment.
#[derive(Clone)]
pub struct Options {
    /// Name of the Node object, a DNS subdomain in lower case.
    pub name: String,
    /// Directory of the node: pods, containers, logs, pull records, `kubelet.sock`.
    pub directory: PathBuf,
    /// Root of the local persistent volumes; directories of PersistentVolumes below it are created
    /// when a pod uses them.
    pub volumes_directory: PathBuf,
    /// Client of the API server, with the node's own credentials.
    pub client: kube::Client,
    /// Where containers reach the API server; becomes `KUBERNETES_SERVICE_HOST` and `_PORT`.
    pub api_server: Option<SocketAddr>,
    /// Address of the node and of all its pods; found out when `None`.
    pub address: Option<IpAddr>,
    /// Version to report as `kubeletVersion`, such as `v1.35.0`.
    pub kubernetes_version: String,
    /// The content store shared with builder and registry.
    pub blobs: BlobStore,
    /// The unpacked layers shared with the builder.
    pub layers: layers::UnpackedLayers,
    /// Where the node looks for docker config files.
    pub credential_files: SearchDirs,
    /// How long the result of that search is kept; 5 minutes in the kubelet, zero reads each time.
    pub credential_files_cache: Duration,
    /// Exec credential providers and clouds.
    pub credentials: CredentialOptions,
    /// Registries (`host[:port]`) that may speak plain HTTP or show an unknown certificate.
    pub insecure_registries: Vec<String>,
    /// Proxy and certificates on the way to registries.
    pub registry_access: crate::RegistryAccess,
    /// Rewrites of image names, first match wins.
    pub mirrors: Vec<ImageMirror>,
    /// Which present images need a proof of access (KEP-2535).
    pub verification: VerificationPolicy,
    /// The program that the preloaded executor image is made of; `None` = no such image.
    pub executor_program: Option<PathBuf>,
    /// How many pulls run at once and how fast they begin.
    pub pull_limits: crate::PullLimits,
    /// How often secret and config map volumes are brought up to date; 60 s in the kubelet.
    pub volume_refresh: Duration,
    /// Whether the node's images are served by CRI.
    pub cri: crate::CriOptions,
    /// When images are removed, and how many are reported.
    pub collection: crate::CollectionOptions,
}

/// The mirror that is on by default: any kaniko executor is ours.
pub fn executor_mirror() -> ImageMirror {
    ImageMirror {
        from: "gcr.io/kaniko-project/executor".to_owned(),
        to: crate::EXECUTOR_IMAGE.to_owned(),
    }
}
