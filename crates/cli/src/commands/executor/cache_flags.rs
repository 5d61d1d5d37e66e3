//! kaniko's flags of the cache, and two of our own.

use std::time::Duration;

use clap::{ArgAction, Args};
use image_builder::{
    BuildRequest, CacheError, CachePlace, CacheScope, CacheSink, CacheSource, CacheUse, CachedKinds,
};
use oci_model::Reference;

use crate::commands::build::cache_flags::{MOUNTS_BYTES_MAX, bytes, duration};
use crate::commands::build::reference;
use crate::exit::Failure;

/// Default age at which cached steps stop counting (kaniko: two weeks).
const CACHE_TTL: &str = "336h";

/// Flags of the cache.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheFlags {
    /// Use a layer cache in a registry
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    cache: bool,
    /// Repository of the cache, or oci:DIRECTORY [default: the repository of the destination
    /// with /cache]
    #[arg(long, value_name = "REPOSITORY")]
    cache_repo: Option<String>,
    /// Age at which cached steps stop counting
    #[arg(long, default_value = CACHE_TTL, value_name = "DURATION")]
    cache_ttl: String,
    /// Cache RUN steps
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "true", action = ArgAction::Set)]
    cache_run_layers: bool,
    /// Cache COPY, ADD and WORKDIR steps; on, because later steps are found only with them
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "true", action = ArgAction::Set)]
    cache_copy_layers: bool,
    /// Do not write the layer cache
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    no_push_cache: bool,
    /// Keep directories of RUN --mount=type=cache in the cache too, and restore them (not
    /// kaniko's)
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    cache_mounts: bool,
    /// Most bytes of all such directories together [default: 4GiB] (not kaniko's)
    #[arg(long, value_name = "SIZE")]
    cache_mounts_max_size: Option<String>,
    /// Say of every step which cache knew it, or what differs from the nearest step on record
    /// (not kaniko's)
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = clap::builder::BoolishValueParser::new(),
        default_missing_value = "true",
        default_value = "false", action = ArgAction::Set)]
    cache_explain: bool,
}

impl CacheFlags {
    /// kaniko's check, in kaniko's words.
    pub(super) fn check(&self, pushes_nothing: bool) -> Result<(), Failure> {
        if self.cache && pushes_nothing && self.cache_repo.is_none() {
            return Err(Failure::usage(
                "if using cache with --no-push, specify cache repo with --cache-repo",
            ));
        }
        Ok(())
    }

    /// Age at which what was kept stops counting.
    pub(super) fn ttl(&self) -> Result<Duration, Failure> {
        duration(&self.cache_ttl).ok_or_else(|| {
            Failure::usage(format!("--cache-ttl {:?}: want 336h or 90m", self.cache_ttl))
        })
    }

    /// Puts the flags into a request.
    pub(super) fn apply(
        &self,
        request: &mut BuildRequest,
        destinations: &[Reference],
    ) -> Result<(), Failure> {
        request.explain_cache = self.cache_explain;
        let bad = |flag: &str, text: &str, want: &str| {
            Failure::usage(format!("{flag} {text:?}: want {want}"))
        };
        let ttl = self.ttl()?;
        let mounts_max = match &self.cache_mounts_max_size {
            None => MOUNTS_BYTES_MAX,
            Some(text) => {
                bytes(text).ok_or_else(|| bad("--cache-mounts-max-size", text, "500MB or 2GiB"))?
            }
        };
        if !self.cache {
            // As in kaniko: without the flag nothing of earlier builds counts.
            request.cache = CacheUse::Fresh;
            return Ok(());
        }
        request.cached_kinds =
            CachedKinds { run: self.cache_run_layers, copy: self.cache_copy_layers };
        let place = match (&self.cache_repo, destinations.first()) {
            (Some(repository), _) => match repository.strip_prefix("oci:") {
                Some(directory) => CachePlace::of_layout(directory.into()),
                None => CachePlace::of_repository(&reference(repository)?),
            },
            (None, Some(first)) => {
                CachePlace::of_repository(&reference(&format!("{}/cache", first.name()))?)
            }
            (None, None) => return self.check(true),
        };
        if !self.no_push_cache {
            request.cache_to.push(CacheSink {
                place: place.clone(),
                scope: CacheScope::Max,
                ttl: Some(ttl),
                on_error: CacheError::Warns,
                mounts_bytes_max: self.cache_mounts.then_some(mounts_max),
            });
        }
        request.cache_from.push(CacheSource { place, ttl: Some(ttl) });
        Ok(())
    }
}
