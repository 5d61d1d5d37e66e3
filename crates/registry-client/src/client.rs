//! The client, and a repository seen through it with one credential.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use credentials::{RegistryAuth, Secret};
use http::{HeaderName, HeaderValue};
use oci_model::Reference;
use reqwest::redirect::Policy;

use crate::endpoint::{Endpoint, Security, api_host};
use crate::error::{RegistryError, with_causes};
use crate::guard::{GuardedNames, REDIRECTS_MAX};
use crate::options::{ClientOptions, ClientOptionsError, Fallback, HostTls, proxied, without_user};
use crate::realm::CheckedNames;
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
    /// The client for URLs that are no registry's; it follows redirects.
    elsewhere: reqwest::Client,
    general: Connections,
    /// For token services of other hosts than the registry's.
    others: Connections,
    /// Sent to registries.
    headers: http::HeaderMap,
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
        let verified = tls::verified(&options.extra_roots_pem, host)?;
        Self::of(options, verified, tls::unverified(host)?, Names::AsTheyAre)
    }

    fn of(
        options: &ClientOptions,
        verified: rustls::ClientConfig,
        unverified: rustls::ClientConfig,
        names: Names,
    ) -> Result<Self, ClientOptionsError> {
        let client = |tls| build(http_builder(options, tls, names)?.redirect(Policy::none()));
        Ok(Self { verified: client(verified)?, unverified: client(unverified)? })
    }

    const fn with(&self, security: Security) -> &reqwest::Client {
        match security {
            Security::Verified => &self.verified,
            Security::Unverified | Security::Insecure | Security::Plain => &self.unverified,
        }
    }
}

/// How names are resolved by a client that has no guard.
#[derive(Clone, Copy)]
enum Names {
    AsTheyAre,
    /// Not to where no registry may lead.
    Checked,
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
                let url = without_user(&mirror.url);
                return Err(ClientOptionsError::Url { url, what: "mirror" });
            }
        }
        let verified = tls::verified(&options.extra_roots_pem, &HostTls::default())?;
        let unverified = tls::unverified(&HostTls::default())?;
        let elsewhere = http_builder(&options, verified.clone(), Names::AsTheyAre)?;
        let elsewhere = build(elsewhere.redirect(policy(&options)))?;
        let of = |names| Connections::of(&options, verified.clone(), unverified.clone(), names);
        let (general, others) = (of(Names::AsTheyAre)?, of(Names::Checked)?);
        let mut headers = http::HeaderMap::new();
        for (name, value) in &options.headers {
            let (name, value) = header(name, value)
                .ok_or_else(|| ClientOptionsError::Header { name: name.clone() })?;
            headers.append(name, value);
        }
        let mut by_host = HashMap::new();
        for (host, tls) in &options.hosts {
            by_host.insert(api_host(host).to_owned(), Connections::new(&options, tls)?);
        }
        let inner = Inner {
            options,
            elsewhere,
            general,
            others,
            headers,
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
        self.inner.elsewhere.clone()
    }

    /// The repository of `reference` at its own registry. With a credential that is nobody's
    /// ([`RegistryAuth::is_nobody`]) it asks without any.
    pub fn remote(&self, reference: &Reference, auth: Option<&RegistryAuth>) -> Remote {
        let endpoint = Endpoint::upstream(reference.registry(), self.options());
        let auth = auth.filter(|auth| !auth.is_nobody()).cloned();
        Remote { client: self.clone(), endpoint, reference: reference.clone(), auth }
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
        self.inner.by_host.get(host).unwrap_or(&self.inner.general).with(security)
    }

    /// The HTTP client for `host[:port]` to which a registry redirects: as it is configured, or
    /// else one for which no name resolves to where a registry must not lead.
    pub(crate) fn http_elsewhere(&self, host: &str, security: Security) -> &reqwest::Client {
        self.inner.by_host.get(host).unwrap_or(&self.inner.others).with(security)
    }

    /// The HTTP client for hosts that only a registry named.
    pub(crate) fn http_to_others(&self, security: Security) -> &reqwest::Client {
        self.inner.others.with(security)
    }

    /// Adds what goes to registries with every request.
    pub(crate) fn with_own_headers(
        &self,
        request: reqwest::RequestBuilder,
    ) -> reqwest::RequestBuilder {
        if self.inner.headers.is_empty() {
            request
        } else {
            request.headers(self.inner.headers.clone())
        }
    }

    /// Whether an insecure host speaks plain HTTP; nothing before it was asked.
    pub(crate) fn known_to_be_plain(&self, host: &str) -> Option<bool> {
        let hosts = self.inner.plain_hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).copied()
    }

    pub(crate) fn note_plain_http(&self, host: &str, is_plain: bool) {
        let mut hosts = self.inner.plain_hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(host.to_owned(), is_plain);
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

/// A header as it goes over the wire; its value stays out of debug output.
fn header(name: &str, value: &Secret) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value.expose()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

fn http_builder(
    options: &ClientOptions,
    tls: rustls::ClientConfig,
    names: Names,
) -> Result<reqwest::ClientBuilder, ClientOptionsError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(&options.user_agent)
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        // Several connections move several blobs faster than one that interleaves them.
        .http1_only()
        .tcp_nodelay(true)
        // The environment is the caller's business.
        .no_proxy()
        // What an address holds is between us and its host.
        .referer(false)
        .tls_backend_preconfigured(tls);
    builder = match (&options.guard, names) {
        (Some(guard), _) => builder.dns_resolver(GuardedNames::new(Arc::new(guard.clone()))),
        (None, Names::Checked) => builder.dns_resolver(CheckedNames),
        (None, Names::AsTheyAre) => builder,
    };
    if let Some(proxy) = &options.proxy {
        builder = proxied(builder, proxy)?;
    }
    Ok(builder)
}

fn policy(options: &ClientOptions) -> Policy {
    let Some(guard) = options.guard.clone() else { return Policy::limited(REDIRECTS_MAX) };
    Policy::custom(move |attempt| match guard.check_redirect(attempt.previous(), attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(reason) => attempt.error(reason),
    })
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, ClientOptionsError> {
    builder.build().map_err(|error| {
        tracing::debug!(reason = with_causes(&error), "http client");
        ClientOptionsError::Http(error)
    })
}
