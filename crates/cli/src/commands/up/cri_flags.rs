//! Whether and where the node serves its images by CRI.

use std::path::{Path, PathBuf};

use clap::Args;

/// Flags of the CRI socket.
#[derive(Args, Debug)]
pub(super) struct CriFlags {
    /// Socket at which crictl and kubelets find the node's images (CRI v1), or `none`
    /// [default: node/cri.sock in the state directory]
    #[arg(long, env = "SHIPWAY_CRI_SOCKET", value_name = "PATH")]
    cri_socket: Option<PathBuf>,
}

impl CriFlags {
    /// What the node is told.
    pub(super) fn options(&self, node_dir: &Path) -> cluster_node::CriOptions {
        let socket = match &self.cri_socket {
            None => Some(node_dir.join("cri.sock")),
            Some(path) if path == Path::new("none") => None,
            Some(path) => Some(path.clone()),
        };
        cluster_node::CriOptions { socket }
    }
}
