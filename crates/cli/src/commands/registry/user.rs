//! `shipway registry user`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::default_users;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{OutputArgs, OutputFormat};
use crate::{output, password};

#[derive(Args, Debug)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    verb: UserVerb,
}

#[derive(Subcommand, Debug)]
enum UserVerb {
    /// Add a user, or give one a new password
    Add(UserAddArgs),
    /// Show the names of those who can log in
    List(UserListArgs),
    /// Remove a user
    Rm(UserRmArgs),
}

#[derive(Args, Debug)]
struct UserAddArgs {
    /// Name of the user
    name: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// User file [default: registry/htpasswd in the state directory]
    #[arg(long, env = "SHIPWAY_REGISTRY_HTPASSWD", value_name = "FILE")]
    htpasswd: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct UserListArgs {
    /// User file [default: registry/htpasswd in the state directory]
    #[arg(long, env = "SHIPWAY_REGISTRY_HTPASSWD", value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct UserRmArgs {
    /// Name of the user
    name: String,
    /// User file [default: registry/htpasswd in the state directory]
    #[arg(long, env = "SHIPWAY_REGISTRY_HTPASSWD", value_name = "FILE")]
    htpasswd: Option<PathBuf>,
}

/// Runs the verb.
pub(super) fn run(args: &UserArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    match &args.verb {
        UserVerb::Add(args) => add(args, globals),
        UserVerb::List(args) => list(args, globals),
        UserVerb::Rm(args) => remove(args, globals),
    }
}

fn list(args: &UserListArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let path = args.htpasswd.clone().unwrap_or_else(|| default_users(&globals.state_dir()));
    let users = registry_server::list_users(&path)
        .map_err(|error| Failure::new(Kind::Environment, error))?;
    match args.output.output {
        OutputFormat::Json => output::json(&users)?,
        OutputFormat::Text => users.iter().for_each(|user| output::line(user)),
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(args: &UserRmArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let path = args.htpasswd.clone().unwrap_or_else(|| default_users(&globals.state_dir()));
    let removed = registry_server::remove_user(&path, &args.name)
        .map_err(|error| Failure::new(Kind::Environment, error))?;
    if !removed {
        let error = anyhow::anyhow!("there is no user {} in {}", args.name, path.display());
        return Err(Failure::new(Kind::NotFound, error));
    }
    output::line(&format!("{} may log in no more ({})", args.name, path.display()));
    Ok(ExitCode::SUCCESS)
}

fn add(args: &UserAddArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let path = args.htpasswd.clone().unwrap_or_else(|| default_users(&globals.state_dir()));
    if args.htpasswd.is_none()
        && let Some(directory) = path.parent()
    {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let password = password::read(args.password_stdin, &format!("Password for {}: ", args.name))?;
    registry_server::add_user(&path, &args.name, &password)
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    output::line(&format!("{} may log in ({})", args.name, path.display()));
    Ok(ExitCode::SUCCESS)
}
