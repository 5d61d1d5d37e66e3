//! Which tags and manifests the rules keep, and why. No I/O: the plan that people see and the
//! change that removes things ask the same function.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::namespace::{Namespace, RetentionRule};
use super::quantity::Span;

/// A repository. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default)]
pub(crate) struct RepositoryView {
    pub(crate) tags: Vec<TagView>,
    pub(crate) manifests: BTreeMap<String, ManifestView>,
}

/// A tag.
#[derive(Clone, Debug)]
pub(crate) struct TagView {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) pushed: u64,
}

/// A manifest.
#[derive(Clone, Debug, Default)]
pub(crate) struct ManifestView {
    pub(crate) pulled: Option<u64>,
    /// Since when no tag names it.
    pub(crate) untagged: Option<u64>,
    /// What an index or image points to; blobs among it mean nothing here.
    pub(crate) children: Vec<String>,
    pub(crate) subject: Option<String>,
}

/// What happens to a tag or manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// The tag, or the digest of a manifest.
    pub name: String,
    /// The manifest.
    pub digest: String,
    /// Whether it stays.
    pub keep: bool,
    /// Why, for people.
    pub reason: String,
}

/// What the rules say about a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) tags: Vec<Verdict>,
    /// Manifests without tags of their own, and those that lose all of them.
    pub(crate) manifests: Vec<Verdict>,
}

impl Judged {
    pub(crate) fn dropped_tags(&self) -> impl Iterator<Item = &String> {
        self.tags.iter().filter(|tag| !tag.keep).map(|tag| &tag.name)
    }

    pub(crate) fn dropped_manifests(&self) -> impl Iterator<Item = &String> {
        self.manifests.iter().filter(|manifest| !manifest.keep).map(|manifest| &manifest.name)
    }
}

/// Applies the rules of a namespace to one of its repositories.
pub(crate) fn judge(
    namespace: &Namespace,
    repository: &str,
    view: &RepositoryView,
    now: u64,
) -> Judged {
    let rules: Vec<(usize, &RetentionRule)> = namespace
        .retention
        .iter()
        .enumerate()
        .map(|(at, rule)| (at + 1, rule))
        .filter(|(_, rule)| rule.repositories.matches(repository))
        .collect();
    if rules.is_empty() {
        return Judged::default();
    }
    let ranks: Vec<BTreeMap<&str, u32>> = rules.iter().map(|(_, rule)| ranks(rule, view)).collect();
    let mut verdicts = Vec::new();
    let mut attached = Vec::new();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for tag in &view.tags {
        if let Some(subject) = subject(tag, view) {
            attached.push((tag, subject));
            continue;
        }
        let (keep, reason) = match namespace.immutable(repository, &tag.name) {
            Some(rule) => (true, rule),
            None => judge_tag(&rules, &ranks, tag, view, now),
        };
        if keep {
            kept.insert(&tag.digest);
        }
        let (name, digest) = (tag.name.clone(), tag.digest.clone());
        verdicts.push(Verdict { name, digest, keep, reason });
    }
    let tagged: BTreeSet<&str> = verdicts.iter().map(|tag| tag.digest.as_str()).collect();
    let dependence = Dependence::of(view, &attached);
    for (digest, manifest) in &view.manifests {
        let stands_alone = !tagged.contains(digest.as_str()) && !dependence.depends(digest);
        if stands_alone && untagged_rule(&rules, manifest, now).is_none() {
            kept.insert(digest);
        }
    }
    let kept = dependence.closure(kept);
    let mut manifests = Vec::new();
    for (digest, manifest) in &view.manifests {
        let keep = kept.contains(digest.as_str());
        if keep && tagged.contains(digest.as_str()) {
            continue;
        }
        let reason = match (keep, untagged_rule(&rules, manifest, now)) {
            (true, _) if dependence.depends(digest) => "something kept needs it".to_owned(),
            (true, _) => "no rule removes untagged manifests of its age".to_owned(),
            (false, _) if tagged.contains(digest.as_str()) => "no tag of it is kept".to_owned(),
            (false, _) if dependence.depends(digest) => {
                "it belongs to something that goes".to_owned()
            }
            (false, Some((number, span))) => {
                format!("untagged for more than {span} (rule {number})")
            }
            (false, None) => "nothing keeps it".to_owned(),
        };
        let name = digest.clone();
        manifests.push(Verdict { digest: name.clone(), name, keep, reason });
    }
    for (tag, subject) in &attached {
        let keep = kept.contains(subject.as_str());
        let stays = if keep { "stays" } else { "goes" };
        let (name, digest) = (tag.name.clone(), tag.digest.clone());
        let reason = format!("it is about {subject}, which {stays}");
        verdicts.push(Verdict { name, digest, keep, reason });
    }
    verdicts.sort_by(|a, b| a.name.cmp(&b.name));
    Judged { tags: verdicts, manifests }
}

/// The place of each image among those that a rule covers, the last pushed one first. Tags of one
/// image have one place.
fn ranks<'v>(rule: &RetentionRule, view: &'v RepositoryView) -> BTreeMap<&'v str, u32> {
    let mut pushed: BTreeMap<&str, u64> = BTreeMap::new();
    let images = view.tags.iter().filter(|tag| subject(tag, view).is_none());
    for tag in images.filter(|tag| rule.covers(&tag.name)) {
        let last = pushed.entry(&tag.digest).or_default();
        *last = tag.pushed.max(*last);
    }
    let mut order: Vec<(&str, u64)> = pushed.into_iter().collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    order.into_iter().zip(1..).map(|((digest, _), rank)| (digest, rank)).collect()
}

fn judge_tag(
    rules: &[(usize, &RetentionRule)],
    ranks: &[BTreeMap<&str, u32>],
    tag: &TagView,
    view: &RepositoryView,
    now: u64,
) -> (bool, String) {
    let within = |time: u64, span: Span| now.saturating_sub(time) <= span.milliseconds();
    let pulled = view.manifests.get(&tag.digest).and_then(|manifest| manifest.pulled);
    let mut refused = Vec::new();
    for ((number, rule), ranks) in rules.iter().zip(ranks) {
        if !rule.covers(&tag.name) {
            continue;
        }
        if rule.keep_always {
            return (true, format!("always kept (rule {number})"));
        }
        if let Some(last) = rule.keep_last {
            let rank = ranks.get(tag.digest.as_str()).copied().unwrap_or(u32::MAX);
            if rank <= last {
                return (true, format!("number {rank} of the last {last} pushed (rule {number})"));
            }
            refused.push(format!("not among the last {last} pushed (rule {number})"));
        }
        if let Some(span) = rule.keep_pushed_within {
            if within(tag.pushed, span) {
                return (true, format!("pushed within {span} (rule {number})"));
            }
            refused.push(format!("not pushed within {span} (rule {number})"));
        }
        if let Some(span) = rule.keep_pulled_within {
            if pulled.is_some_and(|pulled| within(pulled, span)) {
                return (true, format!("pulled within {span} (rule {number})"));
            }
            refused.push(format!("not pulled within {span} (rule {number})"));
        }
    }
    match refused.is_empty() {
        true => (true, "no rule covers it".to_owned()),
        false => (false, refused.join(", ")),
    }
}

/// The rule by which an untagged manifest goes: all rules about it must agree, so the one with the
/// longest time.
fn untagged_rule(
    rules: &[(usize, &RetentionRule)],
    manifest: &ManifestView,
    now: u64,
) -> Option<(usize, Span)> {
    let longest = rules
        .iter()
        .filter_map(|(number, rule)| Some((*number, rule.untagged_after?)))
        .max_by_key(|(_, span)| *span)?;
    let since = manifest.untagged?;
    (now.saturating_sub(since) > longest.1.milliseconds()).then_some(longest)
}

/// The manifest of the repository that a tag is about.
fn subject(tag: &TagView, view: &RepositoryView) -> Option<String> {
    attachment(&tag.name).filter(|subject| view.manifests.contains_key(subject))
}

/// The manifest that a tag is about: signatures, attestations, documents of cosign, and the
/// referrers tag schema of the distribution-spec.
fn attachment(tag: &str) -> Option<String> {
    let hex = tag.strip_prefix("sha256-")?;
    let (hex, rest) = hex.split_at_checked(64)?;
    let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_hex && matches!(rest, "" | ".sig" | ".att" | ".sbom")).then(|| format!("sha256:{hex}"))
}

/// Which manifests stay because of which.
struct Dependence<'v> {
    /// What stays if the key stays.
    dependents: BTreeMap<&'v str, Vec<&'v str>>,
    all: BTreeSet<&'v str>,
}

impl<'v> Dependence<'v> {
    fn of(view: &'v RepositoryView, attached: &'v [(&'v TagView, String)]) -> Self {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for (digest, manifest) in &view.manifests {
            for child in &manifest.children {
                if view.manifests.contains_key(child) {
                    pairs.push((digest, child));
                }
            }
            if let Some(subject) = &manifest.subject
                && view.manifests.contains_key(subject)
            {
                pairs.push((subject, digest));
            }
        }
        pairs.extend(attached.iter().map(|(tag, subject)| (subject.as_str(), tag.digest.as_str())));
        let mut dependence = Self { dependents: BTreeMap::new(), all: BTreeSet::new() };
        for (needed_by, digest) in pairs {
            dependence.dependents.entry(needed_by).or_default().push(digest);
            dependence.all.insert(digest);
        }
        dependence
    }

    fn depends(&self, digest: &str) -> bool {
        self.all.contains(digest)
    }

    fn closure(&self, roots: BTreeSet<&'v str>) -> BTreeSet<&'v str> {
        let mut open: Vec<&str> = roots.iter().copied().collect();
        let mut kept = roots;
        while let Some(digest) = open.pop() {
            for dependent in self.dependents.get(digest).into_iter().flatten() {
                if kept.insert(dependent) {
                    open.push(dependent);
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const NOW: u64 = 1000 * DAY;

    fn digest(name: &str) -> String {
        oci_model::Digest::of(name.as_bytes()).to_string()
    }

    /// Tags as (name, manifest, days since the push).
    fn repository(tags: &[(&str, &str, u64)]) -> RepositoryView {
        let mut view = RepositoryView::default();
        for (name, manifest, days) in tags {
            let pushed = NOW - days * DAY;
            view.manifests.entry(digest(manifest)).or_default();
            let (name, digest) = ((*name).to_owned(), digest(manifest));
            view.tags.push(TagView { name, digest, pushed });
        }
        view
    }

    fn namespace(rules: &[RetentionRule]) -> Namespace {
        let mut namespace = Namespace::new("team");
        namespace.retention = rules.to_vec();
        namespace
    }

    fn dropped(rules: &[RetentionRule], view: &RepositoryView) -> (Vec<String>, Vec<String>) {
        let judged = judge(&namespace(rules), "team/app", view, NOW);
        (judged.dropped_tags().cloned().collect(), judged.dropped_manifests().cloned().collect())
    }

    fn glob(text: &str) -> super::super::Glob {
        text.parse().expect("a pattern")
    }

    fn last(count: u32) -> RetentionRule {
        RetentionRule { keep_last: Some(count), ..RetentionRule::new() }
    }

    #[test]
    fn what_no_rule_covers_stays() {
        let view = repository(&[("v1", "a", 900), ("dev-1", "b", 900), ("dev-2", "c", 1)]);
        let dev = RetentionRule { tags: glob("dev-*"), ..last(1) };
        assert_eq!(
            dropped(std::slice::from_ref(&dev), &view),
            (vec!["dev-1".to_owned()], vec![digest("b")])
        );
        let elsewhere = RetentionRule { repositories: glob("team/other"), ..last(1) };
        assert_eq!(dropped(&[elsewhere], &view).0, [""; 0]);
        let except = RetentionRule { except: vec![glob("dev-1")], ..dev };
        assert_eq!(dropped(&[except], &view).0, [""; 0]);
    }

    #[test]
    fn rules_add_up_to_what_is_kept() {
        let view = repository(&[("1", "a", 40), ("2", "b", 20), ("3", "c", 10), ("4", "d", 1)]);
        assert_eq!(dropped(&[last(2)], &view).0, ["1", "2"]);
        let month =
            RetentionRule { keep_pushed_within: Some(Span(30 * 86_400)), ..RetentionRule::new() };
        assert_eq!(dropped(&[last(2), month], &view).0, ["1"]);
        let always = RetentionRule { tags: glob("1"), keep_always: true, ..RetentionRule::new() };
        assert_eq!(dropped(&[last(2), always], &view).0, ["2"]);
    }

    #[test]
    fn tags_of_one_image_have_one_place() {
        let view = repository(&[
            ("1.0", "a", 9),
            ("1.1", "b", 5),
            ("1", "b", 5),
            ("1.2", "c", 1),
            ("latest", "c", 1),
        ]);
        assert_eq!(dropped(&[last(2)], &view), (vec!["1.0".to_owned()], vec![digest("a")]));
    }

    #[test]
    fn a_manifest_with_one_kept_tag_stays() {
        let view = repository(&[("old", "a", 90), ("stable", "a", 90), ("new", "b", 1)]);
        let rules = [RetentionRule { tags: glob("old"), ..last(0) }];
        assert_eq!(dropped(&rules, &view), (vec!["old".to_owned()], vec![]));
    }

    #[test]
    fn what_was_pulled_lately_stays() {
        let mut view = repository(&[("1", "a", 90), ("2", "b", 90)]);
        view.manifests.get_mut(&digest("a")).expect("a").pulled = Some(NOW - DAY);
        let rule =
            RetentionRule { keep_pulled_within: Some(Span(7 * 86_400)), ..RetentionRule::new() };
        assert_eq!(dropped(&[rule], &view).0, ["2"]);
    }

    #[test]
    fn signatures_and_referrers_go_and_stay_with_their_subject() {
        for (keep, expected) in [(1, 0), (0, 1)] {
            let hex = digest("image")["sha256:".len()..].to_owned();
            let names = ["", ".sig", ".att", ".sbom"].map(|suffix| format!("sha256-{hex}{suffix}"));
            let mut tags = vec![("v1", "image", 1)];
            // They came later, and take no place of an image.
            tags.extend(names.iter().map(|name| (name.as_str(), name.as_str(), 0)));
            let mut view = repository(&tags);
            let referrer = ManifestView {
                subject: Some(digest("image")),
                untagged: Some(0),
                ..ManifestView::default()
            };
            view.manifests.insert(digest("referrer"), referrer);
            let rule = RetentionRule { untagged_after: Some(Span(60)), ..last(keep) };
            let (tags, manifests) = dropped(&[rule], &view);
            assert_eq!(tags.len(), expected * 5, "{tags:?}");
            assert_eq!(manifests.len(), expected * 6, "{manifests:?}");
        }
    }

    #[test]
    fn entries_stay_with_their_index_and_go_with_it() {
        let mut view = repository(&[("v1", "index", 1), ("v0", "old-index", 90)]);
        let child = ManifestView { untagged: Some(0), ..ManifestView::default() };
        for (index, children) in [("index", ["x", "shared"]), ("old-index", ["y", "shared"])] {
            view.manifests.get_mut(&digest(index)).expect("it").children =
                children.map(digest).to_vec();
            for name in children {
                view.manifests.insert(digest(name), child.clone());
            }
        }
        let (tags, mut manifests) = dropped(&[last(1)], &view);
        let mut expected = vec![digest("old-index"), digest("y")];
        expected.sort();
        manifests.sort();
        assert_eq!((tags, manifests), (vec!["v0".to_owned()], expected));
    }

    #[test]
    fn untagged_manifests_go_after_the_longest_time_of_all_rules() {
        let mut view = repository(&[("v1", "a", 1)]);
        for (name, days) in [("young", 1), ("middle", 5), ("old", 20)] {
            let untagged = Some(NOW - days * DAY);
            view.manifests
                .insert(digest(name), ManifestView { untagged, ..ManifestView::default() });
        }
        let rule = |days: u64| RetentionRule {
            untagged_after: Some(Span(days * 86_400)),
            ..RetentionRule::new()
        };
        assert_eq!(dropped(&[rule(3), rule(10)], &view).1, [digest("old")]);
        assert_eq!(dropped(&[rule(3)], &view).1.len(), 2);
        assert_eq!(dropped(&[last(9)], &view).1, [""; 0], "without a rule they stay");
    }

    #[test]
    fn immutable_tags_stay_and_every_verdict_names_its_rule() {
        let view = repository(&[("v1", "a", 90), ("dev", "b", 90)]);
        let mut namespace = namespace(&[last(0)]);
        namespace.immutable_tags.push(super::super::ImmutableTags::new(glob("v*")));
        let judged = judge(&namespace, "team/app", &view, NOW);
        let reasons: Vec<_> =
            judged.tags.iter().map(|tag| (tag.name.as_str(), tag.reason.as_str())).collect();
        assert_eq!(
            reasons,
            [
                ("dev", "not among the last 0 pushed (rule 1)"),
                ("v1", "tags v* are immutable in namespace team"),
            ]
        );
    }
}
