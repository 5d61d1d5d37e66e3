//! Docker's credential helper protocol from the helper's side (cloud-credentials.md 7): a server
//! on standard input, user and password in JSON on standard output.

use serde::Deserialize;
use serde_json::json;

use super::{CloudError, CloudOptions, Performer, RegistryHost};
use crate::{RegistryAuth, Secret};

/// Why a helper does not do what it was asked. The first three texts are part of the protocol:
/// clients compare them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerHelperError {
    /// There is no credential; the client goes on without.
    #[error("credentials not found in native keychain")]
    NotFound,
    /// No server was named.
    #[error("no credentials server URL")]
    NoServer,
    /// A credential to store names no user.
    #[error("no credentials username")]
    NoUsername,
    /// The server is none: a line break or a NUL would be read by others as the end of it.
    #[error("the server URL holds a control character")]
    Server,
    /// What is to be stored is no credential in JSON; it is not repeated, it may be one.
    #[error("standard input holds no credential in JSON")]
    Syntax,
    /// There is nowhere to store it.
    #[error("{server} is no registry of a cloud, and passwords are not kept here")]
    NotOurs {
        /// The server.
        server: String,
    },
    /// The cloud gave none.
    #[error("{}", in_one_line(.0))]
    Cloud(CloudError),
}

/// Clients show the text as it is, so what to try is part of it.
fn in_one_line(error: &CloudError) -> String {
    match &error.hint {
        Some(hint) => format!("{error}; try: {hint}"),
        None => error.to_string(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stored {
    #[serde(default, rename = "ServerURL")]
    server_url: String,
    #[serde(default)]
    username: String,
}

/// Answers `get`: the credential of this machine for the server on standard input.
///
/// # Errors
/// [`DockerHelperError`]; its text goes to standard output.
pub fn get(
    performer: &dyn Performer,
    options: &CloudOptions,
    stdin: &str,
) -> Result<Secret, DockerHelperError> {
    let server = server_of(stdin)?;
    let host = RegistryHost::of(server).ok_or(DockerHelperError::NotFound)?;
    let provider = options.provider_of(&host).ok_or(DockerHelperError::NotFound)?;
    let given = options
        .exchange(performer, provider, &host, None)
        .map_err(DockerHelperError::Cloud)?
        .ok_or(DockerHelperError::NotFound)?;
    let (username, secret) = match &given.auth {
        RegistryAuth::Basic { username, password, .. } => (username.as_str(), password),
        // As `docker login` does with tokens for the token service.
        RegistryAuth::IdentityToken { token } => ("<token>", token),
        RegistryAuth::RegistryToken { .. } => return Err(DockerHelperError::NotFound),
    };
    let answer = json!({ "ServerURL": server, "Username": username, "Secret": secret.expose() });
    Ok(Secret::new(answer.to_string()))
}

/// Answers `store`: nothing is kept for a cloud's registry, since the next `get` makes a fresh
/// credential, and that is no failure of `docker login`.
///
/// # Errors
/// [`DockerHelperError`]; its text goes to standard output.
pub fn store(
    performer: &dyn Performer,
    options: &CloudOptions,
    stdin: &Secret,
) -> Result<(), DockerHelperError> {
    let given: Stored =
        serde_json::from_str(stdin.expose()).map_err(|_| DockerHelperError::Syntax)?;
    let server = server_of(&given.server_url)?;
    if given.username.is_empty() {
        return Err(DockerHelperError::NoUsername);
    }
    let host = RegistryHost::of(server);
    if host.is_some_and(|host| options.makes_credentials(performer, &host)) {
        return Ok(());
    }
    Err(DockerHelperError::NotOurs { server: server.to_owned() })
}

/// Answers `erase`: there is nothing to erase, of whatever server.
///
/// # Errors
/// [`DockerHelperError`]; its text goes to standard output.
pub fn erase(stdin: &str) -> Result<(), DockerHelperError> {
    server_of(stdin).map(drop)
}

fn server_of(stdin: &str) -> Result<&str, DockerHelperError> {
    let server = stdin.trim_matches([' ', '\t', '\r', '\n']);
    if server.is_empty() {
        return Err(DockerHelperError::NoServer);
    }
    if server.contains(char::is_control) {
        return Err(DockerHelperError::Server);
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::super::world::{World, answer};
    use super::*;

    const IAM: &str = "https://iam.cloud.ibm.com/identity/token";

    fn ibm() -> World {
        World::new().variable("ICR_APIKEY", "canary").server(
            Method::Post,
            IAM,
            answer(200, r#"{"access_token":"pass:word","expiration":1793577600}"#),
        )
    }

    #[test]
    fn a_server_is_known_in_every_form_that_clients_send() {
        // cloud-credentials.md 7.
        for server in ["de.icr.io", "https://de.icr.io", "https://de.icr.io/v2/", "de.icr.io:443"] {
            let stdin = format!("{server}\n");
            let given = get(&ibm(), &CloudOptions::all(), &stdin).expect(server);
            let document: serde_json::Value = serde_json::from_str(given.expose()).expect("JSON");
            let expected = json!({
                "ServerURL": server, "Username": "iambearer", "Secret": "pass:word",
            });
            assert_eq!(document, expected);
        }
    }

    #[test]
    fn a_server_of_no_cloud_is_not_found_and_nobody_is_asked() {
        for server in ["https://index.docker.io/v1/", "de.icr.io:5000", "xicr.io", "de.icr.io@evil"]
        {
            let world = ibm();
            let error = get(&world, &CloudOptions::all(), server).expect_err(server);
            assert_eq!(error.to_string(), "credentials not found in native keychain");
            assert!(world.sent.borrow().is_empty());
        }
    }

    /// cloud-credentials.md 14.2, row 61.
    #[test]
    fn what_would_be_two_lines_to_others_is_refused() {
        // cloud-credentials.md 7, O.
        for server in ["de.icr.io\nhost=evil", "de.icr.io\r\nevil", "de.icr.io\0evil"] {
            let world = ibm();
            let error = get(&world, &CloudOptions::all(), server).expect_err(server);
            assert_eq!(error, DockerHelperError::Server);
            assert_eq!(erase(server), Err(DockerHelperError::Server));
            assert!(world.sent.borrow().is_empty());
        }
        for server in ["", "\n", "  \r\n"] {
            let error = get(&ibm(), &CloudOptions::all(), server).expect_err("no server");
            assert_eq!(error.to_string(), "no credentials server URL");
        }
    }

    #[test]
    fn login_and_logout_at_a_clouds_registry_do_nothing_and_do_not_fail() {
        // cloud-credentials.md 13, theme 1: upstream says "not implemented".
        let all = CloudOptions::all();
        let stored_in = |world: &World, text: &str| {
            store(world, &all, &Secret::new(text)).map_err(|error| error.to_string())
        };
        let stored = |text: &str| stored_in(&World::new(), text);
        let document = |server: &str, user: &str| {
            json!({ "ServerURL": server, "Username": user, "Secret": "canary" }).to_string()
        };
        assert_eq!(stored(&document("https://gcr.io", "u")), Ok(()));
        assert_eq!(erase("https://gcr.io\n"), Ok(()));
        assert_eq!(erase("https://index.docker.io/v1/"), Ok(()));
        for (text, error) in [
            (document("", "u"), "no credentials server URL"),
            (document("gcr.io", ""), "no credentials username"),
            (document("a\nb", "u"), "the server URL holds a control character"),
            (
                document("docker.io", "u"),
                "docker.io is no registry of a cloud, and passwords are not kept here",
            ),
            ("canary".to_owned(), "standard input holds no credential in JSON"),
        ] {
            assert_eq!(stored(&text), Err(error.to_owned()));
        }
        // A password for Quay would be lost, where no robot stands in for it.
        let quay = document("quay.io", "u");
        assert!(stored(&quay).expect_err("it is not kept").contains("passwords are not kept"));
        let robot = World::new().variable("QUAY_ROBOT", "team+puller");
        assert_eq!(stored_in(&robot, &quay), Ok(()));
    }

    #[test]
    fn a_cloud_that_gives_nothing_is_told_in_one_line_with_what_to_try() {
        let world = World::new().variable("ICR_APIKEY", "canary").server(
            Method::Post,
            IAM,
            answer(400, r#"{"errorCode":"BXNIM0415E","errorMessage":"canary"}"#),
        );
        let error = get(&world, &CloudOptions::all(), "de.icr.io").expect_err("no key");
        assert_eq!(
            error.to_string(),
            "icr: IAM token at https://iam.cloud.ibm.com: status 400 BXNIM0415E; try: the API key \
             is not known: it may have been deleted"
        );
    }
}
