//! `shipway warmer`, also as `warmer`: base images in a directory, for builds without a registry
//! in reach or with a slow one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use blob_store::BlobStore;
use clap::{ArgAction, Args};
use dockerfile::{Base, Dockerfile, Draft, PlanOptions};
use oci_model::{Platform, Reference};
use registry_client::{Client, Layers, Platforms, Progress, PullOptions, write_oci_layout};

use crate::build;
use crate::build::credentials::CredentialFile;
use crate::build::progress::{self, KanikoLog};
use crate::commands::executor;
use crate::commands::executor::registry_flags::{self, LogFlags, RegistryFlags};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::registries::failure_of_build as failure;

/// Flags of kaniko's warmer.
#[derive(Args, Debug)]
pub(crate) struct WarmerArgs {
    /// Image to keep; may repeat
    #[arg(short = 'i', long = "image", value_name = "NAME[:TAG]")]
    images: Vec<String>,
    /// Dockerfile whose base images to keep
    #[arg(short = 'd', long, value_name = "PATH")]
    dockerfile: Option<PathBuf>,
    /// Value of an ARG of the Dockerfile; KEY alone takes the environment's
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    build_args: Vec<String>,
    /// Directory to fill
    #[arg(short = 'c', long, default_value = "/cache", value_name = "DIR")]
    cache_dir: PathBuf,
    /// Fetch images anew that are there already
    #[arg(short = 'f', long, num_args = 0..=1, require_equals = true,
        value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true", default_value = "false", action = ArgAction::Set)]
    force: bool,
    /// Age at which images are fetched anew
    #[arg(long, default_value = "336h", value_name = "DURATION")]
    cache_ttl: String,
    /// Platform of the images
    #[arg(long = "custom-platform", alias = "customPlatform", value_name = "OS/ARCH[/VARIANT]")]
    custom_platform: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    log: LogFlags,
}

impl WarmerArgs {
    /// What of `--log` the verbosity stands for.
    pub(crate) fn log_filter(&self) -> Option<&'static str> {
        self.log.filter()
    }
}

/// Runs the verb; all failures have kaniko's one code.
pub(crate) async fn run(args: &WarmerArgs, _globals: &Globals) -> Result<ExitCode, Failure> {
    match warm(args).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) => Err(failure.with_kind(Kind::Failed)),
    }
}

async fn warm(args: &WarmerArgs) -> Result<(), Failure> {
    args.log.check()?;
    let (log, start) = (args.log.log(), Instant::now());
    let ttl = build::duration("--cache-ttl", &args.cache_ttl)?;
    let platform = match &args.custom_platform {
        None => Platform::host(),
        Some(text) => text.parse().map_err(Failure::usage)?,
    };
    let credentials = executor::credentials(&executor::kaniko_dir())?;
    let client = Client::new(registry_flags::pull_options(&args.registry, &credentials)?)?;
    let images = images(args, &platform)?;
    if images.is_empty() {
        return Err(Failure::usage(
            "You must select at least one image to cache or a dockerfilepath to parse",
        ));
    }
    std::fs::create_dir_all(&args.cache_dir).map_err(|error| unusable(&args.cache_dir, &error))?;
    let kitchen = Kitchen { args, ttl, platform, credentials, client, log, start };
    let mut failed = None;
    for image in &images {
        // The others are worth having even if one cannot be had.
        if let Err(failure) = kitchen.keep(image).await {
            let text = format!("Failed to warm cache for image {image}: {}", failure.text());
            progress::kaniko_line(log, "warning", &text, start);
            failed = failed.or(Some(failure));
        }
    }
    failed.map_or(Ok(()), Err)
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Environment, anyhow::anyhow!("cannot use {}: {error}", path.display()))
}

/// The images that were named, and those that any stage of the Dockerfile begins with.
fn images(args: &WarmerArgs, platform: &Platform) -> Result<BTreeSet<Reference>, Failure> {
    let mut images = args
        .images
        .iter()
        .map(|text| crate::commands::build::reference(text))
        .collect::<Result<BTreeSet<Reference>, Failure>>()?;
    let Some(path) = &args.dockerfile else { return Ok(images) };
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let file = Dockerfile::parse(&path.display().to_string(), &bytes)
        .map_err(build::dockerfile_failure)?;
    let build_args: BTreeMap<String, String> = build::build_args(&args.build_args);
    // Stages have numbers; the first that there is none of ends the list.
    for stage in 0..usize::MAX {
        let options = PlanOptions {
            build_args: build_args.clone(),
            target: Some(stage.to_string()),
            ..PlanOptions::for_platform(platform.clone())
        };
        let draft = match Draft::new(&file, options) {
            Ok(draft) => draft,
            Err(error) if stage == 0 => return Err(build::dockerfile_failure(error)),
            Err(_) => break,
        };
        images.extend(draft.unresolved_bases().into_iter().filter_map(|base| match base {
            Base::Image(request) => Some(request.reference.with_default_tag()),
            _ => None,
        }));
    }
    Ok(images)
}

struct Kitchen<'a> {
    args: &'a WarmerArgs,
    ttl: Duration,
    platform: Platform,
    credentials: CredentialFile,
    client: Client,
    log: KanikoLog,
    start: Instant,
}

impl Kitchen<'_> {
    fn say(&self, text: &str) {
        if self.log.info {
            progress::kaniko_line(self.log, "info", text, self.start);
        }
    }

    /// Puts an image into the directory unless it is there.
    async fn keep(&self, image: &Reference) -> Result<(), Failure> {
        self.say(&format!("Retrieving image {image}"));
        let directory = &self.args.cache_dir;
        let place = tempfile::Builder::new()
            .prefix(".warming-")
            .tempdir_in(directory)
            .map_err(|error| unusable(directory, &error))?;
        let store = BlobStore::open(place.path().join("blobs"))?;
        let auths = self.credentials.for_reference(image).await;
        let documents =
            PullOptions { platforms: Platforms::One(self.platform.clone()), layers: Layers::Leave };
        let none = Progress::none();
        let pull = |options| {
            let (client, auths, store, none) = (&self.client, &auths, &store, &none);
            async move { client.pull(image, auths, store, &options, none).await.map_err(failure) }
        };
        let pulled = pull(documents.clone()).await?;
        let found = pulled
            .images
            .first()
            .ok_or_else(|| Failure::usage(format!("{image} is an artifact, not an image")))?;
        let digest = *found.manifest.digest();
        let target = directory.join(digest.to_string());
        // Another warmer may be at it: whoever comes second finds the image there.
        let lock = lock(directory, &digest.to_string()).await?;
        if !self.args.force && self.is_fresh(&target) {
            self.say(&format!("Image already in cache: {image} ({digest})"));
            return Ok(());
        }
        let whole = pull(PullOptions { layers: Layers::Fetch, ..documents }).await?;
        let whole = whole.images.first().map(|image| image.manifest.clone());
        let manifest = whole.filter(|manifest| *manifest.digest() == digest).ok_or_else(|| {
            Failure::from(anyhow::anyhow!("{image} changed while it was being fetched"))
        })?;
        let layout = place.path().join("layout");
        write_oci_layout(&store, &manifest, &layout, Some(&image.to_string()))?;
        replace(&layout, &target).map_err(|error| unusable(&target, &error))?;
        drop(lock);
        self.say(&format!("Wrote {image} to cache as {digest}"));
        Ok(())
    }

    fn is_fresh(&self, target: &Path) -> bool {
        let modified = std::fs::metadata(target).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|time| time.elapsed().unwrap_or_default() <= self.ttl)
    }
}

/// The lock of an image, once nobody else has it.
async fn lock(directory: &Path, name: &str) -> Result<File, Failure> {
    let path = directory.join(format!("{name}.lock"));
    let taken = tokio::task::spawn_blocking(move || -> Result<File, Failure> {
        let file = File::create(&path).map_err(|error| unusable(&path, &error))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| unusable(&path, &error.into()))?;
        Ok(file)
    });
    taken.await.map_err(|_| Failure::bug("a task panicked"))?
}

/// Puts a directory in the place of another, or of a file; readers see the old or the new one.
fn replace(new: &Path, target: &Path) -> std::io::Result<()> {
    let old = new.with_file_name("old");
    match std::fs::rename(target, &old) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(new, target)?;
    // The time of a renamed directory is when it was written.
    Ok(())
}
