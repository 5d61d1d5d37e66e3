//! What helps with the refusals of well-known registries.

use crate::error::{RegistryError, RegistryErrorKind};
use crate::realm::WITHHELD;

impl RegistryError {
    /// What to try, where the registry is one whose rules people stumble over.
    pub fn advice(&self) -> Option<&'static str> {
        if self.contexts().iter().any(|context| context.starts_with(WITHHELD)) {
            return Some("--token-service HOST, if that token service is the registry's");
        }
        let is_refusal = matches!(
            self.kind(),
            RegistryErrorKind::Unauthorized { .. } | RegistryErrorKind::Denied { .. }
        );
        self.registry().filter(|_| is_refusal).and_then(of_registry)
    }
}

fn of_registry(host: &str) -> Option<&'static str> {
    match host {
        "ghcr.io" => Some(
            "ghcr.io takes a classic personal access token with read:packages (write:packages to \
             push), authorised for the organisation where it has single sign-on; fine-grained \
             tokens do not work",
        ),
        "registry-1.docker.io" => Some(
            "shipway login, with an access token as the password; an organisation's token goes \
             with the organisation's name",
        ),
        "quay.io" => Some(
            "shipway login quay.io, for a robot with NAMESPACE+ROBOT as the user; or an encrypted \
             password",
        ),
        "registry.gitlab.com" => Some(
            "shipway login registry.gitlab.com, with a token that has read_registry \
             (write_registry to push); in a job gitlab-ci-token and $CI_JOB_TOKEN",
        ),
        "public.ecr.aws" => Some(
            "public images need no login, and one that has expired is refused: shipway logout \
             public.ecr.aws",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// cloud-credentials.md 14.2, row 76: ghcr.io's 403.
    #[test]
    fn refusals_of_known_registries_come_with_advice() {
        let denied = |host: &str| {
            let kind = RegistryErrorKind::Denied { reason: "denied".to_owned() };
            RegistryError::from(kind).at(host).advice()
        };
        assert!(denied("ghcr.io").is_some_and(|text| text.contains("read:packages")));
        assert_eq!(denied("r.example"), None);
        let absent = RegistryErrorKind::NotFound { what: "x".to_owned() };
        assert_eq!(RegistryError::from(absent).at("ghcr.io").advice(), None);
    }
}
