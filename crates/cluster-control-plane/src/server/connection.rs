//! Connections: listening, TLS, HTTP/1.1 and HTTP/2, shutdown.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Server, answer, dispatch};
use crate::auth::pki::{Pki, certificate_der, key_der, user_of_certificate};
use crate::error::ApiError;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Longest TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time a request's head may take on HTTP/1.1.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Requests at once on one HTTP/2 connection; watches count.
const HTTP2_STREAMS_MAX: u32 = 1000;
/// Flow-control window per HTTP/2 stream and connection in bytes, so that one idle watch cannot
/// starve the others.
const HTTP2_STREAM_WINDOW: u32 = 1024 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often an HTTP/2 peer is asked for a sign of life, and how long it may take to give one.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIME_MAX: Duration = Duration::from_secs(20);
/// How long open connections may take to end at shutdown.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);

/// Why the TLS settings cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text of ours does not parse.
    #[error("{0} is not valid PEM")]
    Pem(&'static str),
    /// rustls refuses certificate or key.
    #[error("the server certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// rustls refuses the authority.
    #[error("the certificate authority cannot be used")]
    Authority(#[source] rustls::server::VerifierBuilderError),
}

/// The server side of TLS: our certificate, client certificates of our authority accepted.
pub(crate) fn tls_config(pki: &Pki) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = certificate_der(&pki.ca_pem).ok_or(TlsError::Pem("ca.crt"))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(TlsError::Certificate)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::Authority)?;
    let certificate =
        certificate_der(&pki.server.certificate_pem).ok_or(TlsError::Pem("server.crt"))?;
    let key = key_der(&pki.server.key_pem).ok_or(TlsError::Pem("server.key"))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate, authority], key)
        .map_err(TlsError::Certificate)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A bound port that accepts connections once told to.
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        Ok(Self { tcp, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the server's stop token is cancelled, then lets connections finish briefly.
    pub(crate) async fn serve(self, server: Arc<Server>, tls: Arc<rustls::ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let stop = server.stop.clone();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, acceptor) = (Arc::clone(&server), acceptor.clone());
                    connections.spawn(async move {
                        connection(stream, acceptor, server).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: give others time to close theirs.
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        if tokio::time::timeout(SHUTDOWN_TIME_MAX, connections.wait()).await.is_err() {
            tracing::debug!(open = connections.len(), "connections left open at shutdown");
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, server: Arc<Server>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "cannot set TCP_NODELAY");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let user = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|certificates| certificates.first())
        .and_then(user_of_certificate)
        .map(Arc::new);
    let stop: CancellationToken = server.stop.clone();
    let service = service_fn(move |request| {
        let (server, user) = (Arc::clone(&server), user.clone());
        async move {
            let handled = AssertUnwindSafe(dispatch::handle(server, user, request)).catch_unwind();
            let response = handled.await.unwrap_or_else(|_| {
                tracing::error!("a request handler panicked");
                answer::error(&ApiError::internal("the request handler failed"))
            });
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIME_MAX);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "connection ended early");
    }
}
