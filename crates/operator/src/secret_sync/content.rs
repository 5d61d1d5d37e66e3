//! What the secrets hold: the credentials of the source that nodes can use, as one document.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use credentials::lint::shown;
use credentials::{ConfigEntry, RegistryAuth, Secret, server_key};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Rounds that make the published mark of a content useless for guessing what is in it.
const MARK_ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).expect("not zero");
/// Bytes of that mark.
const MARK_BYTES: usize = 8;

/// The content of a pull secret.
#[derive(Clone)]
pub struct Content {
    document: Secret,
    fingerprint: [u8; 32],
    mark: String,
    servers: Vec<String>,
}

/// Why a source gives no content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Nothing is left to write.
    #[error("the source has no credential{}", of_registries(.registries))]
    Nothing {
        /// The registries that were asked for and are not there; empty for all.
        registries: Vec<String>,
    },
}

fn of_registries(registries: &[String]) -> String {
    if registries.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = registries.iter().map(|one| shown(one)).collect();
    format!(" for {}", shown.join(", "))
}

/// A credential of the source that is not passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its key in the source, as it may be shown: people write passwords into keys.
    pub key: String,
    /// Why nodes could not use it.
    pub why: &'static str,
}

impl Content {
    /// The document with the credentials for `registries` (`host[:port]`; empty means all), under
    /// the keys of the source; with what could not be passed on. Each registry that was asked for
    /// must be there: a source that is silent about one would take its credential away.
    ///
    /// # Errors
    /// [`ContentError::Nothing`].
    pub fn new(
        entries: &[ConfigEntry],
        registries: &[String],
    ) -> Result<(Self, Vec<Skipped>), ContentError> {
        let wanted: Vec<String> = registries.iter().map(|one| server_key(one)).collect();
        let mut auths = Map::new();
        let mut skipped = Vec::new();
        for ConfigEntry { key, auth } in entries {
            if !wanted.is_empty() && !wanted.contains(&server_key(key)) {
                continue;
            }
            match entry(auth) {
                Ok(entry) => drop(auths.insert(key.clone(), entry)),
                Err(why) => skipped.push(Skipped { key: shown(key), why }),
            }
        }
        let there: BTreeSet<String> = auths.keys().map(|key| server_key(key)).collect();
        let absent = |one: &&String| !there.contains(&server_key(one));
        let absent: Vec<String> = registries.iter().filter(absent).cloned().collect();
        if auths.is_empty() || !absent.is_empty() {
            return Err(ContentError::Nothing { registries: absent });
        }
        let servers = auths.keys().map(|key| shown(key)).collect();
        let document = Secret::new(json!({ "auths": auths }).to_string());
        let fingerprint = fingerprint(document.expose().as_bytes());
        let mark = mark(&fingerprint);
        Ok((Self { document, fingerprint, mark, servers }, skipped))
    }

    /// The bytes of `.dockerconfigjson`.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.document.expose().as_bytes().to_vec()
    }

    /// Equal for equal contents; stays in memory.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// What [`CONTENT_ANNOTATION`](super::CONTENT_ANNOTATION) says.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// The keys, as they may be shown.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }
}

impl std::fmt::Debug for Content {
    /// Only the servers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({:?})", self.servers)
    }
}

/// Those of `registries` for which the entries hold nothing: a helper that has no answer leaves an
/// empty one.
pub fn unanswered<'a>(entries: &[ConfigEntry], registries: &'a [String]) -> Vec<&'a String> {
    let holds = |entry: &ConfigEntry| match &entry.auth {
        RegistryAuth::Basic { username, password, .. } => {
            !username.is_empty() || !password.is_empty()
        }
        _ => true,
    };
    let answered: BTreeSet<String> =
        entries.iter().filter(|one| holds(one)).map(|one| server_key(&one.key)).collect();
    registries.iter().filter(|one| !answered.contains(&server_key(one))).collect()
}

/// The fingerprint of a secret's bytes.
pub(super) fn fingerprint(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn mark(fingerprint: &[u8; 32]) -> String {
    let mut bytes = [0; MARK_BYTES];
    let salt = super::CONTENT_ANNOTATION.as_bytes();
    let algorithm = ring::pbkdf2::PBKDF2_HMAC_SHA256;
    ring::pbkdf2::derive(algorithm, MARK_ROUNDS, salt, fingerprint, &mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An entry as `kubectl create secret docker-registry` writes it.
fn entry(auth: &RegistryAuth) -> Result<Value, &'static str> {
    let RegistryAuth::Basic { username, password, email } = auth else {
        return Err("it is a token that nodes do not read; they want user and password");
    };
    if username.is_empty() && password.is_empty() {
        return Err("it is empty, and would stop pulls of public images");
    }
    let both = Secret::new(format!("{username}:{}", password.expose()));
    let mut entry = json!({
        "username": username,
        "password": password.expose(),
        "auth": k8s_openapi::ByteString(both.expose().as_bytes().to_vec()),
    });
    if !email.is_empty() {
        entry["email"] = json!(email);
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(key: &str, user: &str) -> ConfigEntry {
        ConfigEntry {
            key: key.to_owned(),
            auth: RegistryAuth::basic(user, Secret::new("pa:ss&word")),
        }
    }

    fn content(entries: &[ConfigEntry], registries: &[&str]) -> Content {
        let registries: Vec<String> = registries.iter().map(|one| (*one).to_owned()).collect();
        Content::new(entries, &registries).expect("a content").0
    }

    #[test]
    fn document_is_read_back_as_nodes_read_it() {
        let entries = [basic("https://index.docker.io/v1/", "hub"), basic("r.example/team", "t")];
        let content = content(&entries, &[]);
        let read = credentials::parse_config_json(&content.bytes()).expect("a config");
        assert_eq!(read, entries);
        assert_eq!(content.servers(), ["https://index.docker.io/v1/", "r.example/team"]);
    }

    #[test]
    fn only_the_chosen_registries_are_passed_on_in_any_spelling() {
        let entries = [
            basic("https://index.docker.io/v1/", "hub"),
            basic("https://r.example:5000/v2/", "whole"),
            basic("r.example:5000/team", "part"),
            basic("other.example", "other"),
        ];
        assert_eq!(content(&entries, &["docker.io"]).servers(), ["https://index.docker.io/v1/"]);
        assert_eq!(
            content(&entries, &["r.example:5000"]).servers(),
            ["https://r.example:5000/v2/", "r.example:5000/team"]
        );
        let nothing = Content::new(&entries, &["no.example".to_owned()]).expect_err("no such");
        assert_eq!(nothing.to_string(), "the source has no credential for no.example");
        let nothing = Content::new(&[], &[]).expect_err("nothing at all");
        assert_eq!(nothing.to_string(), "the source has no credential");
    }

    #[test]
    fn one_silent_registry_of_those_asked_for_gives_no_smaller_content() {
        let empty = ConfigEntry {
            key: "b.example".to_owned(),
            auth: RegistryAuth::basic("", Secret::new("")),
        };
        let entries = [basic("a.example", "u"), empty];
        let wanted = ["a.example", "b.example", "c.example"].map(str::to_owned);
        let error = Content::new(&entries, &wanted).expect_err("two are silent");
        assert_eq!(error.to_string(), "the source has no credential for b.example, c.example");
        assert_eq!(unanswered(&entries, &wanted), ["b.example", "c.example"]);
    }

    #[test]
    fn passwords_in_keys_are_in_the_document_and_nowhere_else() {
        let token = RegistryAuth::IdentityToken { token: Secret::new("t") };
        let entries = [
            basic("https://ada:hunter2@reg.example/team", "u"),
            basic("host.example?token=hunter2", "u"),
            ConfigEntry { key: "ada:hunter2@left.example".to_owned(), auth: token },
        ];
        let (content, skipped) = Content::new(&entries, &[]).expect("a content");
        let said = format!("{content:?} {skipped:?}");
        assert!(!said.contains("hunter2"), "{said}");
        assert_eq!(content.servers(), ["host.example?****", "https://****@reg.example/team"]);
        assert_eq!(skipped[0].key, "****@left.example");
        let read = credentials::parse_config_json(&content.bytes()).expect("a config");
        assert!(read.iter().any(|entry| entry.key == "host.example?token=hunter2"));
        let wanted = ["ada:hunter2@no.example".to_owned()];
        let error = Content::new(&entries, &wanted).expect_err("no such").to_string();
        assert_eq!(error, "the source has no credential for ****@no.example");
    }

    #[test]
    fn tokens_and_empty_entries_are_named_and_left_out() {
        let token = RegistryAuth::IdentityToken { token: Secret::new("t") };
        let entries = [
            basic("a.example", "u"),
            ConfigEntry { key: "b.example".to_owned(), auth: token },
            ConfigEntry {
                key: "c.example".to_owned(),
                auth: RegistryAuth::basic("", Secret::new("")),
            },
        ];
        let (content, skipped) = Content::new(&entries, &[]).expect("one is left");
        assert_eq!(content.servers(), ["a.example"]);
        let keys: Vec<&str> = skipped.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(keys, ["b.example", "c.example"]);
    }

    #[test]
    fn mark_follows_the_content_and_shows_nothing_of_it() {
        let (one, same) = (content(&[basic("r", "u")], &[]), content(&[basic("r", "u")], &[]));
        let other = content(&[basic("r", "v")], &[]);
        assert_eq!((one.mark(), one.fingerprint()), (same.mark(), same.fingerprint()));
        assert_ne!(one.mark(), other.mark());
        assert_eq!(one.mark().len(), 16);
        assert_eq!(format!("{one:?}"), r#"Content(["r"])"#);
    }
}
