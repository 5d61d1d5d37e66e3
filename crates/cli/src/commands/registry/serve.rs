//! `shipway registry serve`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use blob_store::BlobStore;
use clap::Args;
use registry_server::{
    AccessRule, Anonymous, AuthScheme, BindError, Holder, PlainHttp, RegistryOptions,
    RegistryServer, Role, TlsFiles,
};

use super::config::{Access, AnonymousArg, AuthArg, Config, ConfigRole, Effective, KeyFlags};
use super::reload::{Reloader, Request, Signals};
use super::upstreams::proxy_options;
use super::{default_users, identity, open_store, operations, storage, upkeep};
use crate::exit::{Failure, Kind};
use crate::globals::{Globals, LogFormat};
use crate::output;

/// Where a registry listens unless told otherwise: the port that every client knows.
const ADDRESS: &str = "127.0.0.1:5000";

/// How often files are looked at for changes unless told otherwise.
const WATCH: Duration = Duration::from_secs(2);

/// Files are not looked at more often.
const WATCH_MIN: Duration = Duration::from_millis(50);

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) keys: KeyFlags,
    /// Settings in TOML, in a table [registry]; flags and variables win
    #[arg(long, env = "SHIPWAY_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// How the log on standard error is written; with --log warn,registry_access=info it has a
    /// line per request
    #[arg(long, env = "SHIPWAY_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
}

pub(super) async fn run(args: ServeArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let effective = Effective::gather(args.config.as_deref(), &args.keys)
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    let watch = effective.config.operations.watch.map_or(WATCH, |time| time.0);
    let options = options(effective.config.clone(), globals)?;
    let mut signals = Signals::catch()?;
    let running = RegistryServer::bind(options).await.map_err(explain)?;
    output::line(&format!("registry: {}", running.url()));
    if let Some(address) = running.operators_address() {
        output::line(&format!("operations: http://{address}"));
    }
    let mut reloader = Reloader::new(args, globals.clone(), effective);
    let mut looks = tokio::time::interval(watch.max(WATCH_MIN));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Reload => reloader.reload(&running).await,
                // Somebody sits and waits.
                Request::Interrupt => {
                    running.shutdown().await;
                    break;
                }
                Request::Terminate => {
                    tokio::select! {
                        () = running.drain() => {}
                        // Whoever asks twice means now.
                        () = signals.stop_again() => {}
                    }
                    break;
                }
            },
            _ = looks.tick() => reloader.look(&running).await,
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn options(config: Config, globals: &Globals) -> Result<RegistryOptions, Failure> {
    let store = open_store(&globals.state_dir())?;
    options_over(store, config, globals)
}

/// The same over any store, which nothing is put into.
pub(super) fn options_over(
    store: BlobStore,
    config: Config,
    globals: &Globals,
) -> Result<RegistryOptions, Failure> {
    let state = globals.state_dir();
    let mut options = RegistryOptions::new(state.join("registry"), store);
    let address = config.address.unwrap_or_else(|| ADDRESS.to_owned());
    options.address = resolve(&address)?;
    let default_users = default_users(&state);
    options.users = config.htpasswd.or_else(|| default_users.exists().then_some(default_users));
    options.scheme = match config.auth {
        None | Some(AuthArg::Basic) => AuthScheme::Basic,
        Some(AuthArg::Token) => AuthScheme::Bearer,
    };
    options.tls = match (config.tls_cert, config.tls_key) {
        (Some(certificate), Some(key)) => {
            let clients = config.tls.client_certificates()?;
            Some(TlsFiles { certificate, key, clients })
        }
        (None, None) => {
            if config.tls.client_certificates()?.is_some() {
                return Err(Failure::usage("--tls-client-ca goes with --tls-cert and --tls-key"));
            }
            None
        }
        _ => return Err(Failure::usage("--tls-cert and --tls-key go together")),
    };
    if config.plain_http {
        options.plain_http = PlainHttp::Anywhere;
    }
    upkeep::apply(&config.upkeep, &mut options)?;
    options.external_url = config.external_url;
    options.bucket =
        storage::bucket(config.storage, config.bucket, |name| std::env::var(name).ok())?;
    options.sparse_indexes = config.sparse_indexes;
    options.drain_max = config.operations.drain_requests.map_or(options.drain_max, |time| time.0);
    for receiver in config.notifications {
        options.operations.receivers.push(receiver.receiver()?);
    }
    options.operations.audit = config.audit.options(state.join("registry/audit"));
    operations::apply(&config.operations, &config.rates, &mut options.operations);
    options.identity = identity::options(config.identity, globals)?;
    options.access = config.access.into_iter().map(access_rule).collect::<Result<_, _>>()?;
    options.proxy = proxy_options(config.proxy, &config.cache)?;
    options.namespaces = config.namespaces.into_iter().map(Into::into).collect();
    // Only now is it known whether there is anybody who could log in.
    options.anonymous = match config.anonymous {
        Some(AnonymousArg::None) => Anonymous::Nothing,
        Some(AnonymousArg::Pull) => Anonymous::Pull,
        Some(AnonymousArg::Push) => Anonymous::Push,
        None if options.knows_somebody() => Anonymous::Nothing,
        None if options.address.ip().is_loopback() => Anonymous::Push,
        None => {
            return Err(Failure::usage(format!(
                "{address} is not a loopback address and there are no users"
            ))
            .hint("shipway registry user add NAME, or say --anonymous none|pull|push"));
        }
    };
    Ok(options)
}

fn access_rule(access: Access) -> Result<AccessRule, Failure> {
    let holder = match (access.user, access.group) {
        (None, None) => Holder::Everybody,
        (Some(user), Some(group)) => {
            let text = format!("a rule of [[registry.access]] names user {user} and group {group}");
            return Err(Failure::usage(text).hint("a rule for each of them"));
        }
        (Some(user), None) if user == "*" => Holder::AnyUser,
        (Some(user), None) => Holder::User(user),
        (None, Some(group)) => Holder::Group(group),
    };
    let role = match access.role {
        ConfigRole::Pull => Role::Pull,
        ConfigRole::Create => Role::Create,
        ConfigRole::Push => Role::Push,
        ConfigRole::Delete => Role::Delete,
        ConfigRole::Admin => Role::Admin,
    };
    Ok(AccessRule { prefix: access.prefix.unwrap_or_default(), holder, role })
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
        BindError::Tls { .. }
        | BindError::Users(_)
        | BindError::Robots(_)
        | BindError::Issuer(_)
        | BindError::Namespaces(_)
        | BindError::Notifications(_)
        | BindError::Proxy(_) => Failure::new(Kind::Usage, error),
        BindError::Audit(_) | BindError::State { .. } => Failure::new(Kind::Environment, error),
    }
}
