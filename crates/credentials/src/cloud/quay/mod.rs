//! Quay: a token of an issuer that a robot account trusts, exchanged at the registry itself for one
//! of the robot, which is the password (robot federation; cloud-credentials.md 10.2).

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::attempts::{Pace, attempts, is_passing};
use super::code::code_of;
use super::{
    CloudCredential, CloudError, Method, Performer, RegistryHost, Request, Response, after,
    by_our_clock, half_life,
};
use crate::{RegistryAuth, Secret};

/// The name of the provider in errors.
const PROVIDER: &str = "quay";

const STEP: &str = "robot token";

/// The registry that everybody knows; others are named by their operators.
const PUBLIC_HOST: &str = "quay.io";

/// Where a registry exchanges tokens.
const TOKEN_PATH: &str = "/oauth2/federation/robot/token";

/// The variable that names the robot account that this machine is, `ORGANISATION+NAME`.
pub const ROBOT: &str = "QUAY_ROBOT";

/// The variable that names the file with a token of the issuer that the robot trusts.
const TOKEN_FILE: &str = "QUAY_ROBOT_TOKEN_FILE";

/// Largest token file, in bytes.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// How the provider is configured.
#[derive(Clone, Debug, Default)]
pub struct QuayOptions {
    /// Hosts of Quay registries besides `quay.io`. They get the token of whoever asks, so that no
    /// variable names them.
    pub hosts: Vec<RegistryHost>,
}

/// The robot that a pod is.
#[derive(Clone, Copy, Debug)]
pub struct PodRobot<'a> {
    /// The token of the pod's service account.
    pub token: &'a Secret,
    /// The robot account, `ORGANISATION+NAME`.
    pub robot: &'a str,
}

/// Whether the host is a Quay registry, whole and to the letter.
pub fn is_registry(host: &RegistryHost, hosts: &[RegistryHost]) -> bool {
    host.as_str() == PUBLIC_HOST || hosts.contains(host)
}

/// Whether this machine is a robot.
pub(super) fn is_configured(performer: &dyn Performer) -> bool {
    performer.variable(ROBOT).is_some()
}

/// A credential for a Quay registry with the robot of this machine, or of a pod; `None` if the host
/// is none, and if this machine is no robot: most images there are for everybody.
///
/// # Errors
/// [`CloudError`] if it is one and the exchange failed.
pub fn credential(
    performer: &dyn Performer,
    host: &RegistryHost,
    options: &QuayOptions,
    pod: Option<PodRobot<'_>>,
) -> Result<Option<CloudCredential>, CloudError> {
    if !is_registry(host, &options.hosts) {
        return Ok(None);
    }
    let (robot, token, source) = match pod {
        Some(pod) => (pod.robot.to_owned(), pod.token.clone(), "service account token"),
        None => match of_environment(performer)? {
            Some((robot, token)) => (robot, token, "robot federation"),
            None => return Ok(None),
        },
    };
    if !is_robot(&robot) {
        let reason = "it is no name of a robot: ORGANISATION+NAME";
        return Err(CloudError::new(PROVIDER, STEP, "robot account", reason));
    }
    let (auth, response) = exchange(performer, host, &robot, &token)?;
    let ends = auth.expires_at().and_then(|ends| u64::try_from(ends).ok());
    let ends = ends.map(|ends| by_our_clock(&response, performer.now(), after(UNIX_EPOCH, ends)));
    Ok(Some(CloudCredential {
        host: host.as_str().to_owned(),
        auth,
        expires_at: ends,
        keep_for: ends.map_or(Duration::ZERO, |ends| half_life(performer.now(), ends)),
        source: format!("{source} as {robot}"),
    }))
}

/// The robot that the environment names and the token that its issuer gave; both or neither.
fn of_environment(performer: &dyn Performer) -> Result<Option<(String, Secret)>, CloudError> {
    const STEP: &str = "read environment";
    let missing = |name: &str, other: &str| {
        Err(CloudError::new(PROVIDER, STEP, name, format!("it is not set, though {other} is")))
    };
    let (robot, file) = match (performer.variable(ROBOT), performer.variable(TOKEN_FILE)) {
        (Some(robot), Some(file)) => (robot, file),
        (Some(_), None) => return missing(TOKEN_FILE, ROBOT),
        (None, Some(_)) => return missing(ROBOT, TOKEN_FILE),
        (None, None) => return Ok(None),
    };
    let token = performer
        .read_file(Path::new(&file), TOKEN_BYTES_MAX)
        .map_err(|error| CloudError::new(PROVIDER, STEP, file, error.to_string()))?;
    Ok(Some((robot, token)))
}

/// A name as Quay makes them: nothing of it can end the user's part of a credential.
fn is_robot(name: &str) -> bool {
    let is_part = |part: &str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && part.bytes().all(is_known)
    };
    name.split_once('+').is_some_and(|(owner, robot)| is_part(owner) && is_part(robot))
}

fn exchange(
    performer: &dyn Performer,
    host: &RegistryHost,
    robot: &str,
    token: &Secret,
) -> Result<(RegistryAuth, Response), CloudError> {
    let host = host.as_str();
    let basic = zeroize::Zeroizing::new(format!("{robot}:{}", token.expose().trim()));
    let request = Request::to_cloud(Method::Get, format!("https://{host}{TOKEN_PATH}"))
        .header("authorization", format!("Basic {}", STANDARD.encode(basic.as_bytes())));
    attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(&request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, host, &error))?;
        if !response.is_success() {
            return Err(refusal(&response, host, robot));
        }
        let document = response.json().unwrap_or_default();
        match document["token"].as_str().filter(|token| !token.is_empty()) {
            Some(token) => Ok((RegistryAuth::basic(robot, Secret::new(token)), response)),
            None => Err(CloudError::new(PROVIDER, STEP, host, "the answer holds no token")),
        }
    })
}

fn refusal(response: &Response, host: &str, robot: &str) -> CloudError {
    let document = response.json().unwrap_or_default();
    let code = code_of(&document["error_type"]);
    let reason = format!("status {} {code}", response.status);
    let error = CloudError::new(PROVIDER, STEP, host, reason.trim_end())
        .retryable_by(response, is_passing(response.status));
    match response.status {
        401 | 403 => error.hint(format!(
            "robot {robot} must trust the issuer and the subject of the token: its federation in \
             Quay"
        )),
        404 => error.hint("Quay has robot federation from version 3.13 on"),
        _ => error,
    }
}
