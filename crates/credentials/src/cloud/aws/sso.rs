//! IAM Identity Center: the session that `aws sso login` left, for the credentials of a role.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::label::Region;
use super::super::performer::encoded;
use super::super::{CloudError, Method, Performer, Request};
use super::PROVIDER;
use super::identity::endpoint_url;
use super::profile::Profiles;
use super::sigv4::AwsCredentials;
use super::sts::parse_time;
use crate::Secret;

const STEP: &str = "single sign-on";
const CACHE_BYTES_MAX: u64 = 64 * 1024;

/// What a person logged in to.
struct Session<'a> {
    /// The text whose hash is the name of the file with the token.
    key: &'a str,
    /// The command that logs in anew.
    log_in: String,
}

/// Credentials of the role that the profile `name` names, if it is one of single sign-on.
pub(super) fn of_profile(
    performer: &dyn Performer,
    profiles: &Profiles,
    name: &str,
) -> Option<Result<AwsCredentials, CloudError>> {
    let profile = profiles.profile(name)?;
    let account = profile.get("sso_account_id")?;
    let role = profile.get("sso_role_name")?;
    let (session, section) = match profile.get("sso_session") {
        Some(key) => {
            let log_in = format!("aws sso login --sso-session {key}");
            (Session { key, log_in }, profiles.session(key)?)
        }
        // As it was before there were sessions: only the profile has a name.
        None => {
            let key = profile.get("sso_start_url")?;
            (Session { key, log_in: format!("aws sso login --profile {name}") }, profile)
        }
    };
    let region = Region::of(PROVIDER, "profile, sso_region", section.get("sso_region")?);
    Some(region.and_then(|region| exchange(performer, &session, &region, account, role)))
}

fn exchange(
    performer: &dyn Performer,
    session: &Session<'_>,
    region: &Region,
    account: &str,
    role: &str,
) -> Result<AwsCredentials, CloudError> {
    let token = access_token(performer, session, region)?;
    let base = endpoint_url(performer, "SSO")?
        .unwrap_or_else(|| format!("https://portal.sso.{region}.amazonaws.com"));
    let (role, account) = (encoded(role), encoded(account));
    let url = format!("{base}/federation/credentials?role_name={role}&account_id={account}");
    let request = Request::to_cloud(Method::Get, url).header("x-amz-sso_bearer_token", token);
    let answer = send(performer, &base, &request)?;
    let document = &answer["roleCredentials"];
    let field = |name: &str| document[name].as_str().map(str::to_owned);
    let credentials = (|| {
        let milliseconds = document["expiration"].as_u64()?;
        Some(AwsCredentials {
            access_key_id: field("accessKeyId")?,
            secret_access_key: Secret::new(field("secretAccessKey")?),
            session_token: field("sessionToken").map(Secret::new),
            expires_at: Some(UNIX_EPOCH + Duration::from_millis(milliseconds)),
        })
    })();
    credentials
        .ok_or_else(|| CloudError::new(PROVIDER, STEP, base, "the answer holds no credentials"))
}

/// The token of the session, renewed if it has ended and can be.
fn access_token(
    performer: &dyn Performer,
    session: &Session<'_>,
    region: &Region,
) -> Result<Secret, CloudError> {
    let home = performer.variable("HOME").unwrap_or_default();
    let path = PathBuf::from(home)
        .join(".aws/sso/cache")
        .join(format!("{}.json", sha1_hex(session.key.as_bytes())));
    let log_in = |reason: &str| {
        CloudError::new(PROVIDER, STEP, path.display().to_string(), reason).hint(&*session.log_in)
    };
    let text =
        performer.read_file(&path, CACHE_BYTES_MAX).map_err(|error| log_in(&error.to_string()))?;
    let cached: Value = serde_json::from_str(text.expose()).map_err(|_| log_in("not JSON"))?;
    let field = |name: &str| cached[name].as_str().filter(|text| !text.is_empty());
    let ends = field("expiresAt").and_then(parse_time);
    if let Some(token) = field("accessToken")
        && ends.is_some_and(|ends| ends > performer.now())
    {
        return Ok(Secret::new(token));
    }
    let (Some(refresh), Some(id), Some(secret)) =
        (field("refreshToken"), field("clientId"), field("clientSecret"))
    else {
        return Err(log_in("the session has ended"));
    };
    let registration = field("registrationExpiresAt").and_then(parse_time);
    if registration.is_some_and(|ends| ends <= performer.now()) {
        return Err(log_in("the session and the registration of the client have ended"));
    }
    let base = endpoint_url(performer, "SSO_OIDC")?
        .unwrap_or_else(|| format!("https://oidc.{region}.amazonaws.com"));
    let body = json!({
        "clientId": id,
        "clientSecret": secret,
        "grantType": "refresh_token",
        "refreshToken": refresh,
    });
    let request = Request::to_cloud(Method::Post, format!("{base}/token"))
        .body("application/json", Secret::new(body.to_string()));
    let answer = send(performer, &base, &request)
        .map_err(|error| if error.retryable { error } else { error.hint(&*session.log_in) })?;
    answer["accessToken"]
        .as_str()
        .map(Secret::new)
        .ok_or_else(|| log_in("the session could not be renewed"))
}

fn send(performer: &dyn Performer, base: &str, request: &Request) -> Result<Value, CloudError> {
    attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, base, &error))?;
        if !response.is_success() {
            let reason = format!("status {}", response.status);
            return Err(CloudError::new(PROVIDER, STEP, base, reason)
                .retryable(is_passing(response.status))
                .request_id(response.header("x-amzn-requestid")));
        }
        response.json().ok_or_else(|| CloudError::new(PROVIDER, STEP, base, "no JSON"))
    })
}

fn sha1_hex(bytes: &[u8]) -> String {
    use sha1::Digest as _;
    sha1::Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_file_has_the_name_that_the_tools_give_it() {
        assert_eq!(sha1_hex(b"my-sso"), "0ad374308c5a4e22f723adf10145eafad7c4031c");
    }
}
