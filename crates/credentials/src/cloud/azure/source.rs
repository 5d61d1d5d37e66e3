//! Which identity is used: the pod's, then what `azure.json` says, then the environment, then the
//! machine's.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::{CloudError, Performer};
use super::entra::{Application, Cloud, Proof};
use super::managed_identity::{self, Which};
use super::{AzureOptions, AzureRequest, PROVIDER};
use crate::Secret;

const STEP: &str = "find identity";

/// Largest file with a token, key or configuration, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// An Entra token for container registries.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) token: Secret,
    pub(super) tenant: Option<String>,
    /// Where it came from, for people.
    pub(super) source: String,
}

/// A token of the first identity there is.
pub(super) fn token(
    performer: &dyn Performer,
    options: &AzureOptions,
    request: AzureRequest<'_>,
) -> Result<Identity, CloudError> {
    if let Some(account) = request.service_account {
        let application = Application {
            cloud: Cloud::of_environment(performer)?,
            tenant: account.tenant_id,
            client_id: account.client_id,
        };
        let token = application.token(performer, &Proof::Assertion(account.token.clone()))?;
        return Ok(Identity {
            token,
            tenant: Some(account.tenant_id.to_owned()),
            source: format!("service account token as {}", account.client_id),
        });
    }
    if let Some(path) = &options.config_file
        && let Some(identity) = of_config(performer, path)?
    {
        return Ok(identity);
    }
    if let Some(identity) = of_environment(performer)? {
        return Ok(identity);
    }
    let which = match performer.variable("AZURE_CLIENT_ID") {
        Some(id) => Which::Client(id),
        None => Which::Only,
    };
    of_machine(performer, &which)
}

fn of_machine(performer: &dyn Performer, which: &Which) -> Result<Identity, CloudError> {
    let (token, place) = managed_identity::token(performer, which)?;
    Ok(Identity { token, tenant: None, source: format!("managed identity of {place}") })
}

fn read(performer: &dyn Performer, path: &Path) -> Result<Secret, CloudError> {
    performer.read_file(path, FILE_BYTES_MAX).map_err(|error| {
        CloudError::new(PROVIDER, STEP, path.display().to_string(), error.to_string())
    })
}

/// What the cloud provider's file says; `None` if it names no identity.
fn of_config(performer: &dyn Performer, path: &Path) -> Result<Option<Identity>, CloudError> {
    let text = read(performer, path)?;
    let place = path.display().to_string();
    let config: Value = serde_json::from_str(text.expose())
        .map_err(|_| CloudError::new(PROVIDER, STEP, &*place, "it is no JSON"))?;
    let field = |name: &str| config[name].as_str().filter(|text| !text.is_empty());
    let is_set = |name: &str| config[name] == true;
    let cloud = match field("cloud") {
        Some(name) => Cloud::named(name)
            .ok_or_else(|| CloudError::new(PROVIDER, STEP, &*place, "its cloud is not known"))?,
        None => Cloud::of_environment(performer)?,
    };
    let secret = field("aadClientSecret");
    if is_set("useManagedIdentityExtension") || secret == Some("msi") {
        let which = match field("userAssignedIdentityID") {
            None => Which::Only,
            Some(id) if id.starts_with('/') => Which::Resource(id.to_owned()),
            Some(id) => Which::Client(id.to_owned()),
        };
        return of_machine(performer, &which).map(Some);
    }
    let (Some(tenant), Some(client_id)) = (field("tenantId"), field("aadClientId")) else {
        return Ok(None);
    };
    let application = Application { cloud, tenant, client_id };
    let proof = if is_set("useFederatedWorkloadIdentityExtension")
        && let Some(file) = field("aadFederatedTokenFile")
    {
        Proof::Assertion(read(performer, Path::new(file))?)
    } else if let Some(secret) = secret {
        Proof::Secret(Secret::new(secret))
    } else if let Some(file) = field("aadClientCertPath") {
        certificate(performer, file, field("aadClientCertPassword"))?
    } else {
        return Ok(None);
    };
    let token = application.token(performer, &proof)?;
    let source = format!("{client_id} of {place}");
    Ok(Some(Identity { token, tenant: Some(tenant.to_owned()), source }))
}

fn of_environment(performer: &dyn Performer) -> Result<Option<Identity>, CloudError> {
    let variable = |name| performer.variable(name);
    let (Some(tenant), Some(client_id)) =
        (variable("AZURE_TENANT_ID"), variable("AZURE_CLIENT_ID"))
    else {
        return Ok(None);
    };
    let (proof, kind) = if let Some(file) = variable("AZURE_FEDERATED_TOKEN_FILE") {
        (Proof::Assertion(read(performer, &PathBuf::from(file))?), "workload identity")
    } else if let Some(secret) = variable("AZURE_CLIENT_SECRET") {
        (Proof::Secret(Secret::new(secret)), "environment")
    } else if let Some(file) = variable("AZURE_CLIENT_CERTIFICATE_PATH") {
        let password = variable("AZURE_CLIENT_CERTIFICATE_PASSWORD");
        (certificate(performer, &file, password.as_deref())?, "certificate")
    } else {
        return Ok(None);
    };
    let cloud = Cloud::of_environment(performer)?;
    let application = Application { cloud, tenant: &tenant, client_id: &client_id };
    let token = application.token(performer, &proof)?;
    let source = format!("{kind} as {client_id}");
    Ok(Some(Identity { token, tenant: Some(tenant), source }))
}

fn certificate(
    performer: &dyn Performer,
    file: &str,
    password: Option<&str>,
) -> Result<Proof, CloudError> {
    if password.is_some_and(|password| !password.is_empty()) {
        return Err(CloudError::new(PROVIDER, STEP, file, "it has a password")
            .hint("openssl pkcs12 -in FILE -nodes -out FILE.pem makes a file without one"));
    }
    Ok(Proof::Certificate { pem: read(performer, Path::new(file))?, file: file.to_owned() })
}
