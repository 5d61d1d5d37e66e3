//! The whole of CI; `.ci/run` calls this and nothing else.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::{conformance, edges, peers, registry_tables, tidy};

/// Runs every step, stops at the first that fails, and prints how long each took.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    step("install the peers", peers::install)?;
    step("dependency edges", edges::check)?;
    step("house rules", tidy::check)?;
    step("conformance tables", conformance::check)?;
    step("registry tables", registry_tables::check)?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    // Every failure of a run is worth seeing, not only those of the first crate.
    cargo(&["test", "--workspace", "--no-fail-fast"], &[])?;
    println!("ci: all steps passed in {:.0?}", started.elapsed());
    Ok(())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    step(&format!("cargo {}", arguments.join(" ")), || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(tidy::root());
        command.envs(environment.iter().copied());
        // Set for us by the outer cargo; the inner one must find its own.
        command.env_remove("CARGO_MANIFEST_DIR");
        let status = command.status().context("cannot start cargo")?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    })
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("ci: {name}");
    let started = Instant::now();
    work().with_context(|| format!("step failed: {name}"))?;
    println!("ci: {name}: {:.1?}", started.elapsed());
    Ok(())
}
