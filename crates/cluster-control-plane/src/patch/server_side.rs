//! Server-side apply: merge a configuration, keep track of who owns what, refuse conflicts.

use serde_json::{Value, json};

use super::fields::{FieldSet, Step, display};
use super::managed::{self, Entry, Operation, entry_of, ownable};
use super::place::{Place, merge, remove, set_of, value_at};
use super::{FieldManager, OnConflict};
use crate::error::{ApiError, Reason};
use crate::object;
use crate::resources::{Resource, StatusPart};

/// Cause of each field of a conflict.
const CAUSE: &str = "FieldManagerConflict";

/// Applies a configuration.
pub(super) fn apply(
    resource: &Resource,
    current: Option<&Value>,
    applied: &Value,
    writer: &FieldManager<'_>,
    on_conflict: OnConflict,
) -> Result<Value, ApiError> {
    let Some(root) = managed::root(resource) else {
        return Err(ApiError::new(
            Reason::UnsupportedMediaType,
            format!("server-side apply is not served for kind {:?}", resource.kind),
        ));
    };
    let mut applied = applied.clone();
    // A configuration is about the part it is sent to.
    if writer.subresource == "status" {
        object::remove(&mut applied, &["spec"]);
    } else if resource.status == StatusPart::Subresource {
        object::remove(&mut applied, &["status"]);
    }
    let api_version = resource.api_version();
    let wanted = ownable(resource, writer.subresource, set_of(root, &applied));
    let empty = json!({});
    let live = current.unwrap_or(&empty);
    let mut entries = managed::read(live);
    let own = entries.iter().position(|entry| entry.is_of(writer, Operation::Apply, &api_version));
    let own = own.map(|at| entries.remove(at));

    let conflicts = conflicts(root, live, &applied, &wanted, &entries);
    if !conflicts.is_empty() {
        match on_conflict {
            OnConflict::Refuse => return Err(refusal(&conflicts)),
            OnConflict::Force => {
                for conflict in &conflicts {
                    let mut taken = FieldSet::default();
                    taken.insert(&conflict.path);
                    let owner = &mut entries[conflict.owner];
                    owner.fields = owner.fields.difference(&taken);
                }
            }
        }
    }

    let mut next = merge(root, live, &applied);
    if let Some(own) = &own {
        let dropped = own.fields.difference(&wanted);
        let kept = entries.iter().fold(wanted.clone(), |all, entry| all.union(&entry.fields));
        next = remove(root, &next, &dropped, &kept);
    }
    for key in ["apiVersion", "kind"] {
        if let Some(value) = applied.get(key) {
            object::set(&mut next, &[key], value.clone());
        }
    }
    let unchanged = own.as_ref().is_some_and(|own| own.fields == wanted) && next == *live;
    let mut entry = entry_of(writer, Operation::Apply, &api_version, wanted, writer.at);
    if let Some(own) = own.filter(|_| unchanged) {
        entry.time = own.time;
    }
    entries.push(entry);
    managed::write(&mut next, entries);
    Ok(next)
}

/// A field of the configuration that another manager owns with another value.
struct Conflict {
    /// Position of the owner's entry.
    owner: usize,
    /// The owner as messages show it.
    manager: String,
    path: Vec<Step>,
}

fn conflicts(
    root: Place<'_>,
    live: &Value,
    applied: &Value,
    wanted: &FieldSet,
    others: &[Entry],
) -> Vec<Conflict> {
    let mut found = Vec::new();
    for path in wanted.members() {
        let is_leaf = wanted.at(&path).is_some_and(|set| set.children.is_empty());
        if !is_leaf || value_at(root, applied, &path) == value_at(root, live, &path) {
            continue;
        }
        for (owner, other) in others.iter().enumerate() {
            if other.fields.contains(&path) {
                found.push(Conflict { owner, manager: other.display(), path: path.clone() });
            }
        }
    }
    found.sort_by(|a, b| a.manager.cmp(&b.manager));
    found
}

/// 409 with one cause per field; the text is upstream's.
fn refusal(conflicts: &[Conflict]) -> ApiError {
    let text = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager,
            display(&one.path)
        ),
        many => {
            let mut lines = Vec::new();
            for group in many.chunk_by(|a, b| a.manager == b.manager) {
                if let Some(first) = group.first() {
                    lines.push(format!("conflicts with {}:", first.manager));
                }
                lines.extend(group.iter().map(|one| format!("- {}", display(&one.path))));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let refused = ApiError::new(Reason::Conflict, text);
    conflicts.iter().fold(refused, |refused, one| {
        refused.with_cause(CAUSE, &format!("conflict with {}", one.manager), &display(&one.path))
    })
}

#[cfg(test)]
mod tests;
