//! `shipway credential-helper`: credentials of the clouds for docker, podman, skopeo and whoever
//! else speaks docker's credential helper protocol; also by the names that those look for.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use credentials::Secret;
use credentials::cloud::docker_helper::{self, DockerHelperError};
use credentials::cloud::{CloudOptions, CloudProvider};

use crate::cloud::System;
use crate::cloud::flags::CloudFlags;
use crate::exit::{Failure, Kind};
use crate::output;

/// Largest input of a client, in bytes.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// Give docker and its relatives credentials of the clouds' registries.
///
/// Speaks docker's credential helper protocol. A link to this binary on the path, called
/// docker-credential-shipway (all clouds), docker-credential-ecr-login, docker-credential-gcr,
/// docker-credential-acr-env, docker-credential-ocir, docker-credential-icr or
/// docker-credential-quay, is used by naming it in config.json:
/// {"credHelpers": {"eu-docker.pkg.dev": "shipway"}}.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  echo 123456789012.dkr.ecr.eu-west-1.amazonaws.com | shipway credential-helper ecr get
  ln -s $(command -v shipway) /usr/local/bin/docker-credential-shipway

docs/cloud-credentials.md has each cloud's sources.")]
pub(crate) struct CredentialHelperArgs {
    /// Whose registries: ecr, google, acr, oci, ibm, quay or all
    #[arg(value_name = "CLOUD")]
    cloud: Clouds,
    /// What to do
    action: Action,
    #[command(flatten)]
    flags: CloudFlags,
    /// How long everything may take
    #[arg(long, value_name = "SECONDS", default_value = "15", hide = true)]
    timeout: u16,
}

/// One cloud, or all of them.
#[derive(Clone, Copy, Debug)]
enum Clouds {
    All,
    One(CloudProvider),
}

impl std::str::FromStr for Clouds {
    type Err = credentials::cloud::UnknownProvider;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    /// Print the credential for the server on standard input
    Get,
    /// Do nothing: credentials are made when they are needed
    Store,
    /// Do nothing: nothing is kept
    Erase,
    /// Print the servers with something kept: none
    List,
    /// Print the version
    Version,
}

/// The clouds behind the name of a helper program.
pub(crate) fn clouds_of_program(name: &str) -> Option<&'static str> {
    match name.strip_prefix("docker-credential-")? {
        "shipway" => Some("all"),
        "ecr-login" => Some("ecr"),
        "gcr" => Some("google"),
        "acr-env" => Some("acr"),
        "ocir" => Some("oci"),
        "icr" => Some("ibm"),
        "quay" => Some("quay"),
        _ => None,
    }
}

/// Runs the verb. Errors are for the client, which reads them on standard output.
pub(crate) async fn run(args: CredentialHelperArgs) -> Result<ExitCode, Failure> {
    let options = options(&args)?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
    let endpoints = args.flags.allow_endpoint_overrides;
    let work = tokio::task::spawn_blocking(move || {
        Ok::<_, Failure>(match args.action {
            Action::Version => Ok(Some(Secret::new(concat!(
                "docker-credential-shipway ",
                env!("CARGO_PKG_VERSION")
            )))),
            Action::List => Ok(Some(Secret::new("{}"))),
            Action::Store => {
                let system = System::new()?.until(deadline);
                docker_helper::store(&system, &options, &input()?).map(|()| None)
            }
            Action::Erase => docker_helper::erase(input()?.expose()).map(|()| None),
            Action::Get => {
                let system = System::new()?.until(deadline).with_endpoints(endpoints);
                docker_helper::get(&system, &options, input()?.expose()).map(Some)
            }
        })
    });
    let done: Result<Option<Secret>, DockerHelperError> = work.await??;
    match done {
        Ok(answer) => {
            answer.iter().for_each(|answer| output::line(answer.expose()));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            output::line(&error.to_string().replace(['\r', '\n'], " "));
            Err(Failure::new(Kind::Failed, error).told())
        }
    }
}

fn options(args: &CredentialHelperArgs) -> Result<CloudOptions, Failure> {
    let mut options = match args.cloud {
        Clouds::One(provider) => args.flags.options(provider)?,
        Clouds::All => {
            let providers = CloudProvider::ALL.to_vec();
            CloudOptions { providers, ..args.flags.options(CloudProvider::Ecr)? }
        }
    };
    // Docker does not say whether it pulls or pushes, and these are the user's own files.
    options.google.push = true;
    options.ecr.allow_processes = true;
    // Who names this one cloud for the gallery wants its limits; it can be read without.
    options.ecr.public_gallery |= matches!(args.cloud, Clouds::One(CloudProvider::Ecr));
    Ok(options)
}

fn input() -> Result<Secret, Failure> {
    let mut text = String::new();
    std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(Secret::new(text))
}
