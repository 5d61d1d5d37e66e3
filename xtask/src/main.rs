//! Project tasks: `cargo xtask ci`, `cargo xtask bench`, `cargo xtask peers`, `cargo xtask fuzz`.

#![forbid(unsafe_code)]

mod bench;
mod ci;
mod conformance;
mod edges;
mod fuzz;
mod peers;
mod registry_tables;
mod tidy;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ci"] => ci::run(),
        ["peers"] => peers::install(),
        ["tidy"] => {
            edges::check()?;
            tidy::check()?;
            conformance::check()?;
            registry_tables::check()
        }
        ["fuzz", ..] => fuzz::run(&arguments[1..]),
        ["bench", ..] => bench::run(&arguments[1..]),
        _ => bail!(
            "usage: cargo xtask <task>\n\n  ci              everything that must pass before a change lands\n  bench [NAME …]  the promised numbers beside the peers; writes docs/benchmarks.md\n  fuzz [--seconds N] [--seed N]   mutated Dockerfiles and archives, N seconds per target\n  peers           install the Debian packages that the tests drive\n  tidy            the dependency edges and the house rules only"
        ),
    }
}
