//! kaniko's flags: those that do something here, and those that need not.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use oci_model::Reference;

use super::cache_flags::CacheFlags;
use crate::build::progress::{KanikoLog, LogFormat};
use crate::commands::build::IsolationArg;
use crate::exit::Failure;

/// Flags of kaniko's executor.
#[derive(Args, Debug)]
pub(crate) struct ExecutorArgs {
    /// version
    #[arg(value_name = "COMMAND")]
    pub(super) word: Option<String>,
    /// Path of the Dockerfile, as given or inside the context; http(s) URLs work
    #[arg(short = 'f', long, default_value = "Dockerfile", value_name = "PATH")]
    pub(super) dockerfile: String,
    /// Build context: a path, dir://, tar://, tar://stdin, git://, https://
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
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
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
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) single_snapshot: bool,
    /// Zero all times
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
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
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
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
    /// Retries of a push
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) push_retry: u32,
    /// Retries of a pull
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) image_download_retry: u32,
    /// Take refused tags that exist for success
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) push_ignore_immutable_tag_errors: bool,
    /// Do not ask registries first whether a push will be allowed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) skip_push_permission_check: bool,
    /// Push over plain HTTP
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) insecure: bool,
    /// Pull over plain HTTP
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) insecure_pull: bool,
    /// Registries that speak plain HTTP
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(super) insecure_registries: Vec<String>,
    /// Push without checking certificates
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) skip_tls_verify: bool,
    /// Pull without checking certificates
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    pub(super) skip_tls_verify_pull: bool,
    /// Registries whose certificates are not checked
    #[arg(long = "skip-tls-verify-registry", value_name = "HOST")]
    pub(super) skip_tls_verify_registries: Vec<String>,
    /// Certificates of registries, HOST=PATH
    #[arg(long = "registry-certificate", value_name = "HOST=PATH")]
    pub(super) registry_certificates: Vec<String>,
    /// Mirrors of docker.io
    #[arg(
        long = "registry-mirror",
        env = "KANIKO_REGISTRY_MIRROR",
        value_delimiter = ',',
        value_name = "HOST[/PREFIX]"
    )]
    pub(super) registry_mirrors: Vec<String>,
    /// Mirrors by registry, ORIGINAL=NEW[/PREFIX]
    #[arg(
        long = "registry-map",
        env = "KANIKO_REGISTRY_MAP",
        value_delimiter = ';',
        value_name = "ORIGINAL=NEW"
    )]
    pub(super) registry_maps: Vec<String>,
    /// panic, fatal, error, warn, info, debug or trace
    #[arg(short = 'v', long, default_value = "info", value_name = "LEVEL")]
    verbosity: String,
    /// Form of log lines
    #[arg(long, default_value = "color", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Timestamps in log lines
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    log_timestamp: bool,
    /// How RUN steps run (not kaniko's)
    #[arg(long, default_value = "auto", value_name = "MODE")]
    isolation: IsolationArg,
    #[command(flatten)]
    pub(super) cache: CacheFlags,
    #[command(flatten)]
    idle: IdleArgs,
}

/// Flags of kaniko that need nothing done here.
#[derive(Args, Debug)]
#[command(next_help_heading = "Accepted for kaniko's sake")]
struct IdleArgs {
    /// Nothing is at risk outside of a container
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    force: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_new_run: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_unused_stages: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_build_metadata: Option<bool>,
    #[arg(long)]
    cache_dir: Option<PathBuf>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compressed_caching: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        env = "KANIKO_CLEANUP")]
    cleanup: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        env = "KANIKO_PRE_CLEANUP")]
    pre_cleanup: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        env = "KANIKO_PRESERVE_CONTEXT")]
    preserve_context: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    materialize: Option<bool>,
    #[arg(long, alias = "whitelist-var-run", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    ignore_var_run: Option<bool>,
    #[arg(long)]
    image_fs_extract_retry: Option<u32>,
    #[arg(long)]
    registry_client_cert: Vec<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_default_registry_fallback: Option<bool>,
    #[arg(long)]
    credential_helpers: Vec<String>,
    #[arg(long, hide = true)]
    azure_container_registry_config: Option<PathBuf>,
}

impl ExecutorArgs {
    pub(super) fn no_push(&self) -> bool {
        self.no_push
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
        KanikoLog {
            format: self.log_format,
            timestamps: self.log_timestamp,
            info: matches!(self.verbosity.as_str(), "info" | "debug" | "trace"),
        }
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
        if !matches!(self.snapshot_mode.as_str(), "full" | "redo" | "time") {
            let text = format!("{} is not a valid snapshot mode", self.snapshot_mode);
            return Err(Failure::usage(text).hint("full, redo or time"));
        }
        let levels = ["panic", "fatal", "error", "warn", "info", "debug", "trace"];
        if !levels.contains(&self.verbosity.as_str()) {
            let text = format!("not a valid logrus Level: {:?}", self.verbosity);
            return Err(Failure::usage(text).hint(levels.join(", ")));
        }
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
        note(idle.skip_unused_stages == Some(false), "skip-unused-stages", "always on");
        note(idle.force_build_metadata.is_some(), "force-build-metadata", "always on");
        note(
            idle.cache_dir.is_some(),
            "cache-dir",
            "bases are fetched layer by layer, and only when needed; a warmer's files are not read",
        );
        note(
            idle.compressed_caching.is_some(),
            "compressed-caching",
            "layers go to disk once, compressed; memory does not depend on it",
        );
        note(
            idle.cleanup == Some(true),
            "cleanup",
            "the next build starts from a clean root anyway",
        );
        note(
            idle.pre_cleanup == Some(true),
            "pre-cleanup",
            "a build starts from a clean root anyway",
        );
        note(
            idle.preserve_context == Some(true),
            "preserve-context",
            "the context is never deleted",
        );
        note(
            idle.materialize == Some(true),
            "materialize",
            "the root file system holds the image only as long as a RUN needs it",
        );
        note(
            idle.ignore_var_run == Some(false),
            "ignore-var-run",
            "only what is mounted below /var/run is left out",
        );
        note(
            idle.image_fs_extract_retry.is_some(),
            "image-fs-extract-retry",
            "broken downloads are taken up where they broke",
        );
        note(
            !idle.registry_client_cert.is_empty(),
            "registry-client-cert",
            "client certificates are not sent yet",
        );
        note(
            idle.skip_default_registry_fallback == Some(true),
            "skip-default-registry-fallback",
            "the registry itself is still asked after its mirrors",
        );
        note(
            !idle.credential_helpers.is_empty(),
            "credential-helpers",
            "helpers are those that config.json names",
        );
        note(
            idle.azure_container_registry_config.is_some(),
            "azure-container-registry-config",
            "put the credential into config.json",
        );
        note(
            self.snapshot_mode != "full",
            "snapshot-mode",
            "every mode gives the exact result of full",
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
