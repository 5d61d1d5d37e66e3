//! Asks a token service for a token (distribution token specification, OAuth2 as of
//! `distribution/docs/spec/auth/oauth.md`).

use std::time::Duration;

use credentials::Secret;
use http::header;
use reqwest::Response;
use serde::{Deserialize, Deserializer};

use crate::client::Remote;
use crate::error::{RegistryError, RegistryErrorKind};
use crate::guard::Credential;
use crate::handshake::{Grant, TokenRequest};
use crate::onward::Target;
use crate::realm::{self, Allowed, Asked, Route};
use crate::redirects::came_from_here;
use crate::transport::{About, BodyError, authority, body_up_to, redacted, refusal, request_error};

/// Largest answer of a token service, in bytes: no answer with a token is larger.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Lifetime of a token that does not say, and the least that any has (distribution token
/// specification, `expires_in`).
const LIFETIME_MIN: Duration = Duration::from_secs(60);

/// What a token service gave.
pub(crate) struct Token {
    pub(crate) value: Secret,
    /// How long it is good from now on.
    pub(crate) lifetime: Duration,
    /// What the next login may use instead of the password.
    pub(crate) refresh: Option<Secret>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Access,
    /// It is to come with a refresh token.
    Login,
}

/// A token request that may be sent.
pub(crate) struct Approved {
    request: TokenRequest,
    route: Route,
    /// Whether the service is one that may see what goes to the registry on every request.
    is_trusted: bool,
    /// Why the caller's credential is not in it.
    pub(crate) withheld: Option<String>,
}

impl Remote {
    /// Decides whether a token may be asked for where the registry says, and with what. What
    /// another host says that the registry led to counts for nothing.
    pub(crate) fn approve(
        &self,
        mut request: TokenRequest,
        challenge: &Response,
    ) -> Result<Approved, RegistryError> {
        let registry = &self.endpoint.host;
        let refused = |reason: String| {
            let reason = format!("registry {registry} cannot be trusted: {reason}");
            RegistryError::from(RegistryErrorKind::Malformed { reason })
        };
        if !self.is_own(challenge.url()) {
            let host = authority(challenge.url());
            return Err(refused(format!("it led to {host}, which asks for a credential")));
        }
        let options = self.client.options();
        let has_credential = request.grant != Grant::Anonymous;
        if let Some(guard) = &options.guard {
            let credential = if has_credential { Credential::Sent } else { Credential::None };
            let check = |credential| guard.check_realm(&request.realm, challenge.url(), credential);
            check(credential).map_err(refused)?;
            let is_trusted = check(Credential::Sent).is_ok();
            return Ok(Approved { request, route: Route::Open, is_trusted, withheld: None });
        }
        let asked = Asked {
            url: challenge.url(),
            is_local: crate::endpoint::is_loopback(registry) || came_from_here(challenge, options),
            trusted: &options.token_services,
        };
        match realm::check(&request.realm, asked).map_err(refused)? {
            Allowed::Credential(route) => {
                Ok(Approved { request, route, is_trusted: true, withheld: None })
            }
            Allowed::Nothing(reason) => {
                request.grant = Grant::Anonymous;
                let withheld = Some(reason).filter(|_| has_credential);
                Ok(Approved { request, route: Route::Checked, is_trusted: false, withheld })
            }
        }
    }

    /// Fetches a token. No redirect is followed: nobody else is to see what is sent.
    pub(crate) async fn fetch_token(
        &self,
        approved: &Approved,
        purpose: Purpose,
        about: &About<'_>,
    ) -> Result<Token, RegistryError> {
        let request = &approved.request;
        let service = authority(&request.realm);
        let security = self.endpoint.security;
        let http = match approved.route {
            Route::Open => self.client.http(&service, security),
            Route::Checked => self.client.http_to_others(security),
        };
        let mut url = request.get_url();
        if purpose == Purpose::Login {
            url.query_pairs_mut().append_pair("offline_token", "true");
        }
        let (method, builder) = match &request.grant {
            Grant::Anonymous => ("GET", http.get(url)),
            Grant::Basic { username, password } => {
                ("GET", http.get(url).basic_auth(username, Some(password.expose())))
            }
            Grant::Refresh { token } => {
                let form = request.post_form(token.expose());
                let body = url::form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(form.iter().map(|(key, value)| (*key, value.as_str())))
                    .finish();
                let builder = http
                    .post(request.realm.clone())
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(body);
                ("POST", builder)
            }
        };
        // What goes to the registry on every request goes to its token service, as in docker; not
        // to one of another domain, whether or not there is a credential to withhold.
        let builder =
            if approved.is_trusted { self.client.with_own_headers(builder) } else { builder };
        let response = builder.send().await.map_err(|error| request_error(&error, &service))?;
        let asked = redacted(&request.realm);
        let kind = match request.grant {
            Grant::Anonymous => "anonymous token",
            Grant::Basic { .. } | Grant::Refresh { .. } => "token",
        };
        let mut context = format!("failed to authorize: failed to fetch {kind}");
        if let Some(reason) = &approved.withheld {
            context = format!("{reason}: {context}");
        }
        if !response.status().is_success() {
            let about = About {
                method,
                target: Target::Path(&asked),
                scopes: Vec::new(),
                what: format!("token service {asked}"),
                progress: about.progress,
            };
            let refusal = refusal(response, &about).await;
            if matches!(request.grant, Grant::Refresh { .. })
                && matches!(refusal.status, 400 | 401 | 404 | 405)
            {
                let why =
                    if refusal.status < 404 { "is not valid any more" } else { "is not taken" };
                let text = RegistryError::from(refusal);
                let reason =
                    format!("{context}: the identity token {why} there: {text}; log in again");
                return Err(RegistryErrorKind::Unauthorized { reason }.into());
            }
            return Err(RegistryError::from(refusal).context(context));
        }
        read_token(response, &asked).await
    }
}

async fn read_token(response: Response, asked: &str) -> Result<Token, RegistryError> {
    let answered_at = response
        .headers()
        .get(header::DATE)
        .and_then(|value| value.to_str().ok())
        .and_then(parse_http_date);
    let malformed = |what: &str| RegistryErrorKind::Malformed {
        reason: format!("token service {asked} {what}"),
    };
    let bytes = body_up_to(response, TOKEN_BYTES_MAX).await.map_err(|error| match error {
        BodyError::TooLarge => malformed("sent too much"),
        BodyError::Broken(reason) => RegistryErrorKind::Interrupted { reason },
    })?;
    let answer: TokenAnswer =
        serde_json::from_slice(&bytes).map_err(|_| malformed("sent no token"))?;
    let lifetime = answer.lifetime(answered_at);
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Secret::new);
    // Where both are given docker's client takes this one.
    match filled(answer.access_token).or(filled(answer.token)) {
        Some(value) => Ok(Token { value, lifetime, refresh: filled(answer.refresh_token) }),
        None => Err(malformed("sent no token").into()),
    }
}

/// The answer of a token service.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
    #[serde(default)]
    issued_at: Option<String>,
}

/// Whole seconds from a number, or from a number in quotes as some services write it; anything
/// else counts as not given.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    // The cast ends at the largest number; what is no number or negative is not given.
    Ok(number.filter(|number| 0.0 <= *number).map(|number| number as u64))
}

impl TokenAnswer {
    /// How long the token is good. Its age is told by the service's own clock, so that ours may
    /// be wrong; a token that is issued in the future is new.
    fn lifetime(&self, answered_at: Option<jiff::Timestamp>) -> Duration {
        let whole = self.expires_in.map_or(LIFETIME_MIN, Duration::from_secs).max(LIFETIME_MIN);
        let issued_at = self.issued_at.as_deref().and_then(|text| text.parse().ok());
        let age = match (answered_at, issued_at) {
            (Some(now), Some(issued)) => Duration::try_from(now.duration_since(issued)).ok(),
            _ => None,
        };
        whole.saturating_sub(age.unwrap_or_default())
    }
}

/// The one form of `Date` that is still sent (RFC 9110 section 5.6.7).
fn parse_http_date(text: &str) -> Option<jiff::Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Sat, 21 Nov 2026 14:00:00 GMT";

    /// cloud-credentials.md 14.2, row 73.
    #[test]
    fn lifetime_is_counted_from_the_issue_by_the_services_clock() {
        let lifetime = |expires_in: Option<u64>, issued_at: Option<&str>| {
            let answer = TokenAnswer {
                token: None,
                access_token: None,
                refresh_token: None,
                expires_in,
                issued_at: issued_at.map(str::to_owned),
            };
            answer.lifetime(parse_http_date(NOW)).as_secs()
        };
        assert_eq!(lifetime(None, None), 60);
        assert_eq!(lifetime(Some(5), None), 60);
        assert_eq!(lifetime(Some(300), None), 300);
        assert_eq!(lifetime(Some(300), Some("2026-11-21T13:58:00Z")), 180);
        assert_eq!(lifetime(Some(300), Some("2026-11-21T15:00:00Z")), 300);
        assert_eq!(lifetime(Some(300), Some("2026-11-21T10:00:00Z")), 0);
        assert_eq!(lifetime(Some(300), Some("yesterday")), 300);
    }

    #[test]
    fn lifetime_is_read_in_every_form_that_services_write() {
        for (text, expected) in [
            ("300", 300),
            ("300.0", 300),
            ("299.9", 299),
            ("3e2", 300),
            ("\"300\"", 300),
            ("\" 300.5 \"", 300),
            ("\"soon\"", 60),
            ("\"NaN\"", 60),
            ("-1", 60),
            ("null", 60),
            ("{}", 60),
            ("1e300", u64::MAX),
        ] {
            let answer = format!("{{\"token\":\"T\",\"expires_in\":{text}}}");
            let answer: TokenAnswer = serde_json::from_str(&answer).expect(text);
            assert_eq!(answer.lifetime(None).as_secs(), expected, "{text}");
        }
    }
}
