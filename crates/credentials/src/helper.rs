//! The credential helper protocol of docker (docker-credential-helpers, `credentials` package):
//! a program `docker-credential-NAME` that gets a verb as its argument and text on its standard
//! input. This crate says what to run and reads what came back; the caller runs it.

use std::time::Duration;

use serde_json::Value;

use crate::cloud::{ProgramOutput, RunError};
use crate::{RegistryAuth, Secret};

/// How long a helper may take; docker waits for ever.
pub const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
/// Most characters of a helper's own words that are passed on.
const MESSAGE_CHARS_MAX: usize = 512;

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
    /// Its name would choose a program elsewhere.
    #[error("{name:?} is not the name of a credential helper")]
    Name {
        /// The name.
        name: String,
    },
    /// Helpers read line by line; this would be read as more than one.
    #[error("{server:?} is not the name of a registry")]
    Server {
        /// The name.
        server: String,
    },
    /// It did not come to an end by itself.
    #[error("credential helper {program} {error}")]
    NotRun {
        /// The program.
        program: String,
        /// What happened.
        error: RunError,
    },
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

/// What a helper prints for a server that it does not know.
const NOT_FOUND: &str = "credentials not found in native keychain";
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
    fn new(
        helper: &str,
        server: &str,
        action: HelperAction,
        stdin: String,
    ) -> Result<Self, HelperError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if helper.is_empty() || !helper.bytes().all(is_name) {
            return Err(HelperError::Name { name: helper.to_owned() });
        }
        if server.is_empty() || server.contains(char::is_control) {
            return Err(HelperError::Server { server: server.to_owned() });
        }
        let program = format!("docker-credential-{helper}");
        Ok(Self { program, action, stdin: Secret::new(stdin) })
    }

    /// Asks `helper` for the credential of `server`.
    ///
    /// # Errors
    /// [`HelperError::Name`] and [`HelperError::Server`], here as for every call.
    pub fn get(helper: &str, server: &str) -> Result<Self, HelperError> {
        Self::new(helper, server, HelperAction::Get, server.to_owned())
    }

    /// Tells `helper` to forget `server`.
    ///
    /// # Errors
    /// As [`HelperRequest::get`].
    pub fn erase(helper: &str, server: &str) -> Result<Self, HelperError> {
        Self::new(helper, server, HelperAction::Erase, server.to_owned())
    }

    /// Gives `helper` the credential of `server` to keep.
    ///
    /// # Errors
    /// As [`HelperRequest::get`].
    pub fn store(helper: &str, server: &str, auth: &RegistryAuth) -> Result<Self, HelperError> {
        let (username, secret) = match auth {
            RegistryAuth::Basic { username, password, .. } => (username.as_str(), password),
            RegistryAuth::IdentityToken { token } | RegistryAuth::RegistryToken { token } => {
                (TOKEN_USERNAME, token)
            }
        };
        let body = serde_json::json!({
            "ServerURL": server, "Username": username, "Secret": secret.expose(),
        });
        Self::new(helper, server, HelperAction::Store, body.to_string())
    }

    /// Reads the answer to a `get`.
    ///
    /// # Errors
    /// [`HelperError::NotFound`] is the normal answer for an unknown server.
    pub fn read_credential(
        &self,
        outcome: &Result<ProgramOutput, RunError>,
    ) -> Result<RegistryAuth, HelperError> {
        let text = self.read_text(outcome)?;
        let malformed = |reason: &str| HelperError::Malformed {
            program: self.program.clone(),
            reason: reason.to_owned(),
        };
        let answer: Value = serde_json::from_str(text).map_err(|_| malformed("not JSON"))?;
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

    /// Reads the answer to a `store` or `erase`.
    ///
    /// # Errors
    /// [`HelperError::NotFound`] if there was nothing to erase.
    pub fn read_done(&self, outcome: &Result<ProgramOutput, RunError>) -> Result<(), HelperError> {
        self.read_text(outcome).map(|_| ())
    }

    fn read_text<'a>(
        &self,
        outcome: &'a Result<ProgramOutput, RunError>,
    ) -> Result<&'a str, HelperError> {
        let output = outcome.as_ref().map_err(|error| HelperError::NotRun {
            program: self.program.clone(),
            error: error.clone(),
        })?;
        let text = output.stdout.expose();
        if output.succeeded {
            return Ok(text);
        }
        // An unknown server is reported as a failure with this text, and by nothing else.
        let message = text.trim();
        if message.contains(NOT_FOUND) {
            return Err(HelperError::NotFound);
        }
        if may_hold_credential(message) {
            let message = "what it printed is not shown, it may hold a credential".to_owned();
            return Err(HelperError::Failed { program: self.program.clone(), message });
        }
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let message = message.chars().take(MESSAGE_CHARS_MAX).map(clean).collect();
        Err(HelperError::Failed { program: self.program.clone(), message })
    }
}

/// Whether what a helper printed is, or holds, the answer to a `get`, whole or cut.
fn may_hold_credential(text: &str) -> bool {
    text.contains('{') || text.to_ascii_lowercase().contains("\"secret\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get() -> HelperRequest {
        HelperRequest::get("fake", "registry.example.com").expect("a name and a server")
    }

    fn ended(succeeded: bool, stdout: &str) -> Result<ProgramOutput, RunError> {
        Ok(ProgramOutput { succeeded, stdout: Secret::new(stdout) })
    }

    #[track_caller]
    fn check(outcome: Result<ProgramOutput, RunError>, expected: Result<RegistryAuth, &str>) {
        let actual = get().read_credential(&outcome).map_err(|error| error.to_string());
        assert_eq!(actual, expected.map_err(str::to_owned));
    }

    #[test]
    fn password_goes_to_standard_input_and_is_not_printed() {
        let auth = RegistryAuth::basic("u", Secret::new("hunter2"));
        let request = HelperRequest::store("pass", "registry.example.com", &auth);
        let request = request.expect("a name and a server");
        assert_eq!(request.program, "docker-credential-pass");
        assert_eq!(request.action.argument(), "store");
        assert_eq!(
            request.stdin.expose(),
            r#"{"Secret":"hunter2","ServerURL":"registry.example.com","Username":"u"}"#
        );
        assert!(!format!("{request:?}").contains("hunter2"));
    }

    /// cloud-credentials.md 14.2, row 60.
    #[test]
    fn answers_to_get_are_credentials_or_say_why_not() {
        let known = r#"{"ServerURL":"x","Username":"u","Secret":"p"}"#;
        check(ended(true, known), Ok(RegistryAuth::basic("u", Secret::new("p"))));
        let token = r#"{"ServerURL":"x","Username":"<token>","Secret":"t"}"#;
        check(ended(true, token), Ok(RegistryAuth::IdentityToken { token: Secret::new("t") }));
        let unknown = "credentials not found in native keychain";
        check(ended(false, &format!("{unknown}\n")), Err(unknown));
        check(ended(true, r#"{"Username":"","Secret":""}"#), Err(unknown));
        let failed = "credential helper docker-credential-fake failed:";
        check(ended(false, "locked\n"), Err(&format!("{failed} locked")));
        for magic in ["no credentials server URL", "no credentials username"] {
            check(ended(false, magic), Err(&format!("{failed} {magic}")));
        }
        let hidden = format!("{failed} what it printed is not shown, it may hold a credential");
        for text in [known, r#"warning {"Secret":"p""#, r#""Username":"u","Secret":"p"}"#] {
            check(ended(false, text), Err(&hidden));
        }
        check(
            ended(false, "org.freedesktop.secrets: no\n bus"),
            Err(&format!("{failed} org.freedesktop.secrets: no  bus")),
        );
        let late = RunError::Timeout(HELPER_TIMEOUT);
        let hangs = "credential helper docker-credential-fake did not end within 15 s";
        check(Err(late), Err(hangs));
        let floods = "credential helper docker-credential-fake printed more than 1 MiB";
        check(Err(RunError::Output), Err(floods));
        let none = "credential helper docker-credential-fake printed no credential:";
        check(ended(true, "hunter2"), Err(&format!("{none} not JSON")));
        check(ended(true, r#"{"Secret":"hunter2"}"#), Err(&format!("{none} no Username")));
    }

    /// cloud-credentials.md 14.2, row 61.
    #[test]
    fn names_of_other_programs_and_servers_of_two_lines_are_refused() {
        for name in ["", "a/b", "../evil", "a b", "a\0"] {
            let refused = HelperRequest::get(name, "r.example").map(|request| request.program);
            assert_eq!(refused, Err(HelperError::Name { name: name.to_owned() }));
        }
        for server in ["", "r.example\nevil.example", "r.example\r", "r.example\0"] {
            let refused = HelperRequest::erase("fake", server).map(|request| request.program);
            assert_eq!(refused, Err(HelperError::Server { server: server.to_owned() }));
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_output_never_panics_nor_is_told(text in ".{0,120}") {
            let _ = get().read_credential(&ended(true, &text));
            let told = get().read_credential(&ended(true, &format!("{text}hunter2")));
            let told = told.map_or_else(|error| error.to_string(), |_| String::new());
            proptest::prop_assert!(!told.contains("hunter2"));
            for credential in [
                format!(r#"{text}{{"Username":"u","Secret":"hunter2"}}"#),
                format!(r#"{{"Secret":"hunter2","Username":"u"}}{text}"#),
                format!(r#"{text}"secret": "hunter2""#),
            ] {
                let failed = get().read_credential(&ended(false, &credential));
                let told = failed.expect_err("a failure").to_string();
                proptest::prop_assert!(!told.contains("hunter2"), "{told}");
            }
        }
    }
}
