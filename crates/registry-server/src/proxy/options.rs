//! What the caller decides about cached registries.

use std::sync::Arc;
use std::time::Duration;

use super::upstream::Upstream;

/// Default time for which a tag is believed before its registry is asked again: a minute, so that
/// the pods of one rollout ask once.
pub const TAG_LIFE: Duration = Duration::from_secs(60);

/// Default time that a registry may take to begin an answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Default time that cached content is kept after its last use: a week.
pub const UNUSED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The registries behind this one, and the cache for them.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// The registries; empty for none.
    pub upstreams: Vec<UpstreamOptions>,
    /// Most bytes of cached blobs that are kept; what was not used for longest goes first.
    /// Without a limit only `unused_max` counts.
    pub bytes_max: Option<u64>,
    /// How long cached content is kept after its last use.
    pub unused_max: Duration,
    /// Time between looks for content that has to go.
    pub sweep_interval: Duration,
}

/// A registry behind this one.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// The name that clients know it by, `host[:port]`, such as `docker.io`; also what they send
    /// as `ns`.
    pub host: String,
    /// Path under which its repositories are found here, before the alias or host; may be empty.
    pub prefix: String,
    /// What stands for the host in paths. A host with a port needs one.
    pub alias: Option<String>,
    /// Repositories (patterns, see [`UpstreamOptions::repositories`]) that are also found here
    /// without any prefix, for clients such as Docker's `registry-mirrors` that send none. No
    /// local repository can have such a name.
    pub unprefixed: Vec<String>,
    /// Repositories that are passed on, as patterns: `*` stands for anything within a path
    /// component, `**` for anything. Empty: all.
    pub repositories: Vec<String>,
    /// Images (`repository` or `repository:tag`, patterns) that stay cached whatever happens.
    pub pins: Vec<String>,
    /// How long a tag is believed before the registry is asked again.
    pub tag_life: Duration,
    /// How long the registry may take to begin an answer.
    pub answer_max: Duration,
    /// Whether the registry may be asked at all.
    pub network: Network,
    /// The way to the registry.
    pub upstream: Arc<dyn Upstream>,
}

/// Whether upstream registries are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// As needed.
    Online,
    /// Never: only what is cached is served.
    Offline,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            bytes_max: None,
            unused_max: UNUSED_MAX,
            sweep_interval: Duration::from_secs(600),
        }
    }
}

impl UpstreamOptions {
    /// A registry found at its own name, all of it.
    pub fn new(host: impl Into<String>, upstream: Arc<dyn Upstream>) -> Self {
        Self {
            host: host.into(),
            prefix: String::new(),
            alias: None,
            unprefixed: Vec::new(),
            repositories: Vec::new(),
            pins: Vec::new(),
            tag_life: TAG_LIFE,
            answer_max: ANSWER_MAX,
            network: Network::Online,
            upstream,
        }
    }
}

/// Why cached registries cannot be served as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyOptionsError {
    /// The name cannot be part of a repository's path.
    #[error("upstream {host}: {path:?} cannot begin a repository name; give it an alias")]
    Name {
        /// The registry.
        host: String,
        /// The path.
        path: String,
    },
    /// Two registries share a name or a path.
    #[error("upstream {host}: {name:?} is given twice")]
    Twice {
        /// The second one.
        host: String,
        /// What it shares.
        name: String,
    },
}
