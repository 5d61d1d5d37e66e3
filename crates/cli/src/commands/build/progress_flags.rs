//! How `shipway build` shows its progress.

use clap::{Args, ValueEnum};

use crate::build::progress::Style;

/// Flags about progress.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct ProgressArgs {
    /// How progress is shown: a live view (tty), lines, events as JSON (docs/progress-events.md),
    /// BuildKit's status stream (rawjson), or nothing
    #[arg(long, env = "BUILDKIT_PROGRESS", default_value = "auto", value_name = "STYLE")]
    progress: ProgressArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProgressArg {
    /// The live view on a terminal, lines elsewhere.
    Auto,
    /// The same: a view needs a terminal.
    Tty,
    /// Numbered lines.
    Plain,
    /// One JSON object per event.
    Json,
    /// BuildKit's status stream, one JSON object per line.
    Rawjson,
    /// Nothing but failures.
    Quiet,
}

impl ProgressArgs {
    /// The style that fits the flags and standard error.
    pub(super) fn style(self, quiet: bool) -> Style {
        match self.progress {
            _ if quiet => Style::Quiet,
            ProgressArg::Auto | ProgressArg::Tty => Style::of_terminal(),
            ProgressArg::Plain => Style::Plain,
            ProgressArg::Json => Style::Json,
            ProgressArg::Rawjson => Style::RawJson,
            ProgressArg::Quiet => Style::Quiet,
        }
    }
}
