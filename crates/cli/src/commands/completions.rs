//! `shipway completions` and `shipway man`: generated from the flags themselves.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use super::Cli;
use crate::exit::Failure;
use crate::output;

/// Flags of `shipway completions`.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell to complete for
    shell: clap_complete::Shell,
}

/// Flags of `shipway man`.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Directory for the pages; it is made if missing
    directory: PathBuf,
}

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "shipway", &mut script);
    output::raw(&script);
    Ok(ExitCode::SUCCESS)
}

/// Writes one page per verb.
pub(crate) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(&args.directory)
        .with_context(|| format!("cannot make the directory {}", args.directory.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.directory)
        .with_context(|| format!("cannot write man pages to {}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
