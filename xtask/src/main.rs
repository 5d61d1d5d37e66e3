//! Project tasks: `cargo xtask ci`, `cargo xtask bench`, `cargo xtask peers`.

#![forbid(unsafe_code)]

mod ci;
mod edges;
mod peers;
mod tidy;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("ci"), None) => ci::run(),
        (Some("peers"), None) => peers::install(),
        (Some("tidy"), None) => {
            edges::check()?;
            tidy::check()
        }
        _ => bail!(
            "usage: cargo xtask <task>\n\n  ci     everything that must pass before a change lands\n  peers  install the Debian packages that the tests drive\n  tidy   the dependency edges and the house rules only"
        ),
    }
}
