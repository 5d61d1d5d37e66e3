//! From the name of a registry to the addresses that serve it.

use std::net::IpAddr;

use crate::options::{ClientOptions, Mirror};

/// How a registry may be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    /// HTTPS with a trusted certificate.
    Verified,
    /// HTTPS with any certificate.
    Unverified,
    /// HTTPS with any certificate, else plain HTTP.
    Insecure,
    /// Plain HTTP.
    Plain,
}

/// One address that serves a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`.
    pub(crate) host: String,
    pub(crate) security: Security,
    pub(crate) repository_prefix: String,
    /// The registry that a mirror stands for; sent as `ns`.
    pub(crate) mirror_of: Option<String>,
}

/// Docker Hub's API does not live at its name.
pub(crate) fn api_host(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

impl Endpoint {
    /// The registry itself.
    pub(crate) fn upstream(registry: &str, options: &ClientOptions) -> Self {
        let host = api_host(registry).to_owned();
        let listed = |list: &[String]| {
            list.iter().any(|entry| entry == "*" || *entry == registry || *entry == host)
        };
        let security = if listed(&options.plain_http_registries) {
            Security::Plain
        } else if is_loopback(&host) || listed(&options.insecure_registries) {
            Security::Insecure
        } else if listed(&options.skip_tls_verify) {
            Security::Unverified
        } else {
            Security::Verified
        };
        Self { host, security, repository_prefix: String::new(), mirror_of: None }
    }

    /// A mirror; nothing if its URL is unusable, which [`crate::Client::new`] checked.
    pub(crate) fn mirror(mirror: &Mirror, registry: &str, options: &ClientOptions) -> Option<Self> {
        let (scheme, rest) = mirror.url.split_once("://")?;
        let host = rest.trim_end_matches('/');
        if host.is_empty() || host.contains(['/', '@']) {
            return None;
        }
        let mut endpoint = Self::upstream(host, options);
        match scheme {
            "http" => endpoint.security = Security::Plain,
            "https" if endpoint.security == Security::Plain => {
                endpoint.security = Security::Verified;
            }
            "https" => {}
            _ => return None,
        }
        endpoint.repository_prefix = mirror.repository_prefix.clone();
        endpoint.mirror_of = Some(registry.to_owned());
        Some(endpoint)
    }
}

/// Whether a `host[:port]` names this machine: `localhost`, `127.0.0.0/8` or `::1`.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or(host),
        None => host,
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_are_recognised() {
        for host in
            ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "::1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "example.com",
            "10.0.0.1:5000",
            "localhost.example.com",
            "128.0.0.1",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn security_follows_the_lists() {
        let options = ClientOptions {
            insecure_registries: vec!["a.example:5000".to_owned()],
            skip_tls_verify: vec!["b.example".to_owned()],
            plain_http_registries: vec!["c.example".to_owned()],
            ..ClientOptions::default()
        };
        let security = |registry: &str| Endpoint::upstream(registry, &options).security;
        assert_eq!(security("a.example:5000"), Security::Insecure);
        assert_eq!(security("a.example"), Security::Verified);
        assert_eq!(security("b.example"), Security::Unverified);
        assert_eq!(security("c.example"), Security::Plain);
        assert_eq!(security("127.0.0.1:5000"), Security::Insecure);
        assert_eq!(Endpoint::upstream("docker.io", &options).host, "registry-1.docker.io");
    }
}
