//! The running server: listener, connections, housekeeping, shutdown.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::auth::{Authority, TokenError, TokenService};
use crate::connection::{Connection, Transport};
use crate::metadata::{Metadata, MetadataError, PREDECESSOR_PAUSE, PREDECESSOR_WAIT_MAX};
use crate::options::{PlainHttp, RegistryOptions, TlsFiles};
use crate::send_file::FileSpans;
use crate::service::{self, Service, Site};
use crate::tenancy::{NamespaceError, Policies};
use crate::upkeep::{Scrubber, collect_at_intervals};
use crate::users_file::UserFileError;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// Bytes read from a connection at once: what fits the cache of a processor, since a blob's bytes
/// are written and hashed right after they came in.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Pause after the kernel refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a registry did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another registry uses the directory.
    #[error("another registry uses {}", path.display())]
    InUse {
        /// The database of the registry.
        path: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Passwords would cross a network in clear text.
    #[error("{address} is not a loopback address: plain HTTP there needs a certificate or consent")]
    PlainHttp {
        /// The address.
        address: SocketAddr,
    },
    /// The TLS files do not make a server.
    #[error("cannot use TLS file {}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The user file cannot be read.
    #[error(transparent)]
    Users(#[from] UserFileError),
    /// The namespaces contradict themselves.
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
    /// The state of the registry cannot be read.
    #[error("cannot open the registry in {}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The registry before it runs.
#[derive(Debug)]
pub struct RegistryServer;

/// A registry that serves. Dropping it begins the same end as [`Running::shutdown`], without
/// waiting for it.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    scheme: &'static str,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl RegistryServer {
    /// Opens the state, listens and serves in the background.
    ///
    /// # Errors
    /// [`BindError`]
    pub async fn bind(options: RegistryOptions) -> Result<Running, BindError> {
        let loopback = options.address.ip().is_loopback();
        if options.tls.is_none() && !loopback && options.plain_http == PlainHttp::LoopbackOnly {
            return Err(BindError::PlainHttp { address: options.address });
        }
        let acceptor = options.tls.as_ref().map(tls_acceptor).transpose()?;
        let listen = |source| BindError::Listen { address: options.address, source };
        let listener = listen_on(options.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let opened = options.clone();
        let service = tokio::task::spawn_blocking(move || {
            open(&opened, Site { address, external_url: opened.external_url.clone(), scheme })
        })
        .await
        .map_err(|error| listen(io::Error::other(error)))??;
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(Arc::new(service), listener, acceptor, options, stopped));
        tracing::info!(%address, scheme, "registry serves");
        Ok(Running { address, scheme, stop, server })
    }
}

impl Running {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, such as `http://127.0.0.1:5000`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Accepts no more connections, lets requests finish for a while, commits everything.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if self.server.await.is_err() {
            tracing::error!("the registry's server task panicked");
        }
    }
}

/// Listens, waiting a moment for the port of a predecessor that was killed and is not quite gone.
async fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let mut waited = Duration::ZERO;
    loop {
        match TcpListener::bind(address).await {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && waited < PREDECESSOR_WAIT_MAX =>
            {
                tokio::time::sleep(PREDECESSOR_PAUSE).await;
                waited += PREDECESSOR_PAUSE;
            }
            result => return result,
        }
    }
}

fn open(options: &RegistryOptions, site: Site) -> Result<Service, BindError> {
    let directory = &options.directory;
    let state = |source: Box<dyn std::error::Error + Send + Sync>| BindError::State {
        path: directory.clone(),
        source,
    };
    let metadata =
        Metadata::open(directory, options.store.clone()).map_err(|error| match error {
            MetadataError::InUse { path } => BindError::InUse { path },
            error => state(error.into()),
        })?;
    let tokens = TokenService::open(&directory.join("token-key.pem"))
        .map_err(|error: TokenError| state(error.into()))?;
    let authority = Authority::new(options, tokens)?;
    Ok(Service {
        store: options.store.reserving(options.reserve),
        metadata,
        authority,
        upload_locks: Mutex::new(HashMap::new()),
        site,
        limits: options.limits,
        upkeep: Arc::default(),
        policies: Arc::new(Policies::new(options.namespaces.clone())?),
    })
}

fn tls_acceptor(files: &TlsFiles) -> Result<TlsAcceptor, BindError> {
    fn failed(path: &Path) -> impl Fn(String) -> BindError {
        move |reason| BindError::Tls { path: path.to_owned(), reason }
    }
    let certificate = failed(&files.certificate);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(certificate("it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| failed(&files.key)(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| certificate(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| certificate(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until stopped, then drains.
async fn serve(
    service: Arc<Service>,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    options: RegistryOptions,
    mut stopped: watch::Receiver<bool>,
) {
    let keeper = options.collection.map(|schedule| {
        tokio::spawn(collect_at_intervals(Arc::clone(&service), schedule, stopped.clone()))
    });
    let scrubber = options.scrub.and_then(|schedule| {
        Scrubber::start(service.store.clone(), schedule, Arc::clone(&service.upkeep))
            .inspect_err(|error| tracing::error!(%error, "blobs are not read again"))
            .ok()
    });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        // Ended connections leave the set as they go.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            // Also when the handle was dropped.
            _ = stopped.wait_for(|stopped| *stopped) => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let watcher = graceful.watcher();
                let (service, acceptor) = (Arc::clone(&service), acceptor.clone());
                connections.spawn(async move {
                    serve_connection(service, stream, acceptor, watcher).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(options.drain_max, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running and are cut off");
    }
    connections.shutdown().await;
    if let Some(keeper) = keeper {
        // It ends on the same signal.
        let _ = keeper.await;
    }
    let metadata = service.metadata.clone();
    let close = move || {
        drop(scrubber);
        metadata.close();
    };
    let _ = tokio::task::spawn_blocking(close).await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Replies are small and complete: waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

async fn serve_connection(
    service: Arc<Service>,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let limits = service.limits;
    let spans = acceptor.is_none().then(FileSpans::default);
    let transport = match acceptor {
        None => Transport::Plain(stream),
        Some(acceptor) => {
            match tokio::time::timeout(limits.head_time_max, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => Transport::Tls(Box::new(stream)),
                Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => return tracing::debug!("TLS handshake took too long"),
            }
        }
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_buf_size(READ_BUFFER_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.resets_max);
    let for_requests = spans.clone();
    let handler = hyper::service::service_fn(move |request| {
        let (service, spans) = (Arc::clone(&service), for_requests.clone());
        async move { Ok::<_, std::convert::Infallible>(service::answer(service, request, spans).await) }
    });
    let connection = builder
        .serve_connection(
            TokioIo::new(Connection::new(
                transport,
                spans.clone().unwrap_or_default(),
                limits.head_time_max,
            )),
            handler,
        )
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "connection failed");
    }
}
