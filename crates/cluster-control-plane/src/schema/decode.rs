//! Type check of JSON against the field table: what Go's decoder does to a request body.
//!
//! The result is the object as Go would write it back: nulls and zero values that `omitempty`
//! drops are gone, quantities and times are canonical, unknown fields are reported and removed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::quantity::{self, Quantity};
use super::types::{self, Field, FieldType, Shape, StructType};
use super::{FieldValidation, Ingest};
use crate::error::{ApiError, FieldError, Reason};
use crate::object;
use crate::resources::Resource;

/// Most unknown fields reported for one object (upstream's strict decoder stops at 100).
const UNKNOWN_FIELDS_MAX: usize = 100;

/// Checks and normalises one object of a resource's kind.
pub(super) fn decode(
    resource: &Resource,
    object: &mut Value,
    validation: FieldValidation,
    ingest: Ingest,
) -> Result<Vec<String>, ApiError> {
    let Some(found) = types::by_kind(&resource.api_version(), resource.kind) else {
        return Ok(Vec::new());
    };
    let patched = match ingest {
        Ingest::Patch => object.to_string(),
        Ingest::Body => String::new(),
    };
    let refuse = |text: &str| refusal(resource, ingest, &patched, text);
    let unknown = normalize(found, object).map_err(|text| refuse(&text))?;
    match validation {
        FieldValidation::Strict if !unknown.is_empty() => {
            Err(refuse(&format!("strict decoding error: {}", unknown.join(", "))))
        }
        FieldValidation::Warn => Ok(unknown),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// Checks `object` against a struct and returns the unknown fields it dropped.
///
/// # Errors
/// The text of the first value of a wrong type.
pub(crate) fn normalize(
    found: &'static StructType,
    object: &mut Value,
) -> Result<Vec<String>, String> {
    let mut walk = Walk { names: Vec::new(), unknown: Vec::new() };
    match object {
        Value::Object(members) => walk.members(found, members, "")?,
        other => {
            let kind = json_kind(other);
            return Err(format!(
                "json: cannot unmarshal {kind} into Go value of type {}",
                found.name.split_once('.').map_or(found.name, |(_, rest)| rest)
            ));
        }
    }
    Ok(walk.unknown)
}

fn refusal(resource: &Resource, ingest: Ingest, patched: &str, text: &str) -> ApiError {
    match ingest {
        Ingest::Body => {
            let version = resource.api_version();
            let kind = resource.kind;
            ApiError::new(
                Reason::BadRequest,
                format!(
                    "{kind} in version {:?} cannot be handled as a {kind}: {text}",
                    short(&version)
                ),
            )
        }
        Ingest::Patch => {
            let error = FieldError::invalid("patch", &Value::String(patched.to_owned()), text);
            let mut refused = ApiError::invalid(resource, "", std::slice::from_ref(&error));
            // Upstream names neither kind nor object here.
            refused.message = format!(" \"\" is invalid: {error}");
            refused.kind = None;
            refused.group = None;
            refused
        }
    }
}

/// Upstream prints the version without its group.
fn short(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or(api_version)
}

struct Walk {
    /// JSON names from the root, as Go's decoder tracks them.
    names: Vec<&'static str>,
    unknown: Vec<String>,
}

impl Walk {
    fn members(
        &mut self,
        found: &'static StructType,
        members: &mut Map<String, Value>,
        path: &str,
    ) -> Result<(), String> {
        let keys: Vec<String> = members.keys().cloned().collect();
        for key in keys {
            if found.object && (key == "apiVersion" || key == "kind") {
                if members.get(&key).is_some_and(|value| !value.is_string() && !value.is_null()) {
                    let kind = members.get(&key).map_or("null", json_kind);
                    return Err(format!(
                        "json: cannot unmarshal {kind} into Go struct field {}.{key} of type string",
                        found.short_name()
                    ));
                }
                continue;
            }
            let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let Some(field) = found.field(&key) else {
                if self.unknown.len() < UNKNOWN_FIELDS_MAX {
                    self.unknown.push(format!("unknown field {here:?}"));
                }
                members.remove(&key);
                continue;
            };
            let Some(value) = members.get_mut(&key) else { continue };
            if !value.is_null() {
                self.names.push(field.name);
                self.field(found, field, value, &here)?;
                self.names.pop();
            }
            if field.is_omitted(value) {
                members.remove(&key);
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        owner: &'static StructType,
        field: &Field,
        value: &mut Value,
        path: &str,
    ) -> Result<(), String> {
        match (field.shape, value) {
            (Shape::One, value) => self.one(owner, field, value, path),
            (Shape::List, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(field.ty);
                    }
                    self.one(owner, field, item, &format!("{path}[{index}]"))?;
                }
                Ok(())
            }
            (Shape::Map, Value::Object(members)) => {
                for (key, member) in members.iter_mut() {
                    if member.is_null() {
                        *member = zero(field.ty);
                    }
                    self.one(owner, field, member, &format!("{path}.{key}"))?;
                }
                Ok(())
            }
            (_, other) => Err(self.mismatch(owner, other, &field.go_type())),
        }
    }

    fn one(
        &mut self,
        owner: &'static StructType,
        field: &Field,
        value: &mut Value,
        path: &str,
    ) -> Result<(), String> {
        let go_type = || match field.shape {
            Shape::One => field.go_type(),
            Shape::List | Shape::Map => field.go_element(),
        };
        match field.ty {
            FieldType::String if value.is_string() => Ok(()),
            FieldType::Bool if value.is_boolean() => Ok(()),
            FieldType::Float64 if value.is_number() => Ok(()),
            FieldType::Int32 | FieldType::Int64 => match integer(field.ty, value) {
                Some(()) => Ok(()),
                None => Err(self.mismatch(owner, value, &go_type())),
            },
            FieldType::Bytes if value.is_string() => canonical_bytes(value),
            FieldType::Quantity => canonical_quantity(value),
            FieldType::Time => canonical_time(value, object::format_time),
            FieldType::MicroTime => canonical_time(value, object::format_micro_time),
            FieldType::IntOrString => match value {
                Value::String(_) => Ok(()),
                other => integer(FieldType::Int32, other).ok_or_else(|| {
                    format!(
                        "json: cannot unmarshal {} into Go value of type int32",
                        json_kind(other)
                    )
                }),
            },
            // Any JSON is a raw value; only the object that holds it gives it a meaning.
            FieldType::Raw => Ok(()),
            FieldType::Fields if value.is_object() => Ok(()),
            FieldType::Items
                if value.as_array().is_some_and(|v| v.iter().all(Value::is_string)) =>
            {
                Ok(())
            }
            FieldType::Struct(id) => match value {
                Value::Object(members) => self.members(types::get(id), members, path),
                other => Err(self.mismatch(owner, other, &go_type())),
            },
            FieldType::String
            | FieldType::Bool
            | FieldType::Float64
            | FieldType::Bytes
            | FieldType::Fields
            | FieldType::Items => Err(self.mismatch(owner, value, &go_type())),
        }
    }

    fn mismatch(&self, owner: &StructType, value: &Value, go_type: &str) -> String {
        let kind = match value {
            // Go prints the literal when a number does not fit an integer type.
            Value::Number(number) if go_type.starts_with("int") => format!("number {number}"),
            other => json_kind(other).to_owned(),
        };
        format!(
            "json: cannot unmarshal {kind} into Go struct field {}.{} of type {go_type}",
            owner.short_name(),
            self.names.join(".")
        )
    }
}

fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn zero(ty: FieldType) -> Value {
    match ty {
        FieldType::String | FieldType::Bytes => Value::String(String::new()),
        FieldType::Quantity | FieldType::IntOrString => Value::String("0".to_owned()),
        FieldType::Int32 | FieldType::Int64 | FieldType::Float64 => Value::from(0),
        FieldType::Bool => Value::Bool(false),
        FieldType::Items => Value::Array(Vec::new()),
        FieldType::Time | FieldType::MicroTime => Value::Null,
        FieldType::Raw | FieldType::Fields | FieldType::Struct(_) => Value::Object(Map::new()),
    }
}

fn integer(ty: FieldType, value: &Value) -> Option<()> {
    let number = value.as_i64()?;
    match ty {
        FieldType::Int32 => i32::try_from(number).ok().map(drop),
        _ => Some(()),
    }
}

fn canonical_bytes(value: &mut Value) -> Result<(), String> {
    let text = value.as_str().unwrap_or_default();
    // Go's decoder skips line breaks, which YAML block scalars bring along.
    let joined: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
    match STANDARD.decode(&joined) {
        Ok(_) => {
            if joined.len() != text.len() {
                *value = Value::String(joined);
            }
            Ok(())
        }
        Err(_) => Err(format!("illegal base64 data at input byte {}", corrupt_at(text))),
    }
}

/// Where Go's `base64.StdEncoding` reports the corruption.
fn corrupt_at(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let mut in_group = 0;
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' | b'\r' => {}
            byte if is_digit(*byte) => in_group = (in_group + 1) % 4,
            b'=' if in_group == 2 => {
                let rest = bytes[index + 1..].iter().position(|b| *b != b'\n' && *b != b'\r');
                return match rest {
                    Some(skip) if bytes[index + 1 + skip] == b'=' => index + 2 + skip,
                    Some(skip) => index + 1 + skip,
                    None => bytes.len(),
                };
            }
            b'=' if in_group == 3 => return index + 1,
            _ => return index,
        }
    }
    bytes.len() - in_group.min(bytes.len())
}

fn canonical_quantity(value: &mut Value) -> Result<(), String> {
    let text = match *value {
        Value::String(ref text) => text.trim().to_owned(),
        ref other => other.to_string(),
    };
    let parsed = if text.is_empty() { None } else { Quantity::parse(&text) };
    *value = Value::String(parsed.ok_or(quantity::FORMAT_ERROR)?.canonical());
    Ok(())
}

fn canonical_time(value: &mut Value, format: fn(Timestamp) -> String) -> Result<(), String> {
    let Some(text) = value.as_str() else {
        let kind = json_kind(value);
        return Err(format!("json: cannot unmarshal {kind} into Go value of type string"));
    };
    if text.is_empty() {
        *value = Value::Null;
        return Ok(());
    }
    let parsed: Timestamp = text.parse().map_err(|_| {
        format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        )
    })?;
    *value = Value::String(format(parsed));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;
    use serde_json::json;

    fn body(object: Value) -> Result<Value, String> {
        let mut object = object;
        decode(&resources::PODS, &mut object, FieldValidation::Strict, Ingest::Body)
            .map(|_| object)
            .map_err(|refused| format!("{} {}", refused.reason.code(), refused.message))
    }

    // mini-kubernetes.md 14, row 9.
    #[test]
    fn values_of_a_wrong_type_are_refused_with_the_text_of_go() {
        let head = "400 Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal";
        let rows = [
            (
                json!({"containers": [{"image": true}]}),
                "bool into Go struct field Container.spec.containers.image of type string",
            ),
            (
                json!({"containers": [{"image": 1.5}]}),
                "number into Go struct field Container.spec.containers.image of type string",
            ),
            (
                json!({"containers": {}}),
                "object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"containers": ["a"]}),
                "string into Go struct field PodSpec.spec.containers of type v1.Container",
            ),
            (
                json!({"containers": [{"ports": [{"containerPort": "80"}]}]}),
                "string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                json!({"hostNetwork": "yes"}),
                "string into Go struct field PodSpec.spec.hostNetwork of type bool",
            ),
            (
                json!({"nodeSelector": {"a": 1}}),
                "number into Go struct field PodSpec.spec.nodeSelector of type string",
            ),
            (
                json!({"restartPolicy": 1}),
                "number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (
                json!({"priority": 5_000_000_000_u64}),
                "number 5000000000 into Go struct field PodSpec.spec.priority of type int32",
            ),
        ];
        for (spec, text) in rows {
            assert_eq!(body(json!({"spec": spec})), Err(format!("{head} {text}")));
        }
    }

    // mini-kubernetes.md 14, row 7.
    #[test]
    fn unknown_fields_are_refused_warned_about_or_dropped() {
        let object = json!({"spec": {"foo": 1, "containers": [{"name": "a", "imagee": "b"}]}});
        let texts = ["unknown field \"spec.containers[0].imagee\"", "unknown field \"spec.foo\""];
        assert_eq!(
            body(object.clone()),
            Err(format!(
                "400 Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {}, {}",
                texts[0], texts[1]
            ))
        );
        let clean = json!({"spec": {"containers": [{"name": "a"}]}});
        for (validation, warnings) in
            [(FieldValidation::Warn, texts.as_slice()), (FieldValidation::Ignore, &[])]
        {
            let mut object = object.clone();
            let got = decode(&resources::PODS, &mut object, validation, Ingest::Body);
            assert_eq!(got, Ok(warnings.iter().map(|text| (*text).to_owned()).collect()));
            assert_eq!(object, clean);
        }
    }

    #[test]
    fn unknown_field_in_a_patch_is_unprocessable() {
        let mut object = json!({"spec": {"foo": 1}});
        let refused = decode(&resources::PODS, &mut object, FieldValidation::Strict, Ingest::Patch)
            .expect_err("the field is unknown");
        assert_eq!(refused.reason.code(), 422);
        assert_eq!(refused.causes[0].field, "patch");
        assert!(refused.message.ends_with("strict decoding error: unknown field \"spec.foo\""));
    }

    #[test]
    fn nulls_and_zero_values_go_and_zero_pointers_stay() {
        let object = json!({
            "metadata": {"creationTimestamp": null, "labels": {}, "name": ""},
            "spec": {
                "hostNetwork": false, "nodeName": "", "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false, "containers": [], "volumes": [],
                "securityContext": {}
            },
            "status": {}
        });
        let kept = json!({
            "metadata": {},
            "spec": {
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [], "securityContext": {}
            },
            "status": {}
        });
        assert_eq!(body(object), Ok(kept));
    }

    #[test]
    fn quantities_and_times_become_canonical() {
        let object = json!({
            "metadata": {"deletionTimestamp": "2026-01-02T03:04:05.678+01:00"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}}]}
        });
        let kept = json!({
            "metadata": {"deletionTimestamp": "2026-01-02T02:04:05Z"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}
        });
        assert_eq!(body(object), Ok(kept));
        let refused = body(json!({"spec": {"overhead": {"cpu": "lots"}}}));
        assert!(refused.is_err_and(|text| text.contains("quantities must match")));
    }

    #[test]
    fn secret_data_must_be_base64() {
        let decoded = |data: &str| {
            let mut object = json!({"data": {"a": data}});
            decode(&resources::SECRETS, &mut object, FieldValidation::Strict, Ingest::Body)
                .map(|_| object["data"]["a"].clone())
                .map_err(|refused| refused.message.clone())
        };
        let head = "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte";
        assert_eq!(decoded("YWI=\n"), Ok(json!("YWI=")));
        assert_eq!(decoded("a-b="), Err(format!("{head} 1")));
        assert_eq!(decoded("YWJj!"), Err(format!("{head} 4")));
        assert_eq!(decoded("YWJjZ"), Err(format!("{head} 4")));
    }
}
