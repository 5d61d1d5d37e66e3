//! `CredentialProviderConfig` (kubelet.config.k8s.io, v1, v1beta1 and v1alpha1), decoded strictly.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Map, Value};

use super::{duration, match_image, validate};

const GROUP: &str = "kubelet.config.k8s.io";
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
const KIND: &str = "CredentialProviderConfig";

/// One configuration file, read from JSON or YAML.
#[derive(Clone, Debug)]
pub struct ConfigDocument {
    /// Path of the file, for errors.
    pub path: String,
    /// What it says.
    pub value: Value,
}

/// A provider whose configuration passed every check.
#[derive(Clone, PartialEq, Eq)]
pub struct Provider {
    /// Name of its program in the directory of providers.
    pub name: String,
    /// Patterns of images that it is asked for.
    pub match_images: Vec<String>,
    /// How long an answer is kept that does not say so; zero keeps nothing.
    pub default_cache_duration: Duration,
    /// Version of the protocol, such as `credentialprovider.kubelet.k8s.io/v1`.
    pub api_version: String,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// Environment variables that win over the node's own.
    pub env: Vec<(String, String)>,
    /// Whether and how it gets tokens of service accounts.
    pub token_attributes: Option<TokenAttributes>,
}

/// How a provider gets tokens of service accounts (KEP-4412).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAttributes {
    /// Audience of the token.
    pub audience: String,
    /// What the credential is kept by.
    pub cache_type: CacheType,
    /// Whether a pod without service account is not served at all.
    pub require_service_account: bool,
    /// Annotations without which the provider is not asked.
    pub required_annotations: Vec<String>,
    /// Annotations that it gets if they are there.
    pub optional_annotations: Vec<String>,
}

/// What a credential that a token bought is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// All pods of the service account.
    ServiceAccount,
    /// This very token.
    Token,
}

/// Why a configuration is refused; the texts are the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderConfigError {
    /// A file is not a configuration.
    #[error("error decoding config {path:?}: {reason}")]
    Decode {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// One name in two places.
    #[error("duplicate provider name {name:?} found in configuration file(s)")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Fields break the rules.
    #[error("failed to validate credential provider config: {reasons}")]
    Invalid {
        /// All violations, as the kubelet aggregates them.
        reasons: String,
    },
}

impl std::fmt::Debug for Provider {
    /// Values of the environment may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Provider({}, {:?})", self.name, self.match_images)
    }
}

impl Provider {
    /// Whether it is asked for an image (without tag and digest).
    pub fn is_for(&self, image: &str) -> bool {
        self.match_images.iter().any(|pattern| match_image::matches(pattern, image))
    }
}

/// Whether a file of a configuration directory counts; files are merged in byte order of names.
pub fn is_config_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| matches!(extension, "json" | "yaml" | "yml"))
}

/// The providers of all files, in order.
///
/// # Errors
/// The first file that does not decode, a name that occurs twice, or all broken rules at once.
pub fn providers_of(files: &[ConfigDocument]) -> Result<Vec<Provider>, ProviderConfigError> {
    let mut raw = Vec::new();
    for file in files {
        let decoded = decode(&file.value)
            .map_err(|reason| ProviderConfigError::Decode { path: file.path.clone(), reason })?;
        raw.extend(decoded);
    }
    let mut names = BTreeSet::new();
    for provider in &raw {
        if !names.insert(&provider.name) {
            return Err(ProviderConfigError::Duplicate { name: provider.name.clone() });
        }
    }
    validate::check(raw).map_err(|reasons| ProviderConfigError::Invalid { reasons })
}

/// A provider as written.
#[derive(Default)]
pub(super) struct RawProvider {
    pub(super) name: String,
    pub(super) match_images: Vec<String>,
    pub(super) default_cache_duration: Option<SignedDuration>,
    pub(super) api_version: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) token_attributes: Option<RawTokenAttributes>,
}

/// `tokenAttributes` as written.
#[derive(Default)]
pub(super) struct RawTokenAttributes {
    pub(super) audience: String,
    pub(super) cache_type: String,
    pub(super) require_service_account: Option<bool>,
    pub(super) required_annotations: Vec<String>,
    pub(super) optional_annotations: Vec<String>,
}

fn decode(document: &Value) -> Result<Vec<RawProvider>, String> {
    let Value::Object(map) = document else {
        return Err("couldn't get version/kind; it is not an object".to_owned());
    };
    let word = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, version) = (word("kind"), word("apiVersion"));
    if kind.is_empty() {
        return Err("Object 'Kind' is missing".to_owned());
    }
    if version.is_empty() {
        return Err("Object 'apiVersion' is missing".to_owned());
    }
    let known = version
        .strip_prefix(GROUP)
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|version| VERSIONS.contains(&version));
    if kind != KIND || !known {
        return Err(format!("no kind {kind:?} is registered for version {version:?}"));
    }
    let mut reader = Reader { has_tokens: version.ends_with("/v1"), unknown: Vec::new() };
    let providers = reader.config(map)?;
    if reader.unknown.is_empty() {
        return Ok(providers);
    }
    let fields: Vec<String> =
        reader.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    Err(format!("strict decoding error: {}", fields.join(", ")))
}

/// Reads fields and remembers those that nobody knows.
struct Reader {
    /// Only v1 has `tokenAttributes`.
    has_tokens: bool,
    unknown: Vec<String>,
}

impl Reader {
    fn config(&mut self, map: &Map<String, Value>) -> Result<Vec<RawProvider>, String> {
        self.note_unknown(map, "", &["kind", "apiVersion", "providers"]);
        let mut providers = Vec::new();
        for (index, item) in list(map, "providers", "CredentialProviderConfig.providers")? {
            let path = format!("providers[{index}].");
            let map = object(item, "CredentialProviderConfig.providers", "CredentialProvider")?;
            providers.push(self.provider(&map, &path)?);
        }
        Ok(providers)
    }

    fn provider(&mut self, map: &Map<String, Value>, path: &str) -> Result<RawProvider, String> {
        let mut known =
            vec!["name", "matchImages", "defaultCacheDuration", "apiVersion", "args", "env"];
        if self.has_tokens {
            known.push("tokenAttributes");
        }
        self.note_unknown(map, path, &known);
        let at = |name: &str| format!("CredentialProvider.providers.{name}");
        let mut env = Vec::new();
        for (index, item) in list(map, "env", &at("env"))? {
            let map = object(item, &at("env"), "ExecEnvVar")?;
            self.note_unknown(&map, &format!("{path}env[{index}]."), &["name", "value"]);
            let of = |name: &str| text(&map, name, &format!("ExecEnvVar.providers.env.{name}"));
            env.push((of("name")?, of("value")?));
        }
        let token_attributes = match map.get("tokenAttributes") {
            Some(value) if self.has_tokens && !value.is_null() => {
                let map = object(value, &at("tokenAttributes"), "ServiceAccountTokenAttributes")?;
                Some(self.token_attributes(&map, &format!("{path}tokenAttributes."))?)
            }
            _ => None,
        };
        Ok(RawProvider {
            name: text(map, "name", &at("name"))?,
            match_images: texts(map, "matchImages", &at("matchImages"))?,
            default_cache_duration: match map.get("defaultCacheDuration") {
                None | Some(Value::Null) => None,
                Some(value) => Some(duration_of(value)?),
            },
            api_version: text(map, "apiVersion", &at("apiVersion"))?,
            args: texts(map, "args", &at("args"))?,
            env,
            token_attributes,
        })
    }

    fn token_attributes(
        &mut self,
        map: &Map<String, Value>,
        path: &str,
    ) -> Result<RawTokenAttributes, String> {
        let known = [
            "serviceAccountTokenAudience",
            "cacheType",
            "requireServiceAccount",
            "requiredServiceAccountAnnotationKeys",
            "optionalServiceAccountAnnotationKeys",
        ];
        self.note_unknown(map, path, &known);
        let at =
            |name: &str| format!("ServiceAccountTokenAttributes.providers.tokenAttributes.{name}");
        Ok(RawTokenAttributes {
            audience: text(map, known[0], &at(known[0]))?,
            cache_type: text(map, known[1], &at(known[1]))?,
            require_service_account: match map.get(known[2]) {
                None | Some(Value::Null) => None,
                Some(Value::Bool(value)) => Some(*value),
                Some(other) => return Err(mismatch(other, &at(known[2]), "bool")),
            },
            required_annotations: texts(map, known[3], &at(known[3]))?,
            optional_annotations: texts(map, known[4], &at(known[4]))?,
        })
    }

    fn note_unknown(&mut self, map: &Map<String, Value>, path: &str, known: &[&str]) {
        let unknown = map.keys().filter(|key| !known.contains(&key.as_str()));
        self.unknown.extend(unknown.map(|key| format!("{path}{key}")));
    }
}

fn list<'a>(
    map: &'a Map<String, Value>,
    name: &str,
    place: &str,
) -> Result<impl Iterator<Item = (usize, &'a Value)> + use<'a>, String> {
    let items: &[Value] = match map.get(name) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items,
        Some(other) => return Err(mismatch(other, place, "[]")),
    };
    Ok(items.iter().enumerate())
}

fn object(value: &Value, place: &str, wanted: &str) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map.clone()),
        Value::Null => Ok(Map::new()),
        other => Err(mismatch(other, place, wanted)),
    }
}

fn text(map: &Map<String, Value>, name: &str, place: &str) -> Result<String, String> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(mismatch(other, place, "string")),
    }
}

fn texts(map: &Map<String, Value>, name: &str, place: &str) -> Result<Vec<String>, String> {
    list(map, name, place)?
        .map(|(_, item)| match item {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            other => Err(mismatch(other, place, "string")),
        })
        .collect()
}

pub(super) fn duration_of(value: &Value) -> Result<SignedDuration, String> {
    match value {
        Value::String(text) => duration::parse(text),
        other => Err(format!(
            "json: cannot unmarshal {} into Go value of type string",
            crate::config_file::kind_of(other)
        )),
    }
}

fn mismatch(found: &Value, place: &str, wanted: &str) -> String {
    let found = crate::config_file::kind_of(found);
    format!("json: cannot unmarshal {found} into Go struct field {place} of type {wanted}")
}

#[cfg(test)]
mod tests;
