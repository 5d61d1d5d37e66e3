//! Real builds from a busybox made on the spot, in every way of running commands, compared with
//! buildah's result.
//!
//! The harness is our own, because helpers of RUN are this very binary: `main` has to begin with
//! `container_runtime::reexec`. Run with a part of a name to select.

#![expect(clippy::print_stderr, reason = "a test harness prints")]

mod attestations;
mod buildkit;
mod cache;
mod contexts;
mod fixture;
mod hostile;
mod kaniko;
mod modes;
mod outputs;
mod overlap;
mod peer;
mod rules;
mod tree;
mod untrusted;
mod web;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A test by its name, which is a claim.
pub(crate) type Test = (&'static str, fn());

/// Lists functions as tests under their own names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    container_runtime::reexec();
    // Only the first call can succeed, and only that one counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if std::env::args().nth(1).as_deref() == Some(modes::INNER) {
        modes::inner();
        return ExitCode::SUCCESS;
    }
    if std::env::args().nth(1).as_deref() == Some(kaniko::INNER) {
        kaniko::inner();
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let all = [
        ("contexts", contexts::TESTS),
        ("hostile", hostile::TESTS),
        ("modes", modes::TESTS),
        ("attestations", attestations::TESTS),
        ("outputs", outputs::TESTS),
        ("overlap", overlap::TESTS),
        ("peer", peer::TESTS),
        ("rules", rules::TESTS),
        ("untrusted", untrusted::TESTS),
    ];
    let mut failed = 0;
    for (module, tests) in
        all.iter().chain(buildkit::GROUPS).chain(kaniko::GROUPS).chain(cache::GROUPS)
    {
        for (name, test) in *tests {
            let full = format!("{module}::{name}");
            if !filters.is_empty() && !filters.iter().any(|filter| full.contains(filter.as_str())) {
                continue;
            }
            let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
            eprintln!("test {full} ... {}", if passed { "ok" } else { "FAILED" });
            failed += usize::from(!passed);
        }
    }
    buildkit::close();
    kaniko::close();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
