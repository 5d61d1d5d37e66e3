//! Identities of other systems for Google's tokens (workload identity federation), and pods' own
//! identities for pulling.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::aws::{region_of_environment, signed_caller_identity};
use super::super::code::code_of;
use super::super::overrides::{host_of, is_loopback, is_metadata};
use super::super::{CloudError, Method, Performer, Request};
use super::oauth::{exchange, field, trusted};
use super::source::{PLATFORM_SCOPE, impersonate};
use super::{AccessToken, GoogleOptions, PROVIDER};
use crate::Secret;

const STEP: &str = "subject token";
const TOKEN_BYTES_MAX: u64 = 64 * 1024;
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The variable that allows programs as sources, as in Google's own libraries.
const ALLOW_PROGRAMS: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";

/// A token for the subject token that the file's `credential_source` leads to.
pub(super) fn of_external_account(
    performer: &dyn Performer,
    options: &GoogleOptions,
    file: &Value,
    scope: &str,
    place: &str,
) -> Result<AccessToken, CloudError> {
    let domain = file["universe_domain"].as_str().unwrap_or("googleapis.com");
    let url = match file["token_url"].as_str() {
        Some(url) => url.to_owned(),
        None => format!("https://sts.{domain}/v1/token"),
    };
    let url = trusted(&url, options, place)?;
    let impersonation = file["service_account_impersonation_url"].as_str();
    let impersonation = impersonation.map(|url| trusted(url, options, place)).transpose()?;
    let audience = field(file, "audience", place)?;
    let subject = subject_token(performer, options, &file["credential_source"], audience, place)?;
    let wanted = if impersonation.is_some() { PLATFORM_SCOPE } else { scope };
    let user_project = file["workforce_pool_user_project"]
        .as_str()
        .map(|project| json!({ "userProject": project }).to_string());
    let mut fields = vec![
        ("grant_type", GRANT),
        ("audience", audience),
        ("scope", wanted),
        ("requested_token_type", ACCESS_TOKEN),
        ("subject_token", subject.expose()),
        ("subject_token_type", field(file, "subject_token_type", place)?),
    ];
    if let Some(options) = &user_project {
        fields.push(("options", options));
    }
    let mut request = Request::to_cloud(Method::Post, url).form(&fields);
    if let (Some(id), Some(secret)) = (file["client_id"].as_str(), file["client_secret"].as_str()) {
        use base64::Engine as _;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}"));
        request = request.header("authorization", format!("Basic {basic}"));
    }
    let token = exchange(performer, &request)?;
    match impersonation {
        None => Ok(token),
        Some(url) => {
            let life = file["service_account_impersonation"]["token_lifetime_seconds"].as_u64();
            impersonate(performer, &url, &token, scope, &json!([]), life)
        }
    }
}

fn subject_token(
    performer: &dyn Performer,
    options: &GoogleOptions,
    source: &Value,
    audience: &str,
    place: &str,
) -> Result<Secret, CloudError> {
    let failed = |reason: &str| CloudError::new(PROVIDER, STEP, place, reason);
    if let Some(path) = source["file"].as_str() {
        let text = performer
            .read_file(&PathBuf::from(path), TOKEN_BYTES_MAX)
            .map_err(|error| CloudError::new(PROVIDER, STEP, path, error.to_string()))?;
        return in_format(&text, &source["format"], path);
    }
    if source["environment_id"].as_str().is_some_and(|id| id.starts_with("aws")) {
        return of_aws(performer, source, audience, place);
    }
    if let Some(url) = source["url"].as_str() {
        if !url.starts_with("https://") && !is_loopback(url) {
            let error = failed("its source is an address without TLS");
            match (is_metadata(url), options.allow_metadata_sources) {
                (true, true) => {}
                (true, false) => {
                    return Err(error.hint(
                        "--allow-metadata-sources of credential-provider, if the file is trusted",
                    ));
                }
                (false, _) => return Err(error),
            }
        }
        let reach_is_cloud = url.starts_with("https://");
        let mut request = if reach_is_cloud {
            Request::to_cloud(Method::Get, url)
        } else {
            Request::to_metadata(Method::Get, url)
        };
        for (name, value) in source["headers"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            request = request.header_named(name, Secret::new(value));
        }
        let response = performer
            .send(&request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, url, &error))?;
        if !response.is_success() {
            let reason = format!("status {}", response.status);
            return Err(CloudError::new(PROVIDER, STEP, url, reason));
        }
        return in_format(&response.body, &source["format"], url);
    }
    if source["executable"].is_object() {
        return of_program(performer, &source["executable"], place);
    }
    Err(failed("it names no source that is known"))
}

/// The token in text, or in a field of JSON.
fn in_format(text: &Secret, format: &Value, place: &str) -> Result<Secret, CloudError> {
    let failed = |reason: String| CloudError::new(PROVIDER, STEP, place, reason);
    match format["type"].as_str().unwrap_or("text") {
        "text" => Ok(Secret::new(text.expose().trim())),
        "json" => {
            let name = format["subject_token_field_name"].as_str().unwrap_or_default();
            let document: Value = serde_json::from_str(text.expose())
                .map_err(|_| failed("it is no JSON".to_owned()))?;
            let token = document[name].as_str().filter(|token| !token.is_empty());
            token.map(Secret::new).ok_or_else(|| failed(format!("it has no field {name:?}")))
        }
        other => Err(failed(format!("format {other:?} is not known"))),
    }
}

fn of_program(
    performer: &dyn Performer,
    source: &Value,
    place: &str,
) -> Result<Secret, CloudError> {
    let failed = |reason: String| CloudError::new(PROVIDER, STEP, place, reason);
    if performer.variable(ALLOW_PROGRAMS).as_deref() != Some("1") {
        return Err(failed("its source is a program, and programs are not allowed".to_owned())
            .hint(format!("{ALLOW_PROGRAMS}=1 if the file is trusted")));
    }
    let command = source["command"].as_str().unwrap_or_default();
    let mut words = command.split_whitespace().map(str::to_owned);
    let program = words.next().ok_or_else(|| failed("it names no command".to_owned()))?;
    let arguments: Vec<String> = words.collect();
    let milliseconds = source["timeout_millis"].as_u64().unwrap_or(30_000);
    let timeout = Duration::from_millis(milliseconds.clamp(5_000, 120_000));
    let output = performer
        .run(&program, &arguments, timeout)
        .map_err(|error| failed(format!("{program} {error}")))?;
    let document: Value = serde_json::from_str(output.stdout.expose())
        .map_err(|_| failed(format!("{program} printed no JSON")))?;
    if !output.succeeded || document["success"] != true {
        let code = match code_of(&document["code"]) {
            "" => "no code that is known",
            code => code,
        };
        return Err(failed(format!("{program} failed: {code}")));
    }
    let token = document["id_token"].as_str().or_else(|| document["saml_response"].as_str());
    token.map(Secret::new).ok_or_else(|| failed(format!("{program} printed no token")))
}

/// The subject of AWS: a signed question "who am I" that Google asks in our name.
fn of_aws(
    performer: &dyn Performer,
    source: &Value,
    audience: &str,
    place: &str,
) -> Result<Secret, CloudError> {
    let failed = |reason: &str| CloudError::new(PROVIDER, STEP, place, reason);
    if source["environment_id"] != "aws1" {
        return Err(failed("this version of environment_id is not known"));
    }
    let region =
        region_of_environment(performer)?.ok_or_else(|| failed("AWS_REGION is not set"))?;
    let template = source["regional_cred_verification_url"].as_str().unwrap_or_default();
    let url = template.replace("{region}", region.as_str());
    let host = format!("sts.{region}.amazonaws.com");
    if host_of(&url, "https://").as_deref() != Some(host.as_str()) {
        return Err(failed("regional_cred_verification_url is not of AWS STS"));
    }
    let header = ("x-goog-cloud-target-resource", audience);
    let request = signed_caller_identity(performer, &region, &url, header)?;
    let headers: Vec<Value> = [json!({ "key": "host", "value": host })]
        .into_iter()
        .chain(
            request
                .headers
                .iter()
                .map(|(name, value)| json!({ "key": name, "value": value.expose() })),
        )
        .collect();
    let document = json!({ "url": url, "method": "POST", "headers": headers, "body": "" });
    Ok(Secret::new(super::super::performer::encoded(&document.to_string())))
}

/// How a pod's service account pulls by itself on GKE (workload identity for image pulls).
#[derive(Clone, Debug)]
pub struct ServiceAccountFlow {
    /// The number or name of the project.
    pub project_id: String,
    /// URL of the cluster as an identity provider.
    pub identity_provider: String,
}

impl ServiceAccountFlow {
    /// The annotation by which a service account asks for it; its value is `true`.
    pub const ANNOTATION: &str = "iam.gke.io/enable-wi-image-pull";

    pub(super) fn access_token(
        &self,
        performer: &dyn Performer,
        token: &Secret,
    ) -> Result<AccessToken, CloudError> {
        let audience =
            format!("identitynamespace:{}.svc.id.goog:{}", self.project_id, self.identity_provider);
        // Google's plugin sends JSON here, with the names of the form.
        let body = json!({
            "grant_type": GRANT,
            "audience": audience,
            "scope": PLATFORM_SCOPE,
            "requested_token_type": ACCESS_TOKEN,
            "subject_token": token.expose().trim(),
            "subject_token_type": JWT,
        });
        let mut request = Request::to_cloud(Method::Post, "https://sts.googleapis.com/v1/token")
            .body("application/json", body.to_string());
        request.timeout = Duration::from_secs(30);
        exchange(performer, &request)
    }
}
