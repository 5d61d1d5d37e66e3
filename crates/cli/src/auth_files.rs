//! Credentials that are kept in files: docker's, those of the containers tools, and the helpers
//! that they name.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use credentials::{
    AuthEnvironment, AuthFileFormat, ClientConfig, HelperError, Lookup, RegistryAuth, Secret,
    auth_files,
};
use rustix::fs::FlockOperation;

use crate::exit::{Failure, Kind};
use crate::helper_process;

fn environment() -> AuthEnvironment {
    let variable = |name| std::env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    AuthEnvironment {
        registry_auth_file: variable("REGISTRY_AUTH_FILE"),
        docker_config: variable("DOCKER_CONFIG"),
        runtime_dir: variable("XDG_RUNTIME_DIR"),
        config_home: variable("XDG_CONFIG_HOME"),
        home: crate::globals::home_dir(),
        user_id: rustix::process::geteuid().as_raw(),
    }
}

/// The file that `login` writes and `logout` cleans, whether it exists or not.
pub(crate) fn login_file() -> Result<PathBuf, Failure> {
    credentials::login_file(&environment()).ok_or_else(|| {
        Failure::new(Kind::Environment, anyhow::anyhow!("there is no home directory"))
            .hint("set HOME or DOCKER_CONFIG")
    })
}

/// The credential for a repository: `DOCKER_AUTH_CONFIG`, then the first file that has one. With
/// `REGISTRY_AUTH_FILE` that file alone: docker's variable says nothing to those whose file it is.
pub(crate) fn credential_for(
    server: &str,
    repository: &str,
) -> Result<Option<RegistryAuth>, Failure> {
    let environment = environment();
    if environment.registry_auth_file.is_some() {
        warn_of_hidden();
    } else if let Some(config) = of_environment()
        && let Some(found) = stored_credential(&config, server, repository)?
    {
        return Ok(Some(found));
    }
    for file in auth_files(&environment) {
        let Some(config) = read(&file.path, file.format)? else { continue };
        if let Some(found) = stored_credential(&config, server, repository)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Says which variables `REGISTRY_AUTH_FILE` hides: builds, whose order is kaniko's, read them.
fn warn_of_hidden() {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let hidden: Vec<&str> =
        ["DOCKER_AUTH_CONFIG", "DOCKER_CONFIG"].into_iter().filter(is_set).collect();
    if !hidden.is_empty() {
        let (hidden, verb) = (hidden.join(" and "), if hidden.len() > 1 { "are" } else { "is" });
        warn_once(format!(
            "{hidden} {verb} not read: REGISTRY_AUTH_FILE is set, and its file is the only one"
        ));
    }
}

/// What docker's file adds to every request to a registry.
pub(crate) fn http_headers() -> Vec<(String, Secret)> {
    let first = auth_files(&environment()).into_iter().next();
    let config = first.and_then(|file| read(&file.path, file.format).ok().flatten());
    config.map(|config| config.http_headers()).unwrap_or_default()
}

/// `DOCKER_AUTH_CONFIG`; what it may not hold is said and left aside, as docker does.
pub(crate) fn of_environment() -> Option<ClientConfig> {
    let text = std::env::var_os("DOCKER_AUTH_CONFIG").filter(|text| !text.is_empty())?;
    let bytes = std::os::unix::ffi::OsStringExt::into_vec(text);
    match ClientConfig::parse_environment(&bytes) {
        Ok(config) => Some(config),
        Err(error) => {
            warn_once(format!("DOCKER_AUTH_CONFIG is not used: {error}"));
            None
        }
    }
}

/// A config file as docker writes it, if it is there.
pub(crate) fn config_at(path: &Path) -> Result<Option<ClientConfig>, Failure> {
    read(path, AuthFileFormat::ConfigJson)
}

fn read(path: &Path, format: AuthFileFormat) -> Result<Option<ClientConfig>, Failure> {
    let parsed = match std::fs::read(path) {
        Ok(bytes) => match format {
            AuthFileFormat::ConfigJson => ClientConfig::parse(&bytes),
            AuthFileFormat::DockerCfg => ClientConfig::parse_dockercfg(&bytes),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::new(
                Kind::Environment,
                anyhow::anyhow!("cannot read {}: {error}", path.display()),
            ));
        }
    };
    parsed.map(Some).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Changes a config file in one step; an absent one is empty. Nobody who asks this way loses a
/// change of another: docker has no lock, so that this is between our own processes.
pub(crate) fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut ClientConfig) -> T,
) -> Result<T, Failure> {
    let unwritable = |path: &Path, error: &dyn std::fmt::Display| {
        let text = format!("cannot write {}: {error}", path.display());
        Failure::new(Kind::Environment, anyhow::anyhow!(text))
    };
    // A link to a shared file stays a link, also if the file is yet to come.
    let target = std::fs::canonicalize(path)
        .or_else(|_| {
            let target = std::fs::read_link(path)?;
            std::io::Result::Ok(path.parent().unwrap_or(Path::new("")).join(target))
        })
        .unwrap_or_else(|_| path.to_owned());
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let lock = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| std::fs::File::open(directory))
        .and_then(
            |lock| Ok(rustix::fs::flock(&lock, FlockOperation::LockExclusive).map(|()| lock)?),
        )
        .map_err(|error| unwritable(directory, &error))?;
    let mut config = config_at(&target)?.unwrap_or_default();
    let changed = change(&mut config);
    replace_file(directory, &target, config.to_text().expose().as_bytes())
        .map_err(|error| unwritable(&target, &error))?;
    drop(lock);
    Ok(changed)
}

/// Puts bytes in the place of a file in `directory`; it keeps its mode, or is readable by its owner
/// only. Until it is there the bytes stand in a file that nobody else could have made before, as a
/// link to somewhere or open to others, and that nobody else can read.
fn replace_file(directory: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mode = std::fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode());
    let mut staged = tempfile::Builder::new().prefix(".config.json.").tempfile_in(directory)?;
    staged.write_all(bytes)?;
    let file = staged.as_file();
    file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
    file.sync_all()?;
    staged.persist(path).map(|_| ()).map_err(|error| error.error)
}

/// The credential that a config holds for a server, from the file or from its helper.
pub(crate) fn stored_credential(
    config: &ClientConfig,
    server: &str,
    repository: &str,
) -> Result<Option<RegistryAuth>, Failure> {
    match config.lookup(server, repository).map_err(Failure::usage)? {
        Lookup::Absent => Ok(None),
        Lookup::Found(auth) => Ok(Some(auth)),
        Lookup::Ask { request, shadowed } => {
            if let Some(key) = shadowed {
                warn_once(format!(
                    "the entry {key:?} of the config file is not used: {} keeps the credentials \
                     of {server}",
                    request.program
                ));
            }
            if is_builtin(&request.program, server) {
                let program = &request.program;
                tracing::debug!(program, server, "not installed; asked in-process");
                return Ok(None);
            }
            match request.read_credential(&helper_process::run(&request)) {
                Ok(auth) => Ok(Some(auth)),
                Err(HelperError::NotFound) => Ok(None),
                Err(error) => Err(helper_failure(error)),
            }
        }
    }
}

/// Whether a helper that is not installed is one of a cloud's, whose work is done in-process: also
/// where it would have nothing to say, as Quay's for who is no robot.
fn is_builtin(program: &str, server: &str) -> bool {
    crate::commands::credential_helper::clouds_of_program(program).is_some()
        && !is_installed(program)
        && crate::cloud::is_of_wanted(server)
}

/// Whether a program is found on the path.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// What to do about a helper that did not do its work.
pub(crate) fn helper_failure(error: HelperError) -> Failure {
    Failure::new(Kind::Environment, error)
        .hint("mend or install the helper, or remove credsStore and credHelpers from config.json")
}

/// Says something once, however many images need it.
fn warn_once(text: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("warning: {text}");
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(text) {
        crate::output::error_line(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> RegistryAuth {
        RegistryAuth::basic("ada", Secret::new("pw"))
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777)
    }

    /// cloud-credentials.md 14.2, row 69.
    #[test]
    fn rewriting_keeps_unknown_keys_mode_and_link() {
        let place = tempfile::tempdir().expect("a directory");
        let (shared, link) = (place.path().join("shared.json"), place.path().join("config.json"));
        std::os::unix::fs::symlink("shared.json", &link).expect("a link");
        change(&link, |config| config.set("r.example", &ada())).expect("a dangling link");
        assert_eq!(mode(&shared), 0o600);
        std::fs::write(&shared, r#"{"psFormat":"x","plugins":{"a":{"b":"c"}}}"#).expect("a file");
        let shared_mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&shared, shared_mode).expect("a mode");
        change(&link, |config| config.set("r.example", &ada())).expect("a change");
        assert!(link.is_symlink());
        assert_eq!(mode(&shared), 0o640);
        let text = std::fs::read_to_string(&shared).expect("a file");
        let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["psFormat"], "x");
        assert_eq!(document["plugins"]["a"]["b"], "c");
        assert_eq!(document["auths"]["r.example"]["auth"], "YWRhOnB3");
    }

    /// cloud-credentials.md 14.2, row 69.
    #[test]
    fn a_secret_is_staged_where_nobody_has_laid_a_link() {
        let place = tempfile::tempdir().expect("a directory");
        let (path, others) = (place.path().join("config.json"), place.path().join("others"));
        std::fs::write(&others, "theirs").expect("a file");
        // The name that others could guess.
        let guessed = path.with_extension(format!("json{}", std::process::id()));
        std::os::unix::fs::symlink(&others, &guessed).expect("a link");
        change(&path, |config| config.set("r.example", &ada())).expect("a change");
        assert_eq!(std::fs::read_to_string(&others).expect("a file"), "theirs");
        assert!(path.symlink_metadata().expect("a file").is_file());
        assert_eq!(mode(&path), 0o600);

        // What could not be put in its place is not left beside it.
        let full = place.path().join("full");
        std::fs::create_dir_all(full.join("config.json")).expect("a directory");
        replace_file(&full, &full.join("config.json"), b"secret").expect_err("a directory");
        assert_eq!(std::fs::read_dir(&full).expect("a directory").count(), 1);
    }

    /// cloud-credentials.md 14.2, row 69: the lock.
    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("new/config.json");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let server = format!("r{writer}.example");
                    change(path, |config| config.set(&server, &ada())).expect("a change");
                });
            }
        });
        let config = config_at(&path).ok().flatten().expect("a config");
        assert_eq!(config.servers().len(), 8);
        assert_eq!(mode(&path), 0o600);
    }
}
