//! One identity at one registry.

use oci_model::Digest;

use crate::Secret;

/// What a client can prove to a registry (the fields of docker's `AuthConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryAuth {
    /// User and password, sent as Basic or exchanged for a token.
    Basic {
        /// User name; may be empty.
        username: String,
        /// Password or access token.
        password: Secret,
        /// E-mail address of old config files; only part of the credential's identity.
        email: String,
    },
    /// A refresh token for the registry's token service (OAuth2 `refresh_token` grant).
    IdentityToken {
        /// The refresh token.
        token: Secret,
    },
    /// A bearer token that is sent to the registry as it is.
    RegistryToken {
        /// The bearer token.
        token: Secret,
    },
}

impl RegistryAuth {
    /// User and password without an e-mail address.
    pub fn basic(username: impl Into<String>, password: Secret) -> Self {
        Self::Basic { username: username.into(), password, email: String::new() }
    }

    /// The user name, where there is one.
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Basic { username, .. } => Some(username),
            Self::IdentityToken { .. } | Self::RegistryToken { .. } => None,
        }
    }

    /// Whether it is a user name without password, a password without user name, or neither, such
    /// as the entry `{}` that is left when docker keeps the password elsewhere. It is a credential
    /// in a keyring (kubelet-images.md 4 and 15.2, A14) and nothing that can be shown to a
    /// registry: containerd and docker ask as nobody with it.
    pub fn is_nobody(&self) -> bool {
        match self {
            Self::Basic { username, password, .. } => username.is_empty() || password.is_empty(),
            Self::IdentityToken { .. } | Self::RegistryToken { .. } => false,
        }
    }

    /// Hex SHA-256 that identifies this credential in pull records (KEP-2535), as the kubelet
    /// computes it: over compact JSON of the non-empty fields in the order of `AuthConfig`.
    pub fn identity_hash(&self) -> String {
        let fields: Vec<(&str, &str)> = match self {
            Self::Basic { username, password, email } => {
                vec![("username", username), ("password", password.expose()), ("email", email)]
            }
            Self::IdentityToken { token } => vec![("identitytoken", token.expose())],
            Self::RegistryToken { token } => vec![("registrytoken", token.expose())],
        };
        let mut json = zeroize::Zeroizing::new(String::from("{"));
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&format!("\"{name}\":"));
            // Go escapes three more characters than JSON asks for.
            let quoted = serde_json::Value::from(value).to_string();
            json.push_str(
                &quoted
                    .replace('<', "\\u003c")
                    .replace('>', "\\u003e")
                    .replace('&', "\\u0026")
                    .replace('\u{2028}', "\\u2028")
                    .replace('\u{2029}', "\\u2029"),
            );
        }
        json.push('}');
        Digest::of(json.as_bytes()).encoded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(username: &str, password: &str, email: &str, expected: &str) {
        let auth = RegistryAuth::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
            email: email.to_owned(),
        };
        assert_eq!(auth.identity_hash(), expected);
    }

    #[test]
    fn credential_hashes_are_the_kubelets() {
        check("foo", "bar", "", "2b1903504aba33bb6158bf1aa76cb588f05cd150de5047f1cfed339bc621d92b"); // H1
        check(
            "u",
            "a<b&c>",
            "",
            "3ea99358392e74fc67eb8ddbecfa28db41088224633d3080174c926b2579cd7d",
        ); // H2
        check(
            "ada",
            "smash",
            "ada@example.com",
            "353258b53f5e9a57b059eab3f05312fc35bbeb874f08ce101e7bf0bf46977423",
        );
        check(
            "grace",
            "squash",
            "grace@example.com",
            "f949b3837a1eb733a951b6aeda0b3327c09ec50c917de9ca35818e8fbf567e29",
        );
        check(
            "rex",
            "tiny arms",
            "rex@example.com",
            "899748fec74c8dd761845fca727f4249b05be275ff24026676fcd4351f656363",
        );
    }
}
