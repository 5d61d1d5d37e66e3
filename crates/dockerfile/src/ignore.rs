//! Ignore files (`.dockerignore`) and `--exclude`: ordered patterns, the last match wins.

use crate::error::{DockerfileError, ErrorKind};
use crate::limits::IGNORE_PATTERNS_MAX;
use crate::path_pattern::{DoubleStar, PathPattern};
use crate::paths::clean;

#[cfg(test)]
mod tests;

/// Ordered include and exclude patterns over paths relative to a root.
///
/// These are not gitignore rules: a pattern without `/` matches only at the root, and a path is
/// also matched when a pattern matches one of its parent directories.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IgnoreFile {
    rules: Vec<IgnoreRule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct IgnoreRule {
    pattern: PathPattern,
    /// Clean pattern text, for pruning.
    text: String,
    effect: Effect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Ignore,
    Keep,
}

/// Names of the ignore files that may apply to a Dockerfile, best first; only one applies.
///
/// The first is beside the Dockerfile, the second at the root of the context.
#[must_use]
pub fn ignore_file_names(dockerfile_path: &str) -> [String; 2] {
    [format!("{dockerfile_path}.dockerignore"), ".dockerignore".to_owned()]
}

impl IgnoreFile {
    /// Reads the text of an ignore file.
    ///
    /// # Errors
    /// `error checking context: …` when a pattern is malformed or a lone `!`.
    pub fn parse(text: &str) -> Result<Self, DockerfileError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for line in text.lines() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let line = line.trim();
            let (sign, pattern) = match line.strip_prefix('!') {
                Some(pattern) => ("!", pattern.trim()),
                None => ("", line),
            };
            let mut pattern = if pattern.is_empty() { String::new() } else { clean(pattern) };
            if pattern.len() > 1 && pattern.starts_with('/') {
                pattern.remove(0);
            }
            patterns.push(format!("{sign}{pattern}"));
        }
        Self::from_patterns(&patterns).map_err(|error| {
            DockerfileError::new(
                error.kind(),
                format!("error checking context: {}", error.message()),
            )
        })
    }

    /// Compiles patterns given one by one, such as those of `--exclude`.
    ///
    /// # Errors
    /// A malformed pattern, a lone `!`, or more than [`IGNORE_PATTERNS_MAX`] patterns.
    pub fn from_patterns<S: AsRef<str>>(patterns: &[S]) -> Result<Self, DockerfileError> {
        if patterns.len() > IGNORE_PATTERNS_MAX {
            let message = format!("more than {IGNORE_PATTERNS_MAX} patterns");
            return Err(DockerfileError::new(ErrorKind::Limit, message));
        }
        let mut rules = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let (text, effect) = match cleaned.strip_prefix('!') {
                Some("") => {
                    return Err(DockerfileError::syntax("illegal exclusion pattern: \"!\""));
                }
                Some(text) => (text.to_owned(), Effect::Keep),
                None => (cleaned, Effect::Ignore),
            };
            // What Go refuses is refused here too, although `**` is read differently below.
            PathPattern::parse(&text, DoubleStar::Plain)?;
            let pattern = PathPattern::parse(&text, DoubleStar::Directories)?;
            rules.push(IgnoreRule { pattern, text, effect });
        }
        Ok(Self { rules })
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `path`, relative to the root and clean, is ignored: itself or through a parent.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for rule in &self.rules {
            // A rule that cannot change the verdict need not be looked at.
            if (rule.effect == Effect::Keep) == ignored && rule.matches_or_parent(path) {
                ignored = !ignored;
            }
        }
        ignored
    }

    /// The pattern that leaves `path` out, if it is ignored.
    #[must_use]
    pub fn ignoring_pattern(&self, path: &str) -> Option<&str> {
        let mut found = None;
        for rule in self.rules.iter().filter(|rule| rule.matches_or_parent(path)) {
            found = (rule.effect == Effect::Ignore).then_some(rule.text.as_str());
        }
        found
    }

    /// Whether a walk may skip everything below the ignored directory `directory`.
    ///
    /// `false` when a `!` pattern might bring something below it back.
    #[must_use]
    pub fn prunes(&self, directory: &str) -> bool {
        self.ignores(directory)
            && !self
                .rules
                .iter()
                .any(|rule| rule.effect == Effect::Keep && may_match_below(&rule.text, directory))
    }
}

impl IgnoreRule {
    fn matches_or_parent(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        self.pattern.matches(path) || parents.into_iter().any(|parent| self.pattern.matches(parent))
    }
}

/// Whether a pattern could match a path below `directory`, erring towards yes.
fn may_match_below(pattern: &str, directory: &str) -> bool {
    let mut parts = pattern.split('/');
    for component in directory.split('/') {
        match parts.next() {
            // A shorter pattern matches the directory or a parent, and so everything below.
            None => return true,
            Some(part) if part.contains("**") => return true,
            Some(part) => match PathPattern::parse(part, DoubleStar::Plain) {
                Ok(compiled) if !compiled.matches(component) => return false,
                Ok(_) | Err(_) => {}
            },
        }
    }
    true
}
