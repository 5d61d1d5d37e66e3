//! Client configuration files (`kubeconfig`).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::pki::{CertifiedKey, PkiError, write_private};

/// Name of cluster, user and context in the files we write.
pub const CONTEXT: &str = "shipway";

/// The text of a kubeconfig for one client certificate. JSON, which every YAML reader accepts.
pub fn render(server: &str, ca_pem: &str, identity: &CertifiedKey) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "users": [{"name": CONTEXT, "user": {
            "client-certificate-data": STANDARD.encode(&identity.certificate_pem),
            "client-key-data": STANDARD.encode(&identity.key_pem),
        }}],
    });
    format!("{config:#}\n")
}

/// Writes a kubeconfig with mode 0600.
///
/// # Errors
/// When the file cannot be written.
pub fn write(
    path: &Path,
    server: &str,
    ca_pem: &str,
    identity: &CertifiedKey,
) -> Result<(), PkiError> {
    write_private(path, &render(server, ca_pem, identity))
}
