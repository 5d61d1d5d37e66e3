//! The only module that prints.

use std::io::{IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};
use serde::Serialize;

/// The `-o` of every verb that prints a result.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// Form of the result on standard output
    #[arg(short = 'o', long = "output", default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
}

/// Form of a verb's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// One JSON document, for scripts.
    Json,
}

/// Writes one line to standard output; a closed pipe (`| head`) ends the program quietly.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        // The reader has gone; 141 is what a shell reports for SIGPIPE.
        std::process::exit(141);
    }
}

/// Writes bytes to standard output as they are.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(141);
    }
}

/// Writes one JSON document, indented, to standard output.
pub(crate) fn json<T: Serialize>(document: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(document)?);
    Ok(())
}

/// Writes one line to standard error.
pub(crate) fn error_line(text: &str) {
    // Nothing can be done about a closed standard error.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes bytes to standard error as they are.
pub(crate) fn error_raw(bytes: &[u8]) {
    // Nothing can be done about a closed standard error.
    let _ = std::io::stderr().lock().write_all(bytes);
}

/// Whether colour belongs on standard error: a terminal, and `NO_COLOR` is not set.
pub(crate) fn stderr_has_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
