//! IAM's token endpoint.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::code::code_of;
use super::super::{
    CloudError, Method, Performer, Request, Response, after, by_our_clock, overrides,
};
use super::{AccessToken, PROVIDER};
use crate::Secret;

const STEP: &str = "IAM token";

/// Where IAM is: of the private network for a private registry, or where the environment says.
pub(super) fn base(performer: &dyn Performer, is_private: bool) -> Result<String, CloudError> {
    const NAME: &str = "ICR_AUTH_URL";
    let host = if is_private { "private.iam.cloud.ibm.com" } else { "iam.cloud.ibm.com" };
    let named = overrides::endpoint(performer, PROVIDER, NAME, &["cloud.ibm.com"])?;
    Ok(named.unwrap_or_else(|| format!("https://{host}")))
}

/// Asks for a token with a form.
pub(super) fn token(
    performer: &dyn Performer,
    base: &str,
    fields: &[(&str, &str)],
) -> Result<AccessToken, CloudError> {
    let mut request = Request::to_cloud(Method::Post, format!("{base}/identity/token"))
        .header("accept", Secret::new("application/json"))
        .form(fields);
    request.timeout = Duration::from_secs(30);
    attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(&request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, base, &error))?;
        read(&response, performer.now(), STEP, base)
    })
}

/// The token of an answer; the error names codes and never repeats a body.
pub(super) fn read(
    response: &Response,
    now: SystemTime,
    step: &'static str,
    place: &str,
) -> Result<AccessToken, CloudError> {
    let document = response.json().unwrap_or_default();
    if !response.is_success() {
        let code = code_of(&document["errorCode"]);
        let error = CloudError::new(
            PROVIDER,
            step,
            place,
            format!("status {} {code}", response.status).trim_end(),
        )
        .retryable_by(response, is_passing(response.status))
        .request_id(document["context"]["requestId"].as_str());
        return Err(match code {
            "BXNIM0415E" => error.hint("the API key is not known: it may have been deleted"),
            _ => error,
        });
    }
    let token = document["access_token"].as_str().filter(|token| !token.is_empty());
    let token =
        token.ok_or_else(|| CloudError::new(PROVIDER, step, place, "the answer holds no token"))?;
    let by_seconds = document["expiration"].as_u64().map(|seconds| after(UNIX_EPOCH, seconds));
    let by_text = document["expires_at"]
        .as_str()
        .and_then(|time| time.parse::<jiff::Timestamp>().ok())
        .map(SystemTime::from);
    let expires_at = by_seconds.or(by_text).map(|ends| by_our_clock(response, now, ends));
    Ok(AccessToken { token: Secret::new(token), expires_at })
}
