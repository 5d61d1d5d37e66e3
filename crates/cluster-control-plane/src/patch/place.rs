//! Walking objects by the field table: which parts are owned on their own, and where they are.

use serde_json::{Map, Value, json};

use super::fields::{FieldSet, Step};
use crate::schema::types::{self, Field, FieldType, Ownership, Shape, StructType};

/// What lies at a place of an object.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// A struct; each field is owned on its own.
    Struct(&'static StructType),
    /// A map; each entry is owned on its own.
    Map(&'a Field),
    /// A list; each item is owned on its own.
    List(&'a Field),
    /// Owned as a whole.
    Leaf,
}

impl<'a> Place<'a> {
    /// The place of a field's value.
    pub(super) fn of(field: &'a Field) -> Self {
        match (field.shape, &field.ownership) {
            (_, Ownership::Atomic) => Self::Leaf,
            (Shape::One, _) => Self::of_type(field.ty),
            (Shape::Map, _) => Self::Map(field),
            (Shape::List, Ownership::Set | Ownership::Keys(_)) => Self::List(field),
            (Shape::List, Ownership::Granular) => Self::Leaf,
        }
    }

    /// The place of one value of a type.
    fn of_type(ty: FieldType) -> Self {
        match ty {
            FieldType::Struct(id) if !types::get(id).atomic => Self::Struct(types::get(id)),
            _ => Self::Leaf,
        }
    }
}

/// Calls back for each part of a value with its step and place; nothing for a leaf.
pub(super) fn parts<'v, 'p>(
    place: Place<'p>,
    value: &'v Value,
) -> Vec<(Step, &'v Value, Place<'p>)> {
    match (place, value) {
        (Place::Struct(found), Value::Object(members)) => members
            .iter()
            .filter_map(|(key, value)| {
                let field: &'static Field = found.field(key)?;
                Some((Step::Field(key.clone()), value, Place::of(field)))
            })
            .collect(),
        (Place::Map(field), Value::Object(members)) => members
            .iter()
            .map(|(key, value)| (Step::Field(key.clone()), value, Place::of_type(field.ty)))
            .collect(),
        (Place::List(field), Value::Array(items)) => items
            .iter()
            .map(|item| (step_of(field, item), item, Place::of_type(field.ty)))
            .collect(),
        _ => Vec::new(),
    }
}

/// The step of a list item.
fn step_of(field: &Field, item: &Value) -> Step {
    let Ownership::Keys(keys) = &field.ownership else { return Step::Value(item.to_string()) };
    let mut values = Map::new();
    for key in keys {
        let default = match field.ty {
            FieldType::Struct(id) => {
                types::get(id).field(key).and_then(|field| field.default.clone())
            }
            _ => None,
        };
        if let Some(value) = item.get(key).cloned().or(default) {
            values.insert((*key).to_owned(), value);
        }
    }
    Step::Keys(Value::Object(values).to_string())
}

/// The fields that a configuration speaks about (`ToFieldSet`).
pub(super) fn set_of(place: Place<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    for (step, value, inner) in parts(place, value) {
        let mut child = set_of(inner, value);
        let empty = match value {
            Value::Object(members) => members.is_empty(),
            Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => false,
        };
        let is_item = matches!(place, Place::List(_));
        child.member |= matches!(inner, Place::Leaf) || empty || is_item || value.is_null();
        if child.member || !child.children.is_empty() {
            set.children.insert(step, child);
        }
    }
    set
}

/// What differs between two states.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Fields that are new or have another value.
    pub(super) written: FieldSet,
    /// Fields that are gone.
    pub(super) removed: FieldSet,
}

/// Compares two states of a place.
pub(super) fn compare(place: Place<'_>, old: &Value, new: &Value) -> Changes {
    let mut changes = Changes::default();
    let (was, is) = (parts(place, old), parts(place, new));
    for (step, value, inner) in &is {
        let before = was.iter().find(|(other, _, _)| other == step).map(|(_, value, _)| *value);
        if before == Some(*value) {
            continue;
        }
        let mut child = match (before, inner) {
            (Some(_), Place::Leaf) => Changes::default(),
            (Some(before), inner) => compare(*inner, before, value),
            (None, inner) => compare(*inner, &empty_of(value), value),
        };
        let appears = before.is_none() && shows_itself(place, step, *inner, value);
        child.written.member |= matches!(inner, Place::Leaf) || appears;
        if !child.written.is_empty() {
            changes.written.children.insert(step.clone(), child.written);
        }
        if !child.removed.is_empty() {
            changes.removed.children.insert(step.clone(), child.removed);
        }
    }
    for (step, _, _) in &was {
        if is.iter().all(|(other, _, _)| other != step) {
            changes.removed.insert(std::slice::from_ref(step));
        }
    }
    changes
}

fn empty_of(value: &Value) -> Value {
    if value.is_array() { json!([]) } else { json!({}) }
}

/// Whether a new container is itself a member of the set: items, maps, lists and pointers are; a
/// struct that Go always has is not.
fn shows_itself(parent: Place<'_>, step: &Step, inner: Place<'_>, value: &Value) -> bool {
    let (Place::Struct(found), Step::Field(name)) = (parent, step) else { return true };
    let Some(field) = found.field(name) else { return true };
    let empty = value.as_object().is_some_and(Map::is_empty);
    match inner {
        Place::Struct(_) => field.pointer || empty,
        Place::Map(_) | Place::List(_) => !field.always,
        Place::Leaf => true,
    }
}

/// Merges a configuration into a state: what it speaks about is taken, the rest stays.
pub(super) fn merge(place: Place<'_>, live: &Value, applied: &Value) -> Value {
    match (place, live, applied) {
        (Place::Struct(_) | Place::Map(_), Value::Object(live), Value::Object(new)) => {
            let mut merged = live.clone();
            for (key, value) in new {
                let inner = match place {
                    Place::Struct(found) => found.field(key).map_or(Place::Leaf, Place::of),
                    Place::Map(field) => Place::of_type(field.ty),
                    Place::List(_) | Place::Leaf => Place::Leaf,
                };
                let value =
                    live.get(key).map_or_else(|| value.clone(), |live| merge(inner, live, value));
                merged.insert(key.clone(), value);
            }
            Value::Object(merged)
        }
        (Place::List(field), Value::Array(live), Value::Array(new)) => {
            Value::Array(merge_list(field, live, new))
        }
        (_, _, applied) => applied.clone(),
    }
}

/// Items of the configuration in its order; the others keep their place relative to them.
fn merge_list(field: &Field, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let inner = Place::of_type(field.ty);
    let steps: Vec<Step> = live.iter().map(|item| step_of(field, item)).collect();
    let wanted: Vec<Step> = applied.iter().map(|item| step_of(field, item)).collect();
    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let mut next = 0;
    for (item, step) in applied.iter().zip(&wanted) {
        let Some(at) = steps.iter().position(|other| other == step) else {
            merged.push(item.clone());
            continue;
        };
        while next < at {
            if !wanted.contains(&steps[next]) {
                merged.push(live[next].clone());
            }
            next += 1;
        }
        merged.push(merge(inner, &live[at], item));
    }
    for (item, step) in live.iter().zip(&steps).skip(next) {
        if !wanted.contains(step) {
            merged.push(item.clone());
        }
    }
    merged
}

/// The value at a path.
pub(super) fn value_at<'v>(place: Place<'_>, value: &'v Value, path: &[Step]) -> Option<&'v Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    let (_, inner, place) = parts(place, value).into_iter().find(|(step, _, _)| step == first)?;
    value_at(place, inner, rest)
}

/// Removes what `gone` names unless `kept` names it or something inside it.
pub(super) fn remove(place: Place<'_>, value: &Value, gone: &FieldSet, kept: &FieldSet) -> Value {
    let nothing = FieldSet::default();
    let survivors: Vec<(Step, Value)> = parts(place, value)
        .into_iter()
        .filter_map(|(step, value, inner)| {
            let Some(gone) = gone.children.get(&step) else { return Some((step, value.clone())) };
            let kept = kept.children.get(&step).unwrap_or(&nothing);
            // Owned while it was empty: what is in it now came from elsewhere and stays.
            let filled_since = gone.children.is_empty()
                && matches!(step, Step::Field(_))
                && value.is_object()
                && !parts(inner, value).is_empty();
            if gone.member && kept.is_empty() && !filled_since {
                return None;
            }
            let left = remove(inner, value, gone, kept);
            // A container that only held what is gone goes with it, if nobody claims it.
            let hollow = match (&left, value) {
                (Value::Object(left), Value::Object(was)) => left.is_empty() && !was.is_empty(),
                (Value::Array(left), Value::Array(was)) => left.is_empty() && !was.is_empty(),
                _ => false,
            };
            (!hollow || !kept.is_empty()).then_some((step, left))
        })
        .collect();
    match value {
        Value::Object(members) => {
            let mut left = Map::new();
            for (key, value) in members {
                let step = Step::Field(key.clone());
                let known = parts(place, &json!({key: value})).len() == 1;
                match survivors.iter().find(|(other, _)| *other == step) {
                    Some((_, value)) => {
                        left.insert(key.clone(), value.clone());
                    }
                    None if !known => {
                        left.insert(key.clone(), value.clone());
                    }
                    None => {}
                }
            }
            Value::Object(left)
        }
        Value::Array(_) if matches!(place, Place::List(_)) => {
            Value::Array(survivors.into_iter().map(|(_, value)| value).collect())
        }
        other => other.clone(),
    }
}
