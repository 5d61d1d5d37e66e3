//! From the claims of a token to a name and groups.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::auth::Identity;
use crate::pattern::{self, Wildcards};

/// Longest name or group that a rule makes, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Groups that one token can bring along.
const GROUPS_MAX: usize = 64;

/// Says which tokens count, who their bearers are, and in which groups.
///
/// A claim is named by its name, or if that begins with a slash by a JSON pointer (RFC 6901), such
/// as `/kubernetes.io/namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimRule {
    /// What claims must be. `*` stands for anything without `/` and `:`, `**` for anything. Of a
    /// list one element must match.
    pub claims: BTreeMap<String, String>,
    /// The name, after `<issuer>:`, with claims in braces; without it `{sub}`.
    pub principal: Option<String>,
    /// Groups, with claims in braces.
    pub groups: Vec<String>,
    /// A claim with a list of groups, which are called `<issuer>:<group>`.
    pub groups_claim: Option<String>,
}

/// Who the rules make of the claims; nobody if no rule matches.
pub(in crate::auth) fn apply(
    issuer: &str,
    rules: &[ClaimRule],
    claims: &Value,
) -> Option<Identity> {
    let matching: Vec<&ClaimRule> = rules.iter().filter(|rule| matches(rule, claims)).collect();
    let first = matching.first()?;
    let name = fill(first.principal.as_deref().unwrap_or("{sub}"), claims)?;
    let mut groups = Vec::new();
    for rule in &matching {
        groups.extend(rule.groups.iter().filter_map(|group| fill(group, claims)));
        let listed = rule.groups_claim.as_ref().and_then(|claim| find(claims, claim));
        let listed = listed.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let named = listed.iter().filter_map(Value::as_str).filter(|group| is_name(group));
        groups.extend(named.map(|group| format!("{issuer}:{group}")));
    }
    groups.sort();
    groups.dedup();
    groups.truncate(GROUPS_MAX);
    Some(Identity { name: format!("{issuer}:{name}"), groups })
}

fn matches(rule: &ClaimRule, claims: &Value) -> bool {
    rule.claims.iter().all(|(name, pattern)| match find(claims, name) {
        Some(Value::Array(values)) => values
            .iter()
            .filter_map(text)
            .any(|value| pattern::matches(pattern, &value, Wildcards::CLAIMS)),
        Some(value) => {
            text(value).is_some_and(|value| pattern::matches(pattern, &value, Wildcards::CLAIMS))
        }
        None => false,
    })
}

fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) }
}

/// A claim in words; none for tables and lists.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The template with claims in the place of `{claim}`; none if a claim is missing.
fn fill(template: &str, claims: &Value) -> Option<String> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (claim, after) = after.split_once('}')?;
        filled.push_str(before);
        filled.push_str(&text(find(claims, claim)?)?);
        rest = after;
    }
    filled.push_str(rest);
    is_name(&filled).then_some(filled)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_that_match_add_groups_and_the_first_names() {
        let rule = |claims: &[(&str, &str)], principal: Option<&str>, groups: &[&str]| ClaimRule {
            claims: claims.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            principal: principal.map(str::to_owned),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            groups_claim: None,
        };
        let rules = [
            rule(&[("repository_owner", "acme")], Some("{repository}"), &["acme"]),
            rule(&[("ref", "refs/heads/main"), ("repository_owner", "acme")], None, &["{env}-x"]),
            rule(&[("ref_protected", "true")], None, &["release", "acme"]),
        ];
        let claims = |reference: &str| {
            json!({
                "sub": "s", "repository": "acme/app", "repository_owner": "acme",
                "ref": reference, "env": "prod", "ref_protected": reference.ends_with("main"),
            })
        };
        let apply = |claims: &Value| {
            apply("gh", &rules, claims).map(|who| format!("{} {}", who.name, who.groups.join(",")))
        };
        let main = apply(&claims("refs/heads/main"));
        assert_eq!(main.as_deref(), Some("gh:acme/app acme,prod-x,release"));
        assert_eq!(apply(&claims("refs/heads/x")).as_deref(), Some("gh:acme/app acme"));
        assert_eq!(apply(&json!({ "sub": "s", "repository_owner": "evil" })), None);
        assert_eq!(apply(&json!({ "repository_owner": "acme" })), None, "no name");
        let control = json!({ "repository_owner": "acme", "repository": "a\nb" });
        assert_eq!(apply(&control), None);
    }

    #[test]
    fn nested_and_listed_claims_are_found() {
        let claims = json!({
            "kubernetes.io": { "namespace": "ci", "serviceaccount": { "name": "builder" } },
            "groups": ["dev", "ops", 7, ""],
        });
        let rule = ClaimRule {
            claims: [
                ("/kubernetes.io/namespace".to_owned(), "ci".to_owned()),
                ("groups".to_owned(), "ops".to_owned()),
            ]
            .into(),
            principal: Some("{/kubernetes.io/serviceaccount/name}".to_owned()),
            groups: Vec::new(),
            groups_claim: Some("groups".to_owned()),
        };
        let who = apply("k8s", &[rule], &claims).expect("somebody");
        assert_eq!(
            (who.name.as_str(), who.groups.join(" ")),
            ("k8s:builder", "k8s:dev k8s:ops".to_owned())
        );
    }
}
