//! How verbs reach registries: flags and environment to a client, docker's config to credentials.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use credentials::{ClientConfig, HelperError, HelperRequest, Lookup, RegistryAuth};
use oci_model::Reference;
use registry_client::{Client, ClientOptions, Proxy, RegistryError, RegistryErrorKind};

use crate::exit::{Failure, Kind};
use crate::globals::docker_config_dir;

/// Flags of every verb that talks to a registry.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RegistryArgs {
    /// Registry (HOST[:PORT]) that may speak plain HTTP or show any certificate; repeatable
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
    /// Registry (HOST[:PORT], or * for all) whose certificate is not checked; repeatable
    #[arg(long = "skip-tls-verify-registry", value_name = "HOST")]
    pub(crate) skip_tls_verify: Vec<String>,
    /// File with certificates (PEM) to trust beside the system's; repeatable
    #[arg(long = "registry-ca", value_name = "FILE")]
    pub(crate) certificates: Vec<PathBuf>,
}

/// Makes the client that the flags and the environment describe.
pub(crate) fn client(args: &RegistryArgs) -> Result<Client, Failure> {
    let mut extra_roots_pem = Vec::new();
    let from_environment = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    for path in args.certificates.iter().chain(&from_environment) {
        let pem = std::fs::read(path).map_err(|error| {
            Failure::usage(format!("cannot read certificates {}: {error}", path.display()))
        })?;
        extra_roots_pem.push(pem);
    }
    let options = ClientOptions {
        insecure_registries: args.insecure_registries.clone(),
        skip_tls_verify: args.skip_tls_verify.clone(),
        extra_roots_pem,
        proxy: proxy_of_environment(),
        mirrors: BTreeMap::new(),
        ..ClientOptions::default()
    };
    Client::new(options).map_err(|error| Failure::new(Kind::Usage, error))
}

pub(crate) fn proxy_of_environment() -> Option<Proxy> {
    let variable = |names: [&str; 2]| {
        names.iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
    };
    // Upper-case HTTP_PROXY can be set by a CGI request; the lower-case name is the safe one, but
    // this is no CGI program and docker reads both.
    let http = variable(["HTTP_PROXY", "http_proxy"]);
    let https = variable(["HTTPS_PROXY", "https_proxy"]);
    if http.is_none() && https.is_none() {
        return None;
    }
    let no_proxy = variable(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    Some(Proxy { http, https, no_proxy })
}

/// Where docker's config file is, whether it exists or not.
pub(crate) fn docker_config_path() -> Result<PathBuf, Failure> {
    docker_config_dir().map(|directory| directory.join("config.json")).ok_or_else(|| {
        Failure::new(Kind::Environment, anyhow::anyhow!("there is no home directory"))
            .hint("set HOME or DOCKER_CONFIG")
    })
}

/// Docker's config file; an absent one is empty.
pub(crate) fn docker_config() -> Result<ClientConfig, Failure> {
    let path = match docker_config_path() {
        Ok(path) => path,
        // A process without a home, as in a pod, has no credentials of its own.
        Err(_) => return Ok(ClientConfig::default()),
    };
    Ok(config_at(&path)?.unwrap_or_default())
}

/// A config file as docker writes it, if it is there.
pub(crate) fn config_at(path: &Path) -> Result<Option<ClientConfig>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => ClientConfig::parse(&bytes)
            .map(Some)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(
            Kind::Environment,
            anyhow::anyhow!("cannot read {}: {error}", path.display()),
        )),
    }
}

/// The credentials that docker's config holds for an image: one or none.
pub(crate) fn credentials_for(reference: &Reference) -> Result<Vec<RegistryAuth>, Failure> {
    let config = docker_config()?;
    stored_credential(&config, reference.registry(), reference.repository().as_str())
        .map(|found| found.into_iter().collect())
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
        Lookup::Ask { request, otherwise } => {
            let (succeeded, output) = run_helper(&request)?;
            match request.read_credential(succeeded, &output) {
                Ok(auth) => Ok(Some(auth)),
                Err(HelperError::NotFound) => Ok(otherwise),
                Err(error) => Err(Failure::new(Kind::Environment, error)),
            }
        }
    }
}

/// Runs a credential helper; returns whether it succeeded, and its standard output.
pub(crate) fn run_helper(request: &HelperRequest) -> Result<(bool, Vec<u8>), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            Kind::Environment,
            anyhow::anyhow!("cannot run credential helper {}: {error}", request.program),
        )
        .hint("install the helper, or remove credsStore and credHelpers from config.json")
    };
    let mut child = Command::new(&request.program)
        .arg(request.action.argument())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says so in its own words.
        let _ = stdin.write_all(request.stdin.expose().as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    Ok((output.status.success(), output.stdout))
}

/// Gives a registry's error the exit code and the hint that fit it.
pub(crate) fn failure(error: RegistryError) -> Failure {
    let (kind, hint) = match error.kind() {
        RegistryErrorKind::Unauthorized { .. } => {
            (Kind::Denied, Some("shipway login SERVER, with an account that may see the image"))
        }
        RegistryErrorKind::Denied { .. } => {
            (Kind::Denied, Some("ask the owner of the repository for the right to do this"))
        }
        RegistryErrorKind::NotFound { .. } => {
            (Kind::NotFound, Some("check the name; shipway tags REPOSITORY lists what there is"))
        }
        RegistryErrorKind::Unreachable { .. } => {
            (Kind::Unreachable, Some("check the host and the port, and that the registry runs"))
        }
        RegistryErrorKind::Tls { .. } => {
            (Kind::Unreachable, Some("--registry-ca FILE to trust its certificate"))
        }
        RegistryErrorKind::PlainHttp { .. } => {
            (Kind::Unreachable, Some("--insecure-registry HOST to allow plain HTTP"))
        }
        RegistryErrorKind::RateLimited { .. } => {
            (Kind::Failed, Some("shipway login SERVER: accounts have higher limits"))
        }
        RegistryErrorKind::PlatformMissing { .. } => {
            (Kind::NotFound, Some("--platform with one of those that there are"))
        }
        RegistryErrorKind::NoSpace { .. } => {
            (Kind::Environment, Some("free some space, or choose another --state-dir"))
        }
        RegistryErrorKind::Store { .. } => (Kind::Environment, None),
        RegistryErrorKind::DigestMismatch { .. }
        | RegistryErrorKind::Malformed { .. }
        | RegistryErrorKind::Status { .. }
        | RegistryErrorKind::Interrupted { .. } => (Kind::Failed, None),
    };
    let failure = Failure::new(kind, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Reads a reference that the user typed.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    text.parse::<Reference>()
        .map_err(|error| Failure::usage(format!("{text:?}: {error}")))
        .map(|reference| reference.with_default_tag())
}
