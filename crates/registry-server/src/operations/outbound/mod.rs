//! The small HTTP client by which the registry tells others: POST, one connection each, no
//! redirects. Every address is checked after the name was resolved, and the checked address is the
//! one that is connected to, so that a name cannot mean something else a moment later.

mod guard;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) use self::guard::Guard;

/// Why nothing was sent, or not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The URL is none for this.
    #[error("{url} is not a URL with http or https and a host")]
    Url { url: String },
    /// The name leads where nothing may be sent.
    #[error("{host} leads to addresses that are not public and not allowed")]
    Forbidden { host: String },
    /// The name has no address, or nobody answers there.
    #[error("cannot reach {host}")]
    Unreachable {
        host: String,
        #[source]
        source: std::io::Error,
    },
    /// What proves who we are cannot be read.
    #[error("cannot read a secret of receiver {receiver}")]
    Secret {
        receiver: String,
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("connection to {host} failed")]
    Broken {
        host: String,
        #[source]
        source: hyper::Error,
    },
    /// The other side took too long.
    #[error("{host} did not answer in time")]
    TimedOut { host: String },
    /// The other side refused.
    #[error("{host} answered {status}")]
    Refused { host: String, status: StatusCode },
}

impl SendError {
    /// Whether trying again cannot help: the other side understood and said no.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                let may_pass = [
                    StatusCode::REQUEST_TIMEOUT,
                    StatusCode::TOO_EARLY,
                    StatusCode::TOO_MANY_REQUESTS,
                    // Whoever mends the credentials has the events.
                    StatusCode::UNAUTHORIZED,
                    StatusCode::FORBIDDEN,
                    StatusCode::NOT_FOUND,
                ];
                status.is_client_error() && !may_pass.contains(status)
            }
            Self::Url { .. }
            | Self::Forbidden { .. }
            | Self::Unreachable { .. }
            | Self::Secret { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. } => false,
        }
    }
}

/// A place to send to.
pub(crate) struct Outbound {
    host: String,
    port: u16,
    authority: String,
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    guard: Guard,
    timeout: Duration,
}

impl Outbound {
    /// Reads the URL; `authorities` (PEM) are trusted besides those of the web.
    ///
    /// # Errors
    /// [`SendError::Url`], or what is wrong with the file as [`SendError::Unreachable`].
    pub(crate) fn new(
        url: &str,
        authorities: Option<&Path>,
        guard: Guard,
        timeout: Duration,
    ) -> Result<Self, SendError> {
        // Credentials in a URL end up in logs.
        let wrong = || SendError::Url { url: url.split('@').next_back().unwrap_or("").to_owned() };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let (default_port, is_tls) = match uri.scheme_str() {
            Some("http") => (80, false),
            Some("https") => (443, true),
            _ => return Err(wrong()),
        };
        let tls = match is_tls {
            false => None,
            true => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                let config = client_config(authorities)
                    .map_err(|source| SendError::Unreachable { host: host.clone(), source })?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
        };
        Ok(Self {
            port: authority.port_u16().unwrap_or(default_port),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            host,
            tls,
            guard,
            timeout,
        })
    }

    /// Sends a document.
    ///
    /// # Errors
    /// [`SendError`] unless the answer is 2xx; a redirect is not followed.
    pub(crate) async fn post(&self, headers: HeaderMap, body: Bytes) -> Result<(), SendError> {
        let host = || self.host.clone();
        let sent = tokio::time::timeout(self.timeout, self.try_post(headers, body)).await;
        let status = sent.map_err(|_| SendError::TimedOut { host: host() })??;
        if status.is_success() { Ok(()) } else { Err(SendError::Refused { host: host(), status }) }
    }

    async fn try_post(&self, headers: HeaderMap, body: Bytes) -> Result<StatusCode, SendError> {
        let unreachable = |source| SendError::Unreachable { host: self.host.clone(), source };
        let stream = self.connect().await?;
        match &self.tls {
            None => self.exchange(stream, headers, body).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(unreachable)?;
                self.exchange(stream, headers, body).await
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, SendError> {
        let unreachable = |source| SendError::Unreachable { host: self.host.clone(), source };
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let mut addresses = found
            .map_err(unreachable)?
            .filter(|address| self.guard.admits(address.ip()))
            .peekable();
        if addresses.peek().is_none() {
            return Err(SendError::Forbidden { host: self.host.clone() });
        }
        let addresses: Vec<_> = addresses.collect();
        TcpStream::connect(addresses.as_slice()).await.map_err(unreachable)
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<StatusCode, SendError> {
        let broken = |source| SendError::Broken { host: self.host.clone(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        *request.headers_mut() = headers;
        if let Ok(authority) = HeaderValue::from_str(&self.authority) {
            request.headers_mut().insert(header::HOST, authority);
        }
        let connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(sender.send_request(request));
        // The connection moves while the answer is awaited; it may end with the answer in hand.
        let first = tokio::select! {
            answer = answer.as_mut() => Some(answer),
            _ = connection => None,
        };
        let answer = match first {
            Some(answer) => answer,
            None => answer.await,
        };
        Ok(answer.map_err(broken)?.status())
    }
}

fn client_config(authorities: Option<&Path>) -> std::io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = authorities {
        let read = CertificateDer::pem_file_iter(path).map_err(std::io::Error::other)?;
        for authority in read {
            let authority = authority.map_err(std::io::Error::other)?;
            roots.add(authority).map_err(std::io::Error::other)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(std::io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_without_a_host_or_with_credentials_are_refused() {
        let guard = || Guard(Vec::new());
        let new = |url: &str| Outbound::new(url, None, guard(), Duration::from_secs(1));
        for url in ["http://h", "https://h:8443/a?b=c", "http://[::1]:80/"] {
            assert!(new(url).is_ok(), "{url}");
        }
        for url in ["", "h", "/path", "ftp://h", "file:///etc/passwd", "http://u:secret@h/"] {
            let error = new(url).err().expect("a refusal").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
