//! Variable substitution: `$name`, every `${name…}` operator, quotes and escapes.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{DockerfileError, ErrorKind};
use crate::limits::{EXPANSION_BYTES_MAX, EXPANSION_DEPTH_MAX};
use crate::pattern::{Extent, trim_prefix, trim_suffix};

mod scanner;
#[cfg(test)]
mod tests;

/// Where values come from.
pub(crate) trait Variables {
    /// The value of `name`, `None` when it is not set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Variables for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// No variables at all.
pub(crate) struct NoVariables;

impl Variables for NoVariables {
    fn value(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// What happens to quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Quotes {
    /// They group and are removed.
    Remove,
    /// They group and stay.
    Keep,
    /// They are ordinary characters (heredoc bodies).
    Ordinary,
}

/// What happens to escape characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Escapes {
    Remove,
    Keep,
}

/// What a variable without value becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unset {
    Empty,
    Keep,
}

/// How to expand; the usual choice is [`Expander::new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Expander {
    pub(crate) escape: char,
    pub(crate) quotes: Quotes,
    pub(crate) escapes: Escapes,
    pub(crate) unset: Unset,
}

/// The result of an expansion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Expansion {
    /// The whole text as one word.
    pub(crate) text: String,
    /// The same split at white space that was not quoted.
    pub(crate) words: Vec<String>,
    /// Names that had a value.
    pub(crate) matched: BTreeSet<String>,
    /// Names that had none, used without an operator that provides for it.
    pub(crate) undefined: BTreeSet<String>,
}

impl Expander {
    /// Quotes and escapes are removed, unset variables are empty.
    pub(crate) fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, escapes: Escapes::Remove, unset: Unset::Empty }
    }

    /// For the bodies of COPY and ADD heredocs.
    pub(crate) fn for_heredoc_body() -> Self {
        Self { quotes: Quotes::Ordinary, ..Self::new('\\') }
    }

    /// Expands `text`.
    ///
    /// # Errors
    /// If a substitution is malformed or a `?` operator refuses.
    pub(crate) fn expand(
        &self,
        text: &str,
        variables: &dyn Variables,
    ) -> Result<Expansion, DockerfileError> {
        let mut scanner = scanner::Scanner::new(*self, text, variables);
        let (text, words) = scanner.run()?;
        let (matched, undefined) = scanner.into_names();
        Ok(Expansion { text, words, matched, undefined })
    }
}

/// Applies `#`, `##`, `%` or `%%`; a doubled operator shows as the first character of `word`.
fn apply_pattern(operator: char, value: &str, word: &str) -> Result<String, DockerfileError> {
    let (extent, pattern) = match word.strip_prefix(operator) {
        Some(pattern) => (Extent::Longest, pattern),
        None => (Extent::Shortest, word),
    };
    if operator == '#' {
        trim_prefix(value, pattern, extent)
    } else {
        trim_suffix(value, pattern, extent)
    }
}

fn check_size(text: &str) -> Result<(), DockerfileError> {
    if text.len() > EXPANSION_BYTES_MAX {
        let message = format!("expanded text is longer than {EXPANSION_BYTES_MAX} bytes");
        return Err(DockerfileError::new(ErrorKind::Limit, message));
    }
    Ok(())
}

fn check_depth(depth: u32) -> Result<(), DockerfileError> {
    if depth > EXPANSION_DEPTH_MAX {
        let message = format!("substitutions nest deeper than {EXPANSION_DEPTH_MAX}");
        return Err(DockerfileError::new(ErrorKind::Limit, message));
    }
    Ok(())
}
