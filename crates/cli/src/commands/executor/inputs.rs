//! Contexts and registries as kaniko spells them.

use std::collections::BTreeMap;

use image_builder::BuildError;
use registry_client::{ClientOptions, Mirror};

use super::flags::ExecutorArgs;
use crate::build::credentials::client_options;
use crate::build::{self, DockerfileLocation, Subject, contexts};
use crate::exit::Failure;

/// What kaniko takes for a tag that must not move.
const IMMUTABLE: [&str; 3] = [
    "The repository has enabled tag immutability",
    "cannot be overwritten because the repository is immutable",
    "because the tag is immutable",
];

/// What is built.
pub(super) fn subject(args: &ExecutorArgs) -> Result<Subject, Failure> {
    let dockerfile = match args.dockerfile.as_str() {
        "-" => DockerfileLocation::Stdin,
        "Dockerfile" => DockerfileLocation::Default,
        url if url.starts_with("http://") || url.starts_with("https://") => {
            DockerfileLocation::Url(url.to_owned())
        }
        path => DockerfileLocation::Path(path.into()),
    };
    Ok(Subject {
        context: contexts::kaniko_location(&args.context, args.bucket.as_deref(), &args.git)?,
        below: args.context_sub_path.clone(),
        dockerfile,
        build_args: build::build_args(&args.build_args),
        targets: args.target.iter().filter(|target| !target.is_empty()).cloned().collect(),
        platforms: build::platforms("--custom-platform", &args.custom_platforms)?,
        labels: build::pairs("--label", &args.labels)?,
        named_contexts: BTreeMap::new(),
        remote_contexts: BTreeMap::new(),
        context_times: BTreeMap::new(),
    })
}

/// How bases are pulled.
pub(super) fn pull_options(args: &ExecutorArgs) -> Result<ClientOptions, Failure> {
    let mut options = common_options(args)?;
    if args.insecure_pull {
        options.insecure_registries.push("*".to_owned());
    }
    if args.skip_tls_verify_pull {
        options.skip_tls_verify.push("*".to_owned());
    }
    options.retries_max += args.image_download_retry;
    let mirror = |text: &str| {
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let plain = args.insecure_pull || args.insecure_registries.iter().any(|h| h == host);
        let scheme = if plain { "http" } else { "https" };
        let repository_prefix =
            if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Mirror { url: format!("{scheme}://{host}"), repository_prefix, auth: None }
    };
    for text in args.registry_mirrors.iter().filter(|text| !text.is_empty()) {
        options.mirrors.entry("docker.io".to_owned()).or_default().push(mirror(text));
    }
    for text in args.registry_maps.iter().filter(|text| !text.is_empty()) {
        let (original, new) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--registry-map {text:?}: want ORIGINAL=NEW[/PREFIX]"))
        })?;
        let original = if original == "index.docker.io" { "docker.io" } else { original };
        options.mirrors.entry(original.to_owned()).or_default().push(mirror(new));
    }
    Ok(options)
}

/// How results are pushed.
pub(super) fn push_options(args: &ExecutorArgs) -> Result<ClientOptions, Failure> {
    let mut options = common_options(args)?;
    if args.insecure {
        options.insecure_registries.push("*".to_owned());
    }
    if args.skip_tls_verify {
        options.skip_tls_verify.push("*".to_owned());
    }
    options.retries_max += args.push_retry;
    Ok(options)
}

fn common_options(args: &ExecutorArgs) -> Result<ClientOptions, Failure> {
    let mut options = client_options();
    options.insecure_registries.clone_from(&args.insecure_registries);
    options.skip_tls_verify.clone_from(&args.skip_tls_verify_registries);
    for text in &args.registry_certificates {
        let (_, path) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--registry-certificate {text:?}: want HOST=PATH"))
        })?;
        let pem = std::fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read certificate {path}: {error}")))?;
        options.extra_roots_pem.push(pem);
    }
    Ok(options)
}

/// Whether a registry refused a push because the tag exists and must stay.
pub(super) fn says_tag_is_immutable(error: &BuildError) -> bool {
    let mut texts = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts.iter().any(|text| IMMUTABLE.iter().any(|known| text.contains(known)))
}
