//! What the configuration says about a namespace.

use std::sync::Arc;

use oci_model::Repository;
use serde::{Deserialize, Serialize};

use super::glob::Glob;
use super::quantity::{ByteSize, Span};

/// How long deleted manifests and tags can be restored unless a namespace says otherwise.
const TRASH_DEFAULT: Span = Span(7 * 86_400);

/// The policies of the repositories below a prefix. The longest prefix that covers a repository
/// wins, and nothing of shorter ones adds to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Namespace {
    /// The repository of this name and those below it (`team` covers `team` and `team/app`, not
    /// `teams`). Empty for what no other namespace covers.
    #[serde(default)]
    pub prefix: String,
    /// Bytes that the namespace may hold; unlimited without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteSize>,
    /// Repositories that the namespace may hold; unlimited without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories_max: Option<u64>,
    /// Tags that cannot be moved or removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub immutable_tags: Vec<ImmutableTags>,
    /// What is kept of old tags. Without rules everything is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retention: Vec<RetentionRule>,
    /// How long deleted manifests and tags can be restored: 7 days unless said otherwise, 0 for
    /// not at all.
    #[serde(default = "trash_default")]
    pub trash: Span,
}

/// Tags that name one manifest for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImmutableTags {
    /// Repositories, by their full name; all of the namespace unless said otherwise.
    #[serde(default = "Glob::all")]
    pub repositories: Glob,
    /// The tags.
    pub tags: Glob,
    /// Tags that stay movable although `tags` matches them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Glob>,
}

/// What is kept of the tags that a rule covers. A tag goes if rules cover it and none keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RetentionRule {
    /// Repositories, by their full name; all of the namespace unless said otherwise.
    #[serde(default = "Glob::all")]
    pub repositories: Glob,
    /// The tags; all unless said otherwise.
    #[serde(default = "Glob::all")]
    pub tags: Glob,
    /// Tags that this rule does not cover although `tags` matches them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Glob>,
    /// Keep this many images, the last pushed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// Keep what was pushed within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_pushed_within: Option<Span>,
    /// Keep what was pulled within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_pulled_within: Option<Span>,
    /// Keep everything that the rule covers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep_always: bool,
    /// Remove manifests that have had no tag for this long and that nothing kept needs. Without
    /// such a rule they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untagged_after: Option<Span>,
}

/// Why namespaces cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NamespaceError {
    /// The prefix could not begin the name of a repository.
    #[error("namespace {0:?}: a prefix is the name of a repository, or empty")]
    Prefix(String),
    /// Two namespaces have one prefix.
    #[error("namespace {0:?} is there twice")]
    Twice(String),
    /// A retention rule keeps nothing and removes nothing.
    #[error(
        "namespace {prefix:?}: retention rule {number} says neither what it keeps nor untagged-after"
    )]
    EmptyRule {
        /// The namespace.
        prefix: String,
        /// Which rule, from 1.
        number: usize,
    },
}

const fn trash_default() -> Span {
    TRASH_DEFAULT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Namespace {
    /// A namespace that changes nothing but what the caller then sets.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            quota: None,
            repositories_max: None,
            immutable_tags: Vec::new(),
            retention: Vec::new(),
            trash: TRASH_DEFAULT,
        }
    }

    /// How the namespace is called in messages.
    pub(crate) fn title(&self) -> &str {
        if self.prefix.is_empty() { "(default)" } else { &self.prefix }
    }

    /// The rule by which the tag cannot be moved or removed, as a text for people.
    pub(crate) fn immutable(&self, repository: &str, tag: &str) -> Option<String> {
        let rule = self.immutable_tags.iter().find(|rule| {
            rule.repositories.matches(repository)
                && rule.tags.matches(tag)
                && !rule.except.iter().any(|except| except.matches(tag))
        })?;
        let mut text = format!("tags {}", rule.tags);
        if rule.repositories != Glob::all() {
            text.push_str(&format!(" of {}", rule.repositories));
        }
        for except in &rule.except {
            text.push_str(&format!(" except {except}"));
        }
        Some(format!("{text} are immutable in namespace {}", self.title()))
    }
}

impl ImmutableTags {
    /// The tags of every repository of the namespace that match.
    pub fn new(tags: Glob) -> Self {
        Self { repositories: Glob::all(), tags, except: Vec::new() }
    }
}

impl RetentionRule {
    /// A rule about everything that does nothing yet: set what it keeps.
    pub fn new() -> Self {
        Self {
            repositories: Glob::all(),
            tags: Glob::all(),
            except: Vec::new(),
            keep_last: None,
            keep_pushed_within: None,
            keep_pulled_within: None,
            keep_always: false,
            untagged_after: None,
        }
    }

    /// Whether the rule is about tags at all; one may be about untagged manifests only.
    pub(crate) const fn keeps_tags(&self) -> bool {
        self.keep_always
            || self.keep_last.is_some()
            || self.keep_pushed_within.is_some()
            || self.keep_pulled_within.is_some()
    }

    /// Whether the rule decides about the tag.
    pub(crate) fn covers(&self, tag: &str) -> bool {
        self.keeps_tags()
            && self.tags.matches(tag)
            && !self.except.iter().any(|except| except.matches(tag))
    }
}

impl Default for RetentionRule {
    fn default() -> Self {
        Self::new()
    }
}

/// All namespaces, longest prefix first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policies {
    namespaces: Vec<Arc<Namespace>>,
    /// Whether the last one was added here because the configuration has none for the rest.
    rest_is_implied: bool,
}

impl Policies {
    /// Checks namespaces and puts them in order.
    pub(crate) fn new(mut namespaces: Vec<Namespace>) -> Result<Self, NamespaceError> {
        for namespace in &mut namespaces {
            if !namespace.prefix.is_empty() && Repository::new(&namespace.prefix).is_err() {
                return Err(NamespaceError::Prefix(namespace.prefix.clone()));
            }
            for (at, rule) in namespace.retention.iter().enumerate() {
                if !rule.keeps_tags() && rule.untagged_after.is_none() {
                    let prefix = namespace.prefix.clone();
                    return Err(NamespaceError::EmptyRule { prefix, number: at + 1 });
                }
            }
        }
        namespaces.sort_by(|a, b| {
            b.prefix.len().cmp(&a.prefix.len()).then_with(|| a.prefix.cmp(&b.prefix))
        });
        if let Some(pair) = namespaces.windows(2).find(|pair| pair[0].prefix == pair[1].prefix) {
            return Err(NamespaceError::Twice(pair[0].prefix.clone()));
        }
        let rest_is_implied = namespaces.last().is_none_or(|last| !last.prefix.is_empty());
        if rest_is_implied {
            namespaces.push(Namespace::new(""));
        }
        let namespaces = namespaces.into_iter().map(Arc::new).collect();
        Ok(Self { namespaces, rest_is_implied })
    }

    /// The namespaces of the configuration, longest prefix first.
    pub(crate) fn configured(&self) -> &[Arc<Namespace>] {
        let implied = usize::from(self.rest_is_implied);
        &self.namespaces[..self.namespaces.len() - implied]
    }

    /// Every namespace, the one of the rest last.
    pub(crate) fn all(&self) -> &[Arc<Namespace>] {
        &self.namespaces
    }

    /// The namespace of a repository.
    pub(crate) fn of(&self, repository: &str) -> &Arc<Namespace> {
        let found = self.namespaces.iter().find(|namespace| {
            namespace.prefix.is_empty()
                || repository
                    .strip_prefix(namespace.prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        // The last one covers everything.
        found.unwrap_or(&self.namespaces[self.namespaces.len() - 1])
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self { namespaces: vec![Arc::new(Namespace::new(""))], rest_is_implied: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Glob {
        text.parse().expect("a pattern")
    }

    #[test]
    fn the_longest_prefix_wins() {
        let namespaces = ["team", "", "team/app", "a"].map(Namespace::new).to_vec();
        let policies = Policies::new(namespaces).expect("namespaces");
        for (repository, prefix) in [
            ("team", "team"),
            ("team/x", "team"),
            ("team/app", "team/app"),
            ("team/app/web", "team/app"),
            ("team/apple", "team"),
            ("teams", ""),
            ("a", "a"),
        ] {
            assert_eq!(policies.of(repository).prefix, prefix, "{repository}");
        }
        assert_eq!(policies.configured().len(), 4);
        assert_eq!(Policies::default().configured(), []);
        assert_eq!(Policies::default().of("x").prefix, "");
    }

    #[test]
    fn namespaces_that_mean_nothing_are_refused() {
        let refused = |namespaces| Policies::new(namespaces).expect_err("refused").to_string();
        assert!(refused(vec![Namespace::new("Team")]).contains("\"Team\""));
        assert!(refused(vec![Namespace::new("team/")]).contains("\"team/\""));
        assert!(refused(vec![Namespace::new("a"), Namespace::new("a")]).contains("twice"));
        let mut empty = Namespace::new("a");
        empty.retention = vec![RetentionRule { keep_last: Some(1), ..RetentionRule::new() }];
        empty.retention.push(RetentionRule::new());
        assert!(refused(vec![empty]).contains("rule 2"));
    }

    #[test]
    fn an_immutable_tag_names_its_rule() {
        let mut namespace = Namespace::new("team");
        let mut rule = ImmutableTags::new(glob("v*"));
        rule.except = vec![glob("v*-rc*")];
        namespace.immutable_tags.push(rule);
        let text = namespace.immutable("team/app", "v1.0").expect("a rule");
        assert_eq!(text, "tags v* except v*-rc* are immutable in namespace team");
        assert_eq!(namespace.immutable("team/app", "v1.0-rc1"), None);
        assert_eq!(namespace.immutable("team/app", "latest"), None);
        namespace.immutable_tags[0].repositories = glob("team/prod/**");
        assert_eq!(namespace.immutable("team/app", "v1.0"), None);
        let text = namespace.immutable("team/prod/app", "v1.0").expect("a rule");
        assert!(text.contains("of team/prod/**"), "{text}");
    }

    #[test]
    fn unknown_keys_are_refused_and_rules_read_back() {
        let text = r#"{"prefix":"team","quota":"20GiB","repositories-max":5,"immutable-tags":[{"repositories":"**","tags":"v*"}],"retention":[{"repositories":"**","tags":"**","keep-last":3,"untagged-after":"1d"}],"trash":"14d"}"#;
        let namespace: Namespace = serde_json::from_str(text).expect("a namespace");
        assert_eq!(namespace.quota, Some(ByteSize(20 << 30)));
        assert_eq!(namespace.trash, Span(1_209_600));
        assert_eq!(serde_json::to_string(&namespace).expect("text"), text);
        let wrong = serde_json::from_str::<Namespace>("{\"qouta\":\"1\"}").expect_err("unknown");
        assert!(wrong.to_string().contains("qouta"), "{wrong}");
    }
}
