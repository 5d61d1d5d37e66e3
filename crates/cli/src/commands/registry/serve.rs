//! `shipway registry serve`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use registry_server::{
    AccessRule, Anonymous, AuthScheme, BindError, Holder, PlainHttp, RegistryOptions,
    RegistryServer, Role, TlsFiles,
};

use super::config::{self, AnonymousArg, AuthArg, Config, ConfigAccess, ConfigRole};
use super::{default_users, open_store};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output;

/// Where a registry listens unless told otherwise: the port that every client knows.
const ADDRESS: &str = "127.0.0.1:5000";

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Where to listen [default: 127.0.0.1:5000]
    #[arg(long, env = "SHIPWAY_REGISTRY_ADDRESS", value_name = "HOST:PORT")]
    address: Option<String>,
    /// User file with bcrypt entries (htpasswd -B), read again when it changes
    /// [default: registry/htpasswd in the state directory, if it exists]
    #[arg(long, env = "SHIPWAY_REGISTRY_HTPASSWD", value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// What clients without credentials may do
    /// [default: nothing with a user file, else everything on loopback]
    #[arg(long, env = "SHIPWAY_REGISTRY_ANONYMOUS", value_name = "RIGHT")]
    anonymous: Option<AnonymousArg>,
    /// How clients are asked to log in [default: basic]
    #[arg(long, env = "SHIPWAY_REGISTRY_AUTH", value_name = "SCHEME")]
    auth: Option<AuthArg>,
    /// Certificate chain for HTTPS (PEM)
    #[arg(long, env = "SHIPWAY_REGISTRY_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key for HTTPS (PEM)
    #[arg(long, env = "SHIPWAY_REGISTRY_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP beyond loopback: passwords cross the network readable
    #[arg(long, env = "SHIPWAY_REGISTRY_PLAIN_HTTP")]
    plain_http: bool,
    /// URL by which clients reach this registry, for the token service
    #[arg(long, env = "SHIPWAY_REGISTRY_EXTERNAL_URL", value_name = "URL")]
    external_url: Option<String>,
    /// Settings in TOML, in a table [registry]; flags and variables win
    #[arg(long, env = "SHIPWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: ServeArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let config = args.config.as_deref().map(config::read).transpose()?.unwrap_or_default();
    let options = options(args, config, globals)?;
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

fn options(args: ServeArgs, config: Config, globals: &Globals) -> Result<RegistryOptions, Failure> {
    let state = globals.state_dir();
    let store = open_store(&state)?;
    let mut options = RegistryOptions::new(state.join("registry"), store);
    let address = args.address.or(config.address).unwrap_or_else(|| ADDRESS.to_owned());
    options.address = resolve(&address)?;
    let default_users = default_users(&state);
    options.users = args
        .htpasswd
        .or(config.htpasswd)
        .or_else(|| default_users.exists().then_some(default_users));
    options.anonymous = match (args.anonymous.or(config.anonymous), &options.users) {
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
    options.scheme = match args.auth.or(config.auth) {
        None | Some(AuthArg::Basic) => AuthScheme::Basic,
        Some(AuthArg::Token) => AuthScheme::Bearer,
    };
    options.tls = match (args.tls_cert.or(config.tls_cert), args.tls_key.or(config.tls_key)) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
        (None, None) => None,
        _ => return Err(Failure::usage("--tls-cert and --tls-key go together")),
    };
    if args.plain_http || config.plain_http {
        options.plain_http = PlainHttp::Anywhere;
    }
    options.external_url = args.external_url.or(config.external_url);
    options.access = config.access.into_iter().map(access_rule).collect();
    Ok(options)
}

fn access_rule(access: ConfigAccess) -> AccessRule {
    let holder = match access.user {
        None => Holder::Everybody,
        Some(user) if user == "*" => Holder::AnyUser,
        Some(user) => Holder::User(user),
    };
    let role = match access.role {
        ConfigRole::Pull => Role::Pull,
        ConfigRole::Push => Role::Push,
        ConfigRole::Delete => Role::Delete,
    };
    AccessRule { prefix: access.prefix, holder, role }
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
        BindError::Tls { .. } | BindError::Users(_) => Failure::new(Kind::Usage, error),
        BindError::State { .. } => Failure::new(Kind::Environment, error),
    }
}
