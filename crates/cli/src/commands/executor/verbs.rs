//! `executor version`, `executor login`, `executor push`: what kaniko's executor can besides.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use blob_store::BlobStore;
use clap::{ArgAction, Args, Subcommand};
use registry_client::{
    Client, ClientOptions, Progress, PushOptions, read_docker_archive, read_oci_layout,
};

use super::registry_flags::{self, PushFlags, RegistryFlags};
use crate::build::credentials::CredentialFile;
use crate::commands::login::{self, LoginArgs};
use crate::commands::warmer::WarmerArgs;
use crate::exit::Failure;
use crate::output;
use crate::registries::failure_of_build as failure;

/// Verbs of the executor.
#[derive(Subcommand, Debug)]
pub(crate) enum ExecutorVerb {
    /// Print the version
    Version,
    /// Keep a credential in $DOCKER_CONFIG/config.json without asking the registry
    Login(ExecutorLoginArgs),
    /// Push an image that was written with --tar-path or --oci-layout-path
    Push(ExecutorPushArgs),
    /// Fill a directory with base images for --cache-dir
    Warmer(Box<WarmerArgs>),
}

/// Flags of `executor login`.
#[derive(Args, Debug)]
pub(crate) struct ExecutorLoginArgs {
    #[command(flatten)]
    login: LoginArgs,
}

/// Flags of `executor push`.
#[derive(Args, Debug)]
pub(crate) struct ExecutorPushArgs {
    /// Archive for docker load, or directory with an OCI layout; it holds one image
    #[arg(value_name = "PATH")]
    artifact: PathBuf,
    /// Where the image is pushed; may repeat
    #[arg(short = 'd', long = "destination", value_name = "NAME[:TAG]", required = true)]
    destinations: Vec<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    push: PushFlags,
    /// Take refused tags that exist for success
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    push_ignore_immutable_tag_errors: bool,
}

/// `executor login`: the file only, as kaniko does.
pub(super) fn login(args: &ExecutorLoginArgs, config_dir: &Path) -> Result<ExitCode, Failure> {
    login::keep_without_asking(&args.login, config_dir)?;
    Ok(ExitCode::SUCCESS)
}

/// `executor push`.
pub(super) async fn push(
    args: &ExecutorPushArgs,
    credentials: &CredentialFile,
    scratch: &Path,
) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(scratch)?;
    let place = tempfile::Builder::new().prefix("push-").tempdir_in(scratch)?;
    let store = BlobStore::open(place.path().join("blobs"))?;
    let lease = store.lease()?;
    let image = if args.artifact.is_dir() {
        read_oci_layout(&args.artifact, None, &store, &lease)?
    } else {
        read_docker_archive(&args.artifact, None, &store, &lease)?
    };
    let options: ClientOptions = registry_flags::push_options(&args.registry, &args.push)?;
    let client = Client::new(options)?;
    for destination in &args.destinations {
        let destination = crate::commands::build::reference(destination)?;
        let auths = credentials.for_reference(&destination).await;
        let pushed = client
            .push(&destination, &image, &auths, &store, &PushOptions::default(), &Progress::none())
            .await;
        match pushed {
            Ok(pushed) => {
                output::line(&format!("{}@{}", destination.name(), pushed.descriptor.digest));
            }
            Err(error)
                if args.push_ignore_immutable_tag_errors
                    && registry_flags::says_tag_is_immutable(&error) =>
            {
                let text = format!("{destination} exists and is immutable; not pushed");
                output::error_line(&format!("warning: {text}"));
            }
            Err(error) => return Err(failure(error)),
        }
    }
    Ok(ExitCode::SUCCESS)
}
