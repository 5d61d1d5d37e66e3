//! Sets of fields: what `metadata.managedFields[].fieldsV1` holds
//! (structured-merge-diff `fieldpath`).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

/// Deepest nesting of a set that is read; the deepest kind served has about 15 levels.
const DEPTH_MAX: usize = 64;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A struct field or a map key: `f:name`.
    Field(String),
    /// A list item by its keys, as canonical JSON: `k:{"name":"a"}`.
    Keys(String),
    /// A list item by its value, as canonical JSON: `v:"a"`.
    Value(String),
    /// A list item by its place: `i:0`; only read, never made.
    Index(usize),
}

impl Step {
    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Keys(keys) => format!("k:{keys}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let canonical = || serde_json::from_str::<Value>(rest).ok().map(|value| value.to_string());
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => canonical().map(Self::Keys),
            "v" => canonical().map(Self::Value),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Keys(keys) => {
                let parsed: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> =
                    parsed.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path as messages show it: `.spec.containers[name="a"].image`.
pub(super) fn display(path: &[Step]) -> String {
    path.iter().map(Step::to_string).collect()
}

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    /// Whether the path that leads here is a member.
    pub(super) member: bool,
    /// Longer paths.
    pub(super) children: BTreeMap<Step, FieldSet>,
}

impl FieldSet {
    /// Whether no path is a member.
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// Makes a path a member.
    pub(super) fn insert(&mut self, path: &[Step]) {
        let mut set = self;
        for step in path {
            set = set.children.entry(step.clone()).or_default();
        }
        set.member = true;
    }

    /// The subtree at a path.
    pub(super) fn at(&self, path: &[Step]) -> Option<&Self> {
        path.iter().try_fold(self, |set, step| set.children.get(step))
    }

    /// Whether a path is a member.
    pub(super) fn contains(&self, path: &[Step]) -> bool {
        self.at(path).is_some_and(|set| set.member)
    }

    /// Both together.
    #[must_use]
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut children = self.children.clone();
        for (step, theirs) in &other.children {
            let merged =
                children.get(step).map_or_else(|| theirs.clone(), |ours| ours.union(theirs));
            children.insert(step.clone(), merged);
        }
        Self { member: self.member || other.member, children }
    }

    /// The members that are not members of the other.
    #[must_use]
    pub(super) fn difference(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .map(|(step, ours)| {
                let left = other
                    .children
                    .get(step)
                    .map_or_else(|| ours.clone(), |theirs| ours.difference(theirs));
                (step.clone(), left)
            })
            .filter(|(_, left)| !left.is_empty())
            .collect();
        Self { member: self.member && !other.member, children }
    }

    /// The members that neither are nor lie below members of the other (what is gone takes its
    /// content along).
    #[must_use]
    pub(super) fn without(&self, gone: &Self) -> Self {
        if gone.member {
            return Self::default();
        }
        let children = self
            .children
            .iter()
            .map(|(step, ours)| {
                let left =
                    gone.children.get(step).map_or_else(|| ours.clone(), |gone| ours.without(gone));
                (step.clone(), left)
            })
            .filter(|(_, left)| !left.is_empty())
            .collect();
        Self { member: self.member, children }
    }

    /// Every member, parents first.
    pub(super) fn members(&self) -> Vec<Vec<Step>> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut found);
        found
    }

    fn collect(&self, path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
        if self.member {
            found.push(path.clone());
        }
        for (step, set) in &self.children {
            path.push(step.clone());
            set.collect(path, found);
            path.pop();
        }
    }

    /// The `fieldsV1` form.
    pub(super) fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (step, set) in &self.children {
            let mut inner = set.to_json();
            if set.member
                && !set.children.is_empty()
                && let Value::Object(inner) = &mut inner
            {
                inner.insert(".".to_owned(), json!({}));
            }
            map.insert(step.encode(), inner);
        }
        Value::Object(map)
    }

    /// Reads the `fieldsV1` form; steps of an unknown form are skipped.
    pub(super) fn from_json(value: &Value) -> Self {
        let mut set = Self::read(value, 0);
        set.member = false;
        set
    }

    fn read(value: &Value, depth: usize) -> Self {
        let mut set = Self::default();
        let Some(members) = value.as_object().filter(|_| depth < DEPTH_MAX) else { return set };
        // A leaf is a member; so is a node that says so with a dot.
        set.member = members.is_empty() || members.contains_key(".");
        for (key, inner) in members {
            if let Some(step) = Step::decode(key) {
                set.children.insert(step, Self::read(inner, depth + 1));
            }
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_v1_round_trips() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}},
            "f:list": {"v:\"a\"": {}},
        });
        let set = FieldSet::from_json(&fields);
        assert_eq!(set.to_json(), fields);
        let paths: Vec<String> = set.members().iter().map(|path| display(path)).collect();
        assert_eq!(
            paths,
            [
                ".list[=\"a\"]",
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].image"
            ]
        );
    }

    #[test]
    fn what_is_gone_takes_its_content_along() {
        let set = FieldSet::from_json(&json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let gone = FieldSet::from_json(&json!({"f:a": {}}));
        assert_eq!(set.without(&gone).to_json(), json!({"f:c": {}}));
        assert_eq!(set.difference(&gone).to_json(), json!({"f:a": {"f:b": {}}, "f:c": {}}));
    }

    fn sets() -> impl Strategy<Value = FieldSet> {
        let path = proptest::collection::vec("[a-c]".prop_map(Step::Field), 1..4);
        proptest::collection::vec(path, 0..8).prop_map(|paths| {
            let mut set = FieldSet::default();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    proptest! {
        #[test]
        fn algebra_agrees_with_lists_of_paths(a in sets(), b in sets()) {
            let of = |set: &FieldSet| set.members();
            let union = of(&a.union(&b));
            prop_assert!(of(&a).iter().chain(&of(&b)).all(|path| union.contains(path)));
            prop_assert!(union.iter().all(|path| a.contains(path) || b.contains(path)));
            let expected: Vec<_> = of(&a).into_iter().filter(|path| !b.contains(path)).collect();
            prop_assert_eq!(of(&a.difference(&b)), expected);
            prop_assert_eq!(FieldSet::from_json(&a.to_json()), a);
        }
    }
}
