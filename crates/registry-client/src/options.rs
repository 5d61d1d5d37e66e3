//! How a client reaches registries.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use credentials::{RegistryAuth, Secret};

use crate::guard::Guard;

/// Retries of one request after a transient failure.
const RETRIES_MAX: u32 = 5;
/// Blobs moved at once per pull or push: what docker and containerd use for pulls.
const CONCURRENT_BLOBS_MAX: usize = 4;

/// How a client reaches registries.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// Registries (`host[:port]`) that may speak plain HTTP and whose certificates are not
    /// checked; `*` stands for all. Registries on loopback addresses always belong to them, as
    /// in docker. HTTPS is tried first.
    pub insecure_registries: Vec<String>,
    /// Registries that are spoken to in plain HTTP without an attempt at HTTPS.
    pub plain_http_registries: Vec<String>,
    /// Registries whose certificates are not checked, and that still must speak HTTPS; `*`
    /// stands for all.
    pub skip_tls_verify: Vec<String>,
    /// Certificates trusted in addition to the system's, in PEM.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// More about the TLS of single registries and mirrors (`host[:port]`).
    pub hosts: BTreeMap<String, HostTls>,
    /// Endpoints asked before the registry itself when pulling, by registry (`docker.io`).
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Whether a registry that has mirrors is asked after them.
    pub fallback: Fallback,
    /// Proxy for connections that leave the machine.
    pub proxy: Option<Proxy>,
    /// Where registries may lead this client; anywhere without. For programs that speak for
    /// others, such as a pull-through cache.
    pub guard: Option<Guard>,
    /// Hosts (`host` or `host:port`) that may receive credentials as token services of registries
    /// of other domains; without it a credential stays within the registry's own.
    pub token_services: Vec<String>,
    /// Sent to registries and their token services with every request, and to nobody else
    /// (docker's `HttpHeaders`).
    pub headers: Vec<(String, Secret)>,
    /// Retries of one request after a transient failure.
    pub retries_max: u32,
    /// Blobs moved at once per pull or push.
    pub concurrent_blobs_max: usize,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence of a registry in the middle of an answer.
    pub read_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("shipway/", env!("CARGO_PKG_VERSION")).to_owned(),
            insecure_registries: Vec::new(),
            plain_http_registries: Vec::new(),
            skip_tls_verify: Vec::new(),
            extra_roots_pem: Vec::new(),
            hosts: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            fallback: Fallback::Registry,
            proxy: None,
            guard: None,
            token_services: Vec::new(),
            headers: Vec::new(),
            retries_max: RETRIES_MAX,
            concurrent_blobs_max: CONCURRENT_BLOBS_MAX,
            connect_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// Whether a registry that has mirrors is asked when they cannot help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// It is, last.
    Registry,
    /// Never: what the mirrors do not have does not exist.
    Nothing,
}

/// TLS of one registry.
#[derive(Debug, Clone, Default)]
pub struct HostTls {
    /// Certificates trusted for this registry in addition to the others, in PEM.
    pub roots_pem: Vec<Vec<u8>>,
    /// What is shown to a registry that wants to see a certificate.
    pub client: Option<ClientCertificate>,
}

/// A certificate of ours and its key (mutual TLS).
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, and those between it and the root, in PEM.
    pub chain_pem: Vec<u8>,
    /// The private key, in PEM.
    pub key_pem: Secret,
}

/// Another place that serves a registry's images.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// `http://` or `https://` with host, port and nothing else.
    pub url: String,
    /// Put in front of the repository path (`gcr.io/`), empty for none.
    pub repository_prefix: String,
    /// Credential for the mirror; the registry's own credentials are never sent to it.
    pub auth: Option<RegistryAuth>,
}

/// Proxies as the usual environment variables describe them.
#[derive(Clone, Default)]
pub struct Proxy {
    /// URL of the proxy for HTTP.
    pub http: Option<String>,
    /// URL of the proxy for HTTPS.
    pub https: Option<String>,
    /// Hosts that are reached directly, comma separated.
    pub no_proxy: String,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("http", &self.http.as_deref().map(without_user))
            .field("https", &self.https.as_deref().map(without_user))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientOptionsError {
    /// A certificate is not PEM or not a certificate.
    #[error("cannot use an extra root certificate: {reason}")]
    Certificate {
        /// What is wrong.
        reason: String,
    },
    /// The certificate to show, or its key.
    #[error("cannot use a client certificate: {reason}")]
    ClientCertificate {
        /// What is wrong.
        reason: String,
    },
    /// The URL of a proxy or mirror.
    #[error("{url:?} is not a usable URL for a {what}")]
    Url {
        /// The text; a user and password in it are masked.
        url: String,
        /// `proxy` or `mirror`.
        what: &'static str,
    },
    /// The name or value of a header.
    #[error("{name:?} is not the name of a header, or its value is none")]
    Header {
        /// The name.
        name: String,
    },
    /// The HTTP client refused to start.
    #[error("cannot start the HTTP client")]
    Http(#[source] reqwest::Error),
}

/// What is on this machine is never asked for by way of another, whatever the user exempts: a
/// proxy's loopback is not ours. docker and Go do the same.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1,::ffff:127.0.0.0/104";

/// A URL as it may be shown, usable or not: user and password are masked.
pub(crate) fn without_user(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    // A password that nobody escaped may hold any character: the last @ ends it.
    match rest.rsplit_once('@') {
        Some((_, place)) => format!("{scheme}***@{place}"),
        None => url.to_owned(),
    }
}

/// A client's builder with a proxy for what is not exempt from it.
pub(crate) fn proxied(
    mut builder: reqwest::ClientBuilder,
    proxy: &Proxy,
) -> Result<reqwest::ClientBuilder, ClientOptionsError> {
    let exempt = reqwest::NoProxy::from_string(&format!("{LOOPBACK},{}", proxy.no_proxy));
    for (url, https) in [(&proxy.http, false), (&proxy.https, true)] {
        let Some(url) = url else { continue };
        let made = if https { reqwest::Proxy::https(url) } else { reqwest::Proxy::http(url) };
        let made =
            made.map_err(|_| ClientOptionsError::Url { url: without_user(url), what: "proxy" })?;
        builder = builder.proxy(made.no_proxy(exempt.clone()));
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        for (url, expected) in [
            ("http://ada:canary@proxy:3128", "http://***@proxy:3128"),
            ("http://ada:can/ary@x@proxy:3128/", "http://***@proxy:3128/"),
            ("ada:canary@proxy", "***@proxy"),
            ("http://proxy:3128", "http://proxy:3128"),
        ] {
            assert_eq!(without_user(url), expected);
            let proxy = Proxy {
                http: Some(url.to_owned()),
                https: Some(url.to_owned()),
                no_proxy: String::new(),
            };
            assert!(!format!("{proxy:?}").contains("ary"), "{proxy:?}");
        }
        let proxy = Proxy { http: Some("http://ada:canary@[".to_owned()), ..Proxy::default() };
        let error = proxied(reqwest::Client::builder(), &proxy).expect_err("no URL");
        assert_eq!(error.to_string(), "\"http://***@[\" is not a usable URL for a proxy");
    }
}
