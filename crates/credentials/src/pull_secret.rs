//! Kubernetes pull secrets, merged into one keyring per pod.

use std::collections::BTreeMap;

use crate::config_file::{ConfigFileError, parse_config_json, parse_dockercfg};
use crate::{Keyring, Origin};

/// A Secret that a pod names in `imagePullSecrets`, data already decoded from base64.
#[derive(Clone)]
pub struct PullSecret {
    /// Namespace of the secret, which is the pod's.
    pub namespace: String,
    /// Name of the secret.
    pub name: String,
    /// UID of the secret.
    pub uid: String,
    /// The `type` field, such as `kubernetes.io/dockerconfigjson`.
    pub kind: String,
    /// The `data` field, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// The two kinds of secret that hold registry credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// `kubernetes.io/dockerconfigjson`: a whole config.json.
    DockerConfigJson,
    /// `kubernetes.io/dockercfg`: the old bare map.
    DockerCfg,
}

impl SecretKind {
    /// The kind of a secret's `type`; `None` for every other type.
    pub fn of_type(kind: &str) -> Option<Self> {
        [Self::DockerConfigJson, Self::DockerCfg].into_iter().find(|k| k.type_name() == kind)
    }

    /// The `type` of the secret.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::DockerConfigJson => "kubernetes.io/dockerconfigjson",
            Self::DockerCfg => "kubernetes.io/dockercfg",
        }
    }

    /// The one key of `data` that is read.
    pub const fn data_key(self) -> &'static str {
        match self {
            Self::DockerConfigJson => ".dockerconfigjson",
            Self::DockerCfg => ".dockercfg",
        }
    }
}

impl std::fmt::Debug for PullSecret {
    /// The data stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PullSecret({}/{}, {})", self.namespace, self.name, self.kind)
    }
}

/// One keyring of all `secrets` in the order of the pod's list, so that the more specific key wins
/// across secrets; secrets of other types or with an empty key are ignored, as the kubelet does.
///
/// # Errors
/// One unreadable secret fails the whole lookup, as it does in the kubelet.
pub fn keyring_of_pull_secrets(secrets: &[PullSecret]) -> Result<Keyring, ConfigFileError> {
    let mut keyring = Keyring::new();
    for secret in secrets {
        let Some(kind) = SecretKind::of_type(&secret.kind) else { continue };
        let Some(bytes) = secret.data.get(kind.data_key()).filter(|bytes| !bytes.is_empty()) else {
            continue;
        };
        let entries = match kind {
            SecretKind::DockerConfigJson => parse_config_json(bytes)?,
            SecretKind::DockerCfg => parse_dockercfg(bytes)?,
        };
        let origin = Origin::Secret {
            namespace: secret.namespace.clone(),
            name: secret.name.clone(),
            uid: secret.uid.clone(),
        };
        keyring.add(entries, &origin);
    }
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, kind: &str, key: &str, value: &str) -> PullSecret {
        PullSecret {
            namespace: "tom".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            kind: kind.to_owned(),
            data: BTreeMap::from([(key.to_owned(), value.as_bytes().to_vec())]),
        }
    }

    const CONFIG: &str = r#"{"auths":{"10.100.100.77":{"auth":"Y2FwdGFpbjpDYXB0YWluODg4"}}}"#;
    const LEGACY: &str = r#"{"10.100.100.77":{"username":"hc","password":"Harbor123456","email":" ","auth":"aGM6SGFyYm9yMTIzNDU2"}}"#;

    /// kubelet-images.md 15.5, L2: of one key, the credential of the first secret comes first.
    #[test]
    fn both_secret_types_of_the_tutorial_open_the_image() {
        let secrets = [
            secret("configjson", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", CONFIG),
            secret("dockercfg", "kubernetes.io/dockercfg", ".dockercfg", LEGACY),
        ];
        let keyring = keyring_of_pull_secrets(&secrets).expect("both parse");
        let found: Vec<_> = keyring
            .lookup("10.100.100.77/captain/nginx")
            .into_iter()
            .map(|c| (c.auth.username().map(str::to_owned), c.origin))
            .collect();
        let origin = |name: &str| Origin::Secret {
            namespace: "tom".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        };
        assert_eq!(
            found,
            [
                (Some("captain".to_owned()), origin("configjson")),
                (Some("hc".to_owned()), origin("dockercfg")),
            ]
        );
        let [first, second] = secrets;
        let keyring = keyring_of_pull_secrets(&[second, first]).expect("both parse");
        let users: Vec<_> = keyring
            .lookup("10.100.100.77/captain/nginx")
            .iter()
            .filter_map(|candidate| candidate.auth.username().map(str::to_owned))
            .collect();
        assert_eq!(users, ["hc", "captain"]);
    }

    #[test]
    fn other_types_and_wrong_keys_are_ignored() {
        let secrets = [
            secret("opaque", "Opaque", ".dockerconfigjson", CONFIG), // L11
            secret("wrong", "kubernetes.io/dockerconfigjson", "config.json", CONFIG),
            secret("empty", "kubernetes.io/dockercfg", ".dockercfg", ""),
        ];
        assert!(keyring_of_pull_secrets(&secrets).expect("nothing is read").is_empty());
    }

    #[test]
    fn one_malformed_secret_fails_the_lookup_with_its_text() {
        let bad = r#"{"auths":{"other.example.com":{"auth":"pants"}}}"#;
        let secrets = [
            secret("good", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", CONFIG),
            secret("bad", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", bad),
        ];
        let error = keyring_of_pull_secrets(&secrets).expect_err("pants is no base64"); // L12
        assert_eq!(error.to_string(), "illegal base64 data at input byte 4");
    }

    #[test]
    fn config_text_in_a_dockercfg_secret_opens_nothing() {
        let secrets = [secret("x", "kubernetes.io/dockercfg", ".dockercfg", CONFIG)]; // L16
        let keyring = keyring_of_pull_secrets(&secrets).expect("it parses");
        assert!(keyring.lookup("10.100.100.77/captain/nginx").is_empty());
    }

    #[test]
    fn debug_output_of_a_secret_has_no_data() {
        let text = format!("{:?}", secret("x", "Opaque", "k", "hunter2"));
        assert_eq!(text, "PullSecret(tom/x, Opaque)");
    }
}
