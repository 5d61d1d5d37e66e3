//! `~/.docker/config.json` as docker, skopeo and kaniko use it on a person's machine or in a build
//! pod: plain entries, identity and registry tokens, credential helpers; read, looked up and
//! written back without losing what we do not know.

use serde_json::{Map, Value, json};

use crate::config_file::{decode_auth, field};
use crate::{ConfigFileError, HelperRequest, RegistryAuth, Secret};

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
}

/// Where the credential of a server is.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// In the file.
    Found(RegistryAuth),
    /// Perhaps at a helper; if that knows nothing, `otherwise` counts.
    Ask {
        /// The call to make.
        request: HelperRequest,
        /// The entry in the file, if any.
        otherwise: Option<RegistryAuth>,
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

    /// Finds the credential for `server` (`host[:port]`) and `repository`; an entry for a path of
    /// the registry (as in podman's files) beats the entry for the registry.
    ///
    /// # Errors
    /// [`ClientConfigError::Entry`] if the entry that would be used is malformed.
    pub fn lookup(&self, server: &str, repository: &str) -> Result<Lookup, ClientConfigError> {
        let in_file = self.entry_for(server, repository)?;
        match (self.helper_for(server), in_file) {
            (Some(helper), otherwise) => Ok(Lookup::Ask {
                request: HelperRequest::get(helper, &server_key(server)),
                otherwise,
            }),
            (None, Some(auth)) => Ok(Lookup::Found(auth)),
            (None, None) => Ok(Lookup::Absent),
        }
    }

    fn entry_for(
        &self,
        server: &str,
        repository: &str,
    ) -> Result<Option<RegistryAuth>, ClientConfigError> {
        let Some(auths) = self.auths() else { return Ok(None) };
        let key = server_key(server);
        let host = hostname_of(server);
        let mut path = format!("{host}/{repository}");
        while path.len() > host.len() {
            if let Some(found) = auths.get_key_value(&path) {
                return read_entry(found);
            }
            path.truncate(path.rfind('/').unwrap_or(host.len()));
        }
        let exact = auths.get_key_value(&key).or_else(|| auths.get_key_value(host));
        let found = exact.or_else(|| {
            auths
                .iter()
                .find(|(written, _)| server_key(written) == key && is_whole_registry(written))
        });
        found.map_or(Ok(None), read_entry)
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

fn read_entry((key, value): (&String, &Value)) -> Result<Option<RegistryAuth>, ClientConfigError> {
    let Some(entry) = value.as_object() else { return Ok(None) };
    let text =
        |name: &str| field(entry, name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(RegistryAuth::IdentityToken { token: Secret::new(token) }));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(RegistryAuth::RegistryToken { token: Secret::new(token) }));
    }
    if let Some(auth) = text("auth") {
        let (username, password) = decode_auth(auth)
            .map_err(|error| ClientConfigError::Entry { key: key.clone(), error })?;
        // Old files pad the password with NUL bytes; docker strips them.
        let password = Secret::new(password.trim_matches('\0'));
        return Ok(Some(RegistryAuth::basic(username, password)));
    }
    Ok(text("username").map(|username| {
        RegistryAuth::basic(username, Secret::new(text("password").unwrap_or_default()))
    }))
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
