//! What is wrong with a credential file or a pull secret, although nothing complains: the kubelet
//! skips, ignores or misreads most mistakes in silence, and people see an anonymous pull fail.
//!
//! The truth is what [`crate::Keyring`] and the parsers of this crate make of the bytes; the
//! findings here only say why. No finding holds a password, token or `auth` text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config_file::field;
use crate::{NodeFileKind, PullSecret, SecretKind};

mod code;
mod document;
mod entry;
mod image;
mod key;

pub use code::{Code, Severity};
pub use key::shown;

/// Something that does not do what its author thinks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What it is about; stable, for programs.
    pub code: Code,
    /// The file or secret: `secret tom/regcred`, `file /root/.docker/config.json`.
    pub object: String,
    /// The key of the entry as written, user information masked; `None` for the whole object.
    pub entry: Option<String>,
    /// One sentence on what happens and why.
    pub text: String,
    /// What to do about it.
    pub fix: String,
}

impl Finding {
    /// How bad it is.
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.object, self.text, self.code.name())
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A docker config file of a node or a person.
    File {
        /// Its path, for the findings.
        path: &'a str,
        /// Which format it should have.
        kind: NodeFileKind,
        /// What it holds.
        bytes: &'a [u8],
    },
    /// A Secret that a pod or ServiceAccount names as a pull secret.
    Secret(&'a PullSecret),
}

/// Everything that goes wrong silently or surprisingly with `input`, worst first; with `image`
/// (`registry/repository`, as for [`crate::Keyring::lookup`]) also why entries that look right
/// are not used for it.
pub fn lint(input: Input<'_>, image: Option<&str>) -> Vec<Finding> {
    let mut findings = Findings::new(match input {
        Input::File { path, .. } => format!("file {path}"),
        Input::Secret(secret) => object_of(secret),
    });
    let content = match input {
        Input::File { kind, bytes, .. } => Some(Content { kind, bytes, home: Home::File }),
        Input::Secret(secret) => document::of_secret(secret, &mut findings),
    };
    if let Some(content) = content
        && let Some(auths) = document::check(&content, &mut findings)
    {
        check_entries(&auths, content.home, image, &mut findings);
    }
    let mut found = findings.found;
    found.sort_by(|one, other| one.severity().cmp(&other.severity()).then(one.cmp(other)));
    found.dedup();
    found
}

/// What goes wrong between the pull secrets of one pod, beyond what [`lint`] says of each.
pub fn lint_together(secrets: &[PullSecret]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut seen: BTreeMap<String, &PullSecret> = BTreeMap::new();
    for secret in secrets {
        let Ok(keyring) = crate::keyring_of_pull_secrets(std::slice::from_ref(secret)) else {
            if 1 < secrets.len() {
                found.push(breaks_others(secret, secrets.len() - 1));
            }
            continue;
        };
        for key in keyring.keys() {
            if let Some(first) = seen.get(key) {
                found.push(Finding {
                    code: Code::KeyInSeveralSecrets,
                    object: object_of(secret),
                    entry: Some(shown(key)),
                    text: format!(
                        "{} has an entry for {key:?} too and comes first, so its credential is \
                         tried before this one",
                        object_of(first)
                    ),
                    fix: "keep the entry in one secret, or order spec.imagePullSecrets".to_owned(),
                });
            } else {
                seen.insert(key.to_owned(), secret);
            }
        }
    }
    found
}

fn breaks_others(secret: &PullSecret, others: usize) -> Finding {
    Finding {
        code: Code::SecretBreaksOthers,
        object: object_of(secret),
        entry: None,
        text: format!(
            "it cannot be read, and that makes the kubelet give up on the pod's {others} other \
             pull secret(s) too"
        ),
        fix: "mend it, or take it out of imagePullSecrets".to_owned(),
    }
}

fn object_of(secret: &PullSecret) -> String {
    format!("secret {}/{}", secret.namespace, secret.name)
}

/// Bytes that should be a config, and where they stand.
struct Content<'a> {
    kind: NodeFileKind,
    bytes: &'a [u8],
    home: Home,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    File,
    Secret,
}

impl Content<'_> {
    /// The format in words.
    const fn format_name(&self) -> &'static str {
        match (self.home, self.kind) {
            (Home::File, NodeFileKind::ConfigJson) => "a config.json",
            (Home::File, NodeFileKind::DockerCfg) => "a .dockercfg file",
            (Home::Secret, NodeFileKind::ConfigJson) => SecretKind::DockerConfigJson.type_name(),
            (Home::Secret, NodeFileKind::DockerCfg) => SecretKind::DockerCfg.type_name(),
        }
    }
}

/// Collects findings about one object.
struct Findings {
    object: String,
    found: Vec<Finding>,
}

impl Findings {
    const fn new(object: String) -> Self {
        Self { object, found: Vec::new() }
    }

    fn object(&mut self, code: Code, text: impl Into<String>, fix: impl Into<String>) {
        self.push(code, None, text, fix);
    }

    /// `key` as written.
    fn entry(&mut self, code: Code, key: &str, text: impl Into<String>, fix: impl Into<String>) {
        self.push(code, Some(shown(key)), text, fix);
    }

    fn push(
        &mut self,
        code: Code,
        entry: Option<String>,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let object = self.object.clone();
        self.found.push(Finding { code, object, entry, text: text.into(), fix: fix.into() });
    }
}

/// The entries of a document, and what stands beside them.
struct Auths {
    entries: Map<String, Value>,
    /// Whether helpers are configured in the same file.
    has_helpers: bool,
}

fn check_entries(auths: &Auths, home: Home, image: Option<&str>, findings: &mut Findings) {
    let mut broken = Vec::new();
    let mut by_normalised: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (written, value) in &auths.entries {
        if !entry::check(written, value, auths.has_helpers, findings) {
            broken.push(shown(written));
        }
        if let Some(normalised) = key::check(written, findings) {
            by_normalised.entry(normalised).or_default().push(written);
        }
    }
    if let Some(first) = broken.first() {
        let (count, total) = (broken.len(), auths.entries.len());
        let consequence = match home {
            Home::File => "the kubelet skips the whole file and searches on in the next place",
            Home::Secret => "the kubelet uses none of them, nor any other pull secret of the pod",
        };
        findings.object(
            Code::LookupFails,
            format!("{count} of {total} entries cannot be read ({first:?}), and so {consequence}"),
            "mend or remove the entries that cannot be read",
        );
    }
    for (normalised, spellings) in &by_normalised {
        let [first, others @ ..] = spellings.as_slice() else { continue };
        for other in others {
            findings.entry(
                Code::KeysCollide,
                other,
                format!(
                    "{:?} and {:?} both mean {normalised:?}; the kubelet tries their credentials \
                     in an order that changes from one reading to the next",
                    shown(first),
                    shown(other)
                ),
                format!("keep one entry, as {normalised:?}"),
            );
        }
    }
    let hides_hub = |key: &str| key == "docker.io" || key.starts_with("docker.io/");
    if let Some(hub) = by_normalised.get("index.docker.io")
        && let Some(hiding) = by_normalised.keys().find(|key| hides_hub(key))
    {
        findings.entry(
            Code::HubKeyHidden,
            hub[0],
            format!("the entry {hiding:?} hides it from the images that both are for"),
            format!("keep one entry for Docker Hub, as {hiding:?}"),
        );
    }
    if let Some(image) = image {
        for written in auths.entries.keys() {
            image::check(written, image, findings);
        }
    }
}

/// Whether a document names credential helpers.
fn has_helpers(document: &Map<String, Value>) -> bool {
    let store = field(document, "credsStore").and_then(Value::as_str);
    let helpers = field(document, "credHelpers").and_then(Value::as_object);
    store.is_some_and(|store| !store.is_empty()) || helpers.is_some_and(|h| !h.is_empty())
}

#[cfg(test)]
mod tests;
