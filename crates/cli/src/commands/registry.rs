//! `shipway registry`: serve, users, garbage.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, CollectMode, CollectOptions, ReadError, Verdict};
use clap::{Args, Subcommand, ValueEnum};
use registry_server::{
    AccessRule, Anonymous, AuthScheme, BindError, COLLECTION_DELAY, Holder, PlainHttp,
    RegistryOptions, RegistryServer, Role, TlsFiles, UPLOAD_IDLE_MAX,
};
use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};
use crate::password;

/// Where a registry listens unless told otherwise: the port that every client knows.
const ADDRESS: &str = "127.0.0.1:5000";

/// A private registry on this machine.
#[derive(Args, Debug)]
pub(crate) struct RegistryArgs {
    #[command(subcommand)]
    verb: RegistryVerb,
}

#[derive(Subcommand, Debug)]
enum RegistryVerb {
    /// Serve the registry until stopped
    Serve(ServeArgs),
    /// Manage who may log in
    User(UserArgs),
    /// Remove blobs that no image needs any more
    Gc(GcArgs),
    /// Read every blob again and put damaged ones away
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
struct ServeArgs {
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

#[derive(Args, Debug)]
struct UserArgs {
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

#[derive(Args, Debug)]
struct GcArgs {
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Keep blobs that were used within this many seconds
    #[arg(long, default_value_t = COLLECTION_DELAY.as_secs(), value_name = "SECONDS")]
    delay: u64,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnonymousArg {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Pull and push.
    Push,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthArg {
    /// User name and password with each request.
    Basic,
    /// Tokens from the built-in token service.
    Token,
}

/// The file given with `--config`; other tables belong to other verbs.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    registry: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    address: Option<String>,
    htpasswd: Option<PathBuf>,
    anonymous: Option<AnonymousArg>,
    auth: Option<AuthArg>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    plain_http: bool,
    external_url: Option<String>,
    #[serde(default)]
    access: Vec<ConfigAccess>,
}

/// One right; rights add up.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigAccess {
    /// The repository and those below it; empty for all.
    #[serde(default)]
    prefix: String,
    /// A user of the user file; `*` for each of them, absent for everybody.
    user: Option<String>,
    role: ConfigRole,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConfigRole {
    Pull,
    Push,
    Delete,
}

/// Runs the verb.
pub(crate) async fn run(args: RegistryArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    match args.verb {
        RegistryVerb::Serve(args) => serve(args, globals).await,
        RegistryVerb::User(UserArgs { verb: UserVerb::Add(args) }) => add_user(&args, globals),
        RegistryVerb::Gc(args) => collect(&args, globals).await,
        RegistryVerb::Verify(args) => verify(&args, globals).await,
    }
}

async fn serve(args: ServeArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let config = args.config.as_deref().map(read_config).transpose()?.unwrap_or_default();
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

fn read_config(path: &Path) -> Result<Config, Failure> {
    let usage = |error: anyhow::Error| {
        Failure::new(Kind::Usage, error.context(format!("cannot use {}", path.display())))
    };
    let text = std::fs::read_to_string(path).map_err(|error| usage(error.into()))?;
    let file: ConfigFile = toml::from_str(&text).map_err(|error| usage(error.into()))?;
    Ok(file.registry)
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

fn add_user(args: &UserAddArgs, globals: &Globals) -> Result<ExitCode, Failure> {
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

/// What `registry gc` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CollectedReport {
    dry_run: bool,
    blobs: u64,
    bytes: u64,
    kept_blobs: u64,
    uploads: usize,
}

async fn collect(args: &GcArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let state = globals.state_dir();
    let store = open_store(&state)?;
    let options = CollectOptions {
        now: SystemTime::now(),
        delay: Duration::from_secs(args.delay),
        upload_idle_max: UPLOAD_IDLE_MAX,
        mode: if args.dry_run { CollectMode::Plan } else { CollectMode::Apply },
    };
    let format = args.output.output;
    let told = move |digest: &oci_model::Digest, size: u64| {
        if format == OutputFormat::Text {
            output::line(&format!("{digest} {size}"));
        }
    };
    let collected =
        registry_server::collect_garbage(&state.join("registry"), &store, &options, told).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&CollectedReport {
            dry_run: args.dry_run,
            blobs: collected.blobs,
            bytes: collected.bytes,
            kept_blobs: collected.kept_blobs,
            uploads: collected.uploads,
        })?,
        OutputFormat::Text => output::line(&format!(
            "{}: {} blobs, {} bytes; kept: {} blobs",
            if args.dry_run { "would remove" } else { "removed" },
            collected.blobs,
            collected.bytes,
            collected.kept_blobs
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// What `registry verify` prints.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct VerifiedReport {
    blobs: u64,
    bytes: u64,
    damaged: Vec<oci_model::Digest>,
}

async fn verify(args: &VerifyArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let store = open_store(&globals.state_dir())?;
    let report = tokio::task::spawn_blocking(move || verify_all(&store)).await??;
    let VerifiedReport { blobs, bytes, damaged } = &report;
    match args.output.output {
        OutputFormat::Json => output::json(&report)?,
        OutputFormat::Text => output::line(&format!("verified: {blobs} blobs, {bytes} bytes")),
    }
    match damaged.len() {
        0 => Ok(ExitCode::SUCCESS),
        count => {
            let names: Vec<String> = damaged.iter().map(ToString::to_string).collect();
            let text = format!("{count} blobs were damaged on disk: {}", names.join(", "));
            Err(Failure::new(Kind::Failed, anyhow::anyhow!("{text}")).hint(
                "push the images that had them again; the bytes are kept in blobs/quarantine",
            ))
        }
    }
}

fn verify_all(store: &BlobStore) -> Result<VerifiedReport, ReadError> {
    let mut report = VerifiedReport::default();
    store.for_each_blob(|digest, size| {
        match store.verify(&digest) {
            Ok(Verdict::Intact) => {}
            Ok(Verdict::Quarantined) => report.damaged.push(digest),
            // Collected meanwhile.
            Err(ReadError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        report.blobs += 1;
        report.bytes += size;
        Ok(())
    })?;
    Ok(report)
}

fn open_store(state: &Path) -> Result<BlobStore, Failure> {
    BlobStore::open(state.join("blobs")).map_err(|error| Failure::new(Kind::Environment, error))
}

/// The user file that `registry user add` writes and `registry serve` finds.
fn default_users(state: &Path) -> PathBuf {
    state.join("registry/htpasswd")
}
