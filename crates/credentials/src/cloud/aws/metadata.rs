//! Credentials that the machine's surroundings hand out: EC2 instance metadata (version 2 only),
//! ECS tasks and EKS pod identity.

use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::code::code_of;
use super::super::{CloudError, Method, Performer, Request, Response, SendError};
use super::PROVIDER;
use super::sigv4::AwsCredentials;
use super::sts::parse_time;
use crate::Secret;

const INSTANCE: &str = "instance metadata";
const CONTAINER: &str = "container credentials";

/// Largest file with a token, in bytes.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// Where the metadata service of EC2 is.
fn instance_base(performer: &dyn Performer) -> String {
    let variable = |name| performer.variable(name);
    if let Some(endpoint) = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        return endpoint.trim_end_matches('/').to_owned();
    }
    let mode = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE").unwrap_or_default();
    if mode.eq_ignore_ascii_case("ipv6") {
        "http://[fd00:ec2::254]".to_owned()
    } else {
        "http://169.254.169.254".to_owned()
    }
}

/// Credentials of the role of this EC2 instance.
///
/// Version 1, which any server-side request forgery can read, is not used.
pub(super) fn of_instance(performer: &dyn Performer) -> Result<AwsCredentials, CloudError> {
    let base = instance_base(performer);
    let mut token = session(performer, &base)?;
    let mut was_renewed = false;
    let mut get = |path: &str| -> Result<Response, CloudError> {
        loop {
            let request = Request::to_metadata(Method::Get, format!("{base}{path}"))
                .header("x-aws-ec2-metadata-token", token.clone());
            let response = send(performer, INSTANCE, &base, &request)?;
            if response.status == 401 && !was_renewed {
                was_renewed = true;
                token = session(performer, &base)?;
                continue;
            }
            return Ok(response);
        }
    };
    let roles = get("/latest/meta-data/iam/security-credentials/")?;
    let failed = |reason: String| CloudError::new(PROVIDER, INSTANCE, base.clone(), reason);
    let role = roles.body.expose().lines().next().unwrap_or_default().trim().to_owned();
    if roles.status == 404 || (roles.is_success() && role.is_empty()) {
        return Err(failed("the instance has no role".to_owned())
            .hint("attach an instance profile that may pull from ECR"));
    }
    if !roles.is_success() {
        return Err(failed(format!("status {} for the name of the role", roles.status)));
    }
    if !is_role_name(&role) {
        return Err(failed("the answer is no name of a role".to_owned()));
    }
    let answer = get(&format!("/latest/meta-data/iam/security-credentials/{role}"))?;
    let document = answer.json().filter(|_| answer.is_success());
    match document {
        Some(document) if document["Code"] == "Success" => credentials(&document),
        Some(document) => {
            let code = match code_of(&document["Code"]) {
                "" => "no code that is known",
                code => code,
            };
            return Err(failed(format!("role {role}: {code}")));
        }
        None => None,
    }
    .ok_or_else(|| failed(format!("status {} and no credentials for the role", answer.status)))
}

/// Whether IAM allows the name, which becomes part of a path (IAM quotas: names).
fn is_role_name(name: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    name.len() <= 64 && name.bytes().all(is_known)
}

/// A token for the following requests.
fn session(performer: &dyn Performer, base: &str) -> Result<Secret, CloudError> {
    let request = Request::to_metadata(Method::Put, format!("{base}/latest/api/token"))
        .header("x-aws-ec2-metadata-token-ttl-seconds", Secret::new("300"));
    let failed = |reason: String| CloudError::new(PROVIDER, INSTANCE, base, reason);
    let response = attempts(performer, Pace::METADATA, |_| match performer.send(&request) {
        Ok(response) if is_passing(response.status) => {
            Err(failed(format!("status {}", response.status)).retryable(true))
        }
        Ok(response) => Ok(response),
        // Whoever waits for a reply that is dropped on its way waits in vain again.
        Err(SendError::Timeout) => Err(failed("no reply to the request for a token".to_owned())
            .hint(
                "in a pod the reply needs a hop limit of 2: aws ec2 \
                 modify-instance-metadata-options --http-put-response-hop-limit 2, or use IRSA or \
                 pod identity",
            )),
        Err(error) => Err(CloudError::no_metadata(PROVIDER, INSTANCE, base, &error)),
    })?;
    match response.status {
        200 => Ok(Secret::new(response.body.expose().trim())),
        403..=405 => Err(failed(format!("status {} for a version 2 token", response.status))
            .hint("the instance offers only version 1 of its metadata, which is not used")),
        status => Err(failed(format!("status {status} for a token"))),
    }
}

fn send(
    performer: &dyn Performer,
    step: &'static str,
    base: &str,
    request: &Request,
) -> Result<Response, CloudError> {
    attempts(performer, Pace::METADATA, |_| {
        let response = performer
            .send(request)
            .map_err(|error| CloudError::no_metadata(PROVIDER, step, base, &error))?;
        if is_passing(response.status) {
            let reason = format!("status {}", response.status);
            return Err(CloudError::new(PROVIDER, step, base, reason).retryable(true));
        }
        Ok(response)
    })
}

/// Where container credentials are asked for, if the environment names a place.
pub(super) fn container_url(performer: &dyn Performer) -> Option<String> {
    if let Some(url) = performer.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        return Some(url);
    }
    let path = performer.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")?;
    Some(format!("http://169.254.170.2{path}"))
}

/// Credentials of the ECS task or EKS pod.
pub(super) fn of_container(
    performer: &dyn Performer,
    url: &str,
) -> Result<AwsCredentials, CloudError> {
    let failed = |reason: &str| CloudError::new(PROVIDER, CONTAINER, url, reason);
    let is_https = url.starts_with("https://");
    if !is_https && !is_container_agent(url) {
        return Err(failed("plain HTTP is only for the agents of ECS and EKS and for loopback"));
    }
    let mut request = if is_https {
        Request::to_cloud(Method::Get, url)
    } else {
        Request::to_metadata(Method::Get, url)
    };
    if let Some(token) = container_token(performer)? {
        if token.expose().contains(['\r', '\n']) {
            return Err(failed("the authorization token has a line break"));
        }
        request = request.header("authorization", token);
    }
    let response = send(performer, CONTAINER, url, &request)?;
    let document = response.json().unwrap_or_default();
    if !response.is_success() {
        let code = code_of(&document["code"]);
        return Err(failed(format!("status {} {code}", response.status).trim_end()));
    }
    credentials(&document).ok_or_else(|| failed("the answer holds no credentials"))
}

fn container_token(performer: &dyn Performer) -> Result<Option<Secret>, CloudError> {
    let Some(file) = performer.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") else {
        return Ok(performer.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new));
    };
    let token = performer.read_file(Path::new(&file), TOKEN_BYTES_MAX);
    let token = token
        .map_err(|error| CloudError::new(PROVIDER, CONTAINER, file.clone(), error.to_string()))?;
    Ok(Some(Secret::new(token.expose().trim_end_matches(['\r', '\n']))))
}

/// Whether the URL names an agent that may be spoken to without TLS.
fn is_container_agent(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    // What stands before an @ is a user's name and not the host.
    if authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    match host.parse::<IpAddr>() {
        Ok(address) => {
            let agents = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
            address.is_loopback()
                || agents.iter().any(|agent| agent.parse::<IpAddr>().ok() == Some(address))
        }
        Err(_) => host == "localhost",
    }
}

/// The document that both services answer with.
pub(super) fn credentials(document: &Value) -> Option<AwsCredentials> {
    let field = |name: &str| {
        document
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    Some(AwsCredentials {
        access_key_id: field("AccessKeyId")?,
        secret_access_key: Secret::new(field("SecretAccessKey")?),
        session_token: field("Token").or_else(|| field("SessionToken")).map(Secret::new),
        expires_at: field("Expiration").as_deref().and_then(parse_time),
    })
}
