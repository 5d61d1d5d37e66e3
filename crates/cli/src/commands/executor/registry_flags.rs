//! kaniko's flags about registries and logging, shared by executor, push and warmer.

use clap::{ArgAction, Args};
use credentials::Secret;
use registry_client::{ClientCertificate, ClientOptions, Fallback, HostTls, Mirror};

use super::environment::user_agent;
use crate::build::credentials::{CredentialFile, client_options};
use crate::build::progress::{KanikoLog, LogFormat};
use crate::exit::Failure;

/// What registries say when a tag must not move.
const IMMUTABLE: [&str; 3] = [
    "The repository has enabled tag immutability",
    "cannot be overwritten because the repository is immutable",
    "because the tag is immutable",
];

/// How registries are reached.
#[derive(Args, Debug)]
pub(crate) struct RegistryFlags {
    /// Retries of a pull
    #[arg(long, default_value_t = 0, value_name = "N")]
    image_download_retry: u32,
    /// Pull over plain HTTP
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    insecure_pull: bool,
    /// Registries that speak plain HTTP
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
    /// Pull without checking certificates
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    skip_tls_verify_pull: bool,
    /// Registries whose certificates are not checked
    #[arg(long = "skip-tls-verify-registry", value_name = "HOST")]
    skip_tls_verify_registries: Vec<String>,
    /// Certificates of registries, HOST=PATH
    #[arg(long = "registry-certificate", value_name = "HOST=PATH")]
    registry_certificates: Vec<String>,
    /// Certificates to show to registries, HOST=CERTIFICATE,KEY
    #[arg(long = "registry-client-cert", value_name = "HOST=PATH,PATH")]
    registry_client_certs: Vec<String>,
    /// Mirrors of docker.io; those of KANIKO_REGISTRY_MIRROR follow
    #[arg(long = "registry-mirror", value_delimiter = ',', value_name = "HOST[/PREFIX]")]
    registry_mirrors: Vec<String>,
    /// Mirrors by registry, ORIGINAL=NEW[/PREFIX]; those of KANIKO_REGISTRY_MAP follow
    #[arg(long = "registry-map", value_delimiter = ';', value_name = "ORIGINAL=NEW")]
    registry_maps: Vec<String>,
    /// Ask mirrors only, not the registry that they stand for
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    skip_default_registry_fallback: bool,
}

/// How results are pushed.
#[derive(Args, Debug)]
pub(crate) struct PushFlags {
    /// Retries of a push
    #[arg(long, default_value_t = 0, value_name = "N")]
    push_retry: u32,
    /// Push over plain HTTP
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    insecure: bool,
    /// Push without checking certificates
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    skip_tls_verify: bool,
}

/// How log lines look.
#[derive(Args, Debug)]
pub(crate) struct LogFlags {
    /// panic, fatal, error, warn, info, debug or trace
    #[arg(short = 'v', long, default_value = "info", value_name = "LEVEL")]
    pub(super) verbosity: String,
    /// Form of log lines
    #[arg(long, default_value = "color", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Timestamps in log lines
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    log_timestamp: bool,
}

impl LogFlags {
    /// The looks of log lines.
    pub(crate) fn log(&self) -> KanikoLog {
        KanikoLog {
            format: self.log_format,
            timestamps: self.log_timestamp,
            info: matches!(self.verbosity.as_str(), "info" | "debug" | "trace"),
        }
    }

    /// Refuses a level that there is none of.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let levels = ["panic", "fatal", "error", "warn", "info", "debug", "trace"];
        if levels.contains(&self.verbosity.as_str()) {
            return Ok(());
        }
        let text = format!("not a valid logrus Level: {:?}", self.verbosity);
        Err(Failure::usage(text).hint(levels.join(", ")))
    }

    /// What of `--log` the verbosity stands for.
    pub(crate) fn filter(&self) -> Option<&'static str> {
        match self.verbosity.as_str() {
            "panic" | "fatal" | "error" => Some("error"),
            "debug" => Some("debug"),
            "trace" => Some("trace"),
            _ => None,
        }
    }
}

/// How bases are pulled; mirrors get the credentials that the file holds for them.
pub(crate) fn pull_options(
    flags: &RegistryFlags,
    credentials: &CredentialFile,
) -> Result<ClientOptions, Failure> {
    let mut options = common_options(flags)?;
    if flags.insecure_pull {
        options.insecure_registries.push("*".to_owned());
    }
    if flags.skip_tls_verify_pull {
        options.skip_tls_verify.push("*".to_owned());
    }
    options.retries_max = options.retries_max.saturating_add(flags.image_download_retry);
    if flags.skip_default_registry_fallback {
        options.fallback = Fallback::Nothing;
    }
    let variable = |name| std::env::var(name).unwrap_or_default();
    let listed = variable("KANIKO_REGISTRY_MIRROR");
    let mirrors = flags.registry_mirrors.iter().map(String::as_str).chain(listed.split(','));
    for text in mirrors.map(str::trim).filter(|text| !text.is_empty()) {
        let mirror = mirror(flags, credentials, text);
        options.mirrors.entry("docker.io".to_owned()).or_default().push(mirror);
    }
    let listed = variable("KANIKO_REGISTRY_MAP");
    let maps = flags.registry_maps.iter().map(String::as_str).chain(listed.split(';'));
    for text in maps.map(str::trim).filter(|text| !text.is_empty()) {
        let (original, new) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--registry-map {text:?}: want ORIGINAL=NEW[/PREFIX]"))
        })?;
        let original = if original == "index.docker.io" { "docker.io" } else { original };
        let mirror = mirror(flags, credentials, new);
        options.mirrors.entry(original.to_owned()).or_default().push(mirror);
    }
    Ok(options)
}

fn mirror(flags: &RegistryFlags, credentials: &CredentialFile, text: &str) -> Mirror {
    let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
    let plain = flags.insecure_pull || flags.insecure_registries.iter().any(|h| h == host);
    let scheme = if plain { "http" } else { "https" };
    let prefix = prefix.trim_matches('/');
    let repository_prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let auth = credentials.for_repository(host, prefix).into_iter().next();
    Mirror { url: format!("{scheme}://{host}"), repository_prefix, auth }
}

/// How results are pushed.
pub(crate) fn push_options(
    registry: &RegistryFlags,
    flags: &PushFlags,
) -> Result<ClientOptions, Failure> {
    let mut options = common_options(registry)?;
    if flags.insecure {
        options.insecure_registries.push("*".to_owned());
    }
    if flags.skip_tls_verify {
        options.skip_tls_verify.push("*".to_owned());
    }
    options.retries_max = options.retries_max.saturating_add(flags.push_retry);
    Ok(options)
}

fn common_options(flags: &RegistryFlags) -> Result<ClientOptions, Failure> {
    let mut options = client_options()?;
    let upstream = std::env::var("UPSTREAM_CLIENT_TYPE").ok();
    options.user_agent = user_agent(&options.user_agent, upstream.as_deref());
    options.insecure_registries.clone_from(&flags.insecure_registries);
    options.skip_tls_verify.clone_from(&flags.skip_tls_verify_registries);
    let read = |path: &str| {
        std::fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read certificate {path}: {error}")))
    };
    for text in &flags.registry_certificates {
        let (host, path) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--registry-certificate {text:?}: want HOST=PATH"))
        })?;
        let tls: &mut HostTls = options.hosts.entry(host.to_owned()).or_default();
        tls.roots_pem.push(read(path)?);
    }
    for text in &flags.registry_client_certs {
        let bad = || {
            Failure::usage(format!("--registry-client-cert {text:?}: want HOST=CERTIFICATE,KEY"))
        };
        let (host, paths) = text.split_once('=').ok_or_else(bad)?;
        let (certificate, key) = paths.split_once(',').ok_or_else(bad)?;
        let key_pem = String::from_utf8(read(key)?)
            .map_err(|_| Failure::usage(format!("{key} is no private key in PEM")))?;
        let client =
            ClientCertificate { chain_pem: read(certificate)?, key_pem: Secret::new(key_pem) };
        options.hosts.entry(host.to_owned()).or_default().client = Some(client);
    }
    Ok(options)
}

/// Whether a registry refused a push because the tag exists and must stay.
pub(crate) fn says_tag_is_immutable(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if IMMUTABLE.iter().any(|known| text.contains(known)) {
            return true;
        }
        next = cause.source();
    }
    false
}
