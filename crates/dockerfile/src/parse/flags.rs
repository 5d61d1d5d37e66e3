//! `--flag[=value]` of instructions.

use crate::error::DockerfileError;
use crate::suggest::closest;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FlagKind {
    /// `--x` or `--x=true|false`.
    Boolean,
    /// `--x=value`, once.
    Text,
    /// `--x=value`, any number of times.
    List,
}

/// The flags of one instruction.
#[derive(Debug)]
pub(super) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    /// Checks the flags written against those the instruction knows.
    pub(super) fn parse(
        written: &[String],
        known: &[(&'static str, FlagKind)],
    ) -> Result<Self, DockerfileError> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for flag in written {
            let flag = flag.strip_prefix("--").unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            let Some((name, kind)) = known.iter().find(|(known, _)| *known == name) else {
                let names = known.iter().map(|(name, _)| *name);
                return Err(DockerfileError::syntax(format!("unknown flag: --{name}"))
                    .suggesting(closest(name, names)));
            };
            let seen = given.iter().any(|(seen, _)| seen == name);
            if seen && *kind != FlagKind::List {
                let message = format!("duplicate flag specified: {name}");
                return Err(DockerfileError::syntax(message));
            }
            given.push((name, checked_value(name, *kind, value)?));
        }
        Ok(Self { given })
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone())
    }

    /// `None` when the flag was not written.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value == "true")
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let all = self.given.iter().filter(|(given, _)| *given == name);
        all.map(|(_, value)| value.clone()).collect()
    }
}

fn checked_value(
    name: &str,
    kind: FlagKind,
    value: Option<&str>,
) -> Result<String, DockerfileError> {
    let missing = || DockerfileError::syntax(format!("missing a value on flag: {name}"));
    match (kind, value) {
        (FlagKind::Boolean, None) => Ok("true".to_owned()),
        (FlagKind::Boolean, Some("")) => Err(missing()),
        (FlagKind::Boolean, Some(value)) => match value.to_ascii_lowercase().as_str() {
            lower @ ("true" | "false") => Ok(lower.to_owned()),
            _ => {
                let message = format!("expecting boolean value for flag {name}, not: {value}");
                Err(DockerfileError::syntax(message))
            }
        },
        (FlagKind::Text | FlagKind::List, None) => Err(missing()),
        (FlagKind::Text | FlagKind::List, Some(value)) => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[(&str, FlagKind)] =
        &[("bool", FlagKind::Boolean), ("text", FlagKind::Text), ("list", FlagKind::List)];

    fn parse(written: &[&str]) -> Result<Flags, String> {
        let written: Vec<String> = written.iter().map(|&flag| flag.to_owned()).collect();
        Flags::parse(&written, KNOWN).map_err(|error| error.to_string())
    }

    /// BuildKit BuilderFlags.
    #[test]
    fn booleans_may_stand_bare() {
        for (flag, expected) in [
            ("--bool", true),
            ("--bool=true", true),
            ("--bool=TRUE", true),
            ("--bool=false", false),
        ] {
            assert_eq!(parse(&[flag]).expect(flag).boolean("bool"), Some(expected), "{flag}");
        }
        assert_eq!(parse(&[]).expect("none").boolean("bool"), None);
    }

    #[test]
    fn lists_repeat_and_texts_may_hold_equal_signs() {
        let flags = parse(&["--list=a", "--text=k=v", "--list=b"]).expect("flags");
        assert_eq!(flags.list("list"), ["a", "b"]);
        assert_eq!(flags.text("text").as_deref(), Some("k=v"));
        assert_eq!(parse(&["--text="]).expect("empty").text("text").as_deref(), Some(""));
    }

    /// BuildKit BuilderFlags.
    #[test]
    fn mistakes_are_reported_in_the_known_words() {
        for (flags, expected) in [
            (&["--txet=a"][..], "unknown flag: --txet (did you mean text?)"),
            (&["--zzzzz"], "unknown flag: --zzzzz"),
            (&["--text=a", "--text=b"], "duplicate flag specified: text"),
            (&["--text"], "missing a value on flag: text"),
            (&["--bool="], "missing a value on flag: bool"),
            (&["--bool=yes"], "expecting boolean value for flag bool, not: yes"),
        ] {
            assert_eq!(parse(flags).expect_err("a mistake"), expected);
        }
    }
}
