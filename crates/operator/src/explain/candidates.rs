//! The credentials for one image in the kubelet's order, and what looks like one and is none.

use credentials::cloud::CloudProvider;
use credentials::lint::{Code, Finding, Input, Severity, lint, lint_together, shown as shown_key};
use credentials::provider::image_matches;
use credentials::{
    Candidate, ConfigEntry, Keyring, NodeFileKind, Origin, PullSecret, RegistryAuth, Secret,
    SecretKind, keyring_of_pull_secrets, parse_config_json, parse_dockercfg, parse_node_file,
};

use super::gathering::{Gathered, SecretState};
use super::node_side::NodeSide;
use super::report::Remark;

/// What there is for one image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    /// In the order in which the node tries them.
    pub(crate) list: Vec<Candidate>,
    /// Why the node gives up before it asks anybody.
    pub(crate) broken: Option<Broken>,
    /// What does not count, and why.
    pub(crate) remarks: Vec<Remark>,
    /// Findings about the entries that the candidates come from.
    pub(crate) of_candidates: Vec<Finding>,
    /// Providers that the node asks and we do not.
    pub(crate) providers: Vec<String>,
    /// The cloud that the node asks last, and we do not.
    pub(crate) cloud: Option<CloudProvider>,
}

/// A secret that fails the whole lookup.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    /// The kubelet's text.
    pub(crate) error: String,
    /// Name of the secret.
    pub(crate) secret: String,
    /// Its first entry that cannot be read, or why none can be.
    pub(crate) why: String,
}

/// Finds the candidates for `image` (`registry/repository`).
pub(crate) fn find(image: &str, gathered: &Gathered, node: &NodeSide) -> Candidates {
    let mut found = Candidates::default();
    let secrets = gathered.found();
    for named in &gathered.secrets {
        let object = format!("secret {}", named.name);
        match &named.state {
            SecretState::Found(secret) => of_secret(image, secret, &mut found),
            SecretState::Missing { elsewhere } if elsewhere.is_empty() => {
                found.remarks.push(Remark::about(object, "secret-missing", "it does not exist"));
            }
            SecretState::Missing { elsewhere } => found.remarks.push(Remark::about(
                object,
                "secret-in-other-namespace",
                format!(
                    "it exists in {} only, and a pod can use none but those of its own namespace",
                    elsewhere.join(", ")
                ),
            )),
            SecretState::Unknown { why } => {
                let text = format!("what it holds is unknown: {why}");
                found.remarks.push(Remark::about(object, "secret-unknown", text));
            }
        }
    }
    for finding in lint_together(&secrets) {
        if finding.code == Code::SecretBreaksOthers {
            found.remarks.push(remark_of(&finding));
        }
    }
    match keyring_of_pull_secrets(&secrets) {
        Ok(keyring) => {
            found.list = keyring.lookup(image);
            found.remarks.extend(hub_password(image, "the pod's secrets", &keyring, node));
        }
        Err(error) => {
            found.broken = Some(broken(&secrets, error.to_string()));
            return found;
        }
    }
    of_node(image, node, &mut found);
    found
}

/// The secret that does not parse, and its worst finding.
fn broken(secrets: &[PullSecret], error: String) -> Broken {
    let culprit = secrets
        .iter()
        .find(|secret| keyring_of_pull_secrets(std::slice::from_ref(secret)).is_err());
    let Some(secret) = culprit else {
        return Broken { why: error.clone(), error, secret: String::new() };
    };
    let findings = lint(Input::Secret(secret), None);
    let of_entry = findings.iter().find(|f| f.severity() == Severity::Error && f.entry.is_some());
    let why = of_entry.or(findings.first()).map_or_else(|| error.clone(), |f| f.text.clone());
    Broken { error, secret: secret.name.clone(), why }
}

fn remark_of(finding: &Finding) -> Remark {
    Remark::about(finding.object.clone(), finding.code.name(), finding.text.clone())
}

/// What a secret has for the image, or why it has nothing.
fn of_secret(image: &str, secret: &PullSecret, found: &mut Candidates) {
    let findings = lint(Input::Secret(secret), Some(image));
    let object = format!("secret {}/{}", secret.namespace, secret.name);
    let entries = entries_of(secret);
    of_entries(image, &object, entries, findings, found);
}

/// The entries of a secret; none if it does not parse.
fn entries_of(secret: &PullSecret) -> Vec<ConfigEntry> {
    let Some(kind) = SecretKind::of_type(&secret.kind) else { return Vec::new() };
    let Some(bytes) = secret.data.get(kind.data_key()) else { return Vec::new() };
    let parsed = match kind {
        SecretKind::DockerConfigJson => parse_config_json(bytes),
        SecretKind::DockerCfg => parse_dockercfg(bytes),
    };
    parsed.unwrap_or_default()
}

fn of_entries(
    image: &str,
    object: &str,
    entries: Vec<ConfigEntry>,
    findings: Vec<Finding>,
    found: &mut Candidates,
) {
    let keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    let matching: Vec<&String> = keys.iter().filter(|key| matches(key, image)).collect();
    let is_misread = findings.iter().any(|finding| finding.code == Code::ConfigJsonText);
    for finding in findings {
        let of_match = finding.entry.as_ref().is_some_and(|entry| {
            // Findings name keys as they may be shown.
            matching.iter().any(|key| *key == entry || shown_key(key) == *entry)
        });
        let is_whole = finding.entry.is_none();
        let tells = match finding.severity() {
            Severity::Error => true,
            Severity::Warning => of_match || (matching.is_empty() && !is_whole),
            Severity::Note => of_match && finding.code == Code::MatchedByRawPrefix,
        };
        if tells {
            found.remarks.push(remark_of(&finding));
        }
        if of_match || is_whole {
            found.of_candidates.push(finding);
        }
    }
    if matching.is_empty() && !keys.is_empty() && !is_misread {
        let registry = image.split('/').next().unwrap_or(image);
        let shown: Vec<String> =
            keys.iter().take(5).map(|key| format!("{:?}", shown_key(key))).collect();
        found.remarks.push(Remark::about(
            object,
            "key-does-not-match",
            format!(
                "no key of it matches {image} (it has {}); {registry:?} would",
                shown.join(", ")
            ),
        ));
    }
}

/// Whether a key alone would open the image, by the keyring itself.
fn matches(key: &str, image: &str) -> bool {
    let mut keyring = Keyring::new();
    let auth = RegistryAuth::basic("", Secret::new(""));
    keyring.add(vec![ConfigEntry { key: key.to_owned(), auth }], &Origin::CommandLine);
    !keyring.lookup(image).is_empty()
}

/// What a node that is not ours does with Docker Hub's password (kubelet-images.md 15.4, M20).
fn hub_password(image: &str, object: &str, keyring: &Keyring, node: &NodeSide) -> Option<Remark> {
    if node.is_shipway() || !keyring.kubelet_sends_hub_password(image) {
        return None;
    }
    let registry = image.split('/').next().unwrap_or(image);
    let text = format!(
        "a kubelet takes {registry:?} for an account of Docker Hub: it sends it the Hub's password \
         and does not ask without one; shipway's node does neither"
    );
    Some(Remark::about(object, "hub-password-sent", text))
}

/// What the node has of its own: the first file that parses, then providers.
fn of_node(image: &str, node: &NodeSide, found: &mut Candidates) {
    let NodeSide::Known { files, providers, .. } = node else { return };
    let mut winner: Option<&str> = None;
    for file in files {
        let object = format!("file {}", file.path);
        if let Some(winner) = winner {
            let text = format!("{winner} was found first, and files are not merged");
            found.remarks.push(Remark::about(object, "file-hidden", text));
            continue;
        }
        let entries = match parse_node_file(&file.bytes, file.kind) {
            Ok(entries) => entries,
            Err(error) => {
                let text = format!("the node skips it: {error}");
                found.remarks.push(Remark::about(object, "file-skipped", text));
                continue;
            }
        };
        winner = Some(&file.path);
        let input = Input::File { path: &file.path, kind: file.kind, bytes: &file.bytes };
        let findings = lint(input, Some(image));
        of_entries(image, &object, entries.clone(), findings, found);
        let mut keyring = Keyring::new();
        keyring.add(entries, &Origin::File { path: file.path.clone() });
        found.list.extend(keyring.lookup(image));
        found.remarks.extend(hub_password(image, &object, &keyring, node));
    }
    for provider in providers {
        if provider.match_images.iter().any(|pattern| image_matches(pattern, image)) {
            found.providers.push(provider.name.clone());
        }
    }
    found.cloud = node.cloud_of(image);
}

/// Reads a file of the command line as a secret that the pod would name: docker's config.json, or
/// the old bare map.
///
/// # Errors
/// The kubelet's text, if it is neither.
pub(crate) fn secret_of_file(path: &str, bytes: &[u8]) -> Result<PullSecret, String> {
    let as_config = parse_config_json(bytes);
    let is_bare = as_config.as_ref().is_ok_and(Vec::is_empty)
        && parse_node_file(bytes, NodeFileKind::DockerCfg)
            .is_ok_and(|entries| entries.iter().any(|entry| entry.auth.username() != Some("")));
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        let at = format!("line {} column {}", error.line(), error.column());
        return Err(format!("neither Kubernetes objects nor a docker config: {at}"));
    }
    let kind = if is_bare { SecretKind::DockerCfg } else { SecretKind::DockerConfigJson };
    Ok(PullSecret {
        namespace: String::new(),
        name: path.to_owned(),
        uid: String::new(),
        kind: kind.type_name().to_owned(),
        data: [(kind.data_key().to_owned(), bytes.to_vec())].into(),
    })
}
