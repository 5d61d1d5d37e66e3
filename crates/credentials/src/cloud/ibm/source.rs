//! Which identity: an API key, a trusted profile by the token of a pod, the instance's own.

use std::path::Path;

use serde_json::json;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::{CloudError, Method, Performer, Request};
use super::{AccessToken, PROVIDER, iam};
use crate::Secret;

const STEP: &str = "find identity";
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where the platform leaves the token of a pod.
const POD_TOKENS: [&str; 3] = [
    "/var/run/secrets/tokens/vault-token",
    "/var/run/secrets/tokens/sa-token",
    "/var/run/secrets/codeengine.cloud.ibm.com/compute-resource-token/token",
];

const INSTANCE: &str = "http://169.254.169.254/instance_identity/v1";
const INSTANCE_VERSION: &str = "version=2022-03-01";

/// A trusted profile, as the environment names it.
enum Profile {
    Id(String),
    Name(String),
    Crn(String),
}

impl Profile {
    fn of_environment(performer: &dyn Performer) -> Option<Self> {
        let variable = |name| performer.variable(name);
        variable("ICR_IAM_PROFILE_ID")
            .map(Self::Id)
            .or_else(|| variable("ICR_IAM_PROFILE_NAME").map(Self::Name))
            .or_else(|| variable("ICR_IAM_PROFILE_CRN").map(Self::Crn))
    }
}

/// A token, and where the identity behind it came from.
pub(super) fn access_token(
    performer: &dyn Performer,
    is_private: bool,
    pod: Option<&Secret>,
) -> Result<(AccessToken, String), CloudError> {
    let base = iam::base(performer, is_private)?;
    let profile = Profile::of_environment(performer);
    if let Some(token) = pod {
        let token = of_pod(performer, &base, token, profile.as_ref(), "service account")?;
        return Ok((token, "trusted profile by service account token".to_owned()));
    }
    if let Some((key, source)) = api_key(performer)? {
        let token = iam::token(
            performer,
            &base,
            &[
                ("grant_type", "urn:ibm:params:oauth:grant-type:apikey"),
                ("apikey", key.expose()),
                ("response_type", "cloud_iam"),
            ],
        )?;
        return Ok((token, source));
    }
    if let Some((pod_token, file)) = pod_token(performer)? {
        let token = of_pod(performer, &base, &pod_token, profile.as_ref(), &file)?;
        return Ok((token, format!("trusted profile by {file}")));
    }
    let token = of_instance(performer, profile.as_ref())?;
    Ok((token, "instance identity".to_owned()))
}

/// Whether the environment names the profile that pods have.
pub(super) fn names_profile(performer: &dyn Performer) -> bool {
    Profile::of_environment(performer).is_some()
}

/// A token of the trusted profile that trusts the token of a pod.
fn of_pod(
    performer: &dyn Performer,
    base: &str,
    token: &Secret,
    profile: Option<&Profile>,
    place: &str,
) -> Result<AccessToken, CloudError> {
    let field = match profile {
        Some(Profile::Id(id)) => ("profile_id", id.as_str()),
        Some(Profile::Name(name)) => ("profile_name", name.as_str()),
        Some(Profile::Crn(crn)) => ("profile_crn", crn.as_str()),
        None => {
            return Err(CloudError::new(PROVIDER, STEP, place, "no trusted profile is named")
                .hint("set ICR_IAM_PROFILE_ID or ICR_IAM_PROFILE_NAME"));
        }
    };
    iam::token(
        performer,
        base,
        &[
            ("grant_type", "urn:ibm:params:oauth:grant-type:cr-token"),
            ("cr_token", token.expose().trim()),
            field,
        ],
    )
}

/// An API key of the environment, or of the file of IBM's own tools.
fn api_key(performer: &dyn Performer) -> Result<Option<(Secret, String)>, CloudError> {
    for name in ["ICR_APIKEY", "IBMCLOUD_API_KEY"] {
        if let Some(key) = performer.variable(name) {
            return Ok(Some((Secret::new(key), format!("API key of {name}"))));
        }
    }
    let Some(path) = performer.variable("IBM_CREDENTIALS_FILE") else { return Ok(None) };
    let text = performer
        .read_file(Path::new(&path), FILE_BYTES_MAX)
        .map_err(|error| CloudError::new(PROVIDER, STEP, &*path, error.to_string()))?;
    let key = text.expose().lines().find_map(|line| line.trim().strip_prefix("ICR_APIKEY="));
    Ok(key.map(|key| (Secret::new(key.trim()), format!("API key of {path}"))))
}

fn pod_token(performer: &dyn Performer) -> Result<Option<(Secret, String)>, CloudError> {
    let named = performer.variable("ICR_CR_TOKEN_FILENAME");
    let is_named = named.is_some();
    let files = named.into_iter().chain(POD_TOKENS.iter().map(|path| (*path).to_owned()));
    for file in files {
        match performer.read_file(Path::new(&file), FILE_BYTES_MAX) {
            Ok(token) => return Ok(Some((token, file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => {}
            Err(error) => return Err(CloudError::new(PROVIDER, STEP, file, error.to_string())),
        }
    }
    Ok(None)
}

/// A token of the trusted profile of this VPC instance.
fn of_instance(
    performer: &dyn Performer,
    profile: Option<&Profile>,
) -> Result<AccessToken, CloudError> {
    const STEP: &str = "instance identity";
    let send = |request: &Request| {
        attempts(performer, Pace::METADATA, |_| {
            let response = performer.send(request).map_err(|error| {
                CloudError::no_metadata(PROVIDER, STEP, INSTANCE, &error).hint(
                    "no API key and no token of a pod was found, and this may be no instance of \
                     IBM's: set ICR_APIKEY",
                )
            })?;
            if is_passing(response.status) {
                let reason = format!("status {}", response.status);
                return Err(CloudError::new(PROVIDER, STEP, INSTANCE, reason).retryable(true));
            }
            Ok(response)
        })
    };
    let session = Request::to_metadata(Method::Put, format!("{INSTANCE}/token?{INSTANCE_VERSION}"))
        .header("metadata-flavor", Secret::new("ibm"))
        .body("application/json", json!({ "expires_in": 300 }).to_string());
    let session = iam::read(&send(&session)?, performer.now(), STEP, INSTANCE)?;
    let body = match profile {
        None => json!({}),
        Some(Profile::Id(id)) => json!({ "trusted_profile": { "id": id } }),
        Some(Profile::Crn(crn)) => json!({ "trusted_profile": { "crn": crn } }),
        Some(Profile::Name(_)) => {
            return Err(CloudError::new(
                PROVIDER,
                STEP,
                "ICR_IAM_PROFILE_NAME",
                "no name works here",
            )
            .hint("set ICR_IAM_PROFILE_ID or ICR_IAM_PROFILE_CRN"));
        }
    };
    let request =
        Request::to_metadata(Method::Post, format!("{INSTANCE}/iam_token?{INSTANCE_VERSION}"))
            .header("authorization", format!("Bearer {}", session.token.expose()))
            .body("application/json", body.to_string());
    iam::read(&send(&request)?, performer.now(), STEP, INSTANCE)
}
