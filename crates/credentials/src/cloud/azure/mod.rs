//! Azure Container Registry: an identity of Entra (`source`), exchanged at the registry itself
//! (`exchange`) for a refresh token, which is the password.
//!
//! | file | job |
//! |---|---|
//! | `source` | which identity: the pod's, `azure.json`, the environment, the machine's |
//! | `entra` | tokens of Microsoft Entra ID for applications |
//! | `managed_identity` | tokens that Azure's machines and services hand out |
//! | `exchange` | an Entra token for one of the registry |
//! | `mirror` | registries of others whose images come from one of Azure |

mod entra;
mod exchange;
mod managed_identity;
mod mirror;
mod source;
#[cfg(test)]
mod tests;

pub use self::mirror::{Mirror, MirrorError};

use std::path::PathBuf;
use std::time::Duration;

use super::{CloudCredential, CloudError, Performer, RegistryHost, half_life};
use crate::{RegistryAuth, Secret};

/// The name of the provider in errors.
const PROVIDER: &str = "acr";

/// The user name that goes with a refresh token.
const USERNAME: &str = "00000000-0000-0000-0000-000000000000";

/// Longest time that a refresh token is kept.
const KEEP_MAX: Duration = Duration::from_secs(3600);

/// How the provider is configured.
#[derive(Clone, Debug, Default)]
pub struct AzureOptions {
    /// The cloud provider's file, usually `/etc/kubernetes/azure.json`.
    pub config_file: Option<PathBuf>,
    /// Ends of registry hosts besides Azure's own, such as `azurecr.mycloud.example`.
    pub suffixes: Vec<String>,
    /// Registries of others whose images come from one of Azure.
    pub mirrors: Vec<Mirror>,
}

/// For whom a token is.
#[derive(Clone, Copy, Debug, Default)]
pub struct AzureRequest<'a> {
    /// The token of the pod's service account, for audience `api://AzureADTokenExchange`, with
    /// the client and tenant that its annotations name.
    pub service_account: Option<ServiceAccount<'a>>,
}

/// The identity of a pod.
#[derive(Clone, Copy, Debug)]
pub struct ServiceAccount<'a> {
    /// Its token.
    pub token: &'a Secret,
    /// The annotation `kubernetes.azure.com/acr-client-id`.
    pub client_id: &'a str,
    /// The annotation `kubernetes.azure.com/acr-tenant-id`.
    pub tenant_id: &'a str,
}

/// Whether the host is a registry of Azure, whole and to the letter: its token opens every
/// registry of the tenant. Data endpoints are none: they get no credential.
pub fn is_registry(host: &RegistryHost, suffixes: &[String]) -> bool {
    let known = ["azurecr.io", "azurecr.cn", "azurecr.de", "azurecr.us"];
    let mut ends = known.into_iter().chain(suffixes.iter().map(String::as_str));
    let name = ends.find_map(|end| host.as_str().strip_suffix(end)?.strip_suffix('.'));
    let Some(name) = name else { return false };
    let is_word =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let labels: Vec<&str> = name.split('.').collect();
    let (registry, region) = match labels[..] {
        [registry] => (registry, None),
        [registry, region, "geo"] => (registry, Some(region)),
        _ => return false,
    };
    // One hyphen divides a name from the hash of its domain name label.
    let is_name = match registry.split_once('-') {
        Some((name, hash)) => is_word(name) && is_word(hash),
        None => is_word(registry),
    };
    is_name && region.is_none_or(is_word)
}

/// A credential for a registry of Azure; `None` if the host is none.
///
/// # Errors
/// [`CloudError`] if it is one and the exchange failed.
pub fn credential(
    performer: &dyn Performer,
    host: &RegistryHost,
    options: &AzureOptions,
    request: AzureRequest<'_>,
) -> Result<Option<CloudCredential>, CloudError> {
    if !is_registry(host, &options.suffixes) {
        return Ok(None);
    }
    let identity = source::token(performer, options, request)?;
    let refresh = exchange::refresh_token(performer, host, &identity)?;
    let keep_for = refresh
        .expires_at
        .map_or(Duration::ZERO, |ends| half_life(performer.now(), ends).min(KEEP_MAX));
    Ok(Some(CloudCredential {
        host: host.as_str().to_owned(),
        auth: RegistryAuth::basic(USERNAME, refresh.token),
        expires_at: refresh.expires_at,
        keep_for,
        source: identity.source,
    }))
}
