//! Caches: what hits, where records are kept, what is fetched, and what may go.

mod kept;
mod keys;
mod places;
mod registry;

use std::path::{Path, PathBuf};
use std::time::Duration;

use container_runtime::Mode;
use dockerfile::PlanOptions;
use image_builder::{
    BuildOutcome, BuildRequest, CacheError, CachePlace, CacheScope, CacheSink, CacheSource,
};

use crate::fixture::{Machine, reference, write_context};

/// Tests of this folder by module.
pub(crate) const GROUPS: &[(&str, &[crate::Test])] =
    &[("cache::keys", keys::TESTS), ("cache::kept", kept::TESTS), ("cache::places", places::TESTS)];

/// A machine with a context.
struct Site {
    machine: Machine,
    context: PathBuf,
}

impl Site {
    fn new() -> Self {
        let machine = Machine::new();
        let context = write_context(machine.root.path());
        Self { machine, context }
    }

    fn build(&self, text: &str) -> BuildOutcome {
        self.with(text, |_, _| {})
    }

    fn with(
        &self,
        text: &str,
        change: impl FnOnce(&mut PlanOptions, &mut BuildRequest),
    ) -> BuildOutcome {
        self.in_context(&self.context, text, change)
    }

    fn in_context(
        &self,
        context: &Path,
        text: &str,
        change: impl FnOnce(&mut PlanOptions, &mut BuildRequest),
    ) -> BuildOutcome {
        let built = self.machine.build_with(Mode::Overlay, text, context, change);
        built.unwrap_or_else(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            panic!("{error}: {source:?}\n{text}\n{}", self.machine.printed())
        })
    }

    fn executed(&self, text: &str) -> usize {
        self.build(text).steps_executed
    }

    fn push(&self, outcome: &BuildOutcome, name: &str) {
        let builder = self.machine.builder(Mode::None);
        let name = reference(name);
        let pushed = builder.push(outcome, &name);
        self.machine.runtime.block_on(pushed).expect("pushed");
    }

    /// Pushes the base of this machine, so that others build on the same one.
    fn share_base(&self, registry: &registry::Registry) -> String {
        let name = registry.name("base:1");
        let outcome = self.build("FROM base\nLABEL shared=1\n");
        self.push(&outcome, &name);
        name
    }
}

fn source(place: &CachePlace) -> CacheSource {
    CacheSource { place: place.clone(), ttl: None }
}

fn sink(place: &CachePlace, scope: CacheScope) -> CacheSink {
    CacheSink {
        place: place.clone(),
        scope,
        ttl: Some(Duration::from_secs(3600)),
        on_error: CacheError::Fails,
        mounts_bytes_max: None,
    }
}
