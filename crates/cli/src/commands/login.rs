//! `shipway login` and `shipway logout`, as docker has them.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use credentials::{ClientConfig, HelperRequest, RegistryAuth, Secret, server_key};

use crate::exit::{Failure, Kind};
use crate::output;
use crate::password;
use crate::registries::{
    RegistryArgs, client, config_at, docker_config, docker_config_path, failure, run_helper,
    stored_credential,
};

/// Docker Hub, as docker spells it.
const DEFAULT_SERVER: &str = "docker.io";
/// Flags of `login`.
#[derive(Args, Debug)]
pub(crate) struct LoginArgs {
    /// Registry to log in to
    #[arg(value_name = "SERVER", default_value = DEFAULT_SERVER)]
    server: String,
    /// User name
    #[arg(short, long)]
    username: Option<String>,
    /// Password or token; visible to other users of this machine, better use --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Flags of `logout`.
#[derive(Args, Debug)]
pub(crate) struct LogoutArgs {
    /// Registry to log out of
    #[arg(value_name = "SERVER", default_value = DEFAULT_SERVER)]
    server: String,
}

/// Checks a credential against the registry and keeps it.
pub(crate) async fn login(args: LoginArgs) -> Result<ExitCode, Failure> {
    let server = host_of(&args.server)?;
    let path = docker_config_path()?;
    let mut config = docker_config()?;
    let client = client(&args.registry)?;
    if args.username.is_none()
        && args.password.is_none()
        && let Some(auth) = stored_credential(&config, &server, "")?
    {
        output::line("Authenticating with existing credentials...");
        match client.ping(&server, Some(&auth)).await {
            Ok(()) => {
                output::line("Login Succeeded");
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) if error.is_access_failure() => output::error_line(
                "Login did not succeed with the existing credentials, asking for others",
            ),
            Err(error) => return Err(failure(error)),
        }
    }
    let auth = ask(&args)?;
    client.ping(&server, Some(&auth)).await.map_err(|error| {
        let denied = error.is_access_failure();
        let failure = failure(error);
        if denied { failure.hint("check the user name and the password") } else { failure }
    })?;
    keep(&mut config, &path, &server, &auth)?;
    output::line("Login Succeeded");
    Ok(ExitCode::SUCCESS)
}

/// Keeps a credential below a directory without asking the registry whether it is one, as
/// kaniko's executor does.
pub(crate) fn keep_without_asking(args: &LoginArgs, directory: &Path) -> Result<(), Failure> {
    let server = host_of(&args.server)?;
    let path = directory.join("config.json");
    let mut config = config_at(&path)?.unwrap_or_default();
    let auth = ask(args)?;
    keep(&mut config, &path, &server, &auth)
}

/// Forgets the credential of a registry.
pub(crate) fn logout(args: &LogoutArgs) -> Result<ExitCode, Failure> {
    let server = host_of(&args.server)?;
    let mut config = docker_config()?;
    let helper = config.helper_for(&server).map(str::to_owned);
    let removed = config.remove(&server);
    if !removed && helper.is_none() {
        output::line(&format!("Not logged in to {}", args.server));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("Removing login credentials for {}", args.server));
    if let Some(helper) = helper {
        let (erased, message) = run_helper(&HelperRequest::erase(&helper, &server_key(&server)))?;
        if !erased {
            let message = String::from_utf8_lossy(&message).trim().to_owned();
            output::error_line(&format!("warning: could not erase credentials: {message}"));
        }
    }
    if removed {
        write_config(&config, &docker_config_path()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `host[:port]` of what the user typed, which may be a URL.
fn host_of(server: &str) -> Result<String, Failure> {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://"));
    let rest = rest.unwrap_or(server);
    let host = rest.split('/').next().unwrap_or(rest);
    // A reference with a path proves that the host is one.
    match format!("{host}/x").parse::<oci_model::Reference>() {
        Ok(reference) if reference.registry() == host => Ok(host.to_owned()),
        Ok(reference) if host == "index.docker.io" => Ok(reference.registry().to_owned()),
        _ => Err(Failure::usage(format!("{server:?} is not the name of a registry"))
            .hint("a name with a dot or a port, such as registry.example.com:5000")),
    }
}

/// Takes user and password from flags, standard input or the terminal.
fn ask(args: &LoginArgs) -> Result<RegistryAuth, Failure> {
    if args.password.is_some() {
        output::error_line(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
        );
    }
    let interactive = std::io::stdin().is_terminal();
    let no_terminal = || {
        Failure::usage("cannot ask for a user name and a password: standard input is no terminal")
            .hint("--username NAME --password-stdin")
    };
    let username = match &args.username {
        Some(username) => username.clone(),
        None if interactive => prompt("Username: ")?,
        None => return Err(no_terminal()),
    };
    if username.is_empty() {
        return Err(Failure::usage("the user name is empty"));
    }
    let password = match &args.password {
        Some(password) => Secret::new(password.clone()),
        None => Secret::new(password::read(args.password_stdin, "Password: ")?),
    };
    if password.is_empty() {
        return Err(Failure::usage("the password is empty"));
    }
    Ok(RegistryAuth::basic(username, password))
}

fn prompt(question: &str) -> Result<String, Failure> {
    let mut out = std::io::stderr().lock();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

fn keep(
    config: &mut ClientConfig,
    path: &Path,
    server: &str,
    auth: &RegistryAuth,
) -> Result<(), Failure> {
    if let Some(helper) = config.helper_for(server).map(str::to_owned) {
        let request = HelperRequest::store(&helper, &server_key(server), auth);
        let (stored, message) = run_helper(&request)?;
        if !stored {
            let message = String::from_utf8_lossy(&message).trim().to_owned();
            return Err(Failure::new(
                Kind::Environment,
                anyhow::anyhow!("credential helper {helper} did not keep the login: {message}"),
            ));
        }
        config.set(server, auth);
        return write_config(config, path);
    }
    config.set(server, auth);
    write_config(config, path)?;
    output::error_line(&format!(
        "WARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential \
         helper to remove this warning.",
        path.display()
    ));
    Ok(())
}

/// Replaces the config file in one step; it stays what it was, or is readable by its owner only.
fn write_config(config: &ClientConfig, path: &Path) -> Result<(), Failure> {
    // A link to a shared file stays a link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let written = replace_file(&path, config.to_text().expose().as_bytes());
    written.map_err(|error| {
        Failure::new(Kind::Environment, anyhow::anyhow!("cannot write {}: {error}", path.display()))
    })
}

fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mode = std::fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode());
    let staged = path.with_extension(format!("json{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)?;
    let replaced = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777)))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&staged, path));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    replaced
}
