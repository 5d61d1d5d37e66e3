//! AWS Security Token Service: a token or an identity for the credentials of a role.

use std::time::SystemTime;

use jiff::Timestamp;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::code::code;
use super::super::{CloudError, Method, Performer, Request, Response};
use super::PROVIDER;
use super::endpoints::Endpoint;
use super::sigv4::{AwsCredentials, signed};
use crate::Secret;

const STEP: &str = "assume role";

/// A role, and the name under which its use is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) session_name: String,
    pub(super) external_id: Option<String>,
    /// Seconds, 900 to 43 200.
    pub(super) duration_seconds: Option<String>,
}

/// Exchanges a web identity token, unsigned (`AssumeRoleWithWebIdentity`).
pub(super) fn assume_with_web_identity(
    performer: &dyn Performer,
    endpoint: &Endpoint,
    role: &Role,
    token: &Secret,
) -> Result<AwsCredentials, CloudError> {
    let mut fields = vec![
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role.arn.as_str()),
        ("RoleSessionName", role.session_name.as_str()),
        ("WebIdentityToken", token.expose().trim()),
    ];
    if let Some(seconds) = &role.duration_seconds {
        fields.push(("DurationSeconds", seconds));
    }
    let request = Request::to_cloud(Method::Post, format!("{}/", endpoint.url)).form(&fields);
    attempts(performer, Pace::CLOUD, |_| exchange(performer, &request, role))
}

/// Exchanges credentials for those of a role (`AssumeRole`).
pub(super) fn assume(
    performer: &dyn Performer,
    endpoint: &Endpoint,
    role: &Role,
    source: &AwsCredentials,
) -> Result<AwsCredentials, CloudError> {
    let mut fields = vec![
        ("Action", "AssumeRole"),
        ("Version", "2011-06-15"),
        ("RoleArn", role.arn.as_str()),
        ("RoleSessionName", role.session_name.as_str()),
    ];
    if let Some(id) = &role.external_id {
        fields.push(("ExternalId", id));
    }
    if let Some(seconds) = &role.duration_seconds {
        fields.push(("DurationSeconds", seconds));
    }
    let request = Request::to_cloud(Method::Post, format!("{}/", endpoint.url)).form(&fields);
    attempts(performer, Pace::CLOUD, |_| {
        let request = signed(request.clone(), endpoint, source, performer.now());
        exchange(performer, &request, role)
    })
}

fn exchange(
    performer: &dyn Performer,
    request: &Request,
    role: &Role,
) -> Result<AwsCredentials, CloudError> {
    let place = || request.url.trim_end_matches('/').to_owned();
    let response = performer
        .send(request)
        .map_err(|error| CloudError::unsent(PROVIDER, STEP, place(), &error))?;
    if !response.is_success() {
        return Err(refusal(&response, place(), role));
    }
    let field = |name| element(response.body.expose(), name);
    let credentials = (|| {
        Some(AwsCredentials {
            access_key_id: field("AccessKeyId")?,
            secret_access_key: Secret::new(field("SecretAccessKey")?),
            session_token: Some(Secret::new(field("SessionToken")?)),
            expires_at: parse_time(&field("Expiration")?),
        })
    })();
    credentials
        .ok_or_else(|| CloudError::new(PROVIDER, STEP, place(), "the answer holds no credentials"))
}

fn refusal(response: &Response, place: String, role: &Role) -> CloudError {
    let body = response.body.expose();
    let named = element(body, "Code").unwrap_or_default();
    let code = code(&named);
    let retryable = is_passing(response.status) || code == "IDPCommunicationError";
    let reason = format!("status {} {code} for {}", response.status, role.arn);
    let error = CloudError::new(PROVIDER, STEP, place, reason.replace("  ", " "))
        .retryable_by(response, retryable)
        .request_id(element(body, "RequestId").as_deref());
    match code {
        "ExpiredTokenException" => {
            error.hint("the web identity token has expired; the file should be renewed by itself")
        }
        "InvalidIdentityToken" => {
            error.hint("the account has no OIDC provider for the issuer of the token")
        }
        "AccessDenied" => {
            error.hint("the trust policy of the role must allow this subject and audience")
        }
        "RegionDisabledException" => error.hint("activate STS in this region"),
        _ => error,
    }
}

pub(super) fn parse_time(text: &str) -> Option<SystemTime> {
    text.trim().parse::<Timestamp>().ok().map(SystemTime::from)
}

/// The text of the first element with this name, of an answer whose elements have no attributes.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(plain.iter().fold(text.trim().to_owned(), |text, (from, to)| text.replace(from, to)))
}
