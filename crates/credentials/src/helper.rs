//! The credential helper protocol of docker (docker-credential-helpers, `credentials` package):
//! a program `docker-credential-NAME` that gets a verb as its argument and text on its standard
//! input. This crate says what to run and reads what came back; the caller runs it.

use serde_json::Value;

use crate::{RegistryAuth, Secret};

/// What to ask of a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelperAction {
    /// Look up a credential.
    Get,
    /// Keep a credential.
    Store,
    /// Forget a credential.
    Erase,
    /// List the servers it knows.
    List,
}

/// One call of a helper, for the caller to perform.
#[derive(Clone, Debug)]
pub struct HelperRequest {
    /// Name of the program, looked up in `PATH`: `docker-credential-NAME`.
    pub program: String,
    /// Its only argument.
    pub action: HelperAction,
    /// What goes to its standard input; a password never goes anywhere else.
    pub stdin: Secret,
}

/// Why a helper did not answer with a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelperError {
    /// It knows no credential for the server; not a failure.
    #[error("credentials not found in native keychain")]
    NotFound,
    /// It failed; the text is its own.
    #[error("credential helper {program} failed: {message}")]
    Failed {
        /// The program.
        program: String,
        /// What it printed.
        message: String,
    },
    /// It printed something that is no credential.
    #[error("credential helper {program} printed no credential: {reason}")]
    Malformed {
        /// The program.
        program: String,
        /// What is wrong with its output.
        reason: String,
    },
}

/// The user name that marks a password as an identity token.
const TOKEN_USERNAME: &str = "<token>";

impl HelperAction {
    /// The argument on the helper's command line.
    pub const fn argument(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Store => "store",
            Self::Erase => "erase",
            Self::List => "list",
        }
    }
}

impl HelperRequest {
    fn new(helper: &str, action: HelperAction, stdin: String) -> Self {
        Self { program: format!("docker-credential-{helper}"), action, stdin: Secret::new(stdin) }
    }

    /// Asks `helper` for the credential of `server`.
    pub fn get(helper: &str, server: &str) -> Self {
        Self::new(helper, HelperAction::Get, server.to_owned())
    }

    /// Tells `helper` to forget `server`.
    pub fn erase(helper: &str, server: &str) -> Self {
        Self::new(helper, HelperAction::Erase, server.to_owned())
    }

    /// Gives `helper` the credential of `server` to keep.
    pub fn store(helper: &str, server: &str, auth: &RegistryAuth) -> Self {
        let (username, secret) = match auth {
            RegistryAuth::Basic { username, password, .. } => (username.as_str(), password),
            RegistryAuth::IdentityToken { token } | RegistryAuth::RegistryToken { token } => {
                (TOKEN_USERNAME, token)
            }
        };
        let body = serde_json::json!({
            "ServerURL": server, "Username": username, "Secret": secret.expose(),
        });
        Self::new(helper, HelperAction::Store, body.to_string())
    }

    /// Reads the answer to a `get`: whether the program succeeded, and its standard output.
    ///
    /// # Errors
    /// [`HelperError::NotFound`] is the normal answer for an unknown server.
    pub fn read_credential(
        &self,
        succeeded: bool,
        stdout: &[u8],
    ) -> Result<RegistryAuth, HelperError> {
        let text = String::from_utf8_lossy(stdout);
        if !succeeded {
            let message = text.trim();
            // Helpers report an unknown server as a failure with one of these texts.
            if message.contains("credentials not found") || message.contains("no credentials") {
                return Err(HelperError::NotFound);
            }
            return Err(HelperError::Failed {
                program: self.program.clone(),
                message: message.to_owned(),
            });
        }
        let malformed = |reason: &str| HelperError::Malformed {
            program: self.program.clone(),
            reason: reason.to_owned(),
        };
        let answer: Value = serde_json::from_str(&text).map_err(|_| malformed("not JSON"))?;
        let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        let (username, secret) = (field("Username"), field("Secret"));
        if username.is_empty() && secret.is_empty() {
            return Err(HelperError::NotFound);
        }
        if username.is_empty() {
            return Err(malformed("no Username"));
        }
        if username == TOKEN_USERNAME {
            return Ok(RegistryAuth::IdentityToken { token: Secret::new(secret) });
        }
        Ok(RegistryAuth::basic(username, Secret::new(secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get() -> HelperRequest {
        HelperRequest::get("fake", "registry.example.com")
    }

    #[test]
    fn password_goes_to_standard_input_and_is_not_printed() {
        let auth = RegistryAuth::basic("u", Secret::new("hunter2"));
        let request = HelperRequest::store("pass", "registry.example.com", &auth);
        assert_eq!(request.program, "docker-credential-pass");
        assert_eq!(request.action.argument(), "store");
        assert_eq!(
            request.stdin.expose(),
            r#"{"Secret":"hunter2","ServerURL":"registry.example.com","Username":"u"}"#
        );
        assert!(!format!("{request:?}").contains("hunter2"));
    }

    #[test]
    fn answer_with_token_user_is_an_identity_token() {
        let answer = br#"{"ServerURL":"x","Username":"<token>","Secret":"t"}"#;
        assert_eq!(
            get().read_credential(true, answer),
            Ok(RegistryAuth::IdentityToken { token: Secret::new("t") })
        );
        let answer = br#"{"Username":"u","Secret":"p"}"#;
        assert_eq!(
            get().read_credential(true, answer),
            Ok(RegistryAuth::basic("u", Secret::new("p")))
        );
    }

    #[test]
    fn unknown_server_is_not_a_failure() {
        let text = b"credentials not found in native keychain\n";
        assert_eq!(get().read_credential(false, text), Err(HelperError::NotFound));
        assert_eq!(
            get().read_credential(false, b"locked\n").map_err(|error| error.to_string()),
            Err("credential helper docker-credential-fake failed: locked".to_owned())
        );
        assert!(get().read_credential(true, b"oops").is_err());
    }
}
