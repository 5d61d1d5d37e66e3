//! `shipway registry serve`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use registry_server::{
    AccessRule, Anonymous, AuthScheme, BindError, Holder, PlainHttp, RegistryOptions,
    RegistryServer, Role, TlsFiles,
};

use super::config::{Access, AnonymousArg, AuthArg, Config, ConfigRole, Effective, KeyFlags};
use super::{default_users, open_store};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output;

/// Where a registry listens unless told otherwise: the port that every client knows.
const ADDRESS: &str = "127.0.0.1:5000";

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    keys: KeyFlags,
    /// Settings in TOML, in a table [registry]; flags and variables win
    #[arg(long, env = "SHIPWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: ServeArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let effective = Effective::gather(args.config.as_deref(), &args.keys)
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    let options = options(effective.config, globals)?;
    let running = RegistryServer::bind(options).await.map_err(explain)?;
    output::line(&format!("registry: {}", running.url()));
    stop_requested().await?;
    running.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// Waits for Ctrl-C or the signal by which service managers stop a process.
async fn stop_requested() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn options(config: Config, globals: &Globals) -> Result<RegistryOptions, Failure> {
    let state = globals.state_dir();
    let store = open_store(&state)?;
    let mut options = RegistryOptions::new(state.join("registry"), store);
    let address = config.address.unwrap_or_else(|| ADDRESS.to_owned());
    options.address = resolve(&address)?;
    let default_users = default_users(&state);
    options.users = config.htpasswd.or_else(|| default_users.exists().then_some(default_users));
    options.anonymous = match (config.anonymous, &options.users) {
        (Some(AnonymousArg::None), _) | (None, Some(_)) => Anonymous::Nothing,
        (Some(AnonymousArg::Pull), _) => Anonymous::Pull,
        (Some(AnonymousArg::Push), _) => Anonymous::Push,
        (None, None) if options.address.ip().is_loopback() => Anonymous::Push,
        (None, None) => {
            return Err(Failure::usage(format!(
                "{address} is not a loopback address and there are no users"
            ))
            .hint("shipway registry user add NAME, or say --anonymous none|pull|push"));
        }
    };
    options.scheme = match config.auth {
        None | Some(AuthArg::Basic) => AuthScheme::Basic,
        Some(AuthArg::Token) => AuthScheme::Bearer,
    };
    options.tls = match (config.tls_cert, config.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
        (None, None) => None,
        _ => return Err(Failure::usage("--tls-cert and --tls-key go together")),
    };
    if config.plain_http {
        options.plain_http = PlainHttp::Anywhere;
    }
    options.external_url = config.external_url;
    options.access = config.access.into_iter().map(access_rule).collect();
    options.namespaces = config.namespaces.into_iter().map(Into::into).collect();
    Ok(options)
}

fn access_rule(access: Access) -> AccessRule {
    let holder = match (access.user, access.group) {
        (None, None) => Holder::Everybody,
        (Some(user), _) if user == "*" => Holder::AnyUser,
        (Some(user), _) => Holder::User(user),
        (None, Some(group)) => Holder::Group(group),
    };
    let role = match access.role {
        ConfigRole::Pull => Role::Pull,
        ConfigRole::Create => Role::Create,
        ConfigRole::Push => Role::Push,
        ConfigRole::Delete => Role::Delete,
        ConfigRole::Admin => Role::Admin,
    };
    AccessRule { prefix: access.prefix.unwrap_or_default(), holder, role }
}

fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let wrong = |why: String| Failure::usage(format!("--address {address:?}: {why}"));
    address
        .to_socket_addrs()
        .map_err(|error| wrong(error.to_string()))?
        .next()
        .ok_or_else(|| wrong("the name has no address".to_owned()))
}

fn explain(error: BindError) -> Failure {
    match &error {
        BindError::InUse { .. } => Failure::new(Kind::Environment, error)
            .hint("shipway status tells what runs; another --state-dir makes another registry"),
        BindError::Listen { .. } => {
            Failure::new(Kind::Environment, error).hint("another --address")
        }
        BindError::PlainHttp { .. } => Failure::new(Kind::Usage, error)
            .hint("--tls-cert FILE --tls-key FILE, or --plain-http if the network is trusted"),
        BindError::Tls { .. } | BindError::Users(_) | BindError::Namespaces(_) => {
            Failure::new(Kind::Usage, error)
        }
        BindError::State { .. } => Failure::new(Kind::Environment, error),
    }
}
