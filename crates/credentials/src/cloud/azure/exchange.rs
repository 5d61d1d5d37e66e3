//! The registry's own exchange: an Entra token for a refresh token of the registry.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::code::code_of;
use super::super::{CloudError, Method, Performer, RegistryHost, Request, after, by_our_clock};
use super::PROVIDER;
use super::source::Identity;
use crate::Secret;

const STEP: &str = "exchange";

/// A refresh token of a registry.
pub(super) struct RefreshToken {
    pub(super) token: Secret,
    pub(super) expires_at: Option<SystemTime>,
}

/// Asks the registry where it gives out tokens, makes sure that this is the registry itself, and
/// gives it the Entra token.
pub(super) fn refresh_token(
    performer: &dyn Performer,
    host: &RegistryHost,
    identity: &Identity,
) -> Result<RefreshToken, CloudError> {
    let host = host.as_str();
    let failed = |reason: String| CloudError::new(PROVIDER, STEP, host, reason);
    check_challenge(performer, host)?;
    let mut fields = vec![
        ("grant_type", "access_token"),
        ("service", host),
        ("access_token", identity.token.expose()),
    ];
    if let Some(tenant) = &identity.tenant {
        fields.insert(2, ("tenant", tenant));
    }
    let request =
        Request::to_cloud(Method::Post, format!("https://{host}/oauth2/exchange")).form(&fields);
    attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(&request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, host, &error))?;
        let document = response.json().unwrap_or_default();
        if !response.is_success() {
            let code = code_of(&document["errors"][0]["code"]);
            let error = failed(format!("status {} {code}", response.status).trim_end().to_owned())
                .retryable_by(&response, is_passing(response.status))
                .request_id(response.header("x-ms-correlation-request-id"));
            return Err(match response.status {
                401 | 403 => error.hint(format!(
                    "the identity ({}) needs AcrPull on the registry, of the registry's tenant",
                    identity.source
                )),
                _ => error,
            });
        }
        let token = document["refresh_token"].as_str().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| failed("the answer holds no token".to_owned()))?;
        let expires_at =
            end_of_jwt(token).map(|ends| by_our_clock(&response, performer.now(), ends));
        Ok(RefreshToken { token: Secret::new(token), expires_at })
    })
}

/// The challenge names the realm: it must be the registry's own, or the token would go elsewhere.
fn check_challenge(performer: &dyn Performer, host: &str) -> Result<(), CloudError> {
    const STEP: &str = "challenge";
    let request = Request::to_cloud(Method::Get, format!("https://{host}/v2/"));
    let response = attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(&request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, host, &error))?;
        if is_passing(response.status) {
            let reason = format!("status {}", response.status);
            return Err(CloudError::new(PROVIDER, STEP, host, reason).retryable(true));
        }
        Ok(response)
    })?;
    let failed = |reason: String| CloudError::new(PROVIDER, STEP, host, reason);
    let challenge = response
        .header("www-authenticate")
        .filter(|_| response.status == 401)
        .ok_or_else(|| failed(format!("status {} and no challenge", response.status)))?;
    let realm = parameter(challenge, "realm").unwrap_or_default();
    let service = parameter(challenge, "service").unwrap_or_default();
    if realm != format!("https://{host}/oauth2/token") || service != host {
        return Err(failed("it sends clients elsewhere for tokens; nothing was sent".to_owned()));
    }
    Ok(())
}

/// A parameter of a challenge, quoted or not (RFC 9110, section 11.2).
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let (_, parameters) = challenge.split_once(' ')?;
    parameters.split(',').find_map(|parameter| {
        let (known, value) = parameter.trim().split_once('=')?;
        let value = value.trim();
        known.trim().eq_ignore_ascii_case(name).then(|| value.trim_matches('"').to_owned())
    })
}

/// When a JWT ends, by its own word: only to know how long to keep it.
fn end_of_jwt(token: &str) -> Option<SystemTime> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    Some(after(UNIX_EPOCH, claims["exp"].as_u64()?))
}
