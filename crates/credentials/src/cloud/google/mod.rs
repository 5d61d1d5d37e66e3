//! Google: an identity (`source`) exchanged for an access token, which is the password of
//! Artifact Registry and Container Registry.
//!
//! | file | job |
//! |---|---|
//! | `source` | Application Default Credentials: which file, or the metadata server |
//! | `oauth` | token endpoints: assertions, refresh tokens, their errors |
//! | `metadata` | the metadata server of GCE and GKE |
//! | `federation` | identities of other systems (`external_account`) |

mod federation;
mod metadata;
mod oauth;
mod source;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::federation::ServiceAccountFlow;
use super::{CloudCredential, CloudError, Performer, RegistryHost, after};
use crate::{RegistryAuth, Secret};

/// The name of the provider in errors.
const PROVIDER: &str = "google";

/// The user name that goes with an access token.
const USERNAME: &str = "_token";

/// A token is renewed this long before its end: the metadata server itself renews only then.
const EARLY: Duration = Duration::from_secs(225);

/// How the provider is configured.
#[derive(Clone, Debug, Default)]
pub struct GoogleOptions {
    /// Whether pushing is wanted, which needs a wider scope.
    pub push: bool,
    /// The domain of APIs besides `googleapis.com` that files with credentials may name.
    pub universe_domain: Option<String>,
    /// Whether files with credentials may name addresses of metadata servers as sources.
    pub allow_metadata_sources: bool,
    /// How pods whose service account asks for it pull with their own identity.
    pub service_accounts: Option<ServiceAccountFlow>,
}

/// An access token and how long it has to live.
#[derive(Clone, Debug)]
struct AccessToken {
    token: Secret,
    life: Duration,
}

/// Whether the host is one of Google's registries, whole and to the letter.
pub fn is_registry(host: &RegistryHost) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let host = host.as_str();
    match host {
        "gcr.io" | "container.cloud.google.com" => true,
        _ if host.ends_with(".gcr.io") => host.strip_suffix(".gcr.io").is_some_and(is_label),
        _ if host.ends_with(".rep.pkg.dev") => host
            .strip_prefix("docker.")
            .and_then(|rest| rest.strip_suffix(".rep.pkg.dev"))
            .is_some_and(is_label),
        _ => host.strip_suffix("-docker.pkg.dev").is_some_and(is_label),
    }
}

/// A credential for one of Google's registries with the identity of this machine; `None` if the
/// host is none of them.
///
/// # Errors
/// [`CloudError`] if it is one and the exchange failed.
pub fn credential(
    performer: &dyn Performer,
    host: &RegistryHost,
    options: &GoogleOptions,
) -> Result<Option<CloudCredential>, CloudError> {
    if !is_registry(host) {
        return Ok(None);
    }
    let (token, source) = source::access_token(performer, options)?;
    Ok(Some(given(performer, host, token, source)))
}

/// A credential with the identity of the pod's service account, and nothing else: if it has no
/// right the node's identity is not tried.
///
/// # Errors
/// [`CloudError`] if the exchange failed.
pub fn service_account_credential(
    performer: &dyn Performer,
    host: &RegistryHost,
    flow: &ServiceAccountFlow,
    token: &Secret,
) -> Result<Option<CloudCredential>, CloudError> {
    if !is_registry(host) {
        return Ok(None);
    }
    let token = flow.access_token(performer, token)?;
    Ok(Some(given(performer, host, token, "service account token".to_owned())))
}

fn given(
    performer: &dyn Performer,
    host: &RegistryHost,
    token: AccessToken,
    source: String,
) -> CloudCredential {
    CloudCredential {
        host: host.as_str().to_owned(),
        auth: RegistryAuth::basic(USERNAME, token.token),
        expires_at: Some(after(performer.now(), token.life.as_secs())),
        keep_for: Duration::from_secs(token.life.saturating_sub(EARLY).as_secs() / 2),
        source,
    }
}
