//! The credential of a `PullImage` call, decoded in containerd's order (kubelet-images.md 11).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use credentials::{RegistryAuth, Secret};

use super::message::AuthConfig;

/// Names under which Docker Hub is known in `server_address`.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Why a credential cannot be read; the texts never repeat it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuthError {
    #[error("illegal base64 data in auth")]
    Base64,
    #[error("unable to parse auth field, must be formatted as base64(username:password)")]
    NoColon,
}

/// What to show to `registry` (`host[:port]`); `None` asks as nobody.
///
/// A credential that names another server is not shown. Of several fields the first of user name,
/// identity token, `auth` and registry token counts.
///
/// # Errors
/// `auth` is needed and cannot be read.
pub(super) fn decode(
    config: Option<AuthConfig>,
    registry: &str,
) -> Result<Option<RegistryAuth>, AuthError> {
    let Some(config) = config else { return Ok(None) };
    if !config.server_address.is_empty() && !is_same_server(&config.server_address, registry) {
        return Ok(None);
    }
    if !config.username.is_empty() {
        return Ok(Some(RegistryAuth::basic(config.username, Secret::new(config.password))));
    }
    if !config.identity_token.is_empty() {
        let token = Secret::new(config.identity_token);
        return Ok(Some(RegistryAuth::IdentityToken { token }));
    }
    if !config.auth.is_empty() {
        return pair(&config.auth).map(Some);
    }
    if !config.registry_token.is_empty() {
        let token = Secret::new(config.registry_token);
        return Ok(Some(RegistryAuth::RegistryToken { token }));
    }
    Ok(None)
}

fn pair(auth: &str) -> Result<RegistryAuth, AuthError> {
    let bytes = BASE64.decode(auth.trim()).map_err(|_| AuthError::Base64)?;
    let text = String::from_utf8(bytes).map_err(|_| AuthError::Base64)?;
    let (user, password) = text.split_once(':').ok_or(AuthError::NoColon)?;
    let password = Secret::new(password.trim_matches('\0'));
    Ok(RegistryAuth::basic(user, password))
}

/// Whether an address such as `https://host:port/v1/` or `host` is the registry's.
fn is_same_server(address: &str, registry: &str) -> bool {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| address.strip_prefix(scheme))
        .unwrap_or(address);
    let host = rest.split('/').next().unwrap_or_default();
    host == registry || (HUB.contains(&host) && HUB.contains(&registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &[(&str, &str)]) -> AuthConfig {
        let mut config = AuthConfig::default();
        for (name, value) in fields {
            let field = match *name {
                "username" => &mut config.username,
                "password" => &mut config.password,
                "auth" => &mut config.auth,
                "server" => &mut config.server_address,
                "identity" => &mut config.identity_token,
                _ => &mut config.registry_token,
            };
            (*value).clone_into(field);
        }
        config
    }

    /// kubelet-images.md 11, auth decoding of containerd.
    #[test]
    fn credential_is_decoded_in_containerds_order() {
        let basic =
            |user: &str, password: &str| Ok(Some(RegistryAuth::basic(user, Secret::new(password))));
        let identity =
            |token: &str| Ok(Some(RegistryAuth::IdentityToken { token: Secret::new(token) }));
        let bearer =
            |token: &str| Ok(Some(RegistryAuth::RegistryToken { token: Secret::new(token) }));
        let rows = [
            (&[][..], Ok(None)),
            (&[("password", "p")], Ok(None)),
            (&[("username", "u"), ("password", "p"), ("identity", "i")], basic("u", "p")),
            (&[("username", "u")], basic("u", "")),
            (&[("identity", "i"), ("auth", "Zm9vOmJhcg==")], identity("i")),
            (&[("auth", "Zm9vOmJhcg=="), ("token", "t")], basic("foo", "bar")),
            (&[("auth", "Zm9vOmJhcjpiYXo=")], basic("foo", "bar:baz")),
            (&[("auth", "Zm9vOmJhcgAA")], basic("foo", "bar")),
            (&[("auth", "Og==")], basic("", "")),
            (&[("auth", "dXNlcg==")], Err(AuthError::NoColon)),
            (&[("auth", "pants")], Err(AuthError::Base64)),
            (&[("token", "t")], bearer("t")),
            (&[("server", "https://r.example:5000/v2/"), ("username", "u")], basic("u", "")),
            (&[("server", "r.example:5000"), ("username", "u")], basic("u", "")),
            (&[("server", "https://other.example"), ("username", "u")], Ok(None)),
            (&[("server", "https://r.example"), ("username", "u")], Ok(None)),
            (&[("server", "https://other.example"), ("auth", "pants")], Ok(None)),
        ];
        for (fields, expected) in rows {
            assert_eq!(decode(Some(config(fields)), "r.example:5000"), expected, "{fields:?}");
        }
        assert_eq!(decode(None, "r.example:5000"), Ok(None));
    }

    #[test]
    fn hub_is_one_server_under_all_its_names() {
        let shown = |address: &str| {
            let config = config(&[("server", address), ("username", "u")]);
            decode(Some(config), "docker.io").expect("decoded").is_some()
        };
        assert!(shown("https://index.docker.io/v1/"));
        assert!(shown("docker.io"));
        assert!(!shown("https://docker.io.example"));
    }

    #[test]
    fn credential_is_not_printed() {
        let config = config(&[("username", "ada"), ("password", "hunter2")]);
        assert_eq!(format!("{config:?}"), "AuthConfig(****)");
    }
}
