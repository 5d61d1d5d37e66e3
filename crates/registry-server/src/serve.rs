//! The running server: listener, connections, housekeeping, shutdown.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::auth::{Authority, AuthorityError, IssuerError, RobotError};
use crate::bytes::{BlobBytes, Bucket, BucketBytes, expire_at_intervals};
use crate::connection::{self, Connection, Transport};
use crate::head_clock::HeadClock;
use crate::live::Live;
use crate::metadata::{Metadata, MetadataError, PREDECESSOR_PAUSE, PREDECESSOR_WAIT_MAX, Pace};
use crate::operations::Operations;
use crate::operations::audit::{self, AuditError, AuditRecord, Auditor};
use crate::operations::exchange::Peer;
use crate::operations::notify::{Notifier, Origin, Queues, ReceiverError};
use crate::operations::observe::{answer_operator, observe};
use crate::operations::state_metrics::{Holdings, Upstreams};
use crate::operations::tls::{Tls, TlsError};
use crate::options::{PlainHttp, RegistryOptions};
use crate::proxy::{Proxy, ProxyOptionsError, UpstreamStatus};
use crate::send_file::FileSpans;
use crate::service::{Service, Site};
use crate::tenancy::{self, NamespaceError, Policies, Pulls};
use crate::upkeep::{Scrubber, collect_at_intervals};
use crate::users_file::UserFileError;

/// Bytes read from a connection at once: what fits the cache of a processor, since a blob's bytes
/// are written and hashed right after they came in.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Connections of operators at once.
const OPERATORS_MAX: usize = 64;

/// How long an operator may take for the head of a request.
const OPERATOR_HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Pause between looks at whether uploads are still under way, while the registry drains.
const UPLOADS_PAUSE: Duration = Duration::from_millis(100);

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
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The audit log cannot be written or is no such log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A receiver of notifications cannot be one.
    #[error(transparent)]
    Notifications(#[from] ReceiverError),
    /// The user file cannot be read.
    #[error(transparent)]
    Users(#[from] UserFileError),
    /// The robots file cannot be read.
    #[error(transparent)]
    Robots(#[from] RobotError),
    /// An issuer of tokens makes no sense.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The namespaces contradict themselves.
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
    /// The registries behind this one cannot be served as configured.
    #[error(transparent)]
    Proxy(#[from] ProxyOptionsError),
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
pub struct Running {
    address: SocketAddr,
    scheme: &'static str,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    service: Arc<Service>,
    tls: Option<Arc<Tls>>,
    operators: Option<SocketAddr>,
    drain_notice: Duration,
}

/// Why new options do not count; the old ones go on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The TLS files do not make a server.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The user file or the token key cannot be read.
    #[error(transparent)]
    Access(#[from] BindError),
    /// A registry that knew somebody would be open to everybody.
    #[error("users, robots, issuers, client certificates and access rules are all gone")]
    NobodyLeft,
    /// Only a restart can do this.
    #[error("{what} needs a restart")]
    NeedsRestart {
        /// What differs.
        what: &'static str,
    },
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
        let tls = options.tls.as_ref().map(Tls::open).transpose()?.map(Arc::new);
        let listen = |source| BindError::Listen { address: options.address, source };
        let listener = listen_on(options.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let operators = match options.operations.address {
            Some(address) => {
                let listen = |source| BindError::Listen { address, source };
                Some(listen_on(address).await.map_err(listen)?)
            }
            None => None,
        };
        let opened = options.clone();
        let (service, pending) = tokio::task::spawn_blocking(move || {
            open(&opened, Site { address, external_url: opened.external_url.clone(), scheme })
        })
        .await
        .map_err(|error| listen(io::Error::other(error)))??;
        let service = Arc::new(service);
        tenancy::settle_policies(&service.metadata, &service.policies.now()).await.map_err(
            |error| BindError::State { path: options.directory.clone(), source: error.into() },
        )?;
        let (stop, stopped) = watch::channel(false);
        let drain_notice = options.operations.drain_notice;
        let operators_address =
            operators.as_ref().map(TcpListener::local_addr).transpose().map_err(listen)?;
        if let Some(listener) = operators {
            // It ends with the process or when the last handle goes: probes go on to the end.
            tokio::spawn(serve_operators(Arc::clone(&service), listener, stop.subscribe()));
        }
        let auditor = pending.map(|pending| Auditor::start(pending, service.metadata.clone()));
        let origin = Origin {
            url: options.external_url.clone().unwrap_or_else(|| format!("{scheme}://{address}")),
            is_shared: options.bucket.is_some(),
        };
        let receivers = &options.operations.receivers;
        let told = &service.operations.told;
        let notifier = Notifier::start(receivers, &service.metadata, &origin, told)?;
        let sockets = Sockets { listener, tls: tls.clone(), auditor, notifier };
        let server = tokio::spawn(serve(Arc::clone(&service), sockets, options, stopped));
        tracing::info!(%address, scheme, "registry serves");
        let operators = operators_address;
        Ok(Running { address, scheme, stop, server, service, tls, operators, drain_notice })
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
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

    /// How the registries behind this one fare, in the order of the options.
    pub fn upstreams(&self) -> Vec<UpstreamStatus> {
        self.service.proxy.status()
    }

    /// Where it answers operators, if it does.
    pub const fn operators_address(&self) -> Option<SocketAddr> {
        self.operators
    }

    /// Lets other options count from now on: TLS files, users and rights, rates. Connections and
    /// requests under way go on as they began.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub async fn reload(&self, options: RegistryOptions) -> Result<(), ReloadError> {
        if options.tls.is_some() != self.tls.is_some() {
            return Err(ReloadError::NeedsRestart { what: "HTTPS instead of HTTP, or back," });
        }
        // A file that is gone for a moment must not open the registry.
        if self.service.authority.now().knows_somebody() && !options.knows_somebody() {
            return Err(ReloadError::NobodyLeft);
        }
        let (service, tls) = (Arc::clone(&self.service), self.tls.clone());
        let reload = move || -> Result<(), ReloadError> {
            let authority = authority(&options, Some(&service.authority.now()))?;
            let policies = Policies::new(options.namespaces.clone()).map_err(BindError::from)?;
            if let (Some(tls), Some(files)) = (tls, &options.tls) {
                tls.reload(files)?;
            }
            service.authority.replace(authority);
            service.policies.replace(policies);
            if let Some(audit) = &service.operations.audit {
                let action = "policy_changed".to_owned();
                let detail = Some("the configuration was read again".to_owned());
                audit.note(AuditRecord { action, detail, ..AuditRecord::default() });
            }
            service.operations.admission.change(options.operations.rates);
            Ok(())
        };
        match tokio::task::spawn_blocking(reload).await {
            Ok(done) => done?,
            Err(_) => return Err(ReloadError::NeedsRestart { what: "the registry panicked; it" }),
        }
        let namespaces = self.service.policies.now();
        tenancy::settle_policies(&self.service.metadata, &namespaces).await.map_err(|error| {
            tracing::error!(%error, "the new namespaces are not stored");
            ReloadError::NeedsRestart { what: "storing the namespaces failed; it" }
        })
    }

    /// Looks whether the TLS files changed, and takes the new ones for connections to come.
    ///
    /// # Errors
    /// The new files are no server's; the old ones go on.
    pub fn refresh_certificates(&self) -> Result<bool, TlsError> {
        self.tls.as_ref().map_or(Ok(false), |tls| tls.refresh())
    }

    /// Says on `/readyz` that the registry is about to stop, goes on as before for
    /// [`OperationsOptions::drain_notice`](crate::OperationsOptions::drain_notice), then stops as
    /// [`Running::shutdown`] does.
    pub async fn drain(self) {
        self.service.operations.health.drain();
        tokio::time::sleep(self.drain_notice).await;
        self.shutdown().await;
    }

    /// Accepts no more connections, lets requests finish for a while, commits everything.
    pub async fn shutdown(self) {
        self.service.operations.health.drain();
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

fn open(
    options: &RegistryOptions,
    site: Site,
) -> Result<(Service, Option<audit::Pending>), BindError> {
    let directory = &options.directory;
    let state = |source: Box<dyn std::error::Error + Send + Sync>| BindError::State {
        path: directory.clone(),
        source,
    };
    let store = options.store.reserving(options.reserve);
    let (opened, bytes) = match &options.bucket {
        None => (Metadata::open(directory, options.store.clone()), BlobBytes::Local(store.clone())),
        Some(place) => {
            let bucket = Bucket::open(place).map_err(|error| state(error.into()))?;
            let runtime = tokio::runtime::Handle::current();
            let bytes = BlobBytes::Bucket(BucketBytes::new(bucket.clone(), place));
            (Metadata::join(directory, Arc::new(bucket), Pace::default(), &runtime), bytes)
        }
    };
    let metadata = opened.map_err(|error| match error {
        MetadataError::InUse { path } => BindError::InUse { path },
        error => state(error.into()),
    })?;
    let proxy = Proxy::new(
        &options.proxy,
        options.store.clone().reserving(options.reserve),
        match &bytes {
            BlobBytes::Local(_) => None,
            BlobBytes::Bucket(bucket) => Some(bucket.clone()),
        },
        metadata.clone(),
    )?;
    let proxy = Arc::new(proxy);
    let (audit, pending) = match options.operations.audit.as_ref().map(audit::open).transpose()? {
        Some((sender, pending)) => (Some(sender), Some(pending)),
        None => (None, None),
    };
    let operations = Operations::new(&options.operations, audit);
    operations.metrics.register_commits(metadata.meter());
    let receivers = Arc::clone(&operations.receivers);
    let queues = Queues { receivers, metadata: metadata.clone() };
    operations.metrics.register_notifications(queues, &operations.told);
    operations.metrics.register_state(Upstreams(Arc::clone(&proxy)));
    operations.metrics.register_state(Holdings(metadata.clone()));
    let upkeep = Arc::default();
    operations.metrics.register_upkeep(Arc::clone(&upkeep));
    let service = Service {
        store,
        bytes,
        metadata,
        authority: Live::new(authority(options, None)?),
        proxy,
        upload_locks: Mutex::new(HashMap::new()),
        site,
        limits: options.limits,
        policies: Live::new(Policies::new(options.namespaces.clone())?),
        operations,
        upkeep,
        sparse_indexes: options.sparse_indexes,
        directory: directory.clone(),
        collection_delay: options.collection.map(|schedule| schedule.delay),
        pulls: Pulls::default(),
    };
    Ok((service, pending))
}

/// Who may do what, as the options say.
fn authority(
    options: &RegistryOptions,
    before: Option<&Authority>,
) -> Result<Authority, BindError> {
    Authority::open(options, before).map_err(|error| match error {
        AuthorityError::Users(error) => BindError::Users(error),
        AuthorityError::Robots(error) => BindError::Robots(error),
        AuthorityError::Issuer(error) => BindError::Issuer(error),
        AuthorityError::Tokens(error) => {
            BindError::State { path: options.directory.clone(), source: error.into() }
        }
    })
}

/// Where clients come in, and who writes down what they do.
struct Sockets {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    auditor: Option<Auditor>,
    notifier: Notifier,
}

/// Accepts until stopped, then drains.
async fn serve(
    service: Arc<Service>,
    Sockets { listener, tls, auditor, notifier }: Sockets,
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
    let namespaces = tokio::spawn(tenancy::upkeep(Arc::clone(&service), stopped.clone()));
    service.proxy.start();
    let expirer = tokio::spawn(expire_at_intervals(Arc::clone(&service), stopped.clone()));
    let slots = Arc::new(Semaphore::new(options.operations.connections_max));
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
            Ok((stream, address, permit)) => {
                let Some(place) = service.operations.admission.connection(address.ip()) else {
                    // Closed: an answer would need a handshake and a request first.
                    service.operations.metrics.refused("address_connections");
                    continue;
                };
                let watcher = graceful.watcher();
                let acceptor = tls.as_ref().map(|tls| tls.acceptor());
                let service = Arc::clone(&service);
                connections.spawn(async move {
                    service.operations.metrics.connected();
                    let metered = Connected(Arc::clone(&service));
                    serve_connection(service, (stream, address), acceptor, watcher).await;
                    drop((permit, place, metered));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let enough = enough_time(&service, &options);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = enough => tracing::warn!("requests were still running and are cut off"),
    }
    connections.shutdown().await;
    if let Some(keeper) = keeper {
        // It ends on the same signal.
        let _ = keeper.await;
    }
    service.proxy.close().await;
    // As does this one.
    let _ = expirer.await;
    notifier.finish().await;
    if let Some(auditor) = auditor {
        auditor.finish().await;
    }
    let _ = namespaces.await;
    let metadata = service.metadata.clone();
    let close = move || {
        drop(scrubber);
        metadata.close();
    };
    let _ = tokio::task::spawn_blocking(close).await;
}

/// Ends when requests had their time: uploads have more of it, for nobody likes to send them again.
async fn enough_time(service: &Service, options: &RegistryOptions) {
    tokio::time::sleep(options.drain_max).await;
    let more = options.operations.uploads_drain_max.saturating_sub(options.drain_max);
    let uploads = async {
        while service.operations.metrics.uploads() > 0 {
            tokio::time::sleep(UPLOADS_PAUSE).await;
        }
    };
    let _ = tokio::time::timeout(more, uploads).await;
}

/// Counts a connection until it goes.
struct Connected(Arc<Service>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.operations.metrics.disconnected();
    }
}

/// Answers operators until the registry is gone.
async fn serve_operators(
    service: Arc<Service>,
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(OPERATORS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            // The sender goes when everything has been committed.
            _ = closed(&mut stopped) => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Ok((stream, _, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = Arc::clone(&service);
        connections.spawn(async move {
            let handler = hyper::service::service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, std::convert::Infallible>(answer_operator(service, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(OPERATOR_HEAD_TIME_MAX)
                .serve_connection(TokioIo::new(stream), handler);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection of an operator failed");
            }
            drop(permit);
        });
    }
}

/// Ends when nobody can stop the registry any more: it is gone.
async fn closed(stopped: &mut watch::Receiver<bool>) {
    while stopped.changed().await.is_ok() {}
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    connection::tune(&stream, address)?;
    Ok((stream, address, permit))
}

async fn serve_connection(
    service: Arc<Service>,
    (stream, address): (TcpStream, SocketAddr),
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
    let certificate = match &transport {
        Transport::Plain(_) => None,
        Transport::Tls(stream) => {
            let chain = stream.get_ref().1.peer_certificates();
            chain.and_then(<[_]>::first).map(|leaf| leaf.clone().into_owned())
        }
    };
    let peer = Peer { address: address.ip().to_canonical(), certificate };
    let clock = HeadClock::new(limits.head_time_max);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_buf_size(READ_BUFFER_BYTES)
        .timer(clock.clone())
        .header_read_timeout(limits.idle_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.resets_max)
        .keep_alive_interval(limits.body_idle_max)
        .keep_alive_timeout(limits.head_time_max);
    let for_requests = spans.clone();
    let handler = hyper::service::service_fn(move |request| {
        let (service, spans, peer) = (Arc::clone(&service), for_requests.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(observe(service, peer, request, spans).await) }
    });
    let connection = builder
        .serve_connection(
            TokioIo::new(Connection::new(
                transport,
                spans.clone().unwrap_or_default(),
                limits.head_time_max,
                clock,
            )),
            handler,
        )
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "connection failed");
    }
}
