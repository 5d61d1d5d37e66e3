//! Token endpoints: who asks, what they answer, and what their errors mean.

use std::time::{Duration, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::code::code_of;
use super::super::overrides::{is_loopback, without_secrets};
use super::super::{CloudError, Method, Performer, Request, Response};
use super::{AccessToken, GoogleOptions, PROVIDER};
use crate::Secret;

const STEP: &str = "token";

/// Where tokens are given out.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// Longest life of an assertion.
const ASSERTION_LIFE: Duration = Duration::from_secs(3600);

/// A field of a file with credentials.
pub(super) fn field<'a>(file: &'a Value, name: &str, place: &str) -> Result<&'a str, CloudError> {
    file[name].as_str().filter(|text| !text.is_empty()).ok_or_else(|| {
        CloudError::new(PROVIDER, "read credentials", place, format!("it has no {name}"))
    })
}

/// A URL of a file with credentials, if it may be trusted with a secret: such a file may come from
/// anybody, and the URLs in it are where secrets go.
pub(super) fn trusted(
    url: &str,
    options: &GoogleOptions,
    place: &str,
) -> Result<String, CloudError> {
    let domains = ["googleapis.com"].into_iter().chain(options.universe_domain.as_deref());
    let authority = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    let is_trusted = authority.is_some_and(|host| {
        let is_plain =
            host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
        is_plain
            && domains
                .clone()
                .any(|domain| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
    });
    if is_trusted || is_loopback(url) {
        return Ok(url.to_owned());
    }
    let shown = without_secrets(url);
    let rest = shown.split_once("://").map_or(&*shown, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    Err(CloudError::new(PROVIDER, "read credentials", place, format!("{host} is not Google's"))
        .hint("name the domain as the universe domain if it is yours"))
}

/// A signed statement of a service account for a token (RFC 7523).
pub(super) fn of_service_account(
    performer: &dyn Performer,
    options: &GoogleOptions,
    file: &Value,
    scope: &str,
    place: &str,
) -> Result<AccessToken, CloudError> {
    let uri = trusted(file["token_uri"].as_str().unwrap_or(TOKEN_URI), options, place)?;
    let failed = |reason: &str| CloudError::new(PROVIDER, "sign assertion", place, reason);
    let pem = field(file, "private_key", place)?;
    let key = EncodingKey::from_rsa_pem(pem.as_bytes())
        .map_err(|_| failed("private_key is no RSA key in PEM"))?;
    let now = performer.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = json!({
        "iss": field(file, "client_email", place)?,
        "scope": scope,
        "aud": uri,
        "iat": now,
        "exp": now + ASSERTION_LIFE.as_secs(),
    });
    let mut header = Header::new(Algorithm::RS256);
    header.kid = file["private_key_id"].as_str().map(str::to_owned);
    let assertion =
        jsonwebtoken::encode(&header, &claims, &key).map_err(|_| failed("the key cannot sign"))?;
    let request = Request::to_cloud(Method::Post, uri).form(&[
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", &assertion),
    ]);
    exchange(performer, &request)
}

/// The refresh token of a person who logged in.
pub(super) fn of_user(
    performer: &dyn Performer,
    options: &GoogleOptions,
    file: &Value,
    place: &str,
) -> Result<AccessToken, CloudError> {
    let uri = file["token_uri"].as_str().or_else(|| file["token_url"].as_str());
    let uri = trusted(uri.unwrap_or(TOKEN_URI), options, place)?;
    let request = Request::to_cloud(Method::Post, uri).form(&[
        ("grant_type", "refresh_token"),
        ("client_id", field(file, "client_id", place)?),
        ("client_secret", field(file, "client_secret", place)?),
        ("refresh_token", field(file, "refresh_token", place)?),
    ]);
    exchange(performer, &request)
}

/// Sends a request for a token, again if its failure may pass.
pub(super) fn exchange(
    performer: &dyn Performer,
    request: &Request,
) -> Result<AccessToken, CloudError> {
    attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, &*request.url, &error))?;
        read_token(&response, STEP, &request.url)
    })
}

/// The token of an answer; the error names codes and never repeats a body.
pub(super) fn read_token(
    response: &Response,
    step: &'static str,
    place: &str,
) -> Result<AccessToken, CloudError> {
    let document = response.json();
    if !response.is_success() {
        return Err(refusal(response, document.unwrap_or_default(), step, place));
    }
    let document =
        document.ok_or_else(|| CloudError::new(PROVIDER, step, place, "the answer is no JSON"))?;
    let token = document["access_token"].as_str().filter(|token| !token.is_empty());
    let token =
        token.ok_or_else(|| CloudError::new(PROVIDER, step, place, "the answer holds no token"))?;
    let life = document["expires_in"].as_u64().unwrap_or_default();
    Ok(AccessToken { token: Secret::new(token), life: Duration::from_secs(life) })
}

/// What went wrong: OAuth's `error` and `error_subtype`, or Google's `error.status`.
pub(super) fn refusal(
    response: &Response,
    document: Value,
    step: &'static str,
    place: &str,
) -> CloudError {
    let code = match &document["error"] {
        Value::Object(error) => error.get("status").map(code_of).unwrap_or_default(),
        error => code_of(error),
    };
    let subtype = code_of(&document["error_subtype"]);
    let reason = format!("status {} {code} {subtype}", response.status);
    let error = CloudError::new(PROVIDER, step, place, reason.trim_end())
        .retryable_by(response, is_passing(response.status));
    match (code, subtype) {
        (_, "invalid_rapt" | "rapt_required") => {
            error.hint("gcloud auth application-default login")
        }
        ("invalid_grant", _) => {
            error.hint("the key or the login was revoked, or the clock of this machine is off")
        }
        ("PERMISSION_DENIED", _) => error.hint(
            "impersonation needs roles/iam.serviceAccountTokenCreator on the service account",
        ),
        _ => error,
    }
}
