//! Which secrets a pod may name: what a mirror pod must not, and what an account does not list.

/// Annotation of a service account whose pods may only name the secrets that it lists.
pub const ENFORCE_MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

/// What a mirror pod, which comes from a file of the node, names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorPodNames {
    /// `spec.serviceAccountName`.
    pub account: bool,
    /// Any secret: pull secrets, volumes, environment.
    pub secrets: bool,
    /// A projected service account token.
    pub token: bool,
}

/// The text (after `pods "p" is forbidden: `) for a mirror pod that names what the API server
/// would have to grant.
pub const fn mirror_pod_refusal(names: MirrorPodNames) -> Option<&'static str> {
    if names.account {
        Some("a mirror pod may not reference service accounts")
    } else if names.secrets {
        Some("a mirror pod may not reference secrets")
    } else if names.token {
        Some("a mirror pod may not use ServiceAccountToken volume projections")
    } else {
        None
    }
}

/// Where a pod names a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretUse<'a> {
    /// A volume.
    Volume {
        /// The secret.
        secret: &'a str,
    },
    /// A variable of a container.
    Variable {
        /// Which list the container stands in.
        list: ContainerList,
        /// The container.
        container: &'a str,
        /// The variable.
        variable: &'a str,
        /// The secret.
        secret: &'a str,
    },
    /// An entry of `imagePullSecrets`.
    Pull {
        /// Its index.
        index: usize,
        /// The secret.
        secret: &'a str,
    },
}

/// A list of containers of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerList {
    /// `initContainers`.
    Init,
    /// `containers`.
    Main,
    /// `ephemeralContainers`.
    Ephemeral,
}

impl ContainerList {
    const fn words(self) -> &'static str {
        match self {
            Self::Init => "init container",
            Self::Main => "container",
            Self::Ephemeral => "ephemeral container",
        }
    }
}

/// What an account with [`ENFORCE_MOUNTABLE_SECRETS`] lists.
#[derive(Clone, Copy, Debug)]
pub struct ListedSecrets<'a> {
    /// Name of the account.
    pub account: &'a str,
    /// `secrets`.
    pub secrets: &'a [String],
    /// `imagePullSecrets`.
    pub pull_secrets: &'a [String],
}

/// The text (after `pods "p" is forbidden: `) for the first secret that the account does not list.
pub fn unlisted_secret(uses: &[SecretUse<'_>], listed: ListedSecrets<'_>) -> Option<String> {
    uses.iter().find_map(|named| refusal(*named, listed))
}

fn refusal(named: SecretUse<'_>, listed: ListedSecrets<'_>) -> Option<String> {
    let account = listed.account;
    let knows = |names: &[String], name: &str| names.iter().any(|known| known == name);
    match named {
        SecretUse::Volume { secret } if !knows(listed.secrets, secret) => Some(format!(
            "volume with secret.secretName=\"{secret}\" is not allowed because service account \
             {account} does not reference that secret"
        )),
        SecretUse::Variable { list, container, variable, secret }
            if !knows(listed.secrets, secret) =>
        {
            let words = list.words();
            Some(format!(
                "{words} {container} with envVar {variable} referencing \
                 secret.secretName=\"{secret}\" is not allowed because service account {account} \
                 does not reference that secret"
            ))
        }
        SecretUse::Pull { index, secret } if !knows(listed.pull_secrets, secret) => Some(format!(
            "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account \
             {account} does not reference that imagePullSecret"
        )),
        SecretUse::Volume { .. } | SecretUse::Variable { .. } | SecretUse::Pull { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // kubelet-images.md 15.8, S10.
    #[test]
    fn mirror_pods_name_neither_accounts_nor_secrets_nor_tokens() {
        let names = MirrorPodNames::default();
        assert_eq!(mirror_pod_refusal(names), None);
        for (names, what) in [
            (
                MirrorPodNames { account: true, secrets: true, token: true },
                "reference service accounts",
            ),
            (MirrorPodNames { secrets: true, token: true, ..names }, "reference secrets"),
            (MirrorPodNames { token: true, ..names }, "use ServiceAccountToken volume projections"),
        ] {
            let expected = format!("a mirror pod may not {what}");
            assert_eq!(mirror_pod_refusal(names), Some(expected.as_str()));
        }
    }

    // kubelet-images.md 6, enforce-mountable-secrets.
    #[test]
    fn secrets_that_the_account_does_not_list_are_refused_by_place() {
        let (secrets, pull_secrets) = (["s".to_owned()], ["p".to_owned()]);
        let listed =
            ListedSecrets { account: "sa", secrets: &secrets, pull_secrets: &pull_secrets };
        let variable =
            |list, secret| SecretUse::Variable { list, container: "c", variable: "V", secret };
        let allowed = [
            SecretUse::Volume { secret: "s" },
            variable(ContainerList::Main, "s"),
            SecretUse::Pull { index: 0, secret: "p" },
        ];
        assert_eq!(unlisted_secret(&allowed, listed), None);
        let not_listed = "is not allowed because service account sa does not reference that";
        for (named, expected) in [
            (
                SecretUse::Volume { secret: "x" },
                format!("volume with secret.secretName=\"x\" {not_listed} secret"),
            ),
            (
                variable(ContainerList::Init, "x"),
                format!(
                    "init container c with envVar V referencing secret.secretName=\"x\" \
                     {not_listed} secret"
                ),
            ),
            (
                variable(ContainerList::Main, "p"),
                format!(
                    "container c with envVar V referencing secret.secretName=\"p\" {not_listed} \
                     secret"
                ),
            ),
            (
                variable(ContainerList::Ephemeral, "x"),
                format!(
                    "ephemeral container c with envVar V referencing secret.secretName=\"x\" \
                     {not_listed} secret"
                ),
            ),
            (
                SecretUse::Pull { index: 1, secret: "s" },
                format!("imagePullSecrets[1].name=\"s\" {not_listed} imagePullSecret"),
            ),
        ] {
            assert_eq!(unlisted_secret(&[named], listed), Some(expected));
        }
    }
}
