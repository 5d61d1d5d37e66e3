//! Credentials of a build: docker's config of whoever runs it, read once.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use credentials::{ClientConfig, RegistryAuth};
use image_builder::CredentialSource;
use oci_model::Reference;
use registry_client::ClientOptions;

use crate::registries::{proxy_of_environment, stored_credential};

/// Docker's config file.
#[derive(Clone, Debug)]
pub(crate) struct CredentialFile {
    config: Arc<ClientConfig>,
}

impl CredentialFile {
    /// Reads `config.json` in `directory`. Where there is none, `DOCKER_AUTH_CONFIG` may hold
    /// the same text.
    pub(crate) fn read(directory: Option<&Path>) -> anyhow::Result<Self> {
        let mut name = "DOCKER_AUTH_CONFIG".to_owned();
        let mut text = None;
        if let Some(path) = directory.map(|directory| directory.join("config.json")) {
            match std::fs::read(&path) {
                Ok(bytes) => {
                    name = path.display().to_string();
                    text = Some(bytes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot read {}", path.display()));
                }
            }
        }
        let inline = || {
            let text = std::env::var_os("DOCKER_AUTH_CONFIG").unwrap_or_default();
            std::os::unix::ffi::OsStringExt::into_vec(text)
        };
        let bytes = text.unwrap_or_else(inline);
        let config = ClientConfig::parse(&bytes).with_context(|| format!("cannot use {name}"))?;
        Ok(Self { config: Arc::new(config) })
    }

    /// The same as the builder asks for it.
    pub(crate) fn source(&self) -> CredentialSource {
        let credentials = self.clone();
        CredentialSource::new(move |reference: Reference| {
            let credentials = credentials.clone();
            Box::pin(async move { credentials.for_reference(&reference).await })
        })
    }

    /// The credentials for an image, asking a helper where the file names one.
    pub(crate) async fn for_reference(&self, reference: &Reference) -> Vec<RegistryAuth> {
        let (config, wanted) = (Arc::clone(&self.config), reference.clone());
        // A helper is a program that may take its time.
        let found = tokio::task::spawn_blocking(move || {
            stored_credential(&config, wanted.registry(), wanted.repository().as_str())
        });
        match found.await {
            Ok(Ok(auth)) => auth.into_iter().collect(),
            Ok(Err(failure)) => {
                tracing::warn!(%reference, reason = %failure.text(), "credential cannot be used");
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(%reference, %error, "credential cannot be looked up");
                Vec::new()
            }
        }
    }
}

/// Client options that follow from the environment.
pub(crate) fn client_options() -> ClientOptions {
    let roots = std::env::var_os("SSL_CERT_FILE").and_then(|path| std::fs::read(path).ok());
    ClientOptions {
        proxy: proxy_of_environment(),
        extra_roots_pem: roots.into_iter().collect(),
        ..ClientOptions::default()
    }
}
