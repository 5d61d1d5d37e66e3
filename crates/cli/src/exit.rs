//! Exit codes and the one place where errors become text (documented in `shipway --help`).

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::build::progress::JsonEvent;

/// What a failure means for the caller's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 1: the work was tried and failed.
    Failed,
    /// 2: the command line, a file or a reference was wrong; nothing was tried.
    Usage,
    /// 3: the other side refused our credentials.
    Denied,
    /// 4: the named thing does not exist.
    NotFound,
    /// 5: the other side could not be reached.
    Unreachable,
    /// 6: this machine cannot do it: no rights, no space, a port in use, already running.
    Environment,
    /// 70: a mistake of ours (`EX_SOFTWARE`).
    Bug,
    /// 130: stopped by a signal, as shells report Ctrl-C.
    Interrupted,
}

impl Kind {
    /// The code for the shell.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::Environment => 6,
            Self::Bug => 70,
            Self::Interrupted => 130,
        }
    }
}

/// A failure on its way to the user: what failed, on which object, why, and what to try.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    error: anyhow::Error,
    hint: Option<String>,
    /// Lines to show before the failure: an excerpt, the output of a command.
    details: Option<String>,
    place: Option<Place>,
    /// Code of the command that failed, if one did.
    command_exit_code: Option<i32>,
    /// Whether the user was told already.
    told: bool,
}

/// Lines of a file that a failure is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) line_end: u32,
}

impl Place {
    /// The lines of a span.
    pub(crate) fn new(file: &str, span: dockerfile::Span) -> Self {
        Self { file: file.to_owned(), line: span.line, line_end: span.line_end }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == self.line_end {
            write!(f, "{}:{}", self.file, self.line)
        } else {
            write!(f, "{}:{}-{}", self.file, self.line, self.line_end)
        }
    }
}

impl Failure {
    /// A failure of a certain kind.
    pub(crate) fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            error: error.into(),
            hint: None,
            details: None,
            place: None,
            command_exit_code: None,
            told: false,
        }
    }

    /// A mistake in what the user typed.
    pub(crate) fn usage(text: impl std::fmt::Display) -> Self {
        Self::new(Kind::Usage, anyhow::anyhow!("{text}"))
    }

    /// A mistake of ours.
    pub(crate) fn bug(text: impl std::fmt::Display) -> Self {
        Self::new(Kind::Bug, anyhow::anyhow!("{text}"))
    }

    /// The same failure with the next thing to try.
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// The same failure with lines to show before it.
    pub(crate) fn details(mut self, text: impl Into<String>) -> Self {
        self.details = Some(text.into());
        self
    }

    /// The same failure with the lines of a file that it is about.
    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The same failure with the code of the command that failed.
    pub(crate) fn command_exit_code(mut self, code: Option<i32>) -> Self {
        self.command_exit_code = code;
        self
    }

    /// The same failure, which the user has been told of.
    pub(crate) fn told(mut self) -> Self {
        self.told = true;
        self
    }

    /// Whether a signal ended the work.
    pub(crate) fn is_interruption(&self) -> bool {
        self.kind == Kind::Interrupted
    }

    /// The failure as an event for programs.
    pub(crate) fn with_event<T>(&self, use_it: impl FnOnce(&JsonEvent<'_>) -> T) -> T {
        let place = self.place.as_ref();
        use_it(&JsonEvent::Error {
            text: &self.text(),
            exit_code: self.kind.exit_code(),
            file: place.map(|place| place.file.as_str()),
            line: place.map(|place| place.line),
            line_end: place.map(|place| place.line_end),
            command_exit_code: self.command_exit_code,
            hint: self.hint.as_deref(),
        })
    }

    /// The lines to show before the failure.
    pub(crate) fn lines_before(&self) -> Option<&str> {
        self.details.as_deref()
    }

    /// The next thing to try.
    pub(crate) fn next(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The same failure for scripts that expect another code.
    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The failure with its causes, in one line.
    pub(crate) fn text(&self) -> String {
        let mut text = self.error.to_string();
        for cause in self.error.chain().skip(1) {
            let cause = cause.to_string();
            // Libraries often repeat their cause in their own text.
            if !text.ends_with(&cause) {
                let _ = write!(text, ": {cause}");
            }
        }
        text
    }

    /// Writes the failure to standard error and says which code to exit with.
    pub(crate) fn report(&self) -> ExitCode {
        let code = ExitCode::from(self.kind.exit_code());
        if self.told {
            return code;
        }
        let mut text = String::new();
        if let Some(details) = &self.details {
            text.push_str(details.trim_end());
            text.push('\n');
        }
        let _ = write!(text, "error: {}", self.text());
        if let Some(hint) = &self.hint {
            let hint = with_state_dir(hint, STATE_DIR.get().map(String::as_str));
            let _ = write!(text, "\n  try: {hint}");
        }
        crate::output::error_line(&text);
        code
    }
}

/// `--state-dir` of this call, if there was one: what is to be tried next needs it too.
static STATE_DIR: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Remembers `--state-dir` for hints.
pub(crate) fn note_state_dir(directory: &std::path::Path) {
    // A second call can only name the same directory.
    let _ = STATE_DIR.set(directory.display().to_string());
}

/// A hint whose commands work on the same state directory.
fn with_state_dir(hint: &str, state_dir: Option<&str>) -> String {
    const VERBS: [&str; 7] = ["up", "down", "status", "build", "pull", "push", "registry"];
    let Some(directory) = state_dir else { return hint.to_owned() };
    let mut text = hint.to_owned();
    for verb in VERBS {
        let with = format!("shipway --state-dir {directory} {verb}");
        text = text.replace(&format!("shipway {verb}"), &with);
    }
    text
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Kind::Failed, error)
    }
}

/// Prints what clap has to say: help and version on standard output, mistakes on standard error.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed standard error.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(Kind::Usage.exit_code()) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::with_state_dir;

    #[test]
    fn commands_of_a_hint_name_the_state_directory_that_was_named() {
        let hint = "shipway build -t a, or shipway pull a; then shipway login";
        assert_eq!(
            with_state_dir(hint, Some("/s")),
            "shipway --state-dir /s build -t a, or shipway --state-dir /s pull a; then shipway login"
        );
        assert_eq!(with_state_dir(hint, None), hint);
    }
}
