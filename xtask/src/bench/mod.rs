//! `cargo xtask bench [NAME …]`: the promised numbers, side by side with the peer, in one run.
//!
//! The scenarios are the files of `benches/`; this module stages them and writes
//! `docs/benchmarks.md`.

#[path = "../../../benches/base_image.rs"]
mod base_image;
#[path = "../../../benches/builds.rs"]
mod builds;
#[path = "../../../benches/image_pulls.rs"]
mod image_pulls;
#[path = "../../../benches/machine.rs"]
mod machine;
#[path = "../../../benches/registry/mod.rs"]
mod registry;
mod report;
mod stage;

use anyhow::{Context as _, Result, bail};

use self::report::Measurement;
use self::stage::Stage;
use crate::peers;

type Scenario = fn(&Stage) -> Result<Vec<Measurement>>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("up", machine::up),
    ("pod", machine::pod),
    ("demo", machine::demo),
    ("builds", builds::cold_build),
    ("run-cost", builds::run_cost),
    ("pull", image_pulls::pull_and_unpack),
    ("cold-pod", image_pulls::cold_pod),
    ("registry", registry::promised),
    ("registry-scenarios", registry::scenarios),
    ("registry-collection", registry::collections),
    ("registry-memory", registry::memory),
];

/// Runs the named scenarios, or all, and rewrites their rows of `docs/benchmarks.md`.
///
/// `--binary=PATH` measures a program that is already built; without it a release build is made.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let binary = arguments.iter().find_map(|argument| argument.strip_prefix("--binary="));
    let names: Vec<&String> =
        arguments.iter().filter(|argument| !argument.starts_with("--binary=")).collect();
    for name in &names {
        if !SCENARIOS.iter().any(|(known, _)| known == *name) {
            let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
            bail!("no scenario {name:?}; there are {}", known.join(", "));
        }
    }
    peers::install()?;
    let stage = Stage::prepare(binary)?;
    for (name, scenario) in SCENARIOS {
        if !names.is_empty() && !names.iter().any(|wanted| *wanted == name) {
            continue;
        }
        println!("bench: {name}");
        let measured = scenario(&stage).with_context(|| format!("scenario {name}"))?;
        for measurement in &measured {
            println!("bench: {}", measurement.line());
        }
        report::write(name, &measured)?;
    }
    Ok(())
}
