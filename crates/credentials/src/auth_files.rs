//! Where a person's or a build's registry credentials are kept: docker's file and those of the
//! containers tools, in the order in which they are read.

use std::path::{Path, PathBuf};

/// What the order depends on; an empty variable counts as unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthEnvironment {
    /// `REGISTRY_AUTH_FILE` (containers-auth.json(5)).
    pub registry_auth_file: Option<PathBuf>,
    /// `DOCKER_CONFIG`, a directory.
    pub docker_config: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// The user, for `/run/containers/UID`.
    pub user_id: u32,
}

/// Which of the two formats a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFileFormat {
    /// `config.json` and `auth.json`.
    ConfigJson,
    /// `.dockercfg`.
    DockerCfg,
}

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFile {
    /// Its path; it need not exist.
    pub path: PathBuf,
    /// Its format.
    pub format: AuthFileFormat,
}

/// The files to read, in order: the first that has a credential for a registry counts, and the
/// first of all is the one that `login` writes. `REGISTRY_AUTH_FILE` and `DOCKER_CONFIG` are
/// exclusive: with one of them set, nothing else is read.
///
/// The containers tools read their own file before docker's. We write docker's, so it comes first:
/// a login must not lose to an older one of another tool.
pub fn auth_files(environment: &AuthEnvironment) -> Vec<AuthFile> {
    let config_json = |path: PathBuf| AuthFile { path, format: AuthFileFormat::ConfigJson };
    if let Some(path) = &environment.registry_auth_file {
        return vec![config_json(path.clone())];
    }
    if let Some(directory) = &environment.docker_config {
        return vec![config_json(directory.join("config.json"))];
    }
    let in_containers = |directory: &Path| directory.join("containers/auth.json");
    let runtime = environment.runtime_dir.as_deref().map_or_else(
        || PathBuf::from(format!("/run/containers/{}/auth.json", environment.user_id)),
        in_containers,
    );
    let Some(home) = &environment.home else { return vec![config_json(runtime)] };
    let config_home = environment.config_home.clone().unwrap_or_else(|| home.join(".config"));
    vec![
        config_json(home.join(".docker/config.json")),
        config_json(runtime),
        config_json(in_containers(&config_home)),
        AuthFile { path: home.join(".dockercfg"), format: AuthFileFormat::DockerCfg },
    ]
}

/// The file that `login` writes and `logout` cleans; `None` without a home directory, where what
/// is written would not be found again.
pub fn login_file(environment: &AuthEnvironment) -> Option<PathBuf> {
    let is_named = environment.registry_auth_file.is_some() || environment.docker_config.is_some();
    if !is_named && environment.home.is_none() {
        return None;
    }
    auth_files(environment).into_iter().next().map(|file| file.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(environment: &AuthEnvironment) -> Vec<String> {
        auth_files(environment).iter().map(|file| file.path.display().to_string()).collect()
    }

    fn of_ada() -> AuthEnvironment {
        AuthEnvironment {
            home: Some(PathBuf::from("/home/ada")),
            user_id: 1000,
            ..AuthEnvironment::default()
        }
    }

    #[test]
    fn dockers_file_comes_first_and_the_containers_tools_follow() {
        let expected = [
            "/home/ada/.docker/config.json",
            "/run/containers/1000/auth.json",
            "/home/ada/.config/containers/auth.json",
            "/home/ada/.dockercfg",
        ];
        assert_eq!(paths(&of_ada()), expected);
        let xdg = AuthEnvironment {
            runtime_dir: Some(PathBuf::from("/run/user/1000")),
            config_home: Some(PathBuf::from("/etc/ada")),
            ..of_ada()
        };
        assert_eq!(paths(&xdg)[1], "/run/user/1000/containers/auth.json");
        assert_eq!(paths(&xdg)[2], "/etc/ada/containers/auth.json");
    }

    /// cloud-credentials.md 14.2, row 68.
    #[test]
    fn named_places_exclude_all_others() {
        let docker =
            AuthEnvironment { docker_config: Some(PathBuf::from("/kaniko/.docker")), ..of_ada() };
        assert_eq!(paths(&docker), ["/kaniko/.docker/config.json"]);
        let both =
            AuthEnvironment { registry_auth_file: Some(PathBuf::from("/auth.json")), ..docker };
        assert_eq!(paths(&both), ["/auth.json"]);
        assert_eq!(login_file(&both), Some(PathBuf::from("/auth.json")));
        assert_eq!(login_file(&AuthEnvironment::default()), None);
    }
}
