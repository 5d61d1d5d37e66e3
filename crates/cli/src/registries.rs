//! How verbs reach registries: flags and environment to a client, files to credentials.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use oci_model::Reference;
use registry_client::{Client, ClientOptions, Proxy, RegistryError, RegistryErrorKind};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::auth_files;
use crate::exit::{Failure, Kind};

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
    /// Host (HOST[:PORT]) that may receive credentials as the token service of a registry of
    /// another domain; repeatable
    #[arg(
        long = "token-service",
        value_name = "HOST",
        env = "SHIPWAY_TOKEN_SERVICES",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) token_services: Vec<String>,
}

/// Makes the client that the flags and the environment describe.
pub(crate) fn client(args: &RegistryArgs) -> Result<Client, Failure> {
    let mut extra_roots_pem = roots_of_environment()?;
    for path in &args.certificates {
        extra_roots_pem.push(read_certificates(path)?);
    }
    let options = ClientOptions {
        insecure_registries: args.insecure_registries.clone(),
        skip_tls_verify: args.skip_tls_verify.clone(),
        extra_roots_pem,
        proxy: proxy_of_environment(),
        mirrors: BTreeMap::new(),
        token_services: args.token_services.clone(),
        headers: auth_files::http_headers(),
        ..ClientOptions::default()
    };
    Client::new(options).map_err(|error| Failure::new(Kind::Usage, error))
}

/// Certificates (PEM) to trust beside the system's: those of `SSL_CERT_FILE`, and of the
/// directories in `SSL_CERT_DIR`.
pub(crate) fn roots_of_environment() -> Result<Vec<Vec<u8>>, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut roots = Vec::new();
    if let Some(path) = set("SSL_CERT_FILE") {
        roots.push(read_certificates(Path::new(&path))?);
    }
    for directory in set("SSL_CERT_DIR").iter().flat_map(std::env::split_paths) {
        roots.extend(roots_in(&directory)?);
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(format!("cannot read certificates {}: {error}", path.display()))
    })
}

/// The `*.crt` and `*.pem` files of a directory, if it is there; what is no certificate that can
/// be used is left aside, as the directories of systems hold all sorts of files.
fn roots_in(directory: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("cannot read certificates in {}: {error}", directory.display()))
    };
    let mut paths = Vec::new();
    let listing = match std::fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    for item in listing {
        let path = item.map_err(unreadable)?.path();
        let is_certificate =
            path.extension().is_some_and(|suffix| suffix == "crt" || suffix == "pem");
        if is_certificate && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut roots = Vec::new();
    for path in paths {
        match std::fs::read(&path) {
            Ok(pem) if is_usable(&pem) => roots.push(pem),
            Ok(_) => tracing::debug!(path = %path.display(), "no usable certificate"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be read"),
        }
    }
    Ok(roots)
}

fn is_usable(pem: &[u8]) -> bool {
    let mut store = rustls::RootCertStore::empty();
    let mut all = CertificateDer::pem_slice_iter(pem);
    all.all(|one| one.is_ok_and(|one| store.add(one).is_ok())) && !store.is_empty()
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
    let hint = error.advice().or(hint);
    let failure = Failure::new(kind, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The same for verbs without `--registry-ca`: `build`, the executor and its own.
pub(crate) fn failure_of_build(error: RegistryError) -> Failure {
    let is_untrusted = matches!(error.kind(), RegistryErrorKind::Tls { .. });
    let failure = failure(error);
    if !is_untrusted {
        return failure;
    }
    failure.hint(
        "SSL_CERT_FILE=FILE to trust its certificate, or with the executor \
         --registry-certificate HOST=FILE",
    )
}

/// Reads a reference that the user typed.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    text.parse::<Reference>()
        .map_err(|error| Failure::usage(format!("{text:?}: {error}")))
        .map(|reference| reference.with_default_tag())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signed by itself, for nobody.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBczCCARmgAwIBAgIUAY7U1BEJjTd6SxVmwueArzpm4C4wCgYIKoZIzj0EAwIw\n\
DzENMAsGA1UEAwwEdGVzdDAeFw0yNjExMjEwOTE3MDFaFw0zNjExMTgwOTE3MDFa\n\
MA8xDTALBgNVBAMMBHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS3I/L0\n\
VZKkssnSocBAoDsa29wtIQN1gE7BPspGU/2HSCTBFkTHw9IxZh+3d7p9+2O6jZ39\n\
Cv/x6NEmmFaIyW10o1MwUTAdBgNVHQ4EFgQU97xtwBL7VcP4jdiuWdfO+i273XAw\n\
HwYDVR0jBBgwFoAU97xtwBL7VcP4jdiuWdfO+i273XAwDwYDVR0TAQH/BAUwAwEB\n\
/zAKBggqhkjOPQQDAgNIADBFAiAitBlmcNoBskSIPsriEinq2509/SuHCPPVxzlg\n\
QXbOHgIhAJuDstSFCcWcXuP9H9OcKT77wt/CJXzbL1DmmH+jbe60\n\
-----END CERTIFICATE-----\n\
";

    #[test]
    fn directories_of_certificates_may_hold_other_files() {
        let place = tempfile::tempdir().expect("a directory");
        let files =
            [("key.pem", "no certificate"), ("README", "read me"), ("own.crt", CERTIFICATE)];
        for (name, text) in files {
            std::fs::write(place.path().join(name), text).expect("a file");
        }
        let found = roots_in(place.path()).unwrap_or_default();
        assert_eq!(found, [CERTIFICATE.as_bytes()]);
        assert!(roots_in(&place.path().join("missing")).is_ok_and(|found| found.is_empty()));
        assert!(roots_in(&place.path().join("README")).is_err());
        assert!(read_certificates(&place.path().join("missing")).is_err());
    }
}
