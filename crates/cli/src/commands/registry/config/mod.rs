//! The configuration of the registry: one file, and for single values also flags and variables.
//!
//! Each group of keys is a table declared with `settings!` in a file of its own; it joins
//! [`Config`] as one field. From the declaration come the struct, the checks with suggestions,
//! the flags, the variables, the JSON Schema and `docs/registry-config.md`.

mod check;
mod document;
mod namespaces;
mod proxy;
mod schema;
pub(super) mod shape;
mod sources;
mod upkeep;

use clap::ValueEnum;
use serde::Deserialize;
use std::path::PathBuf;

pub(super) use self::document::markdown;
use self::namespaces::NamespaceSettings;
pub(super) use self::proxy::{CacheSettings, ProxySettings, UpstreamCredential};
pub(super) use self::schema::json_schema;
use self::shape::{Shape, Shaped, settings};
pub(super) use self::sources::{Effective, KeyFlags, Origin};
pub(super) use self::upkeep::Upkeep;
use super::audit::AuditConfig;
use super::identity::IdentityConfig;
use super::notifications::ReceiverConfig;
use super::operations::{ClientTlsConfig, OperationsConfig, RatesConfig};
use super::storage::BucketConfig;

settings! {
    /// Everything below `[registry]`.
    struct Config {
        /// Where to listen.
        address: Option<String> = "127.0.0.1:5000",
        /// User file with bcrypt entries (htpasswd -B), read again when it changes.
        htpasswd: Option<PathBuf> = "registry/htpasswd in the state directory, if it exists",
        /// What clients without credentials may do.
        anonymous: Option<AnonymousArg> = "none if anybody can log in or has rights, else push on loopback",
        /// How clients are asked to log in.
        auth: Option<AuthArg> = "basic",
        /// Certificate chain for HTTPS (PEM), read again when it changes.
        tls_cert: Option<PathBuf>,
        /// Private key for HTTPS (PEM), read again when it changes.
        tls_key: Option<PathBuf>,
        /// Certificates of clients.
        tls: ClientTlsConfig,
        /// Serve plain HTTP beyond loopback: passwords cross the network readable.
        plain_http: bool = "false",
        /// URL by which clients reach this registry, for the token service.
        external_url: Option<String> = "the address of the request or of the listener",
        /// Bucket that replicas share, s3://bucket/prefix, gs://… or az://…: blobs, uploads, and
        /// the log of everything else.
        storage: Option<String> = "the state directory",
        /// How the bucket is reached.
        bucket: BucketConfig,
        /// Take indexes that list manifests which are not in their repository.
        sparse_indexes: bool = "false",
        /// Collection, scrubbing and the reserve of the disk.
        upkeep: Upkeep,
        /// Rights per repository prefix; rights add up. Without any, every user may do everything.
        access: Vec<Access>,
        /// Robots, groups, tokens, issuers, client certificates (docs/registry-access.md).
        identity: IdentityConfig,
        /// Prefixes with policies of their own.
        namespaces: Vec<NamespaceSettings>,
        /// Other registries that are served and cached here.
        proxy: Vec<ProxySettings>,
        /// Limits of what is cached of them.
        cache: CacheSettings,
        /// How fast and how much at once one client may ask.
        rates: RatesConfig,
        /// Receivers of notifications.
        notifications: Vec<ReceiverConfig>,
        /// Who did what.
        audit: AuditConfig,
        /// Health, metrics, draining.
        operations: OperationsConfig,
    }
}

settings! {
    /// A right.
    item Access {
        /// The repository and those below it; empty for all.
        prefix: Option<String> = "all repositories",
        /// A user, `robot+NAME` or `ISSUER:NAME`; `*` for each of the user file; absent for
        /// everybody.
        user: Option<String> = "everybody",
        /// A group, instead of a user.
        group: Option<String>,
        /// What they may do; each includes the one before.
        role: ConfigRole,
    }
}

/// What clients without credentials may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AnonymousArg {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Pull and push.
    Push,
}

/// How clients log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AuthArg {
    /// User name and password with each request.
    Basic,
    /// Tokens from the built-in token service.
    Token,
}

/// What a right allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ConfigRole {
    /// Read.
    Pull,
    /// Read and add: new tags, but none that move.
    Create,
    /// Read and write.
    Push,
    /// Read, write and delete.
    Delete,
    /// Everything, also the administration of what is below the prefix.
    Admin,
}

macro_rules! choices {
    ($($type:ty),*) => {
        $( impl Shaped for $type { fn shape() -> Shape { Shape::choice::<Self>() } } )*
    };
}
choices!(AnonymousArg, AuthArg, ConfigRole);

#[cfg(test)]
mod tests;
