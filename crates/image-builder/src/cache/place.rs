//! Where caches are that outlive this machine, as callers name them.

use std::path::PathBuf;
use std::time::Duration;

use oci_model::{Reference, Tag};

/// Tag of a cache in a repository that holds nothing else.
const CACHE_TAG: &str = "shipway-cache";

/// A place of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// Behind a tag of a registry: a cache of its own, or an image with a cache inside.
    Registry(Reference),
    /// In an OCI image layout.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Tag or digest in it.
        name: String,
    },
}

impl CachePlace {
    /// The cache of a repository that holds nothing else, as kaniko's `--cache-repo` names it.
    pub fn of_repository(repository: &Reference) -> Self {
        match Tag::new(CACHE_TAG) {
            Ok(tag) => Self::Registry(repository.with_tag(tag)),
            Err(_) => Self::Registry(repository.clone()),
        }
    }

    /// The same in an OCI image layout.
    pub fn of_layout(directory: PathBuf) -> Self {
        Self::Layout { directory, name: CACHE_TAG.to_owned() }
    }
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { directory, name } => {
                write!(f, "oci:{}:{name}", directory.display())
            }
        }
    }
}

/// A cache to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSource {
    /// Where it is.
    pub place: CachePlace,
    /// Records that were not used for longer count as missing.
    pub ttl: Option<Duration>,
}

/// A cache to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSink {
    /// Where it is.
    pub place: CachePlace,
    /// What is written.
    pub scope: CacheScope,
    /// Records that were not used for longer are dropped.
    pub ttl: Option<Duration>,
    /// Whether a cache that cannot be written fails the build.
    pub on_error: CacheError,
    /// Whether directories of `RUN --mount=type=cache` are written too, and up to which size of
    /// all their files together, in bytes.
    pub mounts_bytes_max: Option<u64>,
}

/// What of a build is written to a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheScope {
    /// The steps whose layers the image has.
    Min,
    /// All steps of all stages.
    Max,
}

/// What happens if a cache cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheError {
    /// The build fails.
    Fails,
    /// There is a warning.
    Warns,
}

/// Which kinds of steps are looked up and recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedKinds {
    /// RUN.
    pub run: bool,
    /// COPY, ADD and WORKDIR.
    pub copy: bool,
}

impl CachedKinds {
    /// All.
    pub const ALL: Self = Self { run: true, copy: true };
}
