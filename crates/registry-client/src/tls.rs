//! TLS settings: which certificates are trusted, and what a failed handshake means.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::options::{ClientOptionsError, HostTls};

/// Where Linux distributions keep the certificates that the administrator trusts.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A configuration that checks certificates against the system's roots and the extra ones.
/// Where the system has none, as in an image from scratch, Mozilla's list is used.
pub(crate) fn verified(
    extra_roots_pem: &[Vec<u8>],
    host: &HostTls,
) -> Result<ClientConfig, ClientOptionsError> {
    let mut roots = RootCertStore::empty();
    for bundle in SYSTEM_BUNDLES {
        if let Ok(pem) = std::fs::read(bundle) {
            // A system bundle may hold certificates that rustls does not accept; skip those.
            let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
            roots.add_parsable_certificates(certificates);
            break;
        }
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for pem in extra_roots_pem.iter().chain(&host.roots_pem) {
        add(&mut roots, pem)?;
    }
    shown(builder().with_root_certificates(roots), host)
}

/// A configuration that these authorities alone vouch for.
pub(crate) fn of_authorities(pem: &str) -> Result<ClientConfig, ClientOptionsError> {
    let mut roots = RootCertStore::empty();
    add(&mut roots, pem.as_bytes())?;
    Ok(builder().with_root_certificates(roots).with_no_client_auth())
}

/// Trusts each certificate of a text, which has at least one.
fn add(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), ClientOptionsError> {
    let mut any = false;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let bad = |reason: String| ClientOptionsError::Certificate { reason };
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        any = true;
    }
    if any {
        return Ok(());
    }
    let reason = "there is no certificate in it".to_owned();
    Err(ClientOptionsError::Certificate { reason })
}

/// Adds the certificate that is shown to the server, if there is one.
fn shown(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    host: &HostTls,
) -> Result<ClientConfig, ClientOptionsError> {
    let Some(own) = &host.client else { return Ok(builder.with_no_client_auth()) };
    let bad = |reason: String| ClientOptionsError::ClientCertificate { reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&own.chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.expose().as_bytes())
        .map_err(|error| bad(format!("private key: {error}")))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| bad(error.to_string()))
}

/// A configuration that takes any certificate.
pub(crate) fn unverified(host: &HostTls) -> Result<ClientConfig, ClientOptionsError> {
    shown(without_authorities(None), host)
}

/// A configuration that takes one certificate, known by its SHA-1 thumbprint in hexadecimal.
pub(crate) fn pinned(sha1: &str) -> ClientConfig {
    let thumbprint = sha1.replace([':', ' '], "").to_ascii_lowercase();
    without_authorities(Some(thumbprint)).with_no_client_auth()
}

fn without_authorities(
    thumbprint: Option<String>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let verifier = HolderOfKey { provider: provider(), thumbprint };
    builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| ClientConfig::builder())
}

/// Checks that the server holds the key of its certificate, and which one that is if that is
/// known; no authority is asked.
#[derive(Debug)]
struct HolderOfKey {
    provider: Arc<CryptoProvider>,
    /// SHA-1 in lower-case hexadecimal.
    thumbprint: Option<String>,
}

impl ServerCertVerifier for HolderOfKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use sha1::Digest as _;
        let Some(wanted) = &self.thumbprint else { return Ok(ServerCertVerified::assertion()) };
        let hash = sha1::Sha1::digest(end_entity);
        let shown: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        if shown == *wanted {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Finds the TLS error under a failed request.
pub(crate) fn tls_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An I/O error hides the error that it wraps from `source`.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(wrapped) = wrapped
            && let Some(found) = tls_error(wrapped)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether the other side answered something that is no TLS at all.
pub(crate) fn is_not_tls(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidMessage(_))
}

/// Whether the other side ended the connection instead of answering.
pub(crate) fn is_cut_off(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            let kind = error.kind();
            let cuts =
                [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            // An I/O error hides the error that it wraps from `source`.
            if cuts.contains(&kind) || error.get_ref().is_some_and(|wrapped| is_cut_off(wrapped)) {
                return true;
            }
        }
        next = error.source();
    }
    false
}

/// The words that users search for, where there are some.
pub(crate) fn describe(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        rustls::Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        ) => format!("x509: certificate is not valid for this name: {error}"),
        other => other.to_string(),
    }
}
