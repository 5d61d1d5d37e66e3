//! May this pod use an image that is already on the node? (KEP-2535, ensure secret-pulled images.)
//!
//! The node keeps one [`PulledRecord`] per image it pulled: which credentials opened it. A pod that
//! shows none of them must prove access at the registry before local bytes serve it.

use std::collections::BTreeMap;

use oci_model::{Digest, Reference, ReferenceError};
use serde::{Deserialize, Serialize};

/// Most secrets or accounts kept per image name.
///
/// Source: KEP-2535; with more, equal coordinates alone no longer grant access.
pub const MAPPINGS_MAX: usize = 100;

/// Which present images need proof (`imagePullCredentialsVerificationPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum VerificationPolicy {
    /// None: whoever runs on the node may use what is on the node.
    NeverVerify,
    /// Only images that the node pulled itself.
    #[default]
    NeverVerifyPreloadedImages,
    /// All but those on the list.
    NeverVerifyAllowlistedImages(Allowlist),
    /// All.
    AlwaysVerify,
}

/// Images that need no proof: exact names without tag, or prefixes ending in `/*`.
///
/// Names are normalised as those of [`mapping_name`] are, so that `ubuntu` means
/// `docker.io/library/ubuntu`, however the pod writes it. (The kubelet of 1.36 compares raw texts,
/// those before it refuse what is not normalised: kubelet-images.md 8.1.)
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Allowlist(Vec<Pattern>);

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// This name.
    Name(String),
    /// All names that begin so; ends in a slash.
    Under(String),
}

/// Why a pattern of the allow-list is refused; the texts are the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowlistError {
    /// Blanks around the pattern.
    #[error("leading/trailing spaces are not allowed: {0}")]
    Blanks(String),
    /// Nothing there.
    #[error("the supplied pattern is too short: {0}")]
    TooShort(String),
    /// A star elsewhere than as the last component.
    #[error("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {0}")]
    Wildcard(String),
    /// Only `/*`.
    #[error("at least registry hostname is required")]
    NoRegistry,
    /// Not a name.
    #[error("failed to parse as an image name: {0}")]
    NotAName(ReferenceError),
    /// A tag or digest.
    #[error("neither tag nor digest is accepted in an image reference: {0}")]
    TagOrDigest(String),
}

/// A pull secret that opened an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretCoordinates {
    /// Namespace; sorts first.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Hash of the credential ([KEP-2535]); empty if unknown.
    ///
    /// [KEP-2535]: https://kep.k8s.io/2535
    #[serde(default)]
    pub credential_hash: String,
}

/// A service account whose token opened an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountCoordinates {
    /// Namespace; sorts first.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// Who may use an image under one of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullCredentials {
    /// Secrets that opened it, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_secrets: Vec<SecretCoordinates>,
    /// Service accounts that opened it, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_service_accounts: Vec<AccountCoordinates>,
    /// Whether it was opened without a pod's credential, so that every pod may use it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_pods_accessible: bool,
}

/// What the node remembers of one image it pulled; JSON is the kubelet's `ImagePulledRecord`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PulledRecord {
    /// `ImagePulledRecord`.
    pub kind: String,
    /// `kubelet.config.k8s.io/v1beta1`.
    pub api_version: String,
    /// RFC 3339.
    pub last_updated_time: String,
    /// Identity of the image.
    pub image_ref: String,
    /// By image name without tag and digest.
    #[serde(default)]
    pub credential_mapping: BTreeMap<String, PullCredentials>,
}

/// Whether a record has the version that is written today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// `v1beta1` (kubelet 1.35 and later).
    Current,
    /// `v1alpha1`: to be written anew.
    Old,
}

/// A document of another kind or version than a pull record's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is a {kind} of {api_version}, not a pull record")]
pub struct NotARecord {
    /// What it says it is.
    pub kind: String,
    /// And of which version.
    pub api_version: String,
}

/// Which credential opened an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsedCredential {
    /// None, a node's file, or a provider without a pod's token: the image is for all pods.
    Node,
    /// A secret of the pod.
    Secret(SecretCoordinates),
    /// A token of the pod's service account.
    Account(AccountCoordinates),
}

/// What a pod can show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodCredentials {
    /// Its usable pull secrets, with hashes.
    pub secrets: Vec<SecretCoordinates>,
    /// Its service account, if providers may act for it.
    pub account: Option<AccountCoordinates>,
}

/// What the node knows about how the image got there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// Neither record nor intent: it was there before.
    Preloaded,
    /// A pull was begun and never recorded.
    IntentOnly,
    /// It was pulled.
    Pulled(PulledRecord),
}

/// Answer of [`must_pull`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Use the local image.
    Usable,
    /// Use it, and add this to the record first.
    UsableAfterRecording(UsedCredential),
    /// Prove access at the registry first.
    MustPull,
}

impl Allowlist {
    /// Checks the patterns.
    ///
    /// # Errors
    /// The first pattern that is refused.
    pub fn new(patterns: &[String]) -> Result<Self, AllowlistError> {
        let patterns: Result<_, _> =
            patterns.iter().map(|pattern| parse_pattern(pattern)).collect();
        Ok(Self(patterns?))
    }

    /// Whether `name`, which is normalised, is on the list.
    fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Name(exact) => exact == name,
            Pattern::Under(prefix) => name.starts_with(prefix),
        })
    }
}

/// Makes a name of a prefix. Two components, because one behind `docker.io` is put into `library`.
const BELOW: &str = "/x/y";

fn parse_pattern(pattern: &str) -> Result<Pattern, AllowlistError> {
    let text = || pattern.to_owned();
    if pattern.trim() != pattern {
        return Err(AllowlistError::Blanks(text()));
    }
    if pattern.is_empty() {
        return Err(AllowlistError::TooShort(text()));
    }
    if pattern == "/*" {
        return Err(AllowlistError::NoRegistry);
    }
    let prefix = pattern.strip_suffix("/*");
    if prefix.unwrap_or(pattern).contains('*') {
        return Err(AllowlistError::Wildcard(text()));
    }
    if let Some(prefix) = prefix {
        // A bare host parses only as part of a name.
        let below = format!("{prefix}{BELOW}").parse::<Reference>().map_err(|error| {
            AllowlistError::NotAName(match error {
                ReferenceError::NotLowerCase(name) => {
                    ReferenceError::NotLowerCase(without(&name, BELOW))
                }
                other @ (ReferenceError::InvalidFormat
                | ReferenceError::UpperCaseName
                | ReferenceError::NameTooLong
                | ReferenceError::HexIdentifier(_)
                | ReferenceError::Digest(_)) => other,
            })
        })?;
        return Ok(Pattern::Under(without(&below.name(), BELOW) + "/"));
    }
    let reference: Reference = pattern.parse().map_err(AllowlistError::NotAName)?;
    if reference.tag().is_some() || reference.digest().is_some() {
        return Err(AllowlistError::TagOrDigest(text()));
    }
    Ok(Pattern::Name(reference.name()))
}

fn without(text: &str, end: &str) -> String {
    text.strip_suffix(end).unwrap_or(text).to_owned()
}

/// The image without tag and digest, normalised, as records are keyed (kubelet 1.33 to 1.35).
///
/// We normalise where 1.36 keeps the raw text, so that `nginx` and `docker.io/library/nginx` are
/// one image here.
pub fn mapping_name(image: &str) -> String {
    image.parse::<Reference>().map_or_else(|_| image.to_owned(), |reference| reference.name())
}

/// File name of a record or intent: `sha256-` and the hex SHA-256 of its key.
pub fn record_file_name(key: &str) -> String {
    format!("sha256-{}", Digest::of(key.as_bytes()).encoded())
}

/// Must a pull prove access before `pod` may use the present `image`?
pub fn must_pull(
    policy: &VerificationPolicy,
    image: &str,
    provenance: &Provenance,
    pod: &PodCredentials,
) -> Verdict {
    let known = match question(policy, image, provenance) {
        Ok(verdict) => return verdict,
        Err(known) => known,
    };
    secret_verdict(known, &pod.secrets)
        .or_else(|| {
            let account = pod.account.as_ref()?;
            known.kubernetes_service_accounts.contains(account).then_some(Verdict::Usable)
        })
        .unwrap_or(Verdict::MustPull)
}

/// The verdict of [`must_pull`] where no credential of a pod can change it (kubelet-images.md 8.4,
/// steps 1 to 5): there they are not even read.
pub fn verdict_for_all(
    policy: &VerificationPolicy,
    image: &str,
    provenance: &Provenance,
) -> Option<Verdict> {
    question(policy, image, provenance).ok()
}

/// The verdict, or the recorded credentials that decide about it.
fn question<'a>(
    policy: &VerificationPolicy,
    image: &str,
    provenance: &'a Provenance,
) -> Result<Verdict, &'a PullCredentials> {
    let name = mapping_name(image);
    let needs_proof = match policy {
        VerificationPolicy::NeverVerify => false,
        VerificationPolicy::NeverVerifyPreloadedImages => *provenance != Provenance::Preloaded,
        VerificationPolicy::NeverVerifyAllowlistedImages(list) => !list.matches(&name),
        VerificationPolicy::AlwaysVerify => true,
    };
    if !needs_proof {
        return Ok(Verdict::Usable);
    }
    let Provenance::Pulled(record) = provenance else { return Ok(Verdict::MustPull) };
    let Some(known) = record.credential_mapping.get(&name) else { return Ok(Verdict::MustPull) };
    if known.node_pods_accessible {
        return Ok(Verdict::Usable);
    }
    if known.kubernetes_secrets.is_empty() && known.kubernetes_service_accounts.is_empty() {
        return Ok(Verdict::MustPull);
    }
    Err(known)
}

fn secret_verdict(known: &PullCredentials, shown: &[SecretCoordinates]) -> Option<Verdict> {
    let recorded = &known.kubernetes_secrets;
    let has_room = recorded.len() < MAPPINGS_MAX;
    let same_hash = shown.iter().find(|secret| {
        !secret.credential_hash.is_empty()
            && recorded.iter().any(|known| known.credential_hash == secret.credential_hash)
    });
    if let Some(secret) = same_hash {
        let add = has_room && !recorded.contains(secret);
        let used = UsedCredential::Secret(secret.clone());
        return Some(if add { Verdict::UsableAfterRecording(used) } else { Verdict::Usable });
    }
    let same_coordinates =
        shown.iter().find(|secret| recorded.iter().any(|known| is_same_secret(known, secret)))?;
    has_room
        .then(|| Verdict::UsableAfterRecording(UsedCredential::Secret(same_coordinates.clone())))
}

fn is_same_secret(a: &SecretCoordinates, b: &SecretCoordinates) -> bool {
    a.namespace == b.namespace && a.name == b.name && a.uid == b.uid
}

const RECORD_KIND: &str = "ImagePulledRecord";
const RECORD_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const RECORD_VERSION_OLD: &str = "kubelet.config.k8s.io/v1alpha1";

impl PulledRecord {
    /// Checks kind and version of a record that was read; one of the version before becomes
    /// today's.
    ///
    /// # Errors
    /// [`NotARecord`]: then nobody may rely on it.
    pub fn checked(mut self) -> Result<(Self, Freshness), NotARecord> {
        let freshness = match self.api_version.as_str() {
            RECORD_VERSION => Some(Freshness::Current),
            RECORD_VERSION_OLD => Some(Freshness::Old),
            _ => None,
        };
        match freshness {
            Some(freshness) if self.kind == RECORD_KIND => {
                self.api_version = RECORD_VERSION.to_owned();
                Ok((self, freshness))
            }
            _ => Err(NotARecord { kind: self.kind, api_version: self.api_version }),
        }
    }

    /// A record that allows nobody yet.
    pub fn new(image_ref: String, last_updated_time: String) -> Self {
        Self {
            kind: RECORD_KIND.to_owned(),
            api_version: RECORD_VERSION.to_owned(),
            last_updated_time,
            image_ref,
            credential_mapping: BTreeMap::new(),
        }
    }

    /// Notes that `used` opened `image` at `now` (RFC 3339).
    pub fn note(&mut self, image: &str, used: UsedCredential, now: String) {
        self.last_updated_time = now;
        let known = self.credential_mapping.entry(mapping_name(image)).or_default();
        if known.node_pods_accessible {
            return;
        }
        match used {
            UsedCredential::Node => {
                *known =
                    PullCredentials { node_pods_accessible: true, ..PullCredentials::default() };
            }
            UsedCredential::Secret(secret) => {
                known.kubernetes_secrets.retain(|known| !is_same_secret(known, &secret));
                known.kubernetes_secrets.push(secret);
                known.kubernetes_secrets.sort();
            }
            UsedCredential::Account(account) => {
                if !known.kubernetes_service_accounts.contains(&account) {
                    known.kubernetes_service_accounts.push(account);
                    known.kubernetes_service_accounts.sort();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
