//! Patterns for names of repositories and tags.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest pattern, in bytes: as long as the longest repository name.
const PATTERN_BYTES_MAX: usize = 255;

/// A pattern: `*` is any text without `/`, `**` any text, `?` one character that is no `/`.
/// Everything else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Exactly(u8),
    One,
    Some,
    Any,
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
        Self { text: "**".to_owned(), parts: vec![Part::Any] }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern describes the whole name. The work is bounded by the product of both
    /// lengths.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.as_bytes();
        // reachable[i]: the parts so far describe the first i bytes of the name.
        let mut reachable = vec![false; name.len() + 1];
        reachable[0] = true;
        for part in &self.parts {
            let mut next = vec![false; name.len() + 1];
            let mut before = false;
            for end in 0..=name.len() {
                let last = end.checked_sub(1).map(|at| name[at]);
                let step = end > 0 && reachable[end - 1];
                next[end] = match part {
                    Part::Exactly(byte) => step && last == Some(*byte),
                    Part::One => step && last != Some(b'/'),
                    Part::Some => reachable[end] || (before && last != Some(b'/')),
                    Part::Any => reachable[end] || before,
                };
                before = next[end];
            }
            reachable = next;
        }
        reachable[name.len()]
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
        let mut parts = Vec::with_capacity(text.len());
        for character in text.chars() {
            let part = match (character, parts.last()) {
                ('*', Some(Part::Some | Part::Any)) => {
                    parts.pop();
                    Part::Any
                }
                ('*', _) => Part::Some,
                ('?', _) => Part::One,
                (character, _)
                    if character.is_ascii_alphanumeric() || "._-/".contains(character) =>
                {
                    Part::Exactly(character as u8)
                }
                (character, _) => return Err(GlobError::Character(character)),
            };
            parts.push(part);
        }
        Ok(Self { text: text.to_owned(), parts })
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
    fn one_star_ends_at_a_slash_and_two_do_not() {
        for (pattern, name, expected) in [
            ("*", "latest", true),
            ("*", "team/app", false),
            ("**", "team/app/x", true),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/**", "team/app/x", true),
            ("team/**", "team", false),
            ("team**", "team", true),
            ("**/app", "a/b/app", true),
            ("v?.*", "v1.2", true),
            ("v?.*", "v12.3", false),
            ("v*-rc*", "v1.2-rc1", true),
            ("v*-rc*", "v1.2", false),
            ("release", "release", true),
            ("release", "Release", false),
            ("a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(glob(pattern).matches(name), expected, "{pattern} {name}");
        }
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
