//! The kubelet's keyring: which credentials could open which image, in which order.

use std::collections::BTreeMap;

use crate::config_file::ConfigEntry;
use crate::{RegistryAuth, glob};

const DEFAULT_REGISTRY_KEY: &str = "index.docker.io";

/// Where a credential came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A pull secret of the pod.
    Secret {
        /// Namespace of the secret.
        namespace: String,
        /// Name of the secret.
        name: String,
        /// UID of the secret.
        uid: String,
    },
    /// A docker config file of the node or the user.
    File {
        /// Path of the file.
        path: String,
    },
    /// A credential provider or helper.
    Provider {
        /// Name of its program.
        name: String,
    },
    /// Flags of the command line.
    CommandLine,
}

/// One credential that may open an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The normalised key it was found under.
    pub key: String,
    /// The credential.
    pub auth: RegistryAuth,
    /// Where it came from.
    pub origin: Origin,
}

/// Credentials by normalised key, looked up as the kubelet does (`BasicDockerKeyring`).
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// Read from the end: the kubelet's order is reverse byte order of the keys.
    index: BTreeMap<String, Vec<Candidate>>,
}

impl Keyring {
    /// A keyring without credentials.
    pub const fn new() -> Self {
        Self { index: BTreeMap::new() }
    }

    /// Adds the entries of one file or secret; returns the keys that are no registry and were
    /// ignored, as the kubelet ignores them.
    pub fn add(&mut self, entries: Vec<ConfigEntry>, origin: &Origin) -> Vec<String> {
        let mut ignored = Vec::new();
        for entry in entries {
            match normalise_key(&entry.key) {
                Some(key) => {
                    let candidate =
                        Candidate { key: key.clone(), auth: entry.auth, origin: origin.clone() };
                    self.index.entry(key).or_default().push(candidate);
                }
                None => ignored.push(entry.key),
            }
        }
        ignored
    }

    /// Whether there is no credential at all.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The normalised keys, in byte order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// All candidates for `image`, the normalised `registry/repository` without tag and digest
    /// (`Reference::name`), best first.
    ///
    /// One deliberate difference to the kubelet (kubelet-images.md 15.4, M20): see
    /// [`Keyring::kubelet_sends_hub_password`].
    pub fn lookup(&self, image: &str) -> Vec<Candidate> {
        let Some(target) = Target::parse(image) else { return Vec::new() };
        let found: Vec<Candidate> = self
            .index
            .iter()
            .rev()
            .filter(|(key, _)| Target::parse(key).is_some_and(|key| key.matches(&target)))
            .flat_map(|(_, candidates)| candidates.iter().cloned())
            .collect();
        if found.is_empty() && is_default_registry(image) {
            return self.index.get(DEFAULT_REGISTRY_KEY).cloned().unwrap_or_default();
        }
        found
    }

    /// Whether a kubelet with this keyring would send Docker Hub's password to another registry for
    /// `image`: it takes every first part without dot and port for an account of the Hub, although
    /// `localhost` and words with upper-case letters are registries (kubelet-images.md 15.4, M20).
    pub fn kubelet_sends_hub_password(&self, image: &str) -> bool {
        let registry = image.split_once('/').map_or("", |(first, _)| first);
        !registry.is_empty()
            && !registry.contains(['.', ':'])
            && self.index.contains_key(DEFAULT_REGISTRY_KEY)
            && self.lookup(image).is_empty()
    }
}

/// A key or an image as the URL that the kubelet makes of it.
pub(crate) struct Target {
    host_parts: Vec<String>,
    port: String,
    path: String,
}

impl Target {
    pub(crate) fn parse(schemeless: &str) -> Option<Self> {
        let (authority, path) = split_authority(schemeless);
        let (host, port) = split_host_port(authority);
        Some(Self {
            host_parts: host.split('.').map(str::to_owned).collect(),
            port: port.to_owned(),
            path: percent_decode(path)?,
        })
    }

    pub(crate) fn matches(&self, target: &Self) -> bool {
        self.port == target.port && target.path.starts_with(&self.path) && self.host_matches(target)
    }

    /// Whether the hosts match, whatever the ports are.
    pub(crate) fn host_matches(&self, target: &Self) -> bool {
        self.host_parts.len() == target.host_parts.len()
            && self
                .host_parts
                .iter()
                .zip(&target.host_parts)
                .all(|(pattern, part)| glob::matches(pattern, part) == Some(true))
    }
}

pub(crate) fn split_authority(text: &str) -> (&str, &str) {
    match text.find('/') {
        Some(slash) => text.split_at(slash),
        None => (text, ""),
    }
}

/// Go's `net.SplitHostPort`, falling back to the whole text: only a port unwraps brackets.
pub(crate) fn split_host_port(authority: &str) -> (&str, &str) {
    if let Some(rest) = authority.strip_prefix('[') {
        return match rest.split_once("]:") {
            Some((host, port)) if !port.contains(':') => (host, port),
            _ => (authority, ""),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port),
        _ => (authority, ""),
    }
}

/// `host[:port][/path]` of a key as written; `None` if Go could not parse it as a URL.
pub(crate) fn normalise_key(written: &str) -> Option<String> {
    let rest = written
        .strip_prefix("https://")
        .or_else(|| written.strip_prefix("http://"))
        .unwrap_or(written);
    let rest = rest.split('#').next().unwrap_or(rest);
    let rest = rest.split('?').next().unwrap_or(rest);
    let (authority, path) = split_authority(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if !is_url_host(host) {
        return None;
    }
    let mut path = percent_decode(path)?;
    for version in ["/v1", "/v2"] {
        if path.strip_prefix(version).is_some_and(|rest| rest.starts_with('/')) {
            path.drain(..version.len());
            break;
        }
    }
    if path == "/" {
        path.clear();
    }
    Some(format!("{host}{path}"))
}

/// What Go's URL parser accepts as `host[:port]`.
fn is_url_host(host: &str) -> bool {
    let after_host = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((_, after)) => after,
            None => return false,
        },
        None => host.rfind(':').map_or("", |colon| &host[colon..]),
    };
    let port_is_valid = after_host.is_empty()
        || after_host
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let allowed = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]<>\"".contains(c)
    };
    port_is_valid && host.chars().all(allowed)
}

fn percent_decode(path: &str) -> Option<String> {
    if !path.contains('%') {
        return Some(path.to_owned());
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            decoded.push(u8::from_str_radix(hex, 16).ok()?);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(decoded).ok()
}

/// Whether a normalised name is Docker Hub's: names of the Hub always say so.
fn is_default_registry(image: &str) -> bool {
    match image.split_once('/') {
        Some((registry, _)) => matches!(registry, "docker.io" | "index.docker.io"),
        None => !image.is_empty(),
    }
}

#[cfg(test)]
mod tests;
