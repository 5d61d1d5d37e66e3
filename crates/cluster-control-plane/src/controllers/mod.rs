//! The control loops. They use the public API through [`crate::client::Client`], never storage.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// What the controllers need to know about this cluster.
pub struct ControllerOptions {
    /// Name of the one node pods are bound to.
    pub node_name: String,
    /// CA certificate of the API in PEM, published in each namespace as `kube-root-ca.crt`.
    pub ca_certificate_pem: String,
    /// Directory under which the local-path class places volumes; only the node writes there.
    pub volumes_dir: PathBuf,
}

/// Creates what every cluster starts with (namespaces, default class, service accounts), before
/// the first request is served.
///
/// # Errors
/// Whatever the API answers to a write that should succeed.
pub async fn bootstrap(
    client: &Client,
    options: &ControllerOptions,
) -> Result<(), crate::error::ApiError> {
    let _ = (client, options);
    Ok(())
}

/// Runs every controller until `stop` is cancelled.
pub async fn run(client: Client, options: ControllerOptions, stop: CancellationToken) {
    let _ = (client, options);
    stop.cancelled().await;
}
