//! The distribution API, served: uploads, tags, referrers, auth, tenancy.
//!
//! This crate keeps no state outside its stores: bytes of blobs are in the shared
//! [`blob_store::BlobStore`], everything else (manifests, tags, which repository may show which
//! blob) in one database below `<state>/registry`. It reads no environment and prints nothing.
//!
//! Start reading at [`RegistryServer::bind`], then `route`, `service` and `metadata`.
//!
//! # State below `<state>/registry`
//! | path | content |
//! |---|---|
//! | `metadata.redb` | the database; its tables are documented in `metadata` |
//! | `links.journal` | blobs uploaded since the last commit of the database |
//! | `token-keys/` | the keys that sign bearer tokens, see `auth::key_ring` |
#![forbid(unsafe_code)]

mod admin;
mod auth;
mod blobs;
mod body;
mod bytes;
mod collection;
mod connection;
mod document;
mod fallback;
mod head_clock;
mod limits;
mod listing;
mod live;
mod manifests;
mod metadata;
mod operations;
mod options;
mod pattern;
mod proxy;
mod range;
mod refusal;
mod route;
mod secret_file;
mod send_file;
mod serve;
mod service;
mod storage_status;
mod tenancy;
mod token_endpoint;
mod transfer;
mod upkeep;
mod uploads;
mod users_file;
mod warning;

pub use auth::{
    AccessRule, ClaimRule, Clock, ForeignTokens, Holder, IdentityOptions, Issuer, IssuerError,
    KeyLocation, KeyRequest, KeySource, KeySourceError, ROBOT_LIFE, RefreshBinding, Robot,
    RobotError, RobotRight, RobotSecret, Role, TokenAlgorithm, TokenOptions, add_robot,
    list_robots, remove_robot, rotate_robot,
};
pub use bytes::{
    BucketOptions, BucketOptionsError, Network, NetworkError, REDIRECT_LIFETIME, RedirectOptions,
    UploadExpiry,
};
pub use collection::{GarbageError, collect_garbage};
pub use limits::Limits;
pub use operations::{
    AuditError, AuditOptions, AuditRecord, ClientCertificates, EventFormat, MetricsOptions,
    OperationsOptions, Rate, Rates, Receiver, ReceiverError, TlsError, TlsFiles, Verified,
    read_audit_log,
};
pub use options::{
    Anonymous, AuthScheme, COLLECTION_DELAY, CollectionSchedule, PlainHttp, RegistryOptions,
    UPLOAD_IDLE_MAX,
};
pub use proxy::{
    BlobPieces, FetchedManifest, ManifestHead, ManifestName, Observed, OpenedBlob, ProxiedRegistry,
    ProxyOptions, ProxyOptionsError, TAG_LIFE, TagsPage, UNUSED_MAX, Upstream, UpstreamError,
    UpstreamFuture, UpstreamNetwork, UpstreamQuota, UpstreamStatus,
};
pub use serve::{BindError, RegistryServer, ReloadError, Running};
pub use storage_status::{
    BlobExplanation, LastRun, MissingBlob, StorageStatus, explain_blob, storage_status,
};
pub use tenancy::{
    ByteSize, Glob, GlobError, ImmutableTags, Namespace, NamespaceError, QuantityError,
    RetentionRule, Span, Verdict,
};
pub use transfer::{
    ImportOptions, Offline, Problem, RestoreOptions, TransferError, TransferReport,
};
pub use upkeep::ScrubSchedule;
pub use users_file::{UserFileError, add_user, list_users, remove_user};
