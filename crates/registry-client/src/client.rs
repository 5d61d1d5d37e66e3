//! The client, and a repository seen through it with one credential.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use credentials::RegistryAuth;
use oci_model::Reference;

use crate::endpoint::{Endpoint, Security, api_host};
use crate::error::{RegistryError, with_causes};
use crate::guard::GuardedNames;
use crate::options::{ClientOptions, ClientOptionsError, Fallback, HostTls, proxied};
use crate::tls;
use crate::tokens::Tokens;

/// Talks to registries. Cloning is cheap; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: ClientOptions,
    general: Connections,
    /// By `host[:port]`, for those with certificates of their own.
    by_host: HashMap<String, Connections>,
    pub(crate) tokens: Tokens,
    /// Hosts that were found to speak plain HTTP.
    plain_hosts: Mutex<HashMap<String, bool>>,
}

/// HTTP clients that differ in what they check.
#[derive(Debug)]
struct Connections {
    verified: reqwest::Client,
    unverified: reqwest::Client,
}

impl Connections {
    fn new(options: &ClientOptions, host: &HostTls) -> Result<Self, ClientOptionsError> {
        Ok(Self {
            verified: http_client(options, tls::verified(&options.extra_roots_pem, host)?)?,
            unverified: http_client(options, tls::unverified(host)?)?,
        })
    }
}

/// One repository at one endpoint, with one credential or none.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(crate) client: Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) reference: Reference,
    pub(crate) auth: Option<RegistryAuth>,
}

impl Client {
    /// Makes a client.
    ///
    /// # Errors
    /// [`ClientOptionsError`] names the option that cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self, ClientOptionsError> {
        for mirror in options.mirrors.values().flatten() {
            if Endpoint::mirror(mirror, "", &options).is_none() {
                return Err(ClientOptionsError::Url { url: mirror.url.clone(), what: "mirror" });
            }
        }
        let general = Connections::new(&options, &HostTls::default())?;
        let mut by_host = HashMap::new();
        for (host, tls) in &options.hosts {
            by_host.insert(api_host(host).to_owned(), Connections::new(&options, tls)?);
        }
        let inner = Inner {
            options,
            general,
            by_host,
            tokens: Tokens::default(),
            plain_hosts: Mutex::new(HashMap::new()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// The HTTP client under it, for URLs that are no registry's: it has the same trusted
    /// certificates and the same proxy, and checks certificates.
    pub fn http_client(&self) -> reqwest::Client {
        self.inner.general.verified.clone()
    }

    /// The repository of `reference` at its own registry.
    pub fn remote(&self, reference: &Reference, auth: Option<&RegistryAuth>) -> Remote {
        let endpoint = Endpoint::upstream(reference.registry(), self.options());
        Remote { client: self.clone(), endpoint, reference: reference.clone(), auth: auth.cloned() }
    }

    /// Where to pull from: the mirrors of the registry, then the registry itself.
    pub(crate) fn remotes_for_pull(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
    ) -> Vec<Remote> {
        let registry = reference.registry();
        let mirrors = self.options().mirrors.get(registry).map(Vec::as_slice).unwrap_or_default();
        let mirrors = mirrors.iter().filter_map(|mirror| {
            let endpoint = Endpoint::mirror(mirror, registry, self.options())?;
            Some(Remote { endpoint, ..self.remote(reference, mirror.auth.as_ref()) })
        });
        let mut remotes: Vec<Remote> = mirrors.collect();
        if remotes.is_empty() || self.options().fallback == Fallback::Registry {
            remotes.push(self.remote(reference, auth));
        }
        remotes
    }

    /// Runs an operation with each credential in turn, as long as they are refused; with none,
    /// once without. Returns the position of the credential that opened it.
    ///
    /// Kubernetes tries pull credentials this way: identical errors are told once, different
    /// ones as `[first, second]`.
    pub(crate) async fn with_credentials<T, F>(
        &self,
        auths: &[RegistryAuth],
        mut operation: impl FnMut(Option<RegistryAuth>) -> F,
    ) -> Result<(T, Option<usize>), RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        if auths.is_empty() {
            return Ok((operation(None).await?, None));
        }
        let mut last = None;
        for (at, auth) in auths.iter().enumerate() {
            match operation(Some(auth.clone())).await {
                Ok(value) => return Ok((value, Some(at))),
                Err(error) if error.is_access_failure() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(error) => Err(error),
            None => Ok((operation(None).await?, None)),
        }
    }

    /// The HTTP client for `host[:port]`, which need not be the endpoint's own: its tokens may
    /// come from elsewhere.
    pub(crate) fn http(&self, host: &str, security: Security) -> &reqwest::Client {
        let connections = self.inner.by_host.get(host).unwrap_or(&self.inner.general);
        match security {
            Security::Verified => &connections.verified,
            Security::Unverified | Security::Insecure | Security::Plain => &connections.unverified,
        }
    }

    pub(crate) fn speaks_plain_http(&self, host: &str) -> bool {
        let hosts = self.inner.plain_hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).copied().unwrap_or(false)
    }

    pub(crate) fn note_plain_http(&self, host: &str) {
        let mut hosts = self.inner.plain_hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(host.to_owned(), true);
    }
}

impl Remote {
    /// The reference this was made for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Path of the repository at this endpoint.
    pub(crate) fn repository_path(&self) -> String {
        format!("{}{}", self.endpoint.repository_prefix, self.reference.repository().as_str())
    }

    pub(crate) fn scopes(&self, actions: &str) -> Vec<String> {
        vec![format!("repository:{}:{actions}", self.repository_path())]
    }
}

fn http_client(
    options: &ClientOptions,
    tls: rustls::ClientConfig,
) -> Result<reqwest::Client, ClientOptionsError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(&options.user_agent)
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        // Several connections move several blobs faster than one that interleaves them.
        .http1_only()
        .tcp_nodelay(true)
        // The environment is the caller's business.
        .no_proxy()
        // Drops Authorization when a redirect leads to another host.
        .redirect(reqwest::redirect::Policy::limited(10))
        .tls_backend_preconfigured(tls);
    if let Some(guard) = &options.guard {
        let guard = Arc::new(guard.clone());
        let for_redirects = Arc::clone(&guard);
        let policy = reqwest::redirect::Policy::custom(move |attempt| {
            match for_redirects.check_redirect(attempt.previous(), attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(reason) => attempt.error(reason),
            }
        });
        builder = builder.redirect(policy).dns_resolver(GuardedNames::new(guard));
    }
    if let Some(proxy) = &options.proxy {
        builder = proxied(builder, proxy)?;
    }
    builder.build().map_err(|error| {
        tracing::debug!(reason = with_causes(&error), "http client");
        ClientOptionsError::Http(error)
    })
}
