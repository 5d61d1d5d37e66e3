//! What a registry answered, sorted by what one can do about it.

use std::time::Duration;

use credentials::RegistryAuth;
use oci_model::{Manifest, ManifestKind, Platform, Reference};
use registry_client::{Client, RateLimit, RegistryError, RegistryErrorKind};

use super::seams::{Question, Registry};

/// What a registry said to one credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The sort of answer.
    pub kind: AnswerKind,
    /// The error's text as an event of our node has it; empty if the image opens.
    pub text: String,
    /// What is left of a pull allowance, if the registry says so.
    pub rate_limit: Option<RateLimit>,
}

/// The sorts of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// The image is there, for this credential and this platform.
    Opens,
    /// Nobody asked: probing is off.
    NotAsked,
    /// 401.
    Unauthorized,
    /// 403.
    Denied,
    /// 404, which may also hide something.
    NotFound,
    /// 429.
    RateLimited {
        /// How long to wait, if the registry said so.
        retry_after: Option<Duration>,
    },
    /// The host has no address.
    HostUnknown,
    /// Nothing listens there.
    ConnectionRefused,
    /// No answer in time, no route, or a broken connection.
    Unreachable,
    /// The certificate, or the handshake.
    Tls,
    /// The registry speaks plain HTTP, and HTTPS is expected.
    PlainHttp,
    /// There is no image for the node's platform.
    PlatformMissing {
        /// The platforms that there are.
        offered: Vec<String>,
    },
    /// It is there and no image: another media type.
    NotAnImage {
        /// What it is.
        media_type: String,
    },
    /// Any other refusal, such as 500.
    Refused,
}

impl AnswerKind {
    /// The word for it in JSON.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::NotAsked => "notAsked",
            Self::Unauthorized => "unauthorized",
            Self::Denied => "denied",
            Self::NotFound => "notFound",
            Self::RateLimited { .. } => "rateLimited",
            Self::HostUnknown => "hostUnknown",
            Self::ConnectionRefused => "connectionRefused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::PlainHttp => "plainHttp",
            Self::PlatformMissing { .. } => "platformMissing",
            Self::NotAnImage { .. } => "notAnImage",
            Self::Refused => "refused",
        }
    }

    /// Whether another credential could get another answer.
    pub const fn is_about_access(&self) -> bool {
        matches!(self, Self::Unauthorized | Self::Denied | Self::NotFound)
    }
}

impl Answer {
    /// Nobody asked.
    pub const fn not_asked() -> Self {
        Self { kind: AnswerKind::NotAsked, text: String::new(), rate_limit: None }
    }

    /// The image opens.
    pub const fn opens(rate_limit: Option<RateLimit>) -> Self {
        Self { kind: AnswerKind::Opens, text: String::new(), rate_limit }
    }

    fn failed(kind: AnswerKind, text: String) -> Self {
        Self { kind, text, rate_limit: None }
    }
}

impl From<&RegistryError> for Answer {
    fn from(error: &RegistryError) -> Self {
        let kind = match error.kind() {
            RegistryErrorKind::Unauthorized { .. } => AnswerKind::Unauthorized,
            RegistryErrorKind::Denied { .. } => AnswerKind::Denied,
            RegistryErrorKind::NotFound { .. } => AnswerKind::NotFound,
            RegistryErrorKind::RateLimited { retry_after, .. } => {
                AnswerKind::RateLimited { retry_after: *retry_after }
            }
            RegistryErrorKind::Unreachable { reason, .. } => unreachable_kind(reason),
            RegistryErrorKind::Tls { .. } => AnswerKind::Tls,
            RegistryErrorKind::PlainHttp { .. } => AnswerKind::PlainHttp,
            RegistryErrorKind::PlatformMissing { offered, .. } => {
                AnswerKind::PlatformMissing { offered: offered.clone() }
            }
            RegistryErrorKind::Interrupted { .. } => AnswerKind::Unreachable,
            RegistryErrorKind::DigestMismatch { .. }
            | RegistryErrorKind::Malformed { .. }
            | RegistryErrorKind::Status { .. }
            | RegistryErrorKind::NoSpace { .. }
            | RegistryErrorKind::Store { .. } => AnswerKind::Refused,
        };
        Self::failed(kind, error.to_string())
    }
}

/// The reason of an unreachable registry is the operating system's, or our client's about names.
fn unreachable_kind(reason: &str) -> AnswerKind {
    if reason.starts_with("cannot find host") {
        AnswerKind::HostUnknown
    } else if reason.to_ascii_lowercase().contains("connection refused") {
        AnswerKind::ConnectionRefused
    } else {
        AnswerKind::Unreachable
    }
}

impl Registry for Client {
    async fn ask(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        platform: &Platform,
        question: Question,
    ) -> Answer {
        if question == Question::Glance {
            let key = reference.manifest_key();
            return match self.remote(reference, auth).head_manifest(&key).await {
                Ok(observed) => Answer::opens(observed.rate_limit),
                Err(error) => Answer::from(&error),
            };
        }
        let auths: Vec<RegistryAuth> = auth.into_iter().cloned().collect();
        match self.fetch_manifest(reference, &auths).await {
            Ok(manifest) => judge(reference, manifest.media_type(), manifest.parsed(), platform),
            Err(error) => Answer::from(&error),
        }
    }
}

/// Whether a node can use what the reference names.
fn judge(
    reference: &Reference,
    media_type: &oci_model::MediaType,
    manifest: &Manifest,
    platform: &Platform,
) -> Answer {
    let pulling = format!("failed to pull and unpack image \"{reference}\"");
    match manifest {
        Manifest::Index(index) if index.select(platform).is_none() => {
            let offered = index.platforms();
            let missing = RegistryErrorKind::PlatformMissing {
                wanted: platform.to_string(),
                offered: offered.clone(),
            };
            Answer::failed(AnswerKind::PlatformMissing { offered }, format!("{pulling}: {missing}"))
        }
        Manifest::Index(_) => Answer::opens(None),
        Manifest::Image(image) => {
            let is_image = media_type.manifest_kind() == Some(ManifestKind::Image)
                && [oci_model::MediaType::OCI_CONFIG, oci_model::MediaType::DOCKER_CONFIG]
                    .contains(&image.config.media_type);
            if is_image {
                return Answer::opens(None);
            }
            let media_type = image.config.media_type.to_string();
            let text = format!("{reference}: not an image, its config is {media_type}");
            Answer::failed(AnswerKind::NotAnImage { media_type }, text)
        }
    }
}
