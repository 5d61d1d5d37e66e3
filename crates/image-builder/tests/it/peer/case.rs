//! Cases as text, so that a Dockerfile reads like a Dockerfile.
//!
//! A file holds cases; each begins with `## TITLE`. Lines that begin with `@` say what else the
//! case needs, the rest is the Dockerfile:
//!
//! - `@context NAME`, `@arg NAME=VALUE`, `@target NAME`, `@ignore LINE` of the ignore file
//! - `@differs PATH: KEY` (a path with all below it, one ending in `*` for any that begin so, or
//!   one ending in a blank for that path alone)
//!   and `@config FIELD: KEY`: buildah decides otherwise, for the reason that stands under KEY
//! - `@fails TEXT`: neither builds it; ours says TEXT
//! - `@refused TEXT: KEY`: only buildah builds it
//! - `@beyond KEY`: only we build it; `@has TEXT` is part of a line of our tree, `@not TEXT` of none

use std::collections::BTreeMap;

/// One Dockerfile and what is known about its two images.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    pub(crate) group: &'static str,
    pub(crate) title: String,
    pub(crate) context: Option<String>,
    pub(crate) arguments: BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    pub(crate) ignore: Option<String>,
    pub(crate) outcome: Expected,
    /// Path or config field, and the key of the reason.
    pub(crate) paths: Vec<(String, String)>,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) has: Vec<String>,
    pub(crate) has_not: Vec<String>,
    pub(crate) dockerfile: String,
}

/// Who builds a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Both, with equal results.
    #[default]
    Same,
    /// Neither.
    BothFail(String),
    /// buildah alone.
    WeRefuse { text: String, key: String },
    /// We alone.
    Beyond { key: String },
}

impl Case {
    /// Keys of all reasons that the case gives.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = &str> {
        let whole = match &self.outcome {
            Expected::WeRefuse { key, .. } | Expected::Beyond { key } => Some(key.as_str()),
            Expected::Same | Expected::BothFail(_) => None,
        };
        self.paths.iter().chain(&self.fields).map(|(_, key)| key.as_str()).chain(whole)
    }

    /// Whether a line of a tree is known to differ.
    pub(crate) fn is_known(&self, line: &str) -> bool {
        self.paths.iter().any(|(path, _)| match path.strip_suffix('*') {
            Some(beginning) => line.starts_with(beginning),
            // A blank at the end: the path alone.
            None if path.ends_with(' ') => line.starts_with(path.as_str()),
            None => line.strip_prefix(path.as_str()).is_some_and(|r| r.starts_with([' ', '/'])),
        })
    }
}

/// The cases of a file.
pub(crate) fn read(group: &'static str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            cases.push(Case { group, title: title.to_owned(), ..Case::default() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        if !case.dockerfile.is_empty() || !line.starts_with('@') {
            case.dockerfile.push_str(line);
            case.dockerfile.push('\n');
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let with_key = || {
            let (what, key) = rest.rsplit_once(": ").expect("a reason");
            (what.to_owned(), key.to_owned())
        };
        match word {
            "@context" => case.context = Some(rest.to_owned()),
            "@target" => case.target = Some(rest.to_owned()),
            "@arg" => {
                let (name, value) = rest.split_once('=').expect("a value");
                case.arguments.insert(name.to_owned(), value.to_owned());
            }
            "@ignore" => {
                let ignore = case.ignore.get_or_insert_default();
                ignore.push_str(rest);
                ignore.push('\n');
            }
            "@differs" => case.paths.push(with_key()),
            "@config" => case.fields.push(with_key()),
            "@fails" => case.outcome = Expected::BothFail(rest.to_owned()),
            "@refused" => {
                let (text, key) = with_key();
                case.outcome = Expected::WeRefuse { text, key };
            }
            "@beyond" => case.outcome = Expected::Beyond { key: rest.to_owned() },
            "@has" => case.has.push(rest.to_owned()),
            "@not" => case.has_not.push(rest.to_owned()),
            _ => panic!("{line}"),
        }
    }
    cases
}
