//! Why a pull for the node itself failed, for callers that act on it: exit codes of `shipway node`
//! and codes of CRI.

use registry_client::RegistryErrorKind;
use serde::{Deserialize, Serialize};

/// What kind of failure a pull ended with, in the order of how far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PullFailureKind {
    /// The registry takes no credential that was shown (401), or it gives no right (403).
    Denied,
    /// There is no such image, not for this platform, or it is hidden from us.
    NotFound,
    /// Anything else.
    Other,
    /// The registry cannot be reached or trusted, or something before it says so (502 to 504).
    Unreachable,
}

impl PullFailureKind {
    pub(crate) fn of(error: &RegistryErrorKind) -> Self {
        match error {
            RegistryErrorKind::Unauthorized { .. } | RegistryErrorKind::Denied { .. } => {
                Self::Denied
            }
            RegistryErrorKind::NotFound { .. } | RegistryErrorKind::PlatformMissing { .. } => {
                Self::NotFound
            }
            RegistryErrorKind::Unreachable { .. }
            | RegistryErrorKind::Tls { .. }
            | RegistryErrorKind::PlainHttp { .. }
            | RegistryErrorKind::Status { status: 502..=504, .. } => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// The kind of several tries, one per credential: that of the one that came furthest.
    pub(crate) fn of_tries(kinds: impl IntoIterator<Item = Self>) -> Self {
        kinds.into_iter().max().unwrap_or(Self::Other)
    }
}

/// A pull for the node itself that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct NodePullError {
    pub(crate) kind: PullFailureKind,
    /// What a pod's event would say.
    pub(crate) text: String,
}

impl NodePullError {
    /// A failure that no registry has part in.
    pub(crate) fn of_node(text: impl Into<String>) -> Self {
        NodePullError { kind: PullFailureKind::Other, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_that_came_furthest_decides_the_kind() {
        use PullFailureKind::{Denied, NotFound, Other, Unreachable};
        let rows = [
            (&[Denied, Denied][..], Denied),
            (&[Denied, NotFound], NotFound),
            (&[Other, Denied], Other),
            (&[Denied, Unreachable], Unreachable),
            (&[], Other),
        ];
        for (kinds, expected) in rows {
            assert_eq!(PullFailureKind::of_tries(kinds.iter().copied()), expected, "{kinds:?}");
        }
    }

    #[test]
    fn answers_of_a_registry_have_their_kinds() {
        use PullFailureKind::{Denied, NotFound, Other, Unreachable};
        let reason = String::new;
        let status = |status| RegistryErrorKind::Status { status, code: None, reason: reason() };
        let rows = [
            (RegistryErrorKind::Unauthorized { reason: reason() }, Denied),
            (RegistryErrorKind::Denied { reason: reason() }, Denied),
            (RegistryErrorKind::NotFound { what: reason() }, NotFound),
            (RegistryErrorKind::Unreachable { registry: reason(), reason: reason() }, Unreachable),
            (RegistryErrorKind::Tls { registry: reason(), reason: reason() }, Unreachable),
            (status(503), Unreachable),
            (status(500), Other),
            (RegistryErrorKind::RateLimited { reason: reason(), retry_after: None }, Other),
            (RegistryErrorKind::NoSpace { reason: reason() }, Other),
        ];
        for (error, expected) in rows {
            assert_eq!(PullFailureKind::of(&error), expected, "{error:?}");
        }
    }
}
