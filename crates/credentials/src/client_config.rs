//! `~/.docker/config.json` as docker, skopeo and kaniko use it on a person's machine or in a build
//! pod: plain entries, identity and registry tokens, credential helpers; read, looked up and
//! written back without losing what we do not know.

use serde_json::{Map, Value, json};

use crate::base64_go::{self, Padding};
use crate::config_file::field;
use crate::{ConfigFileError, HelperError, HelperRequest, RegistryAuth, Secret};

/// The key under which docker keeps the credential of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A config file, unknown fields included.
#[derive(Clone, Default)]
pub struct ClientConfig {
    document: Map<String, Value>,
}

/// Why a config file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientConfigError {
    /// Not a JSON object.
    #[error("not a JSON object: {0}")]
    Syntax(String),
    /// One entry is malformed; the others still work.
    #[error("entry {key:?}: {error}")]
    Entry {
        /// The key of the entry.
        key: String,
        /// What is wrong with it.
        error: ConfigFileError,
    },
    /// An entry's `auth` names nobody.
    #[error("entry {key:?}: auth has no user name")]
    NoUser {
        /// The key of the entry.
        key: String,
    },
    /// What `DOCKER_AUTH_CONFIG` may not hold: it is for `auth` entries only.
    #[error("{what} is not allowed there, only auths with auth")]
    NotForEnvironment {
        /// The field, or the entry without `auth`.
        what: String,
    },
    /// The helper for the server cannot be asked.
    #[error(transparent)]
    Helper(#[from] HelperError),
}

/// Where the credential of a server is.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// In the file.
    Found(RegistryAuth),
    /// At a helper, if anywhere: what it does not know, nobody knows.
    Ask {
        /// The call to make.
        request: HelperRequest,
        /// The key of an entry with a credential in the file, which the helper hides.
        shadowed: Option<String>,
    },
    /// Nowhere.
    Absent,
}

/// The key of a registry in config files: its `host[:port]`, and for Docker Hub the old URL.
pub fn server_key(server: &str) -> String {
    let host = hostname_of(server);
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY.to_owned(),
        _ => host.to_owned(),
    }
}

/// `host[:port]` of a key in any of the spellings in use.
fn hostname_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

impl ClientConfig {
    /// Reads a file; an empty file is an empty config, as in docker.
    ///
    /// # Errors
    /// [`ClientConfigError::Syntax`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ClientConfigError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(document)) => Ok(Self { document }),
            Ok(_) => Err(ClientConfigError::Syntax("it is another JSON value".to_owned())),
            Err(error) => Err(ClientConfigError::Syntax(error.to_string())),
        }
    }

    /// Whether nothing at all is in the file, not even a field that is unknown here.
    pub fn is_empty(&self) -> bool {
        self.document.is_empty()
    }

    /// Reads `.dockercfg`, the bare map of entries that came before `config.json`.
    ///
    /// # Errors
    /// [`ClientConfigError::Syntax`].
    pub fn parse_dockercfg(bytes: &[u8]) -> Result<Self, ClientConfigError> {
        let auths = Self::parse(bytes)?.document;
        Ok(Self { document: Map::from_iter([("auths".to_owned(), Value::Object(auths))]) })
    }

    /// Reads the value of `DOCKER_AUTH_CONFIG`, which docker asks before any file: `auths` with
    /// `auth` and nothing else.
    ///
    /// # Errors
    /// [`ClientConfigError::NotForEnvironment`] for anything else; docker then warns and goes on
    /// with its file.
    pub fn parse_environment(bytes: &[u8]) -> Result<Self, ClientConfigError> {
        let refuse =
            |what: &str| ClientConfigError::NotForEnvironment { what: format!("{what:?}") };
        let config = Self::parse(bytes)?;
        if let Some(other) = config.document.keys().find(|name| !name.eq_ignore_ascii_case("auths"))
        {
            return Err(refuse(other));
        }
        for (key, entry) in config.auths().into_iter().flatten() {
            let entry_fields = entry.as_object().ok_or_else(|| refuse(key))?;
            if let Some(other) = entry_fields.keys().find(|name| !name.eq_ignore_ascii_case("auth"))
            {
                return Err(refuse(other));
            }
            text_of(entry, "auth").ok_or_else(|| refuse(key))?;
        }
        Ok(config)
    }

    /// The file's text, unknown fields as they were, in docker's indentation.
    pub fn to_text(&self) -> Secret {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        // A JSON value always serialises; an empty text would be noticed by every reader.
        let written = serde::Serialize::serialize(&self.document, &mut serializer);
        debug_assert!(written.is_ok(), "a JSON value serialises");
        Secret::new(String::from_utf8(bytes).unwrap_or_default())
    }

    fn auths(&self) -> Option<&Map<String, Value>> {
        field(&self.document, "auths").and_then(Value::as_object)
    }

    /// The helper that is responsible for `server`: the server's own, else the general one.
    pub fn helper_for(&self, server: &str) -> Option<&str> {
        let key = server_key(server);
        let helpers = field(&self.document, "credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| {
            helpers.get(&key).or_else(|| helpers.get(hostname_of(server))).and_then(Value::as_str)
        });
        own.or_else(|| field(&self.document, "credsStore").and_then(Value::as_str))
            .filter(|helper| !helper.is_empty())
    }

    /// Finds the credential for `server` (`host[:port]`) and `repository`, as docker does: the
    /// server's own helper, else the general one, else the file. An entry for a path of the
    /// registry (as in podman's files) beats the entry for the registry.
    ///
    /// # Errors
    /// [`ClientConfigError::Entry`] and [`ClientConfigError::NoUser`] if the entry that would be
    /// used is malformed; [`ClientConfigError::Helper`] if the helper's name is none.
    pub fn lookup(&self, server: &str, repository: &str) -> Result<Lookup, ClientConfigError> {
        let entry = self.entry_for(server, repository);
        let Some(helper) = self.helper_for(server) else {
            let found = entry.map_or(Ok(None), read_entry)?;
            return Ok(found.map_or(Lookup::Absent, Lookup::Found));
        };
        // Helpers keep no registry tokens; they are the one thing that counts beside one.
        if let Some((_, value)) = entry
            && let Some(token) = registry_token(value)
        {
            return Ok(Lookup::Found(token));
        }
        let shadowed = entry.filter(|(_, value)| holds_something(value));
        Ok(Lookup::Ask {
            request: HelperRequest::get(helper, &server_key(server))?,
            shadowed: shadowed.map(|(key, _)| key.clone()),
        })
    }

    fn entry_for(&self, server: &str, repository: &str) -> Option<(&String, &Value)> {
        let auths = self.auths()?;
        let key = server_key(server);
        let host = hostname_of(server);
        let mut path = format!("{host}/{repository}");
        while path.len() > host.len() {
            if let Some(found) = auths.get_key_value(&path) {
                return Some(found);
            }
            path.truncate(path.rfind('/').unwrap_or(host.len()));
        }
        let exact = auths.get_key_value(&key).or_else(|| auths.get_key_value(host));
        exact.or_else(|| {
            auths
                .iter()
                .find(|(written, _)| server_key(written) == key && is_whole_registry(written))
        })
    }

    /// `HttpHeaders`: what docker adds to every request to a registry, without its `User-Agent`.
    pub fn http_headers(&self) -> Vec<(String, Secret)> {
        let headers = field(&self.document, "HttpHeaders").and_then(Value::as_object);
        headers
            .into_iter()
            .flatten()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("user-agent"))
            .filter_map(|(name, value)| Some((name.clone(), Secret::new(value.as_str()?))))
            .collect()
    }

    /// Puts `auth` under the key of `server`, as `docker login` does; a helper's server gets the
    /// empty entry that docker writes for it.
    pub fn set(&mut self, server: &str, auth: &RegistryAuth) {
        let entry = if self.helper_for(server).is_some() { json!({}) } else { entry_of(auth) };
        let auths = self.document.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(server_key(server), entry);
        }
    }

    /// Removes every entry of `server`, as `docker logout` does; says whether there was one.
    pub fn remove(&mut self, server: &str) -> bool {
        let key = server_key(server);
        let Some(auths) = self.document.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|written, _| server_key(written) != key || !is_whole_registry(written));
        auths.len() != before
    }

    /// The servers that have a helper of their own, sorted.
    pub fn helper_servers(&self) -> Vec<String> {
        let helpers = field(&self.document, "credHelpers").and_then(Value::as_object);
        helpers.map(|helpers| helpers.keys().cloned().collect()).unwrap_or_default()
    }

    /// The servers that have an entry, sorted.
    pub fn servers(&self) -> Vec<String> {
        self.auths().map(|auths| auths.keys().cloned().collect()).unwrap_or_default()
    }
}

impl std::fmt::Debug for ClientConfig {
    /// Only the servers: the entries are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientConfig({:?})", self.servers())
    }
}

/// Whether a key names a registry and not a path inside one; `/v1/` and `/v2/` are no paths.
fn is_whole_registry(key: &str) -> bool {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match rest.split_once('/') {
        None => true,
        Some((_, path)) => matches!(path.trim_end_matches('/'), "" | "v1" | "v2"),
    }
}

fn text_of<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    let text = field(entry.as_object()?, name)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

fn registry_token(entry: &Value) -> Option<RegistryAuth> {
    let token = text_of(entry, "registrytoken")?;
    Some(RegistryAuth::RegistryToken { token: Secret::new(token) })
}

/// Whether an entry holds a credential of any kind; docker leaves empty ones beside helpers.
fn holds_something(entry: &Value) -> bool {
    ["auth", "username", "password", "identitytoken"]
        .iter()
        .any(|name| text_of(entry, name).is_some())
}

/// A registry token, else an identity token, else user and password, as docker prefers them.
fn read_entry((key, value): (&String, &Value)) -> Result<Option<RegistryAuth>, ClientConfigError> {
    if let Some(token) = registry_token(value) {
        return Ok(Some(token));
    }
    if let Some(token) = text_of(value, "identitytoken") {
        return Ok(Some(RegistryAuth::IdentityToken { token: Secret::new(token) }));
    }
    if let Some(auth) = text_of(value, "auth") {
        let (username, password) = decode_leniently(auth)
            .map_err(|error| ClientConfigError::Entry { key: key.clone(), error })?;
        if username.is_empty() {
            return Err(ClientConfigError::NoUser { key: key.clone() });
        }
        return Ok(Some(RegistryAuth::basic(username, password)));
    }
    Ok(text_of(value, "username").map(|username| {
        let password = text_of(value, "password").unwrap_or_default();
        RegistryAuth::basic(username, Secret::new(password))
    }))
}

/// Decodes `base64(username:password)` of either alphabet, padded or not; files are written by
/// many programs, and a person's own file is better read than refused.
fn decode_leniently(auth: &str) -> Result<(String, Secret), ConfigFileError> {
    let standard: String = auth
        .trim()
        .chars()
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    let padding = if standard.ends_with('=') { Padding::Required } else { Padding::None };
    let decoded = zeroize::Zeroizing::new(base64_go::decode(standard.as_bytes(), padding)?);
    let text = String::from_utf8_lossy(&decoded);
    let (username, password) = text.split_once(':').ok_or(ConfigFileError::NoColon)?;
    // Old files pad the password with NUL bytes; docker strips them.
    Ok((username.to_owned(), Secret::new(password.trim_matches('\0'))))
}

fn entry_of(auth: &RegistryAuth) -> Value {
    match auth {
        RegistryAuth::Basic { username, password, .. } => {
            json!({ "auth": encode_auth(username, password).expose() })
        }
        RegistryAuth::IdentityToken { token } => json!({ "identitytoken": token.expose() }),
        RegistryAuth::RegistryToken { token } => json!({ "registrytoken": token.expose() }),
    }
}

fn encode_auth(username: &str, password: &Secret) -> Secret {
    use base64::Engine as _;
    let plain = zeroize::Zeroizing::new(format!("{username}:{}", password.expose()));
    Secret::new(base64::engine::general_purpose::STANDARD.encode(plain.as_bytes()))
}

#[cfg(test)]
mod tests;
