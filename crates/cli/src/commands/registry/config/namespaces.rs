//! `[[registry.namespaces]]`: prefixes of repositories with policies of their own.

use registry_server::{ByteSize, Glob, ImmutableTags, Namespace, RetentionRule, Span};

use super::shape::{Shape, Shaped, Size, Time, settings};

settings! {
    /// The policies of the repositories below a prefix; the longest prefix wins, alone.
    item NamespaceSettings {
        /// The repository and those below it; empty for what no other namespace covers.
        prefix: Option<String> = "what no other namespace covers",
        /// Bytes that the namespace may hold; what repositories share counts once.
        quota: Option<Size> = "unlimited",
        /// Repositories that the namespace may hold.
        repositories_max: Option<u64> = "unlimited",
        /// Tags that cannot be moved or removed.
        immutable_tags: Option<Vec<ImmutableTagsSettings>>,
        /// What is kept of old tags; without rules everything.
        retention: Option<Vec<RetentionSettings>>,
        /// How long deleted manifests and tags can be restored; 0 for not at all.
        trash: Option<Time> = "7d",
    }
}

settings! {
    /// Tags that name one manifest for ever.
    item ImmutableTagsSettings {
        /// Pattern for the full names of repositories.
        repositories: Option<Glob> = "**",
        /// Pattern for tags: `*` any text, `?` one character.
        tags: Glob,
        /// Patterns for tags that stay movable all the same.
        except: Option<Vec<Glob>>,
    }
}

settings! {
    /// What is kept of the tags that a rule covers; a tag goes if rules cover it and none keeps it.
    item RetentionSettings {
        /// Pattern for the full names of repositories.
        repositories: Option<Glob> = "**",
        /// Pattern for tags.
        tags: Option<Glob> = "**",
        /// Patterns for tags that the rule does not cover all the same.
        except: Option<Vec<Glob>>,
        /// Keep this many images, the last pushed ones.
        keep_last: Option<u32>,
        /// Keep what was pushed within this time.
        keep_pushed_within: Option<Time>,
        /// Keep what was pulled within this time.
        keep_pulled_within: Option<Time>,
        /// Keep everything that the rule covers.
        keep_always: Option<bool> = "false",
        /// Remove manifests that have had no tag for this long and that nothing kept needs.
        untagged_after: Option<Time> = "never",
    }
}

impl Shaped for Glob {
    fn shape() -> Shape {
        Shape::Text("PATTERN")
    }
}

fn span(time: Time) -> Span {
    Span(time.0.as_secs())
}

impl From<NamespaceSettings> for Namespace {
    fn from(settings: NamespaceSettings) -> Self {
        let mut namespace = Self::new(settings.prefix.unwrap_or_default());
        namespace.quota = settings.quota.map(|size| ByteSize(size.0));
        namespace.repositories_max = settings.repositories_max;
        let immutable = settings.immutable_tags.unwrap_or_default().into_iter();
        namespace.immutable_tags = immutable
            .map(|rule| ImmutableTags {
                repositories: rule.repositories.unwrap_or_else(Glob::all),
                tags: rule.tags,
                except: rule.except.unwrap_or_default(),
            })
            .collect();
        let retention = settings.retention.unwrap_or_default().into_iter();
        namespace.retention = retention.map(RetentionRule::from).collect();
        if let Some(trash) = settings.trash {
            namespace.trash = span(trash);
        }
        namespace
    }
}

impl From<RetentionSettings> for RetentionRule {
    fn from(settings: RetentionSettings) -> Self {
        Self {
            repositories: settings.repositories.unwrap_or_else(Glob::all),
            tags: settings.tags.unwrap_or_else(Glob::all),
            except: settings.except.unwrap_or_default(),
            keep_last: settings.keep_last,
            keep_pushed_within: settings.keep_pushed_within.map(span),
            keep_pulled_within: settings.keep_pulled_within.map(span),
            keep_always: settings.keep_always.unwrap_or_default(),
            untagged_after: settings.untagged_after.map(span),
        }
    }
}
