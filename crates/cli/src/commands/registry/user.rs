//! `shipway registry user`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::default_users;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
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

/// Runs the verb.
pub(super) fn run(args: &UserArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    match &args.verb {
        UserVerb::Add(args) => add(args, globals),
    }
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
