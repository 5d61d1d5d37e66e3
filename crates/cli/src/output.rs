//! The only module that prints.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{PoisonError, RwLock};

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

/// Puts whole lines above a view that is drawn at the lower end of the terminal.
pub(crate) type LiveView = Box<dyn Fn(&[u8]) + Send + Sync>;

/// The view that standard error shows now, if it shows one.
static LIVE: RwLock<Option<LiveView>> = RwLock::new(None);

/// Says which view everything else on standard error has to make room for.
pub(crate) fn set_live(view: Option<LiveView>) {
    *LIVE.write().unwrap_or_else(PoisonError::into_inner) = view;
}

/// Writes one line to standard error.
pub(crate) fn error_line(text: &str) {
    error_raw(format!("{text}\n").as_bytes());
}

/// Writes bytes to standard error as they are.
pub(crate) fn error_raw(bytes: &[u8]) {
    let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
    match &*live {
        Some(view) => view(bytes),
        // Nothing can be done about a closed standard error.
        None => {
            let _ = std::io::stderr().lock().write_all(bytes);
        }
    }
}

/// Standard error for whoever writes log lines: one write, one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorWriter;

impl std::io::Write for ErrorWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        error_raw(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether colour belongs on standard output: a terminal, and `NO_COLOR` is not set.
pub(crate) fn stdout_has_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Whether colour belongs on standard error: a terminal, and `NO_COLOR` is not set.
pub(crate) fn stderr_has_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
