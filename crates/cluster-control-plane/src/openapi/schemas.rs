//! JSON schemas of the kinds, made from the field table, for `kubectl explain` and editors.

use serde_json::{Map, Value, json};

use crate::resources::Resource;
use crate::schema::types::{self, Field, FieldType, MergeStrategy, Ownership, Shape, StructType};

/// The schemas of these kinds and of every type they refer to, by their OpenAPI names.
pub(super) fn of(resources: &[&Resource]) -> Map<String, Value> {
    let mut schemas = Map::new();
    for resource in resources {
        let Some(kind) = types::by_kind(&resource.api_version(), resource.kind) else { continue };
        add(kind, &mut schemas);
        // Only the kind's own schema says which kind it is.
        if let Some(schema) = schemas.get_mut(&schema_name(kind)) {
            schema["x-kubernetes-group-version-kind"] = json!([{
                "group": resource.group, "version": resource.version, "kind": resource.kind,
            }]);
        }
    }
    schemas
}

/// `io.k8s.api.core.v1.Pod` for `core.v1.Pod`.
fn schema_name(of: &StructType) -> String {
    if of.name.starts_with("meta.") {
        format!("io.k8s.apimachinery.pkg.apis.{}", of.name)
    } else {
        format!("io.k8s.api.{}", of.name)
    }
}

fn add(of: &'static StructType, schemas: &mut Map<String, Value>) {
    let name = schema_name(of);
    if schemas.contains_key(&name) {
        return;
    }
    // Entered before its fields: types may refer to themselves.
    schemas.insert(name.clone(), Value::Null);
    let mut properties = Map::new();
    if of.object {
        properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
        properties.insert("kind".to_owned(), json!({"type": "string"}));
    }
    add_properties(of, &mut properties, schemas);
    let mut schema = json!({"type": "object", "properties": properties});
    if of.atomic {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    schemas.insert(name, schema);
}

fn add_properties(
    of: &'static StructType,
    properties: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    for field in &of.fields {
        match field.ty {
            FieldType::Struct(inlined) if field.name.is_empty() => {
                add_properties(types::get(inlined), properties, schemas);
            }
            _ => {
                properties.insert(field.name.to_owned(), property(field, schemas));
            }
        }
    }
}

fn property(field: &Field, schemas: &mut Map<String, Value>) -> Value {
    let one = value_schema(field.ty, schemas);
    let mut schema = match field.shape {
        Shape::One => one,
        Shape::List => json!({"type": "array", "items": one}),
        Shape::Map => json!({"type": "object", "additionalProperties": one}),
    };
    match field.merge {
        MergeStrategy::Replace => {}
        MergeStrategy::MergeScalars => schema["x-kubernetes-patch-strategy"] = json!("merge"),
        MergeStrategy::MergeByKey(key) => {
            schema["x-kubernetes-patch-strategy"] = json!("merge");
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
    }
    if field.shape == Shape::List {
        match &field.ownership {
            Ownership::Atomic => schema["x-kubernetes-list-type"] = json!("atomic"),
            Ownership::Set => schema["x-kubernetes-list-type"] = json!("set"),
            Ownership::Keys(keys) => {
                schema["x-kubernetes-list-type"] = json!("map");
                schema["x-kubernetes-list-map-keys"] = json!(keys);
            }
            Ownership::Granular => {}
        }
    }
    schema
}

fn value_schema(ty: FieldType, schemas: &mut Map<String, Value>) -> Value {
    match ty {
        FieldType::String | FieldType::Quantity => json!({"type": "string"}),
        FieldType::Int32 => json!({"type": "integer", "format": "int32"}),
        FieldType::Int64 => json!({"type": "integer", "format": "int64"}),
        FieldType::Bool => json!({"type": "boolean"}),
        FieldType::Float64 => json!({"type": "number", "format": "double"}),
        FieldType::Bytes => json!({"type": "string", "format": "byte"}),
        FieldType::Time | FieldType::MicroTime => json!({"type": "string", "format": "date-time"}),
        FieldType::IntOrString => json!({"type": "string", "format": "int-or-string"}),
        FieldType::Raw | FieldType::Fields => json!({"type": "object"}),
        FieldType::Items => json!({"type": "array", "items": {"type": "string"}}),
        FieldType::Struct(id) => {
            let of = types::get(id);
            add(of, schemas);
            json!({"$ref": format!("#/components/schemas/{}", schema_name(of))})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::ALL;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                    found.push(name.replace("#/components/schemas/", ""));
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_stored_kind_has_a_schema_and_every_reference_resolves() {
        let schemas = of(ALL);
        for resource in ALL.iter().filter(|resource| resource.is_stored()) {
            let found = schemas.values().any(|schema| {
                let kinds = schema["x-kubernetes-group-version-kind"].as_array();
                kinds.is_some_and(|kinds| {
                    kinds.iter().any(|kind| {
                        kind["kind"] == resource.kind && kind["group"] == resource.group
                    })
                })
            });
            assert!(found, "{}", resource.kind);
        }
        let mut names = Vec::new();
        references(&json!(schemas), &mut names);
        for name in names {
            assert!(schemas[&name].is_object(), "{name}");
        }
    }

    #[test]
    fn inlined_structs_give_their_fields_to_the_outer_one() {
        let schemas = of(&[&crate::resources::PODS]);
        let volume = &schemas["io.k8s.api.core.v1.Volume"]["properties"];
        assert!(volume["secret"].is_object() && volume["name"].is_object(), "{volume}");
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    }
}
