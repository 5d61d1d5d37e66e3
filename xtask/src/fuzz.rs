//! Longer runs of the fuzz tests that CI runs for seconds.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::tidy;

/// Seconds per target when nobody says more.
const SECONDS: u64 = 60;
/// Packages whose test binary `it` has fuzz tests, and the part of their names to select them.
const TARGETS: &[(&str, &str)] =
    &[("dockerfile", "no_bytes_make"), ("layers", "fuzz::"), ("registry-server", "fuzz::")];

/// Runs every target for `--seconds`, from `--seed` if one is given.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut seconds = SECONDS;
    let mut seed = None;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let number = || -> Result<u64> {
            let value = words.clone().next().with_context(|| format!("{word} needs a number"))?;
            value.parse().with_context(|| format!("{word} needs a number, not {value:?}"))
        };
        match word.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = Some(number()?),
            _ => bail!("unknown argument {word:?}"),
        }
        words.next();
    }
    for (package, filter) in TARGETS {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["test", "-p", package, "--test", "it", "--", "--nocapture", filter]);
        command.current_dir(tidy::root()).env_remove("CARGO_MANIFEST_DIR");
        command.env("SHIPWAY_FUZZ_SECONDS", seconds.to_string());
        if let Some(seed) = seed {
            command.env("SHIPWAY_FUZZ_SEED", seed.to_string());
        }
        let status = command.status().context("cannot start cargo")?;
        ensure!(status.success(), "the fuzz tests of {package} ended with {status}");
    }
    Ok(())
}
