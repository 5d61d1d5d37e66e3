//! What explaining finds, as data; the JSON of `shipway explain -o json` (docs/explain.md).
//!
//! No field holds a password or token: user names, keys and times are all that is told of a
//! credential.

use serde::Serialize;

/// Name and version of the schema; fields are added without a new version, never changed.
pub const SCHEMA: &str = "shipway.explain/v1";

/// Everything that was explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The verdict on all images together: the worst one.
    pub verdict: Verdict,
    /// The exit code of `shipway explain`.
    pub exit_code: u8,
    /// One per object, in the order in which they were given.
    pub subjects: Vec<SubjectReport>,
}

/// Whether the node would get the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It would.
    Pulls,
    /// Nothing is wrong as far as could be seen, and not everything could be seen.
    Unknown,
    /// It would not.
    Fails,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectReport {
    /// Its kind, or `Image`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `cluster`, `commandLine`, or the path of a file.
    pub source: String,
    /// The pod that was looked at for the present state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pull secrets that count, in the pod's order.
    pub pull_secrets: Vec<SecretReport>,
    /// What concerns all images.
    pub remarks: Vec<Remark>,
    /// One per container and image volume.
    pub images: Vec<ImageReport>,
}

/// One pull secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretReport {
    /// Its name.
    pub name: String,
    /// `pod`, `serviceAccount` or `commandLine`.
    pub named_by: &'static str,
    /// `found`, `missing` or `unknown`.
    pub state: &'static str,
    /// Why it is unknown, or where it is instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A sentence with a code for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// Stable.
    pub code: String,
    /// The secret, file or account that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// For people.
    pub text: String,
}

impl Remark {
    /// A remark about the image or the pod itself.
    pub(crate) fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code: code.into(), object: None, text: text.into() }
    }

    /// A remark about another object.
    pub(crate) fn about(
        object: impl Into<String>,
        code: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self { code: code.into(), object: Some(object.into()), text: text.into() }
    }
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageReport {
    /// `container`, `initContainer`, `ephemeralContainer`, `imageVolume` or `image`.
    pub role: &'static str,
    /// Name of the container or volume.
    pub name: String,
    /// Path of the image's field.
    pub field: String,
    /// The image as written.
    pub image: String,
    /// What it stands for; absent if it does not parse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<ReferenceReport>,
    /// The text that was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meant: Option<String>,
    /// The pull policy.
    pub policy: PolicyReport,
    /// The credentials for it, in the order in which they are tried.
    pub candidates: Vec<CandidateReport>,
    /// What the registry says to nobody in particular.
    pub anonymous: AnonymousReport,
    /// What is there, looks as if it counted, and does not; and other surprises.
    pub remarks: Vec<Remark>,
    /// Whether the node would get it.
    pub verdict: Verdict,
    /// Why not, or why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What happens next on the node.
    pub next: Prediction,
    /// What the cluster says at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<Present>,
}

/// The parts of a reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceReport {
    /// All of it, normalised.
    pub normalised: String,
    /// The registry's `host[:port]`.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag, if written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The digest, if written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The text that the container runtime is asked for.
    pub asked: String,
}

/// The pull policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// `Always`, `IfNotPresent` or `Never`.
    pub effective: String,
    /// `written`, `default`, `stored`, `admission` or `invalid`.
    pub origin: String,
    /// For people.
    pub why: String,
}

/// One credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateReport {
    /// Where it comes from.
    pub origin: OriginReport,
    /// The key under which it stands, normalised.
    pub key: String,
    /// Its user name; absent for tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// When it ends by its own words (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Whether that has passed.
    pub expired: bool,
    /// Whether the node gets as far as this one.
    pub tried: bool,
    /// What the registry says to it.
    pub answer: AnswerReport,
}

/// Where a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginReport {
    /// `secret`, `file`, `provider` or `commandLine`.
    pub kind: &'static str,
    /// Name of the secret or provider, path of the file.
    pub name: String,
    /// Namespace of the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl OriginReport {
    /// As people call it.
    pub fn title(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("secret {namespace}/{}", self.name),
            None if self.kind == "commandLine" => "the command line".to_owned(),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

/// What a registry said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerReport {
    /// One of `opens`, `notAsked`, `unauthorized`, `denied`, `notFound`, `rateLimited`,
    /// `hostUnknown`, `connectionRefused`, `unreachable`, `tls`, `plainHttp`, `platformMissing`,
    /// `notAnImage`, `refused`.
    pub kind: &'static str,
    /// The error; empty if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Seconds after which a limit ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    /// Pulls that are left, as `left/limit per window`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowance: Option<String>,
}

/// The attempt without a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnonymousReport {
    /// Whether the node makes it: only if there is no candidate at all.
    pub tried: bool,
    /// What the registry says to it.
    pub answer: AnswerReport,
}

/// Why an image does not come, and the one thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// Stable.
    pub code: String,
    /// For people.
    pub text: String,
    /// What to do, in words.
    pub fix: String,
    /// What to do, for a shell; it holds no secret and asks for one where it needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Events and waiting state that the kubelet gives next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prediction {
    /// The events, in order. The one of a successful pull ends before its times.
    pub events: Vec<EventReport>,
    /// The container's waiting state; absent if it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingReport>,
    /// What it depends on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub provided: Vec<String>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventReport {
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// One word.
    pub reason: String,
    /// The text.
    pub message: String,
}

/// A waiting state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingReport {
    /// One word.
    pub reason: String,
    /// The text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What the cluster says about a container now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Present {
    /// Its waiting state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingReport>,
    /// Whether it has run.
    pub started: bool,
    /// Its last events about the image, oldest first.
    pub events: Vec<EventReport>,
    /// Failed pulls so far, by the events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Seconds until the node may try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_seconds: Option<u64>,
}
