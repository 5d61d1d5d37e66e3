//! Oracle Cloud Infrastructure Registry: a principal (`principal`) signs a request (`signature`)
//! to the registry, which answers with a token.
//!
//! | file | job |
//! |---|---|
//! | `signature` | request signatures of OCI |
//! | `principal` | whose: a workload of OKE, a resource, a person's key, the instance |
//! | `config` | `~/.oci/config` |

mod config;
mod principal;
mod signature;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::attempts::{Pace, attempts, is_passing};
use super::code::code_of;
use super::{
    CloudCredential, CloudError, Method, Performer, RegistryHost, Request, Response, after,
};
use crate::{RegistryAuth, Secret};
use principal::Signer;

/// The name of the provider in errors.
const PROVIDER: &str = "ocir";

/// The user name that goes with a token.
const USERNAME: &str = "BEARER_TOKEN";

/// Where a registry gives out tokens.
const TOKEN_PATH: &str = "/20180419/docker/token";

/// A token is renewed this long before its end.
const EARLY: Duration = Duration::from_secs(60);

/// Ends of the hosts of Oracle's realms.
const REALMS: [&str; 4] =
    ["oraclecloud.com", "oraclegovcloud.com", "oraclegovcloud.uk", "oraclecloud.eu"];

/// How the provider is configured.
#[derive(Clone, Debug, Default)]
pub struct OciOptions {
    /// Domains of realms besides the known ones.
    pub realms: Vec<String>,
    /// Which kind of principal; found out without.
    pub principal: Option<PrincipalKind>,
    /// Another profile of the config file than `DEFAULT`.
    pub profile: Option<String>,
    /// Another config file than `~/.oci/config`.
    pub config_file: Option<PathBuf>,
}

/// Kinds of principals of OCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// A pod of an enhanced OKE cluster.
    Workload,
    /// A function or another resource (`OCI_RESOURCE_PRINCIPAL_VERSION`).
    Resource,
    /// A person's API key or session.
    User,
    /// The instance that this runs on.
    Instance,
}

/// Whether the host is a registry of Oracle, whole and to the letter: a signature tells who asks.
pub fn is_registry(host: &RegistryHost, realms: &[String]) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if let Some(region) = host.as_str().strip_suffix(".ocir.io") {
        return is_label(region);
    }
    let Some(rest) = host.as_str().strip_prefix("ocir.") else { return false };
    REALMS.into_iter().chain(realms.iter().map(String::as_str)).any(|realm| {
        let region = rest.strip_suffix(realm).and_then(|rest| rest.strip_suffix('.'));
        let region = region.map(|region| region.strip_suffix(".oci").unwrap_or(region));
        region.is_some_and(is_label)
    })
}

/// Whether this machine knows where the token of a pod is exchanged.
pub(super) fn knows_pods(performer: &dyn Performer) -> bool {
    performer.variable(principal::SERVER).is_some()
}

/// A credential for a registry of Oracle, with the identity of this machine or of the pod whose
/// service account's token is given (OKE workload identity), and of nobody else then; `None` if
/// the host is none.
///
/// # Errors
/// [`CloudError`] if it is one and the exchange failed.
pub fn credential(
    performer: &dyn Performer,
    host: &RegistryHost,
    options: &OciOptions,
    pod: Option<&Secret>,
) -> Result<Option<CloudCredential>, CloudError> {
    if !is_registry(host, &options.realms) {
        return Ok(None);
    }
    let (signer, source) = principal::signer(performer, options, pod)?;
    let (token, life) = token(performer, host.as_str(), &signer)?;
    Ok(Some(CloudCredential {
        host: host.as_str().to_owned(),
        auth: RegistryAuth::basic(USERNAME, token),
        expires_at: Some(after(performer.now(), life.as_secs())),
        keep_for: Duration::from_secs(life.saturating_sub(EARLY).as_secs()),
        source,
    }))
}

/// Asks the registry for a token, once more with its own clock if ours is off.
fn token(
    performer: &dyn Performer,
    host: &str,
    signer: &Signer,
) -> Result<(Secret, Duration), CloudError> {
    const STEP: &str = "registry token";
    let failed = |reason: &str| CloudError::new(PROVIDER, STEP, host, reason);
    let request = Request::to_cloud(Method::Get, format!("https://{host}{TOKEN_PATH}"));
    let mut clock = None;
    attempts(performer, Pace::CLOUD, |_| {
        loop {
            let now: SystemTime = clock.unwrap_or_else(|| performer.now());
            let signed = signature::signed(request.clone(), signer, now)?;
            let response = performer
                .send(&signed)
                .map_err(|error| CloudError::unsent(PROVIDER, STEP, host, &error))?;
            if response.is_success() {
                let document = response.json().unwrap_or_default();
                let token =
                    document["token"].as_str().or_else(|| document["access_token"].as_str());
                let token = token
                    .filter(|token| !token.is_empty())
                    .ok_or_else(|| failed("the answer holds no token"))?;
                let life = document["expires_in"].as_u64().unwrap_or_default();
                return Ok((Secret::new(token), Duration::from_secs(life)));
            }
            let theirs = response.header("date").and_then(super::parse_http_date);
            if let Some(theirs) = theirs.filter(|_| response.status == 401 && clock.is_none())
                && super::apart(theirs, performer.now()) > Duration::from_secs(60)
            {
                clock = Some(theirs);
                continue;
            }
            return Err(refusal(&response, STEP, host));
        }
    })
}

/// What went wrong, by code; a body is never repeated.
fn refusal(response: &Response, step: &'static str, place: &str) -> CloudError {
    let document = response.json().unwrap_or_default();
    let code = code_of(&document["code"]);
    let reason = format!("status {} {code}", response.status);
    let error = CloudError::new(PROVIDER, step, place, reason.trim_end())
        .retryable_by(response, is_passing(response.status))
        .request_id(response.header("opc-request-id"));
    match code {
        "NotAuthenticated" => {
            error.hint("the key is not known to the user or tenancy, or the clock is off")
        }
        "NotAuthorizedOrNotFound" => error.hint(
            "a policy is needed, such as: allow dynamic-group NODES to read repos in tenancy",
        ),
        _ => error,
    }
}
