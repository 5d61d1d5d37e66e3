//! `shipway login` and `shipway logout`, as docker has them.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use credentials::{HelperError, HelperRequest, RegistryAuth, Secret, server_key};

use crate::auth_files::{change, config_at, helper_failure, login_file, stored_credential};
use crate::exit::Failure;
use crate::registries::{RegistryArgs, client, failure};
use crate::{helper_process, output, password};

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
    /// Keep user and password also if the registry gives an identity token, which kubelets ignore
    #[arg(long)]
    keep_password: bool,
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
    let path = login_file()?;
    let config = config_at(&path)?.unwrap_or_default();
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
    let kept = client.login(&server, &auth).await.map_err(|error| {
        let advice = error
            .advice()
            .or(error.is_access_failure().then_some("check the user name and the password"));
        let failure = failure(error);
        match advice {
            Some(advice) => failure.hint(advice),
            None => failure,
        }
    })?;
    let kept = if args.keep_password { auth } else { kept };
    keep(&path, &server, &kept)?;
    if matches!(kept, RegistryAuth::IdentityToken { .. }) {
        output::error_line(
            "The registry gave an identity token, which is kept instead of the password.\nKubelets \
             ignore those: for a pull secret log in with --keep-password.",
        );
    }
    output::line("Login Succeeded");
    Ok(ExitCode::SUCCESS)
}

/// Keeps a credential below a directory without asking the registry whether it is one, as
/// kaniko's executor does.
pub(crate) fn keep_without_asking(args: &LoginArgs, directory: &Path) -> Result<(), Failure> {
    let server = host_of(&args.server)?;
    let auth = ask(args)?;
    keep(&directory.join("config.json"), &server, &auth)
}

/// Forgets the credential of a registry.
pub(crate) fn logout(args: &LogoutArgs) -> Result<ExitCode, Failure> {
    let server = host_of(&args.server)?;
    let path = login_file()?;
    let config = config_at(&path)?.unwrap_or_default();
    let helper = config.helper_for(&server).map(str::to_owned);
    let is_written = config.clone().remove(&server);
    if !is_written && helper.is_none() {
        output::line(&format!("Not logged in to {}", args.server));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("Removing login credentials for {}", args.server));
    if let Some(helper) = helper {
        let request =
            HelperRequest::erase(&helper, &server_key(&server)).map_err(helper_failure)?;
        match request.read_done(&helper_process::run(&request)) {
            Ok(()) | Err(HelperError::NotFound) => {}
            Err(error) => {
                output::error_line(&format!("warning: could not erase credentials: {error}"));
            }
        }
    }
    if is_written {
        change(&path, |config| config.remove(&server))?;
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

fn keep(path: &Path, server: &str, auth: &RegistryAuth) -> Result<(), Failure> {
    let config = config_at(path)?.unwrap_or_default();
    let helper = config.helper_for(server).map(str::to_owned);
    if let Some(helper) = &helper {
        let request = HelperRequest::store(helper, &server_key(server), auth);
        let request = request.map_err(helper_failure)?;
        request.read_done(&helper_process::run(&request)).map_err(helper_failure)?;
    }
    change(path, |config| config.set(server, auth))?;
    if helper.is_none() {
        output::error_line(&format!(
            "WARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential \
             helper to remove this warning.",
            path.display()
        ));
    }
    Ok(())
}
