//! How the node reaches registries.

use registry_client::{ClientOptions, Proxy};

/// The network between the node and registries, as the caller's environment has it.
#[derive(Clone, Debug, Default)]
pub struct RegistryAccess {
    /// Proxy for registries beyond this machine.
    pub proxy: Option<Proxy>,
    /// Certificates trusted in addition to the system's, in PEM.
    pub extra_roots_pem: Vec<Vec<u8>>,
}

impl RegistryAccess {
    /// What the node's client is told; `insecure` are registries without a certificate to trust.
    pub(crate) fn client_options(&self, insecure: &[String]) -> ClientOptions {
        ClientOptions {
            insecure_registries: insecure.to_vec(),
            proxy: self.proxy.clone(),
            extra_roots_pem: self.extra_roots_pem.clone(),
            ..ClientOptions::default()
        }
    }
}
