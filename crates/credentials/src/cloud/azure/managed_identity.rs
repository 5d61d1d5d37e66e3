//! Tokens that Azure hands out to what runs on it. Which service does so shows in the environment.

use std::path::Path;

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::code::code_of;
use super::super::performer::encoded;
use super::super::{CloudError, Method, Performer, Request, Response};
use super::PROVIDER;
use crate::Secret;

const STEP: &str = "managed identity";
const RESOURCE: &str = "https://containerregistry.azure.net";

/// Where Azure Arc leaves the proof that a caller may read files of this machine.
const ARC_DIRECTORY: &str = "/var/opt/azcmagent/tokens";
const ARC_ENDPOINT: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";
const ARC_AGENT: &str = "/opt/azcmagent/bin/himds";
const ARC_KEY_BYTES_MAX: u64 = 4096;

/// Which of the machine's identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The only one.
    Only,
    /// The one with this client id.
    Client(String),
    /// The one with this resource id.
    Resource(String),
}

/// A service that hands out tokens.
enum Service {
    Fabric { endpoint: String, secret: Secret, thumbprint: String },
    App { endpoint: String, secret: Secret },
    MachineLearning { endpoint: String, secret: Secret },
    CloudShell { endpoint: String },
    Arc { endpoint: String },
    Instance { base: String },
}

impl Service {
    /// The service that the environment shows, in the order of Azure's own libraries.
    fn detect(performer: &dyn Performer) -> Self {
        let variable = |name| performer.variable(name);
        if let Some(endpoint) = variable("IDENTITY_ENDPOINT") {
            if let Some(secret) = variable("IDENTITY_HEADER").map(Secret::new) {
                return match variable("IDENTITY_SERVER_THUMBPRINT") {
                    Some(thumbprint) => Self::Fabric { endpoint, secret, thumbprint },
                    None => Self::App { endpoint, secret },
                };
            }
            if variable("IMDS_ENDPOINT").is_some() {
                return Self::Arc { endpoint };
            }
        }
        if let Some(endpoint) = variable("MSI_ENDPOINT") {
            return match variable("MSI_SECRET").map(Secret::new) {
                Some(secret) => Self::MachineLearning { endpoint, secret },
                None => Self::CloudShell { endpoint },
            };
        }
        if performer.file_exists(Path::new(ARC_AGENT)) {
            return Self::Arc { endpoint: ARC_ENDPOINT.to_owned() };
        }
        let base = variable("AZURE_POD_IDENTITY_AUTHORITY_HOST")
            .unwrap_or_else(|| "http://169.254.169.254".to_owned());
        Self::Instance { base: base.trim_end_matches('/').to_owned() }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Fabric { .. } => "Service Fabric",
            Self::App { .. } => "App Service",
            Self::MachineLearning { .. } => "Azure ML",
            Self::CloudShell { .. } => "Cloud Shell",
            Self::Arc { .. } => "Azure Arc",
            Self::Instance { .. } => "the instance",
        }
    }

    /// The request for a token.
    fn request(&self, which: &Which) -> Request {
        let resource = encoded(RESOURCE);
        let of = |client: &str| match which {
            Which::Only => String::new(),
            Which::Client(id) => format!("&{client}={}", encoded(id)),
            Which::Resource(id) => format!("&msi_res_id={}", encoded(id)),
        };
        let get = |endpoint: &str, version: &str, client: &str| {
            let url = format!("{endpoint}?api-version={version}&resource={resource}{}", of(client));
            Request::to_metadata(Method::Get, url)
        };
        match self {
            Self::Fabric { endpoint, secret, thumbprint } => {
                let mut request = get(endpoint, "2019-07-01-preview", "client_id")
                    .header("secret", secret.clone());
                request.reach = super::super::Reach::Pinned { sha1: thumbprint.clone() };
                request
            }
            Self::App { endpoint, secret } => {
                get(endpoint, "2019-08-01", "client_id").header("x-identity-header", secret.clone())
            }
            Self::MachineLearning { endpoint, secret } => {
                get(endpoint, "2017-09-01", "clientid").header("secret", secret.clone())
            }
            Self::CloudShell { endpoint } => Request::to_metadata(Method::Post, &**endpoint)
                .header("metadata", Secret::new("true"))
                .form(&[("resource", RESOURCE)]),
            Self::Arc { endpoint } => {
                get(endpoint, "2020-06-01", "client_id").header("metadata", Secret::new("true"))
            }
            Self::Instance { base } => {
                let endpoint = format!("{base}/metadata/identity/oauth2/token");
                get(&endpoint, "2018-02-01", "client_id").header("metadata", Secret::new("true"))
            }
        }
    }
}

/// A token, and the name of the service that gave it.
pub(super) fn token(
    performer: &dyn Performer,
    which: &Which,
) -> Result<(Secret, &'static str), CloudError> {
    let service = Service::detect(performer);
    let request = service.request(which);
    let response = send(performer, &request, &service)?;
    let response = match (&service, response.status) {
        (Service::Arc { .. }, 401) => {
            let key = arc_key(performer, &response)?;
            let request = request.header("authorization", format!("Basic {}", key.expose()));
            send(performer, &request, &service)?
        }
        _ => response,
    };
    let document = response.json().unwrap_or_default();
    if !response.is_success() {
        return Err(refusal(&response, &service, which));
    }
    match document["access_token"].as_str().filter(|token| !token.is_empty()) {
        Some(token) => Ok((Secret::new(token), service.name())),
        None => Err(CloudError::new(PROVIDER, STEP, service.name(), "the answer holds no token")),
    }
}

fn send(
    performer: &dyn Performer,
    request: &Request,
    service: &Service,
) -> Result<Response, CloudError> {
    attempts(performer, Pace::METADATA, |_| {
        let response = performer
            .send(request)
            .map_err(|error| CloudError::no_metadata(PROVIDER, STEP, service.name(), &error))?;
        // 404 and 410 come while the service is updated.
        if is_passing(response.status) || matches!(response.status, 404 | 410) {
            let reason = format!("status {}", response.status);
            return Err(CloudError::new(PROVIDER, STEP, service.name(), reason).retryable(true));
        }
        Ok(response)
    })
}

fn refusal(response: &Response, service: &Service, which: &Which) -> CloudError {
    let document = response.json().unwrap_or_default();
    let code = code_of(&document["error"]);
    let reason = format!("status {} {code}", response.status);
    let error = CloudError::new(PROVIDER, STEP, service.name(), reason.trim_end());
    match (response.status, which) {
        (400, Which::Only) => error.hint(
            "the machine has several identities or none: name one by userAssignedIdentityID or \
             AZURE_CLIENT_ID",
        ),
        (400, _) => error.hint("the machine does not have the identity that is named"),
        _ => error,
    }
}

/// The proof that Arc asks for: the content of a file that only the privileged can read. The path
/// comes from the network, so it must be a key in Arc's own directory and no link (CVE-2024-35255).
fn arc_key(performer: &dyn Performer, response: &Response) -> Result<Secret, CloudError> {
    let failed = |reason: &str| CloudError::new(PROVIDER, STEP, "Azure Arc", reason);
    let challenge = response.header("www-authenticate").unwrap_or_default();
    let path = challenge
        .strip_prefix("Basic realm=")
        .ok_or_else(|| failed("its challenge names no file"))?
        .trim_matches('"');
    let path = Path::new(path);
    let is_key = path.parent() == Some(Path::new(ARC_DIRECTORY))
        && path.extension().is_some_and(|extension| extension == "key");
    if !is_key {
        return Err(failed("its challenge names a file that is none of its keys"));
    }
    performer
        .read_file_itself(path, ARC_KEY_BYTES_MAX)
        .map_err(|error| failed(&format!("its key cannot be read: {error}")))
}
