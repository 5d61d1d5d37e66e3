//! Image references (grammar and normalisation of distribution/reference v0.6.0, as docker,
//! containerd and the kubelet use them).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, DigestError};

/// Longest path of a reference in bytes, `library/` included, domain excluded.
///
/// Source: distribution/reference v0.6.0, `RepositoryNameTotalLengthMax`.
pub const NAME_LENGTH_MAX: usize = 255;

/// Longest tag in bytes (OCI distribution-spec, "Pulling manifests").
pub const TAG_LENGTH_MAX: usize = 128;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const LOCALHOST: &str = "localhost";

/// A normalised image reference: `registry/repository[:tag][@digest]`.
///
/// Parsing adds what people leave out: `nginx` is `docker.io/library/nginx`. No tag is added;
/// see [`Reference::with_default_tag`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

/// Path of a repository inside a registry, such as `library/nginx`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Repository(String);

/// Name of a manifest inside a repository, such as `latest`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Tag(String);

/// Why a text is not a reference; the texts are those of the Go library, which users search for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text does not match the grammar.
    #[error("invalid reference format")]
    InvalidFormat,
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    NotLowerCase(String),
    /// The first component looks like a host and is none, and only its upper-case letters keep the
    /// text from being one long path: `My_Registry.example.com/app`.
    #[error("repository name must be lowercase")]
    UpperCaseName,
    /// The path is longer than [`NAME_LENGTH_MAX`].
    #[error("repository name must not be more than {NAME_LENGTH_MAX} characters")]
    NameTooLong,
    /// The text is 64 hex digits, which docker takes for an image ID.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    HexIdentifier(String),
    /// The part after `@` is not a digest.
    #[error("{0}")]
    Digest(#[from] DigestError),
}

impl Repository {
    /// Checks the distribution-spec's `<name>` grammar and length.
    ///
    /// # Errors
    /// [`ReferenceError::InvalidFormat`] or [`ReferenceError::NameTooLong`].
    pub fn new(path: &str) -> Result<Self, ReferenceError> {
        if !is_path(path) {
            return Err(ReferenceError::InvalidFormat);
        }
        if NAME_LENGTH_MAX < path.len() {
            return Err(ReferenceError::NameTooLong);
        }
        Ok(Self(path.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// Checks the grammar `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    ///
    /// # Errors
    /// [`ReferenceError::InvalidFormat`].
    pub fn new(text: &str) -> Result<Self, ReferenceError> {
        if is_tag(text) { Ok(Self(text.to_owned())) } else { Err(ReferenceError::InvalidFormat) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Reference {
    /// A reference from its parts; `registry` is a host with an optional port.
    ///
    /// # Errors
    /// [`ReferenceError::InvalidFormat`] if `registry` is not a host.
    pub fn new(
        registry: &str,
        repository: Repository,
        tag: Option<Tag>,
        digest: Option<Digest>,
    ) -> Result<Self, ReferenceError> {
        if !is_domain(registry) {
            return Err(ReferenceError::InvalidFormat);
        }
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Host and optional port; `docker.io` where the text named none. Empty in the odd case of a
    /// first component that looks like a host but is none, such as `my_registry.example.com/app`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path inside the registry.
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, if the text named one.
    pub const fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, if the text named one.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        if self.registry.is_empty() {
            self.repository.0.clone()
        } else {
            format!("{}/{}", self.registry, self.repository.0)
        }
    }

    /// The same reference with the tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(&self) -> Self {
        let mut reference = self.clone();
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(Tag(DEFAULT_TAG.to_owned()));
        }
        reference
    }

    /// The same repository under another tag, without digest.
    #[must_use]
    pub fn with_tag(&self, tag: Tag) -> Self {
        Self { tag: Some(tag), digest: None, ..self.clone() }
    }

    /// The same repository under a digest, without tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same path, tag and digest in another registry.
    ///
    /// # Errors
    /// [`ReferenceError::InvalidFormat`] if `registry` is not a host.
    pub fn with_registry(&self, registry: &str) -> Result<Self, ReferenceError> {
        Self::new(registry, self.repository.clone(), self.tag.clone(), self.digest)
    }

    /// What a registry is asked for: the digest if there is one, else the tag, else `latest`.
    pub fn manifest_key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.0.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The shortest text that parses to this reference: `nginx` for `docker.io/library/nginx`.
    pub fn familiar(&self) -> String {
        let mut name = self.name();
        if self.registry == DEFAULT_DOMAIN {
            let path = self.repository.as_str();
            let short = path
                .strip_prefix(OFFICIAL_PREFIX)
                .filter(|rest| !rest.contains('/') && !is_hex_identifier(rest));
            // `docker.io/docker.io/x` and the like must keep their domain to parse back.
            let candidate = short.unwrap_or(path);
            let split = split_domain(candidate);
            if split.0 == DEFAULT_DOMAIN && split.1 == path {
                name = candidate.to_owned();
            }
        }
        self.append_tag_and_digest(name)
    }

    fn append_tag_and_digest(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(&tag.0);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if is_hex_identifier(text) {
            return Err(ReferenceError::HexIdentifier(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split(':').next().unwrap_or(&remainder);
        if remote.chars().any(char::is_uppercase) {
            return Err(ReferenceError::NotLowerCase(remote.to_owned()));
        }
        let Some(parts) = Parts::of(&domain, &remainder) else {
            let in_lower_case = (domain.to_lowercase(), remainder.to_lowercase());
            return Err(match Parts::of(&in_lower_case.0, &in_lower_case.1) {
                Some(_) => ReferenceError::UpperCaseName,
                None => ReferenceError::InvalidFormat,
            });
        };
        let repository = Repository::new(&parts.path)?;
        let digest = parts.digest.map(parse_digest).transpose()?;
        let tag = parts.tag.map(|tag| Tag(tag.to_owned()));
        Ok(Self { registry: parts.registry.to_owned(), repository, tag, digest })
    }
}

/// What the grammar makes of a text, before lengths and the digest's algorithm are looked at.
struct Parts<'a> {
    registry: &'a str,
    path: String,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(domain: &'a str, remainder: &'a str) -> Option<Self> {
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (remainder, None),
        };
        // A tag cannot hold a slash, so only a colon after the last slash starts one.
        let last_slash = rest.rfind('/').map_or(0, |position| position + 1);
        let (path, tag) = match rest[last_slash..].find(':') {
            Some(colon) => (&rest[..last_slash + colon], Some(&rest[last_slash + colon + 1..])),
            None => (rest, None),
        };
        let (registry, path) = if is_domain(domain) {
            (domain, path.to_owned())
        } else {
            // The grammar's domain is optional: such a text may still be one long path.
            ("", format!("{domain}/{path}"))
        };
        let matches =
            is_path(&path) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest_syntax);
        matches.then_some(Self { registry, path, tag, digest })
    }
}

/// Splits off the registry as docker does, and adds `library/` for official images.
fn split_domain(text: &str) -> (String, String) {
    let (mut domain, remainder) = match text.split_once('/') {
        Some((first, rest))
            if first == LOCALHOST
                || first.contains(['.', ':'])
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == LEGACY_DEFAULT_DOMAIN {
        domain = DEFAULT_DOMAIN;
    }
    let prefix =
        if domain == DEFAULT_DOMAIN && !remainder.contains('/') { OFFICIAL_PREFIX } else { "" };
    (domain.to_owned(), format!("{prefix}{remainder}"))
}

fn is_hex_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `host[:port]`; host is dot-joined names or a bracketed IPv6 address, the port only digits.
fn is_domain(text: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        return !address.is_empty()
            && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
            && (after.is_empty() || after.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    port.is_none_or(is_port)
        && host.split('.').all(|component| {
            let bytes = component.as_bytes();
            bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
                && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        })
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// `[a-z0-9]+` runs joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_run = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(is_run) || !bytes.last().is_some_and(is_run) {
        return false;
    }
    bytes.split(is_run).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    bytes.len() <= TAG_LENGTH_MAX
        && bytes.first().is_some_and(is_word)
        && bytes.iter().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

/// The grammar's digest, before its algorithm is looked up: `algorithm:` and 32 or more hex digits.
fn is_digest_syntax(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else { return false };
    algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    }) && 32 <= encoded.len()
        && encoded.bytes().all(|b| b.is_ascii_hexdigit())
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    Ok(text.parse()?)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.append_tag_and_digest(self.name()))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! text_newtype {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = ReferenceError;

            fn from_str(text: &str) -> Result<Self, ReferenceError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_newtype!(Repository);
text_newtype!(Tag);

#[cfg(test)]
mod tests;
