//! Who somebody is, once their credentials were right.

use std::sync::Arc;

use super::scope::Access;

/// How the names of robots begin. No user of the user file has such a name.
pub(crate) const ROBOT_PREFIX: &str = "robot+";

/// What kind of credentials a name belongs to. The name alone decides, so that nobody of one kind
/// can be taken for somebody of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdentityKind {
    /// Nobody in particular; the empty name.
    Anonymous,
    /// A user of the user file, or what a certificate is mapped to.
    User,
    /// `robot+<name>`.
    Robot,
    /// `<issuer>:<name>`: the colon is what no user and no robot has.
    Foreign,
}

/// A name, and the groups that the credentials themselves speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Empty for anonymous clients.
    pub(crate) name: String,
    /// Groups that an issuer vouches for now; those of the configuration are found by name. They
    /// are never remembered from one login to the next (CVE-2025-23208).
    pub(crate) groups: Vec<String>,
}

impl Identity {
    /// Somebody without groups of their own.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), groups: Vec::new() }
    }

    pub(crate) fn kind(&self) -> IdentityKind {
        if self.name.is_empty() {
            IdentityKind::Anonymous
        } else if self.name.contains(':') {
            IdentityKind::Foreign
        } else if self.name.starts_with(ROBOT_PREFIX) {
            IdentityKind::Robot
        } else {
            IdentityKind::User
        }
    }
}

/// Somebody who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// No credentials.
    Anonymous,
    /// Credentials came with the request itself.
    Known(Identity),
    /// The bearer of a token; the name is empty for an anonymous one.
    Bearer {
        /// Whom the token was made for.
        identity: Identity,
        /// What it allows.
        access: Arc<Access>,
    },
}

impl Principal {
    /// The name that uploads, logs and events know them by; empty without one.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anonymous => "",
            Self::Known(identity) | Self::Bearer { identity, .. } => &identity.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_kind_of_credentials_it_has() {
        for (name, expected) in [
            ("", IdentityKind::Anonymous),
            ("alice", IdentityKind::User),
            ("robot", IdentityKind::User),
            ("robot+ci", IdentityKind::Robot),
            ("kubernetes:system:serviceaccount:ci:builder", IdentityKind::Foreign),
            ("gitlab:robot+ci", IdentityKind::Foreign),
        ] {
            assert_eq!(Identity::named(name).kind(), expected, "{name}");
        }
    }
}
