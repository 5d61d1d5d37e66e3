//! Patterns for names of repositories and tags.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pattern::{self, Wildcards};

/// Longest pattern, in bytes: as long as the longest repository name.
const PATTERN_BYTES_MAX: usize = 255;

/// A pattern: `*` is any text without `/`, `**` any text, `?` one character that is no `/`.
/// Everything else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
}

/// Why a text is no pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GlobError {
    /// It is empty, and would match nothing.
    #[error("a pattern is not empty")]
    Empty,
    /// It is longer than any name.
    #[error("a pattern has at most {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// It has a character that no name has.
    #[error("{0:?} is in no name; patterns know *, ** and ? beside characters of names")]
    Character(char),
}

impl Glob {
    /// Matches every name.
    pub fn all() -> Self {
        Self { text: "**".to_owned() }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern describes the whole name. The work is bounded by the product of both
    /// lengths.
    pub fn matches(&self, name: &str) -> bool {
        pattern::matches(&self.text, name, Wildcards::NAMES)
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(GlobError::TooLong);
        }
        let is_known = |c: &char| c.is_ascii_alphanumeric() || "._-/*?".contains(*c);
        if let Some(character) = text.chars().find(|c| !is_known(c)) {
            return Err(GlobError::Character(character));
        }
        Ok(Self { text: text.to_owned() })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| serde::de::Error::custom(format_args!("pattern {text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        text.parse().expect("a pattern")
    }

    #[test]
    fn what_no_name_has_is_in_no_pattern() {
        for (text, error) in [
            ("", GlobError::Empty),
            ("v[0-9]", GlobError::Character('[')),
            ("ä", GlobError::Character('ä')),
            ("a b", GlobError::Character(' ')),
        ] {
            assert_eq!(text.parse::<Glob>(), Err(error), "{text}");
        }
        assert_eq!("a".repeat(256).parse::<Glob>(), Err(GlobError::TooLong));
        let wrong = serde_json::from_str::<Glob>("\"a{b}\"").expect_err("no pattern");
        assert!(wrong.to_string().contains("a{b}"), "{wrong}");
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_all(name in "[a-zA-Z0-9._/-]{1,40}") {
            prop_assert!(glob(&name).matches(&name));
            prop_assert!(Glob::all().matches(&name));
            let longer = name.clone() + "x";
            prop_assert!(!glob(&name).matches(&longer));
        }
    }
}
