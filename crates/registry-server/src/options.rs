//! What the caller decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use blob_store::{BlobStore, DiskReserve};

use crate::auth::{AccessRule, IdentityOptions};
use crate::bytes::BucketOptions;
use crate::limits::Limits;
use crate::operations::{OperationsOptions, TlsFiles};
use crate::proxy::ProxyOptions;
use crate::tenancy::Namespace;
use crate::upkeep::ScrubSchedule;

/// How a registry behaves. Build it with [`RegistryOptions::new`] and change fields.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Directory of the metadata, usually `<state>/registry`; created if missing.
    pub directory: PathBuf,
    /// The store of the blobs.
    pub store: BlobStore,
    /// Where blobs are instead, if many replicas serve one registry.
    pub bucket: Option<BucketOptions>,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Serve HTTPS with these files; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// Whether plain HTTP may be served beyond loopback.
    pub plain_http: PlainHttp,
    /// htpasswd file with bcrypt entries; read again when it changes.
    pub users: Option<PathBuf>,
    /// What clients without credentials may do.
    pub anonymous: Anonymous,
    /// Rights of users per repository prefix. Empty: every user may do everything.
    pub access: Vec<AccessRule>,
    /// Prefixes with policies of their own; see [`Namespace`].
    pub namespaces: Vec<Namespace>,
    /// Robots, groups, tokens.
    pub identity: IdentityOptions,
    /// How clients are asked to authenticate.
    pub scheme: AuthScheme,
    /// The URL under which clients reach the registry, such as `https://registry.example`, used in
    /// the realm of bearer challenges. Without it the address of the listener is used, or the
    /// request's `Host` if that is a loopback name with the listener's port.
    pub external_url: Option<String>,
    /// When unneeded blobs are collected; never without.
    pub collection: Option<CollectionSchedule>,
    /// How every blob is read again in the background; never without.
    pub scrub: Option<ScrubSchedule>,
    /// Space that uploads leave free; below it they get 507 while everything else works.
    pub reserve: DiskReserve,
    /// How long requests may go on after a shutdown began.
    pub drain_max: Duration,
    /// What one client may take.
    pub limits: Limits,
    /// What whoever runs the registry needs.
    pub operations: OperationsOptions,
    /// Other registries that are served and cached here.
    pub proxy: ProxyOptions,
    /// Whether an index may list manifests that its repository does not hold, such as those of
    /// platforms that nobody needs.
    pub sparse_indexes: bool,
}

/// Whether plain HTTP may leave the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only on a loopback address, as docker trusts it.
    LoopbackOnly,
    /// Anywhere: something in front terminates TLS, or the network is trusted.
    Anywhere,
}

/// What a client without credentials may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing: every request needs credentials.
    Nothing,
    /// Pull.
    Pull,
    /// Pull and push; everything else as well where [`RegistryOptions::knows_somebody`] does not
    /// hold, since nobody else could.
    Push,
}

/// How clients are asked to authenticate. Credentials of either kind are always accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthScheme {
    /// User and password with each request (RFC 7617).
    Basic,
    /// Tokens from the built-in token service at `/auth/token` (distribution token
    /// specification).
    Bearer,
}

/// When and how unneeded blobs go.
#[derive(Clone, Copy, Debug)]
pub struct CollectionSchedule {
    /// Time between collections.
    pub interval: Duration,
    /// How long an unneeded blob is kept after its last use.
    pub delay: Duration,
}

/// Default time that an unneeded blob is kept: a day, longer than any push takes.
pub const COLLECTION_DELAY: Duration = Duration::from_secs(24 * 3600);

/// Default time after which a silent upload is dropped.
pub const UPLOAD_IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

impl RegistryOptions {
    /// A registry on a free loopback port that serves everybody: a fixture. A product sets the
    /// address, the users and what is anonymous.
    pub fn new(directory: impl Into<PathBuf>, store: BlobStore) -> Self {
        let directory = directory.into();
        Self {
            operations: OperationsOptions::new(directory.clone()),
            directory,
            store,
            bucket: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            plain_http: PlainHttp::LoopbackOnly,
            users: None,
            anonymous: Anonymous::Push,
            access: Vec::new(),
            namespaces: Vec::new(),
            identity: IdentityOptions::default(),
            scheme: AuthScheme::Basic,
            external_url: None,
            collection: Some(CollectionSchedule {
                interval: Duration::from_secs(3600),
                delay: COLLECTION_DELAY,
            }),
            scrub: Some(ScrubSchedule::default()),
            reserve: DiskReserve::default(),
            drain_max: Duration::from_secs(10),
            limits: Limits::default(),
            proxy: ProxyOptions::default(),
            sparse_indexes: false,
        }
    }

    /// Whether anybody has a name here: there are users, robots, issuers, certificates of clients
    /// or rules. Without any of these the registry is open to everybody.
    pub fn knows_somebody(&self) -> bool {
        let has_clients = self.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
        self.users.is_some()
            || self.identity.robots.is_some()
            || !self.identity.issuers.is_empty()
            || has_clients
            || !self.access.is_empty()
    }
}
