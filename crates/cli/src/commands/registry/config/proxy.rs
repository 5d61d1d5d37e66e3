//! `[[registry.proxy]]` and `[registry.cache]`: other registries that are served and cached here.

use std::path::PathBuf;

use super::shape::{Size, Time, settings};

settings! {
    /// A registry behind this one (docs/registry-proxy.md).
    item ProxySettings {
        /// The registry's name as clients know it, such as docker.io; what they send as ns.
        upstream: String,
        /// Path below which its repositories are found here, followed by the alias or the name.
        prefix: Option<String> = "none",
        /// What stands for the registry's name in paths; needed for a name with a port.
        alias: Option<String> = "the registry's name",
        /// Where it is reached; the first that answers counts.
        urls: Option<Vec<String>> = "https:// and the registry's name",
        /// Allow plain HTTP and any certificate beyond loopback.
        insecure: Option<bool> = "false",
        /// Authorities (PEM) that are trusted beside those of the system.
        certificates: Option<PathBuf>,
        /// Hosts (host or host:port) that the registry may lead to although they are private or,
        /// for token services, of another domain.
        trusted_hosts: Option<Vec<String>>,
        /// Who asks; the next one is taken when one reaches its rate limit. Without any, nobody.
        credentials: Option<Vec<UpstreamCredential>>,
        /// Repositories that are passed on: patterns with * within a component and ** for anything.
        repositories: Option<Vec<String>> = "all",
        /// Repositories (patterns) that are found here without prefix, too, for Docker's
        /// registry-mirrors.
        unprefixed: Option<Vec<String>> = "none",
        /// Images (patterns of repository or repository:tag) that stay cached.
        pins: Option<Vec<String>> = "none",
        /// How long a tag is believed before the registry is asked again.
        tag_life: Option<Time> = "1m",
        /// How long the registry may take to begin an answer.
        timeout: Option<Time> = "15s",
        /// Serve only what is cached.
        offline: Option<bool> = "false",
    }
}

settings! {
    /// A credential for an upstream: a user with a password file, or a docker config.
    item UpstreamCredential {
        /// Name of the user.
        username: Option<String>,
        /// File with the password.
        password_file: Option<PathBuf>,
        /// Docker's config.json, with its helpers; read again when it is needed.
        docker_config: Option<PathBuf>,
    }
}

settings! {
    /// Limits of what is cached of other registries.
    struct CacheSettings {
        /// Most bytes that stay; what was not used for longest goes first.
        bytes_max: Option<Size> = "unlimited",
        /// How long content stays after its last use.
        unused_max: Option<Time> = "7d",
        /// Time between looks for what has to go.
        sweep_interval: Option<Time> = "10m",
    }
}
