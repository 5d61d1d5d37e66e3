//! What a provider is told on standard input, and what it may answer (kubelet-images.md 9.2).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::config::{CacheType, Provider, TokenAttributes, duration_of};
use crate::config_file::ConfigEntry;
use crate::{RegistryAuth, Secret};

/// What a provider gets of the service account of a pod.
#[derive(Clone, Debug)]
pub struct AccountClaim {
    /// A token for the provider's audience, bound to the pod.
    pub token: Secret,
    /// The annotations that the provider asks for.
    pub annotations: BTreeMap<String, String>,
}

/// Why a provider is not asked for a pod; no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// The pod has no service account and the provider wants one.
    #[error("the pod has no service account")]
    NoServiceAccount,
    /// The account lacks an annotation.
    #[error("required annotation {0} not found")]
    NoAnnotation(String),
}

/// What an answer is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKeyType {
    /// This image.
    Image,
    /// All images of this `host[:port]`.
    Registry,
    /// All images.
    Global,
}

/// A valid answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it is kept under.
    pub cache_key: CacheKeyType,
    /// How long it is kept; zero = not at all.
    pub keep_for: Duration,
    /// Credentials by key, as in a config file; none at all is an answer, too.
    pub entries: Vec<ConfigEntry>,
}

/// Why an answer does not count; nothing of a credential is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON.
    #[error("error reading GVK from response: couldn't get version/kind; json parse error: {0}")]
    Syntax(&'static str),
    /// Another version than the configured one.
    #[error(
        "apiVersion from credential plugin response did not match expected apiVersion:{expected}, actual apiVersion:{actual}"
    )]
    Version {
        /// The configured version.
        expected: String,
        /// The version of the answer.
        actual: String,
    },
    /// Another kind, an unknown field or a field of another type; details might be secret.
    #[error("error decoding credential provider plugin response from stdout")]
    Decode,
    /// A cache key type that does not exist.
    #[error("credential provider plugin did not return a valid cacheKeyType: {0:?}")]
    CacheKeyType(String),
    /// The pod's token came back as the password.
    #[error(
        "credential provider plugin returned the service account token as the password for image {0:?}, which is not allowed when service account cache type is not set to 'Token'"
    )]
    EchoedToken(String),
}

/// The annotations that a provider gets of a service account.
///
/// # Errors
/// A required one is not there: then the provider is not asked.
pub fn claimed_annotations(
    attributes: &TokenAttributes,
    annotations: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, SkipReason> {
    let mut claimed = BTreeMap::new();
    for key in &attributes.required_annotations {
        let value = annotations.get(key).ok_or_else(|| SkipReason::NoAnnotation(key.clone()))?;
        claimed.insert(key.clone(), value.clone());
    }
    for key in &attributes.optional_annotations {
        if let Some(value) = annotations.get(key) {
            claimed.insert(key.clone(), value.clone());
        }
    }
    Ok(claimed)
}

/// The request for standard input; it may hold a token. `image` has neither tag nor digest.
pub fn request(provider: &Provider, image: &str, claim: Option<&AccountClaim>) -> Secret {
    let mut document = json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": provider.api_version,
        "image": image,
    });
    if let Some(claim) = claim {
        document["serviceAccountToken"] = claim.token.expose().into();
        if !claim.annotations.is_empty() {
            document["serviceAccountAnnotations"] = json!(claim.annotations);
        }
    }
    Secret::new(document.to_string())
}

impl Answer {
    /// Reads what a provider wrote to standard output.
    ///
    /// # Errors
    /// [`AnswerError`]: then the provider contributes nothing.
    pub fn parse(
        provider: &Provider,
        image: &str,
        claim: Option<&AccountClaim>,
        stdout: &[u8],
    ) -> Result<Self, AnswerError> {
        let document: Value = serde_json::from_slice(stdout).map_err(|error| {
            let text = if error.is_eof() { "unexpected end of JSON input" } else { "not JSON" };
            AnswerError::Syntax(text)
        })?;
        let word = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        if word("apiVersion") != provider.api_version {
            return Err(AnswerError::Version {
                expected: provider.api_version.clone(),
                actual: shortened(word("apiVersion")),
            });
        }
        if word("kind") != "CredentialProviderResponse" {
            return Err(AnswerError::Decode);
        }
        let mut answer = Self::decode(provider, &document)?;
        let token = claim.map(|claim| &claim.token).filter(|token| !token.is_empty());
        let cache_type = provider.token_attributes.as_ref().map(|tokens| tokens.cache_type);
        if let Some(token) = token
            && cache_type != Some(CacheType::Token)
            && answer.entries.iter().any(|entry| has_password(entry, token))
        {
            return Err(AnswerError::EchoedToken(image.to_owned()));
        }
        // One order, whatever the map had.
        answer.entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(answer)
    }

    fn decode(provider: &Provider, document: &Value) -> Result<Self, AnswerError> {
        const FIELDS: [&str; 5] = ["kind", "apiVersion", "cacheKeyType", "cacheDuration", "auth"];
        let map = document.as_object().ok_or(AnswerError::Decode)?;
        if map.keys().any(|key| !FIELDS.contains(&key.as_str())) {
            return Err(AnswerError::Decode);
        }
        let keep_for = match map.get("cacheDuration") {
            None | Some(Value::Null) => provider.default_cache_duration,
            // What has ended already is not kept.
            Some(value) => Duration::try_from(duration_of(value).map_err(|_| AnswerError::Decode)?)
                .unwrap_or_default(),
        };
        let mut entries = Vec::new();
        match map.get("auth") {
            None | Some(Value::Null) => {}
            Some(Value::Object(auth)) => {
                for (key, value) in auth {
                    entries.push(ConfigEntry { key: key.clone(), auth: entry(value)? });
                }
            }
            Some(_) => return Err(AnswerError::Decode),
        }
        let cache_key = match map.get("cacheKeyType") {
            None | Some(Value::Null) => return Err(AnswerError::CacheKeyType(String::new())),
            Some(Value::String(name)) => match name.as_str() {
                "Image" => CacheKeyType::Image,
                "Registry" => CacheKeyType::Registry,
                "Global" => CacheKeyType::Global,
                other => return Err(AnswerError::CacheKeyType(shortened(other))),
            },
            Some(_) => return Err(AnswerError::Decode),
        };
        Ok(Self { cache_key, keep_for, entries })
    }
}

fn entry(value: &Value) -> Result<RegistryAuth, AnswerError> {
    let empty = serde_json::Map::new();
    let map = match value {
        Value::Object(map) => map,
        Value::Null => &empty,
        _ => return Err(AnswerError::Decode),
    };
    let of = |name: &str| match map.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(AnswerError::Decode),
    };
    if map.keys().any(|key| key != "username" && key != "password") {
        return Err(AnswerError::Decode);
    }
    Ok(RegistryAuth::basic(of("username")?, Secret::new(of("password")?)))
}

fn has_password(entry: &ConfigEntry, token: &Secret) -> bool {
    match &entry.auth {
        RegistryAuth::Basic { password, .. } => password == token,
        RegistryAuth::IdentityToken { token: other }
        | RegistryAuth::RegistryToken { token: other } => other == token,
    }
}

/// A word that a program sent, fit for one line.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests;
