//! What all pods of the node use, read-only after the start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use container_runtime::Runtime;

use crate::directories::Directories;
use crate::events::Recorder;
use crate::images::ensure::Images;
use crate::images::inventory::Inventory;
use crate::process::downward::NodeFacts;
use crate::worker::secrets::SecretWatches;

/// Services of the node.
pub(crate) struct Shared {
    pub(crate) client: kube::Client,
    pub(crate) node_name: String,
    pub(crate) address: IpAddr,
    pub(crate) api_server: Option<SocketAddr>,
    pub(crate) directories: Directories,
    pub(crate) volumes_directory: PathBuf,
    pub(crate) volume_refresh: Duration,
    pub(crate) images: Arc<Images>,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) runtime: Runtime,
    pub(crate) recorder: Recorder,
    pub(crate) secret_watches: SecretWatches,
    pub(crate) facts: NodeFacts,
}
