//! Fetches the keys of issuers for the registry, which has no HTTP client of its own.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use registry_server::{KeyRequest, KeySource, KeySourceError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Longest time for a document, connecting included.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Where Linux distributions keep the authorities that they trust.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Keys over HTTP. A client lives for one request: there is one in an hour.
#[derive(Debug)]
pub(crate) struct HttpKeys;

impl KeySource for HttpKeys {
    fn fetch(
        &self,
        request: KeyRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, KeySourceError>> + Send>> {
        Box::pin(async move { fetch(&request).await.map_err(|error| KeySourceError(error.into())) })
    }
}

async fn fetch(request: &KeyRequest) -> anyhow::Result<Vec<u8>> {
    let client = reqwest::Client::builder()
        .timeout(TIME_MAX)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tls_backend_preconfigured(tls(request.ca_file.as_deref())?)
        .build()?;
    let mut asked = client.get(&request.url);
    if let Some(file) = &request.token_file {
        let token = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        asked = asked.bearer_auth(token.trim());
    }
    let mut response = asked.send().await?;
    if response.status() != reqwest::StatusCode::OK {
        bail!("{} answered {}", request.url, response.status());
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > request.bytes_max {
            bail!("the answer of {} is too long", request.url);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn tls(ca_file: Option<&Path>) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let found;
    let bundle = match ca_file {
        Some(file) => Some(file),
        None => {
            found = SYSTEM_BUNDLES.map(Path::new).into_iter().find(|bundle| bundle.exists());
            found
        }
    };
    if let Some(bundle) = bundle {
        let pem = std::fs::read(bundle).with_context(|| bundle.display().to_string())?;
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
