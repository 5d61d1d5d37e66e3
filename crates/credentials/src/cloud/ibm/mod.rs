//! IBM Cloud Container Registry: an identity of IAM (`source`) exchanged for an access token,
//! which is the password of the user `iambearer`.
//!
//! | file | job |
//! |---|---|
//! | `source` | which identity: an API key, a trusted profile of a pod or of an instance |
//! | `iam` | IAM's token endpoint |

mod iam;
mod source;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use super::{CloudCredential, CloudError, Performer, RegistryHost};
use crate::{RegistryAuth, Secret};

/// The name of the provider in errors.
const PROVIDER: &str = "icr";

/// The user name that goes with an access token of IAM.
const USERNAME: &str = "iambearer";

/// The regions with a registry of their own.
const REGIONS: [&str; 12] =
    ["us", "de", "uk", "es", "au", "jp", "jp2", "ca", "ca2", "br", "in", "in2"];

/// How the provider is configured.
#[derive(Clone, Debug, Default)]
pub struct IbmOptions {
    /// Regions besides the known ones, such as `kr`.
    pub regions: Vec<String>,
}

/// An access token of IAM.
struct AccessToken {
    token: Secret,
    expires_at: Option<SystemTime>,
}

/// Whether the host is a registry of IBM, whole and to the letter. Entitled software at
/// `cp.icr.io` is none: it takes an entitlement key that only a person can give.
pub fn is_registry(host: &RegistryHost, regions: &[String]) -> bool {
    let Some(name) = host.as_str().strip_suffix("icr.io") else { return false };
    let name = name.strip_prefix("private.").unwrap_or(name);
    if name.is_empty() {
        return true;
    }
    let Some(region) = name.strip_suffix('.') else { return false };
    REGIONS.contains(&region) || regions.iter().any(|known| known == region)
}

/// Whether this machine knows the trusted profile that pods have.
pub(super) fn knows_pods(performer: &dyn Performer) -> bool {
    source::names_profile(performer)
}

/// A credential for a registry of IBM, with the identity of this machine or of the pod whose
/// service account's token is given, and of nobody else then; `None` if the host is none.
///
/// # Errors
/// [`CloudError`] if it is one and the exchange failed.
pub fn credential(
    performer: &dyn Performer,
    host: &RegistryHost,
    options: &IbmOptions,
    pod: Option<&Secret>,
) -> Result<Option<CloudCredential>, CloudError> {
    if !is_registry(host, &options.regions) {
        return Ok(None);
    }
    let is_private = host.as_str().starts_with("private.");
    let (token, source) = source::access_token(performer, is_private, pod)?;
    let left = token.expires_at.and_then(|ends| ends.duration_since(performer.now()).ok());
    Ok(Some(CloudCredential {
        host: host.as_str().to_owned(),
        auth: RegistryAuth::basic(USERNAME, token.token),
        expires_at: token.expires_at,
        keep_for: Duration::from_secs(left.unwrap_or_default().as_secs() * 4 / 5),
        source,
    }))
}
