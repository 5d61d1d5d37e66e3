//! `meta.k8s.io/v1 Table`: the columns kubectl prints, computed by the server for every kind.

mod cells;
mod columns;
mod pods;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object;
use crate::resources::Resource;

/// What a table row carries besides its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Only metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    None,
}

/// The column definitions of a kind.
pub fn definitions(resource: &Resource) -> Value {
    let definitions: Vec<Value> = columns::of(resource)
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": if column.name == "Name" { "name" } else { "" },
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    Value::Array(definitions)
}

/// One row.
pub fn row(resource: &Resource, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let mut row = json!({"cells": cells::of(resource, object, now)});
    let carried = match include {
        IncludeObject::Metadata => Some(partial_metadata(object)),
        IncludeObject::Object => Some(object.clone()),
        IncludeObject::None => None,
    };
    if let Some(carried) = carried {
        row["object"] = carried;
    }
    if resource.kind == "Pod"
        && let Some(condition) = pods::row_condition(object)
    {
        row["conditions"] = json!([condition]);
    }
    row
}

/// A table of rows with list metadata.
pub fn table(definitions: Value, metadata: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// The object's metadata as `PartialObjectMetadata`.
pub fn partial_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object::at(object, &["metadata"]).cloned().unwrap_or_else(|| json!({})),
    })
}

#[cfg(test)]
mod tests;
