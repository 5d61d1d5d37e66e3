//! `metadata.managedFields`: who owns which fields.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::FieldManager;
use super::fields::{FieldSet, Step};
use super::place::{Place, compare};
use crate::object;
use crate::resources::{Resource, StatusPart};
use crate::schema::types;

/// Most update entries kept; the oldest beyond are joined (upstream's `MaxUpdateManagers`).
const UPDATE_ENTRIES_MAX: usize = 10;
/// Name under which they are joined.
const ANCIENT: &str = "ancient-changes";
/// Metadata that nobody owns.
const UNOWNED: [&str; 10] = [
    "name",
    "namespace",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// How an entry came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Manager.
    pub(super) manager: String,
    /// Apply or update.
    pub(super) operation: Operation,
    /// Version the fields were written in.
    pub(super) api_version: String,
    /// Subresource written through.
    pub(super) subresource: String,
    /// When the entry last changed, as written.
    pub(super) time: String,
    /// The fields.
    pub(super) fields: FieldSet,
}

impl Entry {
    /// The manager as conflicts name it.
    pub(super) fn display(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        match self.operation {
            Operation::Apply => text,
            Operation::Update => format!("{text} using {}", self.api_version),
        }
    }

    /// Whether the entry is this writer's.
    pub(super) fn is_of(
        &self,
        writer: &FieldManager<'_>,
        operation: Operation,
        api_version: &str,
    ) -> bool {
        self.manager == writer.name
            && self.operation == operation
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == api_version)
    }
}

/// Reads the entries of an object.
pub(super) fn read(object: &Value) -> Vec<Entry> {
    object::list(object, &["metadata", "managedFields"])
        .iter()
        .map(|entry| {
            let text = |key: &str| object::text(entry, &[key]).to_owned();
            let apply = text("operation") == "Apply";
            Entry {
                manager: text("manager"),
                operation: if apply { Operation::Apply } else { Operation::Update },
                api_version: text("apiVersion"),
                subresource: text("subresource"),
                time: text("time"),
                fields: entry.get("fieldsV1").map(FieldSet::from_json).unwrap_or_default(),
            }
        })
        .filter(|entry| !entry.fields.is_empty())
        .collect()
}

/// Writes the entries of an object: applies first, then by age, as upstream sorts them.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| {
        let rank = |entry: &Entry| (entry.operation == Operation::Update, entry.time.clone());
        rank(a).cmp(&rank(b)).then_with(|| a.manager.cmp(&b.manager))
    });
    join_ancient(&mut entries);
    let list: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut json = json!({
                "manager": entry.manager,
                "operation": entry.operation.as_str(),
                "apiVersion": entry.api_version,
                "time": entry.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": entry.fields.to_json(),
            });
            if !entry.subresource.is_empty() {
                object::set(&mut json, &["subresource"], entry.subresource.as_str());
            }
            json
        })
        .collect();
    if list.is_empty() {
        object::remove(object, &["metadata", "managedFields"]);
    } else {
        object::set(object, &["metadata", "managedFields"], list);
    }
}

/// Joins the oldest updates when there are too many.
fn join_ancient(entries: &mut Vec<Entry>) {
    let updates = entries.iter().filter(|entry| entry.operation == Operation::Update).count();
    if updates <= UPDATE_ENTRIES_MAX {
        return;
    }
    let first = entries.iter().position(|entry| entry.operation == Operation::Update).unwrap_or(0);
    let surplus = updates - UPDATE_ENTRIES_MAX + 1;
    let old: Vec<Entry> = entries.drain(first..first + surplus).collect();
    let fields = old.iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields));
    if let Some(last) = old.into_iter().last() {
        let joined =
            Entry { manager: ANCIENT.to_owned(), subresource: String::new(), fields, ..last };
        entries.insert(first, joined);
    }
}

/// The root of a resource's objects.
pub(super) fn root(resource: &Resource) -> Option<Place<'static>> {
    types::by_kind(&resource.api_version(), resource.kind).map(Place::Struct)
}

/// Takes away what nobody may own, and what this way of writing does not write.
pub(super) fn ownable(resource: &Resource, subresource: &str, mut set: FieldSet) -> FieldSet {
    let field = |name: &str| Step::Field(name.to_owned());
    if let Some(metadata) = set.children.get_mut(&field("metadata")) {
        metadata.member = false;
        for name in UNOWNED {
            metadata.children.remove(&field(name));
        }
    }
    if subresource == "status" {
        set.children.retain(|step, _| *step == field("status") || *step == field("metadata"));
    } else if resource.status == StatusPart::Subresource {
        set.children.remove(&field("status"));
    }
    set.children.retain(|_, child| !child.is_empty());
    set.member = false;
    set
}

/// Records an ordinary write: what it changed becomes its manager's, what it removed is nobody's.
pub(super) fn track(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    writer: &FieldManager<'_>,
) {
    let Some(root) = root(resource) else { return };
    let empty = json!({});
    let changes = compare(root, old.unwrap_or(&empty), new);
    let written = ownable(resource, writer.subresource, changes.written);
    let removed = ownable(resource, writer.subresource, changes.removed);
    if written.is_empty() && removed.is_empty() {
        return;
    }
    let api_version = resource.api_version();
    let mut entries = read(new);
    let mut found = false;
    for entry in &mut entries {
        let before = entry.fields.clone();
        if entry.is_of(writer, Operation::Update, &api_version) {
            entry.fields = entry.fields.without(&removed).union(&written);
            found = true;
        } else {
            entry.fields = entry.fields.difference(&written).without(&removed);
        }
        if entry.fields != before && entry.is_of(writer, Operation::Update, &api_version) {
            entry.time = object::format_time(writer.at);
        }
    }
    if !found && !written.is_empty() {
        entries.push(entry_of(writer, Operation::Update, &api_version, written, writer.at));
    }
    write(new, entries);
}

/// A fresh entry.
pub(super) fn entry_of(
    writer: &FieldManager<'_>,
    operation: Operation,
    api_version: &str,
    fields: FieldSet,
    at: Timestamp,
) -> Entry {
    Entry {
        manager: writer.name.to_owned(),
        operation,
        api_version: api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: object::format_time(at),
        fields,
    }
}
