//! Sends one request: picks HTTP or HTTPS, authenticates, retries, and turns refusals into
//! errors.

use std::time::{Duration, Instant};

use credentials::RegistryAuth;
use http::header;
use oci_model::ErrorBody;
use reqwest::{RequestBuilder, Response};
use url::Url;

use crate::challenge::Challenge;
use crate::client::Remote;
use crate::endpoint::Security;
use crate::error::{Refusal, RegistryError, RegistryErrorKind, with_causes};
use crate::guard::is_same_place;
use crate::handshake::{GiveUp, NextStep, Tried, after_unauthorized};
use crate::onward::Target;
use crate::progress::{Progress, ProgressEvent};
use crate::proxying::rate_limit;
use crate::realm::RefusedName;
use crate::redirects::Chain;
use crate::retry;
use crate::tls;
use crate::token_service::Purpose;
use crate::tokens::{Authorization, TokenKey};

/// By this header of its answers a registry shows itself (docker's registry API, version check).
const API_VERSION: &str = "docker-distribution-api-version";
/// Largest error answer that is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// What the request is about, for authorisation and for messages.
pub(crate) struct About<'a> {
    pub(crate) method: &'static str,
    pub(crate) target: Target<'a>,
    pub(crate) scopes: Vec<String>,
    /// What is looked for, in words for an error.
    pub(crate) what: String,
    pub(crate) progress: &'a Progress,
}

impl Remote {
    /// Sends a request until it succeeds or nothing is left to try. `finish` adds headers and
    /// the body; it is called again for each attempt.
    pub(crate) async fn send(
        &self,
        about: &About<'_>,
        finish: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        self.send_with_retries(about, finish).await.map_err(|error| error.at(&self.endpoint.host))
    }

    async fn send_with_retries(
        &self,
        about: &About<'_>,
        finish: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut retries = 0;
        loop {
            let (error, retry_after) = match self.send_authorized(about, &finish).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let refusal = refusal(response, about).await;
                    let transient = retry::is_transient_status(refusal.status);
                    let retry_after = refusal.retry_after;
                    if !transient || refusal.is_out_of_allowance() {
                        return Err(refusal.into());
                    }
                    (RegistryError::from(refusal), retry_after)
                }
                Err(error) if error.is_transient() && !is_unreachable(&error) => (error, None),
                Err(error) => return Err(error),
            };
            if self.client.options().retries_max <= retries {
                return Err(error);
            }
            let Some(wait) = retry::pause(retries, retry_after, fastrand::f64()) else {
                return Err(error);
            };
            tracing::debug!(reason = %error, wait_ms = wait.as_millis() as u64, "retrying");
            about.progress.tell(ProgressEvent::Retrying { reason: error.to_string(), wait });
            tokio::time::sleep(wait).await;
            retries += 1;
        }
    }

    /// Sends a request once, handshake included, without retries: for bodies that are not simply
    /// sent again.
    pub(crate) async fn send_once_authorized(
        &self,
        about: &About<'_>,
        finish: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let at = |error: RegistryError| error.at(&self.endpoint.host);
        let response = self.send_authorized(about, &finish).await.map_err(at)?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(at(refusal(response, about).await.into()))
    }

    /// One attempt with the handshake that it may need.
    pub(crate) async fn send_authorized(
        &self,
        about: &About<'_>,
        finish: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let key = TokenKey::new(&self.endpoint.host, self.auth.as_ref(), &about.scopes);
        let tokens = &self.client.inner.tokens;
        let mut authorization = match &self.auth {
            Some(RegistryAuth::RegistryToken { token }) => {
                Some(Authorization::Bearer(token.clone()))
            }
            _ => tokens.get(&key, Instant::now()),
        };
        let mut tried = match (&self.auth, &authorization) {
            (Some(RegistryAuth::RegistryToken { .. }), _) => Tried::RegistryToken,
            (_, Some(Authorization::Basic { .. })) => Tried::Basic,
            _ => Tried::Nothing,
        };
        let mut withheld: Option<String> = None;
        loop {
            let response = self.send_once(about, authorization.as_ref(), finish).await?;
            let status = response.status();
            if let Some(reason) = withheld.filter(|_| matches!(status.as_u16(), 401 | 403 | 404)) {
                return Err(RegistryError::from(refusal(response, about).await).context(reason));
            }
            if status != http::StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            // Whoever the registry led us to has no business with its credentials.
            if !self.is_own(response.url()) {
                return Ok(response);
            }
            tokens.forget(&key);
            let challenges = Challenge::of_response(response.headers());
            withheld = None;
            match after_unauthorized(&challenges, self.auth.as_ref(), &about.scopes, tried) {
                NextStep::SendBasic { username, password } => {
                    let basic = Authorization::Basic { username, password };
                    tokens.put_basic(&key, basic.clone());
                    authorization = Some(basic);
                    tried = Tried::Basic;
                }
                NextStep::FetchToken(request) => {
                    let approved = self.approve(request, &response)?;
                    let token = self.fetch_token(&approved, Purpose::Access, about).await?;
                    withheld = approved.withheld;
                    if withheld.is_none() {
                        tokens.put_bearer(
                            &key,
                            token.value.clone(),
                            token.lifetime,
                            Instant::now(),
                        );
                    }
                    authorization = Some(Authorization::Bearer(token.value));
                    tried = Tried::FreshToken;
                }
                // An attempt with a credential ends in the registry's own words.
                NextStep::GiveUp(GiveUp::Refused) => return Ok(response),
                NextStep::GiveUp(why) => {
                    let reason = format!(
                        "pull access denied, repository does not exist or may require \
                         authorization: {}",
                        why.reason()
                    );
                    let reason = match about.scopes.first() {
                        None => why.reason(),
                        Some(scope) if scope.contains("push") || scope.contains("delete") => {
                            reason.replace("pull access", "push access")
                        }
                        Some(_) => reason,
                    };
                    return Err(RegistryErrorKind::Unauthorized { reason }.into());
                }
            }
        }
    }

    /// One request. For insecure hosts HTTPS comes first and plain HTTP second.
    pub(crate) async fn send_once(
        &self,
        about: &About<'_>,
        authorization: Option<&Authorization>,
        finish: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let host = &self.endpoint.host;
        let plain = self.is_plain();
        let first = self.url(about.target, if plain { "http" } else { "https" })?;
        match self.execute(first, about, authorization, finish).await {
            Err(Failed::Sending(error))
                if !plain
                    && self.is_about_us(&error)
                    && tls::tls_error(&error).is_some_and(tls::is_not_tls) =>
            {
                if self.endpoint.security != Security::Insecure {
                    return Err(RegistryErrorKind::PlainHttp { registry: host.clone() }.into());
                }
                self.client.note_plain_http(host, true);
                let second = self.url(about.target, "http")?;
                let sent = self.execute(second, about, authorization, finish).await;
                sent.map_err(|failed| failed.about(host))
            }
            Err(Failed::Sending(error)) if self.may_be_plain(&error) => {
                if !self.answers_in_plain().await {
                    return Err(Failed::Sending(error).about(host));
                }
                self.client.note_plain_http(host, true);
                let second = self.url(about.target, "http")?;
                let sent = self.execute(second, about, authorization, finish).await;
                sent.map_err(|failed| failed.about(host))
            }
            sent => {
                if sent.is_ok() && !plain && self.endpoint.security == Security::Insecure {
                    self.client.note_plain_http(host, false);
                }
                sent.map_err(|failed| failed.about(host))
            }
        }
    }

    /// Whether a host that ended the connection when it was greeted in TLS may speak plain HTTP:
    /// an insecure one that never answered in TLS, for which this may be no more than a restart.
    /// Without a port in its name plain HTTP would be another server's.
    fn may_be_plain(&self, error: &reqwest::Error) -> bool {
        let has_port = || {
            let url = Url::parse(&format!("https://{}", self.endpoint.host));
            url.is_ok_and(|url| url.port().is_some())
        };
        self.endpoint.security == Security::Insecure
            && self.client.known_to_be_plain(&self.endpoint.host) != Some(false)
            && self.is_about_us(error)
            && error.is_connect()
            && tls::is_cut_off(error)
            && has_port()
    }

    /// Whether a request failed at the endpoint itself, and not where it led.
    fn is_about_us(&self, error: &reqwest::Error) -> bool {
        error.url().is_some_and(|url| self.is_own(url))
    }

    /// Whether a registry answers at the endpoint in plain HTTP. Nothing of ours goes along.
    async fn answers_in_plain(&self) -> bool {
        let host = &self.endpoint.host;
        // Another request has found out meanwhile.
        if self.client.known_to_be_plain(host) == Some(true) {
            return true;
        }
        let probe = self.client.http(host, Security::Plain).get(format!("http://{host}/v2/"));
        let Ok(answer) = probe.send().await else { return false };
        let has = |name: &str| answer.headers().contains_key(name);
        match answer.status() {
            http::StatusCode::OK => has(API_VERSION),
            http::StatusCode::UNAUTHORIZED => has(API_VERSION) || has("www-authenticate"),
            _ => false,
        }
    }

    async fn execute(
        &self,
        url: Url,
        about: &About<'_>,
        authorization: Option<&Authorization>,
        finish: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failed> {
        let method = http::Method::from_bytes(about.method.as_bytes()).unwrap_or(http::Method::GET);
        // An upload or list may continue at another host; our credential is not for it.
        let ours = self.is_own(&url);
        let mut chain = if ours { Chain::new(url) } else { self.led_to(url, about.target)? };
        loop {
            let (host, security) = (authority(chain.url()), self.endpoint.security);
            let http = if chain.is_elsewhere() {
                self.client.http_elsewhere(&host, security)
            } else {
                self.client.http(&host, security)
            };
            let mut request = http.request(method.clone(), chain.url().clone());
            if ours && chain.is_at_home() {
                request = self.client.with_own_headers(request);
                match authorization {
                    None => {}
                    Some(Authorization::Basic { username, password }) => {
                        request = request.basic_auth(username, Some(password.expose()));
                    }
                    Some(Authorization::Bearer(token)) => {
                        request = request.bearer_auth(token.expose());
                    }
                }
            }
            let response = finish(request).send().await.map_err(Failed::Sending)?;
            let options = self.client.options();
            if !chain.follow(&response, &method, options).map_err(Failed::Redirected)? {
                return Ok(response);
            }
        }
    }

    /// The chain of a request that the endpoint wants elsewhere, as if by a redirect.
    fn led_to(&self, url: Url, target: Target<'_>) -> Result<Chain, Failed> {
        let scheme = if self.is_plain() { "http" } else { "https" };
        let home = Url::parse(&format!("{scheme}://{}", self.endpoint.host));
        let home = home.map_err(|error| Failed::Redirected(error.to_string()))?;
        Chain::onward(home, url, target.is_told_here(), self.client.options())
            .map_err(Failed::Redirected)
    }

    /// Whether the endpoint is spoken to in plain HTTP.
    fn is_plain(&self) -> bool {
        match self.endpoint.security {
            Security::Plain => true,
            Security::Insecure => {
                self.client.known_to_be_plain(&self.endpoint.host).unwrap_or(false)
            }
            Security::Verified | Security::Unverified => false,
        }
    }

    /// Whether an address is the endpoint's own, whatever its scheme's default port is written as.
    /// A plain one is not if the endpoint speaks HTTPS: what is ours would go there in clear.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        let reached = url.scheme() == "https" || self.is_plain();
        reached
            && Url::parse(&format!("{}://{}", url.scheme(), self.endpoint.host))
                .is_ok_and(|own| is_same_place(&own, url))
    }

    /// The address of a target.
    fn url(&self, target: Target<'_>, scheme: &str) -> Result<Url, RegistryError> {
        let path = match target {
            Target::Path(path) => path,
            Target::Onward(onward) => return self.checked(&onward.url),
        };
        let text = format!("{scheme}://{}/v2/{path}", self.endpoint.host);
        let mut url = Url::parse(&text).map_err(|_| self.malformed("has no usable address"))?;
        if let Some(registry) = &self.endpoint.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// What a `Location` or a `Link` said.
    ///
    /// A registry behind a proxy that ends TLS may not know that it is reached by HTTPS, and
    /// write `http://` before its own name.
    fn checked(&self, url: &Url) -> Result<Url, RegistryError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(self.malformed("sent an address that is none of HTTP"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.malformed("sent an address that holds a user"));
        }
        if url.scheme() == "https" || self.is_plain() {
            return Ok(url.clone());
        }
        let mut secure = url.clone();
        if secure.set_scheme("https").is_ok() && self.is_own(&secure) {
            return Ok(secure);
        }
        Err(self.malformed(&format!("led from HTTPS to plain HTTP at {}", authority(url))))
    }

    fn malformed(&self, what: &str) -> RegistryError {
        let reason = format!("registry {} {what}", self.endpoint.host);
        RegistryErrorKind::Malformed { reason }.into()
    }
}

/// Why there is no answer.
enum Failed {
    Sending(reqwest::Error),
    /// Led to where it must not go.
    Redirected(String),
}

impl Failed {
    fn about(self, registry: &str) -> RegistryError {
        match self {
            Self::Sending(error) => request_error(&error, registry),
            Self::Redirected(reason) => {
                let reason = format!("registry {registry}: {reason}");
                RegistryErrorKind::Malformed { reason }.into()
            }
        }
    }
}

fn is_unreachable(error: &RegistryError) -> bool {
    matches!(error.kind(), RegistryErrorKind::Unreachable { .. })
}

/// `host[:port]` of an address.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// An address without anything that may be a secret: signed URLs carry keys in their query.
pub(crate) fn redacted(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

/// Sorts a failed exchange by what can be done about it.
pub(crate) fn request_error(error: &reqwest::Error, registry: &str) -> RegistryError {
    if let Some(tls_error) = tls::tls_error(error) {
        let reason = tls::describe(tls_error);
        return RegistryErrorKind::Tls { registry: registry.to_owned(), reason }.into();
    }
    if let Some(refused) = refused_name(error) {
        return RegistryErrorKind::Malformed { reason: refused.to_string() }.into();
    }
    // The URL in reqwest's own text may be a signed one.
    let mut reason = String::new();
    let mut cause = std::error::Error::source(error);
    let mut is_look_up = false;
    while let Some(error) = cause {
        reason = error.to_string();
        is_look_up |= reason.starts_with("dns error");
        cause = error.source();
    }
    if is_look_up {
        // What the resolver says about queries and records helps nobody who mistyped a name.
        let host = error.url().and_then(|url| url.host_str().map(str::to_owned));
        reason = format!("cannot find host {}", host.as_deref().unwrap_or(registry));
    }
    if reason.is_empty() {
        let text = if error.is_timeout() { "i/o timeout" } else { "the request failed" };
        reason = text.to_owned();
    }
    if error.is_connect() {
        let registry = registry.to_owned();
        return RegistryErrorKind::Unreachable { registry, reason }.into();
    }
    RegistryErrorKind::Interrupted { reason: format!("connection to {registry}: {reason}") }.into()
}

/// The name that was not looked up to its end, if that is what failed.
fn refused_name<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a RefusedName> {
    let next = |error: &&'a (dyn std::error::Error + 'static)| error.source();
    std::iter::successors(Some(error), next).find_map(|error| error.downcast_ref())
}

/// Reads what a refusal says.
pub(crate) async fn refusal(response: Response, about: &About<'_>) -> Refusal {
    let status = response.status().as_u16();
    let url = redacted(response.url());
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .or_else(|| response.headers().get("x-retry-after"))
        .and_then(|value| value.to_str().ok())
        .and_then(retry::parse_retry_after);
    let allowance = rate_limit(response.headers()).filter(|_| status == 429);
    let body = body_up_to(response, ERROR_BYTES_MAX).await.unwrap_or_default();
    let body = serde_json::from_slice::<ErrorBody>(&body).unwrap_or_default();
    Refusal {
        method: about.method,
        url,
        status,
        body,
        retry_after,
        allowance,
        what: about.what.clone(),
    }
}

/// Why a body was not read.
pub(crate) enum BodyError {
    TooLarge,
    Broken(String),
}

/// Reads a body that must be small.
pub(crate) async fn body_up_to(
    mut response: Response,
    bytes_max: usize,
) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) => {
                if bytes_max < body.len() + chunk.len() {
                    return Err(BodyError::TooLarge);
                }
                body.extend_from_slice(&chunk);
            }
            Err(error) => return Err(BodyError::Broken(with_causes(&error.without_url()))),
        }
    }
}

/// Tells the registry's `Warning` headers (RFC 7234 section 5.5, code 299).
pub(crate) fn tell_warnings(response: &Response, progress: &Progress) {
    const WARNING_BYTES_MAX: usize = 4096;
    for value in response.headers().get_all(header::WARNING) {
        let Ok(value) = value.to_str() else { continue };
        let Some(text) = value.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"'))
        else {
            continue;
        };
        let text = text.chars().take(WARNING_BYTES_MAX).collect();
        progress.tell(ProgressEvent::Warning { text });
    }
}

/// Longest time without any progress before a body is given up; reqwest's read timeout ends it.
pub(crate) const STALL_RETRIES_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::options::ClientOptions;

    /// cloud-credentials.md 14.2, row 70: a refused name is no outage of the registry.
    #[tokio::test]
    async fn a_refused_name_is_told_from_a_registry_that_is_away() {
        let client = Client::new(ClientOptions::default()).expect("a client");
        let http = client.http_to_others(Security::Plain);
        for (url, expected) in [
            ("http://localhost:1/", "localhost has no address that a registry may lead to"),
            (
                "http://127.0.0.1:1/",
                "cannot reach registry r.example: Connection refused (os error 111)",
            ),
        ] {
            let error = http.get(url).send().await.expect_err(url);
            let error = request_error(&error, "r.example");
            assert_eq!(error.to_string(), expected);
            assert_eq!(is_unreachable(&error), expected.starts_with("cannot reach"), "{url}");
        }
    }
}
