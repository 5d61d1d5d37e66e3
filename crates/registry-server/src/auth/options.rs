//! What the caller decides about identities.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::federation::{ClaimRule, Issuer, KeySource};
use super::token::TokenOptions;
use crate::bytes::Network;

/// Who may log in how, beside the users of the user file.
#[derive(Clone, Debug, Default)]
pub struct IdentityOptions {
    /// Robots file, read again when it changes; see [`crate::add_robot`].
    pub robots: Option<PathBuf>,
    /// Members of groups, by full name: a user, `robot+<name>` or `<issuer>:<name>`.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Issuers whose tokens count.
    pub issuers: Vec<Issuer>,
    /// Fetches the keys of issuers that publish them.
    pub key_source: Option<Arc<dyn KeySource>>,
    /// Whom client certificates stand for, as `cert:…`; see the claims at [`ClaimRule`]: `cn`,
    /// `dns`, `uri`, `sub` and the lists `dnses` and `uris`.
    pub certificates: Vec<ClaimRule>,
    /// How tokens are made.
    pub tokens: TokenOptions,
    /// Directory of the keys that sign tokens, which replicas may share. Without it
    /// `<directory>/token-keys`.
    pub token_keys: Option<PathBuf>,
    /// Which client may use a refresh token.
    pub refresh: RefreshBinding,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<Network>,
    /// The time, for tests of what takes long.
    pub clock: Clock,
}

/// Which client may use a refresh token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefreshBinding {
    /// Any client of this registry: `docker login` stores the token where kubelets, skopeo and
    /// others read it and use it under their own client id.
    #[default]
    Service,
    /// Only the client id that asked for it (RFC 6749, section 6).
    Client,
}

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present time.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
