//! Certificates of the server and of its clients.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// PEM files of a TLS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Who may vouch for clients; none are asked for a certificate without.
    pub clients: Option<ClientCertificates>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Authorities that sign them (PEM).
    pub authorities: PathBuf,
    /// Whether a client without one is turned away in the handshake.
    pub required: bool,
}

/// The TLS files do not make a server.
#[derive(Debug, thiserror::Error)]
#[error("cannot use TLS file {}: {reason}", path.display())]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// TLS as the files say, which may change while connections go on.
pub(crate) struct Tls {
    state: RwLock<State>,
}

struct State {
    files: TlsFiles,
    stamps: Vec<Option<Stamp>>,
    config: Arc<rustls::ServerConfig>,
}

/// What tells one version of a file from the next: inode, size, time of change.
type Stamp = (u64, u64, i64, i64);

impl Tls {
    /// # Errors
    /// [`TlsError`]
    pub(crate) fn open(files: &TlsFiles) -> Result<Self, TlsError> {
        let state = State {
            files: files.clone(),
            // Before reading: a change in between is noticed later.
            stamps: stamps(files),
            config: Arc::new(server_config(files)?),
        };
        Ok(Self { state: RwLock::new(state) })
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&state.config))
    }

    /// Reads the files again, for connections to come. Nothing changes on an error.
    ///
    /// # Errors
    /// [`TlsError`]
    pub(crate) fn reload(&self, files: &TlsFiles) -> Result<(), TlsError> {
        let new = Self::open(files)?.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Reads the files again if they changed; whether they did.
    ///
    /// # Errors
    /// [`TlsError`]; the same change is not reported twice.
    pub(crate) fn refresh(&self) -> Result<bool, TlsError> {
        let files = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let now = stamps(&state.files);
            if state.stamps == now {
                return Ok(false);
            }
            state.stamps = now;
            state.files.clone()
        };
        self.reload(&files)?;
        Ok(true)
    }
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    let authorities = files.clients.as_ref().map(|clients| clients.authorities.as_path());
    [Some(files.certificate.as_path()), Some(files.key.as_path()), authorities]
        .into_iter()
        .flatten()
        .map(|path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
        })
        .collect()
}

fn failed(path: &Path) -> impl Fn(String) -> TlsError {
    move |reason| TlsError { path: path.to_owned(), reason }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| failed(path)(error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(path)("it holds no certificate".to_owned()));
    }
    Ok(chain)
}

fn server_config(files: &TlsFiles) -> Result<rustls::ServerConfig, TlsError> {
    let certificate = failed(&files.certificate);
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| failed(&files.key)(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| certificate(error.to_string()))?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(client_verifier(clients, provider)?),
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| certificate(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn client_verifier(
    clients: &ClientCertificates,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let failed = failed(&clients.authorities);
    let mut roots = rustls::RootCertStore::empty();
    for authority in certificates(&clients.authorities)? {
        roots.add(authority).map_err(|error| failed(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| failed(error.to_string()))
}
