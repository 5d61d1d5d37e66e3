//! kaniko's flags: those that do something here, and those that need not.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use oci_model::Reference;

use super::cache_flags::CacheFlags;
use super::registry_flags::{LogFlags, PushFlags, RegistryFlags};
use super::verbs::ExecutorVerb;
use crate::build::progress::KanikoLog;
use crate::commands::build::IsolationArg;
use crate::exit::Failure;

/// Values of `--credential-helpers`.
pub(super) const HELPERS: [&str; 8] =
    ["env", "google", "ecr", "acr", "gitlab", "oci", "ibm", "quay"];

/// Flags of kaniko's executor.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ExecutorArgs {
    #[command(subcommand)]
    pub(super) verb: Option<ExecutorVerb>,
    /// Path of the Dockerfile, as given or inside the context; http(s) URLs work
    #[arg(short = 'f', long, default_value = "Dockerfile", value_name = "PATH")]
    pub(super) dockerfile: String,
    /// Build context: a path, dir://, tar://, tar://stdin, git://, https://, s3://, gs://, oci://
    #[arg(short = 'c', long, default_value = "/workspace/", value_name = "LOCATION")]
    pub(super) context: String,
    /// Directory of the context to use
    #[arg(long, value_name = "DIR")]
    pub(super) context_sub_path: Option<PathBuf>,
    #[arg(short = 'b', long, hide = true)]
    pub(super) bucket: Option<String>,
    /// Where the image is pushed; may repeat
    #[arg(short = 'd', long = "destination", value_name = "NAME[:TAG]")]
    pub(super) destinations: Vec<String>,
    /// Build and do not push
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set, env = "KANIKO_NO_PUSH")]
    no_push: bool,
    /// Write an archive for docker load
    #[arg(long, alias = "tarPath", value_name = "FILE")]
    pub(super) tar_path: Option<PathBuf>,
    /// Write an OCI layout
    #[arg(long, value_name = "DIR")]
    pub(super) oci_layout_path: Option<PathBuf>,
    /// Write the digest of the image
    #[arg(long, value_name = "FILE")]
    pub(super) digest_file: Option<String>,
    /// Write repository@digest, one line per destination
    #[arg(long, value_name = "FILE")]
    pub(super) image_name_with_digest_file: Option<String>,
    /// Write repository:tag@digest, one line per destination
    #[arg(long, value_name = "FILE")]
    pub(super) image_name_tag_with_digest_file: Option<String>,
    /// Value of an ARG; KEY alone takes the environment's
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub(super) build_args: Vec<String>,
    /// Stage to build; may repeat: the first is the image, the others are only built
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<String>,
    /// Annotation of the manifest
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub(super) annotations: Vec<String>,
    /// Secret for RUN --mount=type=secret
    #[arg(long = "secret", value_name = "SPEC")]
    pub(super) secrets: Vec<String>,
    /// Platforms of the image, comma separated; several make an index
    #[arg(
        long = "custom-platform",
        alias = "customPlatform",
        value_name = "OS/ARCH[/VARIANT]",
        value_delimiter = ','
    )]
    pub(super) custom_platforms: Vec<String>,
    /// full, redo or time; the result is exact in every case
    #[arg(long, alias = "snapshotMode", default_value = "full", value_name = "MODE")]
    snapshot_mode: String,
    /// One layer for everything the target does
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) single_snapshot: bool,
    /// Zero all times
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) reproducible: bool,
    /// gzip or zstd
    #[arg(long, default_value = "gzip", value_name = "NAME")]
    compression: String,
    /// Level of the compression, -1 for its own default
    #[arg(long, default_value = "-1", allow_hyphen_values = true, value_name = "LEVEL")]
    compression_level: i32,
    /// docker or oci media types [default: the base's]
    #[arg(long, value_name = "FORMAT")]
    pub(super) image_format: Option<String>,
    /// Print what would be done
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) dryrun: bool,
    /// Directory of the executor
    #[arg(long, env = "KANIKO_DIR", value_name = "DIR")]
    kaniko_dir: Option<PathBuf>,
    /// Paths that are not part of the image
    #[arg(long = "ignore-path", value_name = "PATH")]
    pub(super) ignore_paths: Vec<PathBuf>,
    /// Settings of git contexts, KEY=VALUE
    #[arg(long = "git", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(super) git: Vec<String>,
    /// Take refused tags that exist for success
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) push_ignore_immutable_tag_errors: bool,
    /// Do not ask registries first whether a push will be allowed
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) skip_push_permission_check: bool,
    /// Sources of credentials besides config.json: env, google, ecr, acr, gitlab; empty for none
    /// [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) credential_helpers: Option<Vec<String>>,
    /// Directory that a warmer filled with base images
    #[arg(long, default_value = "/cache", value_name = "DIR")]
    pub(super) cache_dir: PathBuf,
    /// Leave nothing of the image in the root file system; nothing ever stays
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set,
        env = "KANIKO_CLEANUP")]
    pub(super) cleanup: bool,
    /// Remove what the root file system holds before the build; it always is
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set,
        env = "KANIKO_PRE_CLEANUP")]
    pub(super) pre_cleanup: bool,
    /// Nothing below /var/run becomes part of the image [default: what is mounted there]
    #[arg(long, alias = "whitelist-var-run", num_args = 0..=1, require_equals = true,
        value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true")]
    pub(super) ignore_var_run: Option<bool>,
    /// How RUN steps run (not kaniko's)
    #[arg(long, default_value = "auto", value_name = "MODE")]
    isolation: IsolationArg,
    #[command(flatten)]
    pub(super) cache: CacheFlags,
    #[command(flatten)]
    pub(super) registry: RegistryFlags,
    #[command(flatten)]
    pub(super) push: PushFlags,
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    idle: IdleArgs,
}

/// Flags of kaniko that need nothing done here.
#[derive(Args, Debug)]
#[command(next_help_heading = "Accepted for kaniko's sake")]
struct IdleArgs {
    #[arg(long, num_args = 0..=1, require_equals = true,
        value_parser = clap::builder::BoolishValueParser::new(), default_missing_value = "true")]
    materialize: Option<bool>,
    /// Nothing is at risk outside of a container
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    force: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true")]
    use_new_run: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true")]
    skip_unused_stages: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true")]
    force_build_metadata: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true")]
    compressed_caching: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        env = "KANIKO_PRESERVE_CONTEXT")]
    preserve_context: Option<bool>,
    #[arg(long)]
    image_fs_extract_retry: Option<u32>,
    #[arg(long, hide = true)]
    azure_container_registry_config: Option<PathBuf>,
}

impl ExecutorArgs {
    pub(super) fn no_push(&self) -> bool {
        self.no_push
    }

    /// What of `--log` the verbosity stands for.
    pub(crate) fn log_filter(&self) -> Option<&'static str> {
        self.log.filter()
    }

    /// The sources of credentials in use besides config.json.
    pub(super) fn helpers(&self) -> Vec<&str> {
        match &self.credential_helpers {
            None => HELPERS.to_vec(),
            Some(some) => some.iter().map(String::as_str).filter(|name| !name.is_empty()).collect(),
        }
    }

    /// Paths that never become part of the image.
    pub(super) fn ignored_paths(&self) -> Vec<PathBuf> {
        let mut paths = self.ignore_paths.clone();
        if self.ignore_var_run == Some(true) {
            paths.push("/var/run".into());
        }
        paths
    }

    pub(super) fn isolation(&self) -> IsolationArg {
        self.isolation
    }

    pub(super) fn kaniko_dir(&self) -> PathBuf {
        self.kaniko_dir.clone().unwrap_or_else(|| super::KANIKO_DIR.into())
    }

    /// The Dockerfile, if it is a file of this machine.
    pub(super) fn dockerfile_path(&self) -> Option<PathBuf> {
        let path = PathBuf::from(&self.dockerfile);
        path.is_file().then_some(path)
    }

    pub(super) fn log(&self) -> KanikoLog {
        self.log.log()
    }

    pub(super) fn destinations(&self) -> Result<Vec<Reference>, Failure> {
        self.destinations.iter().map(|text| crate::commands::build::reference(text)).collect()
    }

    /// kaniko's own checks, in kaniko's words.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let refuse = |text: &str| Err(Failure::usage(text));
        if self.destinations.is_empty() && !self.no_push {
            return refuse("you must provide --destination, or use --no-push");
        }
        if self.destinations.is_empty() && self.image_name_with_digest_file.is_some() {
            return refuse("you must provide --destination if setting ImageNameDigestFile");
        }
        if self.destinations.is_empty() && self.image_name_tag_with_digest_file.is_some() {
            return refuse("you must provide --destination if setting ImageNameTagDigestFile");
        }
        self.cache.check(self.destinations.is_empty() || self.no_push)?;
        for helper in self.credential_helpers.iter().flatten() {
            if !helper.is_empty() && !HELPERS.contains(&helper.as_str()) {
                let text = format!("{helper:?} is not a known credential helper");
                return Err(Failure::usage(text).hint(HELPERS.join(", ")));
            }
        }
        if !matches!(self.snapshot_mode.as_str(), "full" | "redo" | "time") {
            let text = format!("{} is not a valid snapshot mode", self.snapshot_mode);
            return Err(Failure::usage(text).hint("full, redo or time"));
        }
        self.log.check()?;
        let format = self.image_format.as_deref();
        if self.compression == "zstd" && format == Some("docker") {
            return refuse("--compression=zstd is not possible with --image-format=docker");
        }
        if self.compression == "zstd" && self.tar_path.is_some() {
            return refuse("--compression=zstd is not possible with --tar-path");
        }
        if format == Some("oci") && self.tar_path.is_some() {
            return refuse("--image-format=oci is not possible with --tar-path");
        }
        Ok(())
    }

    /// What accepted flags do here, one line each.
    pub(super) fn warnings(&self) -> Vec<String> {
        let idle = &self.idle;
        let mut warnings = Vec::new();
        let mut note = |given: bool, flag: &str, text: &str| {
            if given {
                warnings.push(format!("--{flag}: {text}"));
            }
        };
        note(
            idle.use_new_run.is_some(),
            "use-new-run",
            "changes are always found by stat, exactly",
        );
        note(idle.skip_unused_stages.is_some(), "skip-unused-stages", "always on");
        note(idle.force_build_metadata.is_some(), "force-build-metadata", "always on");
        note(
            idle.compressed_caching.is_some(),
            "compressed-caching",
            "layers go to disk once, compressed; memory does not depend on it",
        );
        note(idle.preserve_context.is_some(), "preserve-context", "the context is never deleted");
        note(
            idle.materialize == Some(true),
            "materialize",
            "the root of this process never holds the image; `shipway build -o DIR` writes its files",
        );
        note(
            idle.image_fs_extract_retry.is_some(),
            "image-fs-extract-retry",
            "broken downloads are taken up where they broke",
        );
        note(
            idle.azure_container_registry_config.is_some(),
            "azure-container-registry-config",
            "put the credential into config.json",
        );
        note(
            idle.force,
            "force",
            "not needed: the isolation is probed, and a root that is not ours is never unpacked over",
        );
        warnings
    }

    pub(super) fn compression(&self) -> Result<layers::Compression, Failure> {
        use layers::Compression;
        match (self.compression.as_str(), self.compression_level) {
            ("gzip", level) if level < 0 => Ok(Compression::GZIP_DEFAULT),
            ("gzip", 0) => Ok(Compression::None),
            ("gzip", level) => Ok(Compression::Gzip(level.min(12))),
            ("zstd", level) if level < 1 => Ok(Compression::ZSTD_DEFAULT),
            ("zstd", level) => Ok(Compression::Zstd(level.min(22))),
            (other, _) => {
                Err(Failure::usage(format!("unknown compression {other:?}")).hint("gzip or zstd"))
            }
        }
    }
}
