//! The one error of this crate: what is wrong, where, and what was probably meant.

use std::fmt;

use crate::position::Span;

/// What a caller can do about a rejected Dockerfile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The text is not a Dockerfile; its author must change it.
    Syntax,
    /// The text parses but asks for something that cannot be built (unknown stage, cycle,
    /// unset mandatory variable).
    Plan,
    /// The request, not the file, is at fault (unknown `--target`, bad `--build-arg`).
    Request,
    /// A lint rule was broken and the file or the caller asked for that to fail the build.
    Lint,
    /// A limit of [`crate::limits`] was reached.
    Limit,
}

/// A Dockerfile that cannot be parsed or planned.
///
/// The message follows BuildKit's wording where BuildKit has one, because people search for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerfileError {
    kind: ErrorKind,
    message: String,
    suggestion: Option<String>,
    file: String,
    span: Option<Span>,
    line_text: Option<String>,
}

impl DockerfileError {
    /// An error of `kind` that is not yet placed in a file.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            suggestion: None,
            file: String::new(),
            span: None,
            line_text: None,
        }
    }

    pub(crate) fn syntax(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Syntax, message)
    }

    pub(crate) fn plan(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Plan, message)
    }

    /// Adds a did-you-mean, when there is one.
    #[must_use]
    pub(crate) fn suggesting(mut self, suggestion: Option<&str>) -> Self {
        self.suggestion = suggestion.map(str::to_owned);
        self
    }

    /// Places the error at `span`, unless an inner function already placed it.
    #[must_use]
    pub(crate) fn at(mut self, span: Span) -> Self {
        self.span.get_or_insert(span);
        self
    }

    /// Names the file and quotes the first line of the span.
    #[must_use]
    pub(crate) fn in_file(mut self, file: &str, text: &str) -> Self {
        if self.file.is_empty() {
            file.clone_into(&mut self.file);
        }
        if self.line_text.is_none()
            && let Some(span) = self.span
        {
            let index = usize::try_from(span.line).unwrap_or(usize::MAX).saturating_sub(1);
            self.line_text = text.lines().nth(index).map(|line| line.trim_end().to_owned());
        }
        self
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What is wrong, without place and suggestion.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What was probably meant, for example `FROM` for `FORM`.
    #[must_use]
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// Name of the Dockerfile as the caller gave it; empty when the error has no place.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where in the file.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        self.span
    }

    /// The first line of the span as written.
    #[must_use]
    pub fn line_text(&self) -> Option<&str> {
        self.line_text.as_deref()
    }
}

impl fmt::Display for DockerfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(span) = self.span {
            let file = if self.file.is_empty() { "Dockerfile" } else { &self.file };
            write!(f, "{file}:{span}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, " (did you mean {suggestion}?)")?;
        }
        Ok(())
    }
}

impl std::error::Error for DockerfileError {}
