//! Strategic merge patch: a JSON merge that knows which lists are keyed (apimachinery
//! `strategicpatch`).

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::types::{self, Field, FieldType, MergeStrategy, Shape, StructType};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_SCALARS: &str = "$deleteFromPrimitiveList/";

/// What the table knows about a place in the object.
#[derive(Clone, Copy)]
enum Schema<'a> {
    /// A struct.
    Struct(&'static StructType),
    /// The values of a map, or what one field holds.
    Member(&'a Field),
    /// Nothing: plain JSON, lists are replaced.
    Free,
}

impl Schema<'_> {
    /// The schema of a member of this place, with the list strategy that applies to it.
    fn member(&self, key: &str) -> Option<Field> {
        match self {
            Self::Struct(found) => found.field(key).cloned(),
            Self::Member(_) | Self::Free => None,
        }
    }
}

fn of_value(field: &Field) -> Schema<'_> {
    match (field.ty, field.shape) {
        (FieldType::Struct(id), Shape::One | Shape::List) => Schema::Struct(types::get(id)),
        (FieldType::Struct(_), Shape::Map) => Schema::Member(field),
        _ => Schema::Free,
    }
}

/// Applies a patch to an object of a struct type.
///
/// # Errors
/// A directive that is not known or does not fit its place.
pub(super) fn apply(
    found: &'static StructType,
    current: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (current, patch) else {
        return Err(PatchError::NotAnObject);
    };
    merge_map(target, patch, Schema::Struct(found))
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Schema<'_>,
) -> Result<(), PatchError> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(PatchError::UnknownDirective(other.to_owned())),
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let keys = retained.as_array().ok_or(PatchError::BadDirective(RETAIN_KEYS))?;
        target.retain(|key, _| keys.iter().any(|kept| kept.as_str() == Some(key)));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_SCALARS) {
            let gone = value.as_array().ok_or(PatchError::BadDirective(DELETE_SCALARS))?;
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        if value.is_null() {
            target.remove(key);
            continue;
        }
        let field = schema.member(key);
        let order = patch.get(&format!("{ORDER}{key}"));
        merge_member(target, key, value, (field.as_ref(), schema), order)?;
    }
    // An order without a patch of the list itself still sorts it.
    for (key, order) in patch {
        let Some(list) = key.strip_prefix(ORDER) else { continue };
        if patch.contains_key(list) {
            continue;
        }
        let field = schema.member(list);
        if let (Some(field), Some(Value::Array(items))) = (field, target.get_mut(list)) {
            let order = order.as_array().ok_or(PatchError::BadDirective(ORDER))?;
            let original = items.clone();
            sort(items, order, &original, field.merge);
        }
    }
    Ok(())
}

fn merge_member(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    (field, parent): (Option<&Field>, Schema<'_>),
    order: Option<&Value>,
) -> Result<(), PatchError> {
    let inner = match (field, parent) {
        (Some(field), _) => of_value(field),
        // Each value of a map of structs.
        (None, Schema::Member(of)) => match of.ty {
            FieldType::Struct(id) => Schema::Struct(types::get(id)),
            _ => Schema::Free,
        },
        (None, Schema::Struct(_) | Schema::Free) => Schema::Free,
    };
    match value {
        Value::Object(patch) => {
            if !matches!(target.get(key), Some(Value::Object(_))) {
                if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                    target.remove(key);
                    return Ok(());
                }
                target.insert(key.to_owned(), Value::Object(Map::new()));
            }
            let deletes = patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
            if deletes {
                target.remove(key);
            } else if let Some(Value::Object(inside)) = target.get_mut(key) {
                merge_map(inside, patch, inner)?;
            }
        }
        Value::Array(patch) => {
            let strategy = field.map_or(MergeStrategy::Replace, |field| field.merge);
            let old = match target.get(key) {
                Some(Value::Array(items)) => items.clone(),
                _ => Vec::new(),
            };
            let order = match order {
                Some(order) => Some(order.as_array().ok_or(PatchError::BadDirective(ORDER))?),
                None => None,
            };
            let merged = merge_list(old, patch, strategy, inner, order)?;
            target.insert(key.to_owned(), Value::Array(merged));
        }
        scalar => {
            target.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn merge_list(
    old: Vec<Value>,
    patch: &[Value],
    strategy: MergeStrategy,
    inner: Schema<'_>,
    order: Option<&Vec<Value>>,
) -> Result<Vec<Value>, PatchError> {
    match strategy {
        MergeStrategy::Replace => Ok(patch.iter().map(clean).collect()),
        MergeStrategy::MergeScalars => {
            let original = old.clone();
            let mut merged = old;
            for item in patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            if let Some(order) = order {
                sort(&mut merged, order, &original, strategy);
            }
            Ok(merged)
        }
        MergeStrategy::MergeByKey(key) => {
            // One element may say that the list is to be replaced by the others.
            let replaces = patch
                .iter()
                .any(|item| directive(item) == Some("replace") && item.get(key).is_none());
            if replaces {
                let rest = patch.iter().filter(|item| item.get(DIRECTIVE).is_none());
                return Ok(rest.cloned().collect());
            }
            let original = old.clone();
            let mut merged = old;
            for item in patch {
                merge_item(&mut merged, item, key, inner)?;
            }
            if let Some(order) = order {
                sort(&mut merged, order, &original, strategy);
            }
            Ok(merged)
        }
    }
}

fn merge_item(
    merged: &mut Vec<Value>,
    item: &Value,
    key: &'static str,
    inner: Schema<'_>,
) -> Result<(), PatchError> {
    let Value::Object(members) = item else { return Err(PatchError::NotAnObject) };
    let Some(wanted) = members.get(key) else {
        return Err(PatchError::MissingMergeKey { key, item: item.to_string() });
    };
    let at = merged.iter().position(|old| old.get(key) == Some(wanted));
    match (directive(item), at) {
        (Some("delete"), _) => merged.retain(|old| old.get(key) != Some(wanted)),
        (Some("replace"), Some(at)) => merged[at] = clean(item),
        (_, Some(at)) => {
            if let Value::Object(old) = &mut merged[at] {
                merge_map(old, members, inner)?;
            }
        }
        (_, None) => {
            let mut new = Map::new();
            merge_map(&mut new, members, inner)?;
            merged.push(Value::Object(new));
        }
    }
    Ok(())
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE)?.as_str()
}

/// Sorts a merged list: the items that the order names in that order, the others (the server's own)
/// at their place relative to their old neighbours.
fn sort(items: &mut Vec<Value>, order: &[Value], original: &[Value], strategy: MergeStrategy) {
    let same = |a: &Value, b: &Value| match strategy {
        MergeStrategy::MergeByKey(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        MergeStrategy::MergeScalars | MergeStrategy::Replace => a == b,
    };
    let rank = |item: &Value| order.iter().position(|one| same(one, item));
    let old_rank = |item: &Value| original.iter().position(|one| same(one, item));
    let (mut named, own): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| rank(item).is_some());
    named.sort_by_key(|item| rank(item));
    // Upstream merges the two sorted runs; an own item comes before the first named item that
    // stood behind it in the old list.
    let mut result: Vec<Value> = Vec::with_capacity(named.len() + own.len());
    let mut own = own.into_iter().peekable();
    for item in named {
        while let Some(next) = own.peek() {
            match (old_rank(next), old_rank(&item)) {
                (Some(next_rank), Some(rank)) if next_rank < rank => result.extend(own.next()),
                _ => break,
            }
        }
        result.push(item);
    }
    result.extend(own);
    *items = result;
}

/// A value without the directives inside it.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(without_directives(members)),
        Value::Array(items) => Value::Array(items.iter().map(clean).collect()),
        other => other.clone(),
    }
}

fn without_directives(members: &Map<String, Value>) -> Map<String, Value> {
    members
        .iter()
        .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
        .map(|(key, value)| (key.clone(), clean(value)))
        .collect()
}

#[cfg(test)]
mod tests;
