//! Application Default Credentials: the file that is named, the file that `gcloud` leaves, the
//! metadata server.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::attempts::{Pace, attempts};
use super::super::{CloudError, Method, Performer, Request, by_our_clock};
use super::oauth::{field, refusal, trusted};
use super::{AccessToken, GoogleOptions, PROVIDER, federation, metadata, oauth};
use crate::Secret;

const STEP: &str = "find credentials";

/// Largest file with credentials, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How many accounts may stand behind each other.
const IMPERSONATIONS_MAX: u32 = 4;

const PULL_SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
const PUSH_SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// For identities that are exchanged again before they reach a registry.
pub(super) const PLATFORM_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// A token, and where the identity behind it came from.
pub(super) fn access_token(
    performer: &dyn Performer,
    options: &GoogleOptions,
) -> Result<(AccessToken, String), CloudError> {
    let scope = if options.push { PUSH_SCOPE } else { PULL_SCOPE };
    if let Some(path) = performer.variable("GOOGLE_APPLICATION_CREDENTIALS") {
        let text = performer
            .read_file(&PathBuf::from(&path), FILE_BYTES_MAX)
            .map_err(|error| CloudError::new(PROVIDER, STEP, &*path, error.to_string()))?;
        return of_text(performer, options, &text, scope, &path);
    }
    if let Some(path) = well_known_file(performer) {
        let place = path.display().to_string();
        match performer.read_file(&path, FILE_BYTES_MAX) {
            Ok(text) => return of_text(performer, options, &text, scope, &place),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CloudError::new(PROVIDER, STEP, place, error.to_string())),
        }
    }
    if !metadata::is_here(performer) {
        return Err(CloudError::new(
            PROVIDER,
            STEP,
            "GOOGLE_APPLICATION_CREDENTIALS, gcloud's file",
            "no credentials, and this is no machine of Google's",
        )
        .hint("gcloud auth application-default login, or name a file"));
    }
    let token = metadata::access_token(performer, scope)?;
    Ok((token, "metadata server".to_owned()))
}

fn well_known_file(performer: &dyn Performer) -> Option<PathBuf> {
    let directory = performer
        .variable("CLOUDSDK_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(performer.variable("HOME")?).join(".config/gcloud")))?;
    Some(directory.join("application_default_credentials.json"))
}

fn of_text(
    performer: &dyn Performer,
    options: &GoogleOptions,
    text: &Secret,
    scope: &str,
    place: &str,
) -> Result<(AccessToken, String), CloudError> {
    let file: Value = serde_json::from_str(text.expose())
        .map_err(|_| CloudError::new(PROVIDER, STEP, place, "it is no JSON"))?;
    let token = of_file(performer, options, &file, scope, place, 0)?;
    Ok((token, format!("{} of {place}", file["type"].as_str().unwrap_or_default())))
}

/// A token by a file with credentials, whatever its type.
pub(super) fn of_file(
    performer: &dyn Performer,
    options: &GoogleOptions,
    file: &Value,
    scope: &str,
    place: &str,
    depth: u32,
) -> Result<AccessToken, CloudError> {
    match file["type"].as_str().unwrap_or_default() {
        "service_account" => oauth::of_service_account(performer, options, file, scope, place),
        "authorized_user" | "external_account_authorized_user" => {
            oauth::of_user(performer, options, file, place)
        }
        "external_account" => {
            federation::of_external_account(performer, options, file, scope, place)
        }
        "impersonated_service_account" => {
            if depth >= IMPERSONATIONS_MAX {
                let reason = format!("more than {IMPERSONATIONS_MAX} accounts behind each other");
                return Err(CloudError::new(PROVIDER, STEP, place, reason));
            }
            let source = &file["source_credentials"];
            let source = of_file(performer, options, source, PLATFORM_SCOPE, place, depth + 1)?;
            let url = field(file, "service_account_impersonation_url", place)?;
            let delegates = file.get("delegates").cloned().unwrap_or_else(|| json!([]));
            let url = trusted(url, options, place)?;
            impersonate(performer, &url, &source, scope, &delegates, None)
        }
        "gdch_service_account" => Err(CloudError::new(
            PROVIDER,
            STEP,
            place,
            "accounts of Google Distributed Cloud are not supported",
        )),
        other => {
            let reason = format!("credentials of type {other:?} are not known");
            Err(CloudError::new(PROVIDER, STEP, place, reason))
        }
    }
}

/// A token of a service account that the bearer of another token may act for
/// (`generateAccessToken`).
pub(super) fn impersonate(
    performer: &dyn Performer,
    url: &str,
    source: &AccessToken,
    scope: &str,
    delegates: &Value,
    life: Option<u64>,
) -> Result<AccessToken, CloudError> {
    const STEP: &str = "impersonate";
    let body = json!({
        "delegates": delegates,
        "lifetime": format!("{}s", life.unwrap_or(3600)),
        "scope": [scope],
    });
    let bearer = format!("Bearer {}", source.token.expose());
    let request = Request::to_cloud(Method::Post, url)
        .header("authorization", bearer)
        .body("application/json", body.to_string());
    attempts(performer, Pace::CLOUD, |_| {
        let response = performer
            .send(&request)
            .map_err(|error| CloudError::unsent(PROVIDER, STEP, url, &error))?;
        let document = response.json().unwrap_or_default();
        if !response.is_success() {
            return Err(refusal(&response, document, STEP, url));
        }
        let ends = document["expireTime"]
            .as_str()
            .and_then(|time| time.parse::<jiff::Timestamp>().ok().map(std::time::SystemTime::from));
        let ends = ends.map(|ends| by_our_clock(&response, performer.now(), ends));
        let life = ends.and_then(|ends| ends.duration_since(performer.now()).ok());
        match document["accessToken"].as_str().filter(|token| !token.is_empty()) {
            Some(token) => {
                Ok(AccessToken { token: Secret::new(token), life: life.unwrap_or(Duration::ZERO) })
            }
            None => Err(CloudError::new(PROVIDER, STEP, url, "the answer holds no token")),
        }
    })
}
