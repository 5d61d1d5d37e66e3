//! What can go wrong between us and a registry, by what the caller can do about it.

use std::fmt;
use std::time::Duration;

use oci_model::{Digest, ErrorBody, ErrorCode};

use crate::proxying::RateLimit;

/// A failed operation: its kind, and what was being done.
///
/// The text is complete in one line, in containerd's words where it has some, because it ends up
/// in Kubernetes events: `failed to resolve reference "r/app:1": r/app:1: not found`.
#[derive(Debug)]
pub struct RegistryError {
    kind: Box<RegistryErrorKind>,
    /// What was being done, outermost first.
    contexts: Vec<String>,
    /// Who failed or refused, `host[:port]`; empty if it was not a registry.
    registry: String,
}

/// One variant per thing that a caller can do.
#[derive(Debug)]
pub enum RegistryErrorKind {
    /// The registry cannot be reached: name resolution, refused connection, timeout.
    Unreachable {
        /// `host[:port]`.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// The TLS handshake failed: the certificate is not trusted, or expired.
    Tls {
        /// `host[:port]`.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry speaks plain HTTP, which is allowed on loopback and for listed hosts only.
    PlainHttp {
        /// `host[:port]`.
        registry: String,
    },
    /// No, or no valid, credential: another one may open it (401).
    Unauthorized {
        /// Text for people.
        reason: String,
    },
    /// The credential is valid and has no right to this (403).
    Denied {
        /// Text for people.
        reason: String,
    },
    /// There is no such manifest, blob or repository, or it is hidden from us (404).
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The registry asks for patience (429).
    RateLimited {
        /// Text for people.
        reason: String,
        /// How long to wait, if the registry said so.
        retry_after: Option<Duration>,
    },
    /// The image exists, but not for this platform.
    PlatformMissing {
        /// What was wanted.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// What arrived is not what was promised; retrying did not help.
    DigestMismatch {
        /// The blob or manifest.
        what: String,
        /// What was promised.
        expected: Digest,
        /// What arrived.
        actual: Digest,
    },
    /// What arrived makes no sense, or is larger than allowed.
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// Any other refusal.
    Status {
        /// The HTTP status.
        status: u16,
        /// The first error code of the answer.
        code: Option<ErrorCode>,
        /// Text for people.
        reason: String,
    },
    /// The connection broke, also on retries.
    Interrupted {
        /// What happened.
        reason: String,
    },
    /// The local store has no room left.
    NoSpace {
        /// What the store said.
        reason: String,
    },
    /// The local store failed.
    Store {
        /// What the store said.
        reason: String,
    },
}

impl RegistryError {
    pub(crate) fn context(mut self, context: impl Into<String>) -> Self {
        self.contexts.insert(0, context.into());
        self
    }

    /// Notes whose failure it is, unless that is known.
    pub(crate) fn at(mut self, host: &str) -> Self {
        if self.registry.is_empty() {
            self.registry = host.to_owned();
        }
        self
    }

    /// `host[:port]` of the registry that failed or refused, as far as it is known.
    pub fn registry(&self) -> Option<&str> {
        Some(self.registry.as_str()).filter(|host| !host.is_empty())
    }

    /// What was being done, outermost first.
    pub(crate) fn contexts(&self) -> &[String] {
        &self.contexts
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> &RegistryErrorKind {
        &self.kind
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match &*self.kind {
            RegistryErrorKind::Unreachable { .. }
            | RegistryErrorKind::RateLimited { .. }
            | RegistryErrorKind::Interrupted { .. } => true,
            RegistryErrorKind::Status { status, .. } => crate::retry::is_transient_status(*status),
            RegistryErrorKind::Tls { .. }
            | RegistryErrorKind::PlainHttp { .. }
            | RegistryErrorKind::Unauthorized { .. }
            | RegistryErrorKind::Denied { .. }
            | RegistryErrorKind::NotFound { .. }
            | RegistryErrorKind::PlatformMissing { .. }
            | RegistryErrorKind::DigestMismatch { .. }
            | RegistryErrorKind::Malformed { .. }
            | RegistryErrorKind::NoSpace { .. }
            | RegistryErrorKind::Store { .. } => false,
        }
    }

    /// Whether another credential may open what this one did not. Registries answer 404 as well
    /// to those who may not know that a repository exists.
    pub fn is_access_failure(&self) -> bool {
        matches!(
            *self.kind,
            RegistryErrorKind::Unauthorized { .. }
                | RegistryErrorKind::Denied { .. }
                | RegistryErrorKind::NotFound { .. }
        )
    }

    /// Whether the thing asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(*self.kind, RegistryErrorKind::NotFound { .. })
    }
}

impl From<RegistryErrorKind> for RegistryError {
    fn from(kind: RegistryErrorKind) -> Self {
        Self { kind: Box::new(kind), contexts: Vec::new(), registry: String::new() }
    }
}

impl From<blob_store::IngestError> for RegistryError {
    fn from(error: blob_store::IngestError) -> Self {
        match error {
            blob_store::IngestError::DigestMismatch { expected, actual } => {
                RegistryErrorKind::DigestMismatch {
                    what: expected.to_string(),
                    expected: *expected,
                    actual: *actual,
                }
            }
            blob_store::IngestError::NoSpace { .. } => {
                RegistryErrorKind::NoSpace { reason: format!("{error}: no space left on device") }
            }
            blob_store::IngestError::Disk(_) => {
                RegistryErrorKind::Store { reason: with_causes(&error) }
            }
        }
        .into()
    }
}

impl From<blob_store::ReadError> for RegistryError {
    fn from(error: blob_store::ReadError) -> Self {
        RegistryErrorKind::Store { reason: with_causes(&error) }.into()
    }
}

impl From<blob_store::DiskError> for RegistryError {
    fn from(error: blob_store::DiskError) -> Self {
        let reason = with_causes(&error);
        if error.is_full() {
            RegistryErrorKind::NoSpace { reason }.into()
        } else {
            RegistryErrorKind::Store { reason }.into()
        }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in &self.contexts {
            write!(f, "{context}: ")?;
        }
        write!(f, "{}", self.kind)
    }
}

impl std::error::Error for RegistryError {}

impl fmt::Display for RegistryErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { registry, reason } => {
                write!(f, "cannot reach registry {registry}: {reason}")
            }
            Self::Tls { registry, reason } => {
                write!(f, "cannot trust registry {registry}: tls: {reason}")
            }
            Self::PlainHttp { registry } => {
                write!(f, "http: server gave HTTP response to HTTPS client (registry {registry})")
            }
            Self::NotFound { what } => write!(f, "{what}: not found"),
            Self::PlatformMissing { wanted, offered } => {
                write!(f, "no match for platform in manifest: wanted {wanted}, found ")?;
                if offered.is_empty() {
                    return f.write_str("none");
                }
                f.write_str(&offered.join(", "))
            }
            Self::DigestMismatch { what, expected, actual } => {
                write!(f, "{what} does not match its digest: expected {expected}, got {actual}")
            }
            Self::Unauthorized { reason }
            | Self::Denied { reason }
            | Self::RateLimited { reason, .. }
            | Self::Malformed { reason }
            | Self::Status { reason, .. }
            | Self::Interrupted { reason }
            | Self::NoSpace { reason }
            | Self::Store { reason } => f.write_str(reason),
        }
    }
}

/// An error's text with those of its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A time as people say it.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 2 * 60 * 60 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(60 * 60)),
    }
}

/// A refusal as it came off the wire.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) method: &'static str,
    pub(crate) url: String,
    pub(crate) status: u16,
    pub(crate) body: ErrorBody,
    pub(crate) retry_after: Option<Duration>,
    /// What a refusal for too many requests says about how many there may be.
    pub(crate) allowance: Option<RateLimit>,
    /// What was looked for, in the caller's words.
    pub(crate) what: String,
}

impl Refusal {
    fn text(&self) -> String {
        let status = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .map_or(self.status.to_string(), |reason| format!("{} {reason}", self.status));
        let (method, url) = (self.method, &self.url);
        let text = format!("unexpected status from {method} request to {url}: {status}");
        match self.server_message() {
            Some(message) => format!("{text}: {message}"),
            None => text,
        }
    }

    /// Whether nothing is left to ask for, and nobody says that it is soon.
    pub(crate) fn is_out_of_allowance(&self) -> bool {
        self.retry_after.is_none()
            && self.allowance.as_ref().is_some_and(|left| left.remaining == 0)
    }

    /// What is left of an allowance, and when there is more: ` (0 of 100 requests left per 6 h,
    /// counted for 192.0.2.7, more in 42 min)`.
    fn allowance_text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(left) = &self.allowance {
            let limit = left.limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
            let window = left.window.map(|window| format!(" per {}", in_words(window)));
            parts.push(format!(
                "{}{limit} requests left{}",
                left.remaining,
                window.unwrap_or_default()
            ));
            if let Some(source) = &left.source {
                let clean = |c: &char| c.is_ascii_alphanumeric() || ".:-_/".contains(*c);
                let source: String = source.chars().filter(clean).take(64).collect();
                parts.push(format!("counted for {source}"));
            }
        }
        if let Some(wait) = self.retry_after {
            parts.push(format!("more in {}", in_words(wait)));
        }
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }

    fn server_message(&self) -> Option<String> {
        const MESSAGE_CHARS_MAX: usize = 500;
        let entry = self.body.errors.first()?;
        let text = match (entry.code.is_empty(), entry.message.is_empty()) {
            (true, true) => return None,
            (true, false) => entry.message.clone(),
            (false, true) => entry.code.to_lowercase(),
            (false, false) => format!("{}: {}", entry.code.to_lowercase(), entry.message),
        };
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        Some(text.chars().take(MESSAGE_CHARS_MAX).map(clean).collect())
    }
}

impl From<Refusal> for RegistryError {
    fn from(refusal: Refusal) -> Self {
        let code = refusal.body.errors.first().map(|entry| ErrorCode::from_wire(&entry.code));
        match refusal.status {
            401 => RegistryErrorKind::Unauthorized { reason: refusal.text() },
            403 => RegistryErrorKind::Denied { reason: refusal.text() },
            404 => RegistryErrorKind::NotFound { what: refusal.what },
            429 => RegistryErrorKind::RateLimited {
                reason: format!("{}{}", refusal.text(), refusal.allowance_text()),
                retry_after: refusal.retry_after,
            },
            status => RegistryErrorKind::Status { status, code, reason: refusal.text() },
        }
        .into()
    }
}
