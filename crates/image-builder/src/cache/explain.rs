//! Why a step was not found: what its key has in other ways than the nearest recorded one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::{About, KeyPart};

/// Differences that are named one by one; the rest is counted.
const DIFFERENCES_MAX: usize = 20;

/// What a build says about the cache and a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheDecision {
    /// The step was found.
    Hit {
        /// Which cache knew it.
        from: String,
        /// By what it was found.
        by: KeyKind,
    },
    /// It was not.
    Miss {
        /// The most similar step on record, as its Dockerfile had it.
        nearest: Option<String>,
        /// What differs from that one, or why nothing is comparable.
        differences: Vec<String>,
    },
}

/// By what a step was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// By how its files come about, before anything was executed.
    Chain,
    /// By the files it starts from and reads.
    Content,
}

impl std::fmt::Display for CacheDecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hit { from, by } => {
                let by = match by {
                    KeyKind::Chain => "chain",
                    KeyKind::Content => "content",
                };
                write!(f, "cache hit from {from}, by {by} key")
            }
            Self::Miss { nearest, differences } => {
                let differences = differences.join("; ");
                match nearest {
                    Some(nearest) => write!(f, "cache miss: {differences} (nearest: {nearest})"),
                    None => write!(f, "cache miss: {differences}"),
                }
            }
        }
    }
}

/// Names what differs between a step and the nearest on record.
pub(crate) fn miss(wanted: &About, parent: &str, known: &[(i64, Arc<About>)]) -> CacheDecision {
    let kind = value_of(wanted, "kind");
    let comparable = known.iter().filter(|(_, about)| value_of(about, "kind") == kind);
    // The most alike of the same stage, else of any; of equals the last used.
    let nearest = comparable.min_by_key(|(used, about)| {
        let differing = differing(wanted, about).len();
        (about.title != wanted.title, about.stage != wanted.stage, differing, -*used)
    });
    let Some((_, nearest)) = nearest else {
        let differences = vec!["no step of this kind is on record".to_owned()];
        return CacheDecision::Miss { nearest: None, differences };
    };
    let differing = differing(wanted, nearest);
    let more = differing.len().saturating_sub(DIFFERENCES_MAX);
    let mut differences: Vec<String> = differing
        .into_iter()
        .take(DIFFERENCES_MAX)
        .map(|(name, how)| match &name[..] {
            "base" => format!("the files below differ: {parent}"),
            "command" if wanted.title != nearest.title => {
                format!("command changed from {:?}", nearest.title)
            }
            _ => format!("{name} {how}"),
        })
        .collect();
    if 0 < more {
        differences.push(format!("{more} more"));
    }
    if differences.is_empty() {
        differences.push("its record is there, but expired or without its layer".to_owned());
    }
    CacheDecision::Miss { nearest: Some(nearest.title.clone()), differences }
}

fn value_of<'a>(about: &'a About, name: &str) -> Option<&'a str> {
    about.parts.iter().find(|part| part.name == name).map(|part| &part.value[..])
}

fn differing(wanted: &About, known: &About) -> Vec<(String, &'static str)> {
    let map = |parts: &[KeyPart]| -> BTreeMap<String, String> {
        parts.iter().map(|part| (part.name.clone(), part.value.clone())).collect()
    };
    let (wanted, mut known) = (map(&wanted.parts), map(&known.parts));
    let mut differing = Vec::new();
    for (name, value) in wanted {
        match known.remove(&name) {
            Some(other) if other == value => {}
            Some(_) => differing.push((name, "changed")),
            None => differing.push((name, "added")),
        }
    }
    differing.extend(known.into_keys().map(|name| (name, "removed")));
    // That files changed at all is said by the files.
    if differing.iter().any(|(name, _)| name.starts_with("file ")) {
        differing.retain(|(name, _)| !name.starts_with("files of "));
    }
    differing
}

#[cfg(test)]
mod tests {
    use oci_model::Digest;

    use super::*;

    fn about(stage: &str, title: &str, parts: &[(&str, &str)]) -> About {
        let part =
            |(name, value): &(&str, &str)| KeyPart::new(*name, &Digest::of(value.as_bytes()));
        About {
            stage: stage.to_owned(),
            title: title.to_owned(),
            parts: parts.iter().map(part).collect(),
        }
    }

    fn differences(wanted: &About, known: &[About]) -> (Option<String>, Vec<String>) {
        let known: Vec<(i64, Arc<About>)> =
            known.iter().map(|about| (1, Arc::new(about.clone()))).collect();
        match miss(wanted, "COPY . .", &known) {
            CacheDecision::Miss { nearest, differences } => (nearest, differences),
            hit => panic!("{hit}"),
        }
    }

    #[test]
    fn the_nearest_record_is_of_the_same_kind_and_most_alike() {
        let run = |command| [("kind", "run"), ("command", command), ("base", "b")];
        let known = [
            about("a", "COPY x", &[("kind", "copy"), ("base", "b")]),
            about("a", "RUN 1", &run("1")),
            about("b", "RUN 3", &[("kind", "run"), ("command", "3"), ("base", "c")]),
        ];
        let (nearest, found) = differences(&about("a", "RUN 2", &run("2")), &known);
        assert_eq!(nearest.as_deref(), Some("RUN 1"));
        assert_eq!(found, ["command changed from \"RUN 1\""]);
        let (nearest, found) = differences(&about("a", "WORKDIR", &[("kind", "workdir")]), &known);
        assert_eq!((nearest, found.len()), (None, 1));
    }

    #[test]
    fn files_variables_and_parents_are_named() {
        let known = about(
            "a",
            "COPY . .",
            &[("kind", "copy"), ("file a", "1"), ("file gone", "1"), ("files of context", "1")],
        );
        let wanted = about(
            "a",
            "COPY . .",
            &[("kind", "copy"), ("file a", "2"), ("file new", "1"), ("files of context", "2")],
        );
        let (_, found) = differences(&wanted, &[known]);
        assert_eq!(found, ["file a changed", "file new added", "file gone removed"]);
        let known = about("a", "RUN x", &[("kind", "run"), ("env A", "1"), ("base", "1")]);
        let wanted = about("a", "RUN x", &[("kind", "run"), ("env A", "2"), ("base", "2")]);
        let (_, found) = differences(&wanted, &[known]);
        assert_eq!(found, ["the files below differ: COPY . .", "env A changed"]);
    }
}
