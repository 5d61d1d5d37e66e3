//! The file as a JSON Schema, for editors.

use serde_json::{Map, Value, json};

use super::Config;
use super::shape::{Key, Shape, Shaped as _};

/// The schema of the whole file (JSON Schema, draft 2020-12).
pub(crate) fn json_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "shipway.toml, table [registry]",
        "type": "object",
        "properties": { "registry": of(&Config::shape()) },
    })
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::Text(_) => json!({ "type": "string" }),
        Shape::Integer => json!({ "type": "integer", "minimum": 0 }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Duration => json!({ "type": "string", "pattern": "^(0|[0-9]+(ms|s|m|h|d))$" }),
        Shape::Bytes => json!({
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": "^[0-9]+ *(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)?$",
        }),
        Shape::Choice(words) => json!({ "type": "string", "enum": words }),
        Shape::List(inner) => json!({ "type": "array", "items": of(inner) }),
        Shape::Map(inner) => json!({ "type": "object", "additionalProperties": of(inner) }),
        Shape::Table(keys) => table(keys),
    }
}

fn table(keys: &[Key]) -> Value {
    let mut properties = Map::new();
    for key in keys {
        let mut schema = of(&key.shape);
        let text = match key.default {
            Some(default) => format!("{} Default: {default}.", key.doc),
            None => key.doc.clone(),
        };
        schema["description"] = text.into();
        properties.insert(key.name.clone(), schema);
    }
    let required: Vec<&str> =
        keys.iter().filter(|key| key.required).map(|key| key.name.as_str()).collect();
    let mut schema =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}
