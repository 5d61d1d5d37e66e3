//! The four patch formats and the field ownership that server-side apply keeps.
//!
//! Pure functions: current object and patch in, new object out. Storage, retries and admission are
//! the business of `api`.

mod fields;
mod managed;
mod place;
mod server_side;
mod strategic;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{ApiError, Reason};
use crate::object;
use crate::resources::Resource;
use crate::schema::types;

/// Most operations of one JSON patch (upstream's limit).
const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// Why a merge patch cannot be applied; the texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum PatchError {
    /// A patch, or an item of a keyed list, that is not an object.
    #[error("error decoding patch: a patch must be a map")]
    NotAnObject,
    /// `$patch` with a word that is not known.
    #[error("unknown patch type: {0}")]
    UnknownDirective(String),
    /// A directive whose value is not a list.
    #[error("{0} must be a list")]
    BadDirective(&'static str),
    /// An item of a keyed list without its key.
    #[error("map: {item} does not contain declared merge key: {key}")]
    MissingMergeKey {
        /// The key.
        key: &'static str,
        /// The item as JSON.
        item: String,
    },
}

/// How a patch body is to be read; named by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchFormat {
    /// `application/json-patch+json`, RFC 6902.
    Json,
    /// `application/merge-patch+json`, RFC 7386.
    Merge,
    /// `application/strategic-merge-patch+json`.
    StrategicMerge,
}

/// Who writes, as `metadata.managedFields` records it.
#[derive(Clone, Copy, Debug)]
pub struct FieldManager<'a> {
    /// `fieldManager` parameter, or the user agent up to its first `/`.
    pub name: &'a str,
    /// Subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Now.
    pub at: Timestamp,
}

/// What server-side apply does with fields that another manager owns with other values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse with 409 and one cause per field.
    Refuse,
    /// Take the fields over (`force=true`).
    Force,
}

/// Applies a patch to an object and returns the result.
///
/// # Errors
/// 400 for a body that is not a patch, 422 for one that cannot be applied.
pub fn apply(
    resource: &Resource,
    format: PatchFormat,
    current: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    let mut next = current.clone();
    match format {
        PatchFormat::Json => apply_json_patch(&mut next, patch)?,
        PatchFormat::Merge => {
            if !patch.is_object() {
                return Err(bad_patch(&PatchError::NotAnObject));
            }
            json_patch::merge(&mut next, patch);
        }
        PatchFormat::StrategicMerge => {
            // A part such as `scale` is patched by its own kind.
            let of = (object::text(current, &["apiVersion"]), object::text(current, &["kind"]));
            let found = types::by_kind(of.0, of.1)
                .or_else(|| types::by_kind(&resource.api_version(), resource.kind));
            let found = found.ok_or_else(|| {
                let text = "the body of the request was in an unknown format - accepted media types \
                            include: application/json-patch+json, application/merge-patch+json, \
                            application/apply-patch+yaml";
                ApiError::new(Reason::UnsupportedMediaType, text)
            })?;
            strategic::apply(found, &mut next, patch).map_err(|refused| bad_patch(&refused))?;
        }
    }
    Ok(next)
}

fn apply_json_patch(object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if JSON_PATCH_OPERATIONS_MAX < count {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got \
                 {count}"
            ),
        ));
    }
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|refused| ApiError::bad_request(format!("error decoding patch: {refused}")))?;
    json_patch::patch(object, &operations).map_err(|refused| {
        ApiError::new(
            Reason::Invalid,
            "the server rejected our request due to an error in our request",
        )
        .with_cause("UnexpectedServerResponse", &refused.to_string(), "")
    })
}

fn bad_patch(refused: &PatchError) -> ApiError {
    ApiError::bad_request(refused.to_string())
}

/// Merges an applied configuration into the current object (`None`: the object is new) and updates
/// `metadata.managedFields`.
///
/// # Errors
/// 409 with one `FieldManagerConflict` cause per field that another manager owns.
pub fn server_side_apply(
    resource: &Resource,
    current: Option<&Value>,
    applied: &Value,
    manager: &FieldManager<'_>,
    on_conflict: OnConflict,
) -> Result<Value, ApiError> {
    server_side::apply(resource, current, applied, manager, on_conflict)
}

/// Records in `metadata.managedFields` of `new` what an ordinary write (create, update, other
/// patches) changed against `old`.
pub fn track_update(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &FieldManager<'_>,
) {
    managed::track(resource, old, new, manager);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{PODS, SECRETS};
    use serde_json::json;

    fn outcome(format: PatchFormat, current: Value, patch: Value) -> Result<Value, (u16, String)> {
        apply(&SECRETS, format, &current, &patch)
            .map_err(|refused| (refused.reason.code(), refused.message.clone()))
    }

    // mini-kubernetes.md 14, row 37.
    #[test]
    fn json_patch_operations_and_escapes() {
        let object = json!({"a": [1, 2], "x/y": 1, "m": {"k": "v"}});
        let rows = [
            (json!([{"op": "add", "path": "/a/-", "value": 3}]), json!([1, 2, 3]), "/a"),
            (json!([{"op": "remove", "path": "/a/0"}]), json!([2]), "/a"),
            (json!([{"op": "replace", "path": "/x~1y", "value": 2}]), json!(2), "/x~1y"),
            (json!([{"op": "move", "from": "/m/k", "path": "/m/l"}]), json!({"l": "v"}), "/m"),
            (
                json!([{"op": "copy", "from": "/m/k", "path": "/m/l"}]),
                json!({"k": "v", "l": "v"}),
                "/m",
            ),
            (
                json!([{"op": "test", "path": "/a/0", "value": 1}, {"op": "remove", "path": "/m"}]),
                json!([1, 2]),
                "/a",
            ),
        ];
        for (patch, expected, at) in rows {
            let got = outcome(PatchFormat::Json, object.clone(), patch).expect("it applies");
            assert_eq!(got.pointer(at), Some(&expected));
        }
    }

    #[test]
    fn failing_json_patch_is_unprocessable() {
        let text = "the server rejected our request due to an error in our request".to_owned();
        for patch in [
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "remove", "path": "/none"}]),
        ] {
            assert_eq!(
                outcome(PatchFormat::Json, json!({"a": 1}), patch),
                Err((422, text.clone()))
            );
        }
        let garbage = outcome(PatchFormat::Json, json!({}), json!({"op": "add"}));
        assert!(garbage.is_err_and(|(code, _)| code == 400));
        let many: Vec<Value> = vec![json!({"op": "add", "path": "/a", "value": 1}); 10_001];
        let many = outcome(PatchFormat::Json, json!({}), Value::Array(many));
        assert!(many.is_err_and(|(code, _)| code == 413));
    }

    // mini-kubernetes.md 14, row 38.
    #[test]
    fn merge_patch_removes_with_null_and_makes_what_is_missing() {
        let got = outcome(
            PatchFormat::Merge,
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null}, "annotations": {"c": "3"}}}),
        );
        let expected = json!({"metadata": {"labels": {"b": "2"}, "annotations": {"c": "3"}}});
        assert_eq!(got, Ok(expected));
    }

    #[test]
    fn patch_of_scale_uses_the_schema_of_scale() {
        let scale =
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 1}});
        let patch = json!({"spec": {"replicas": 3}});
        let got = apply(&PODS, PatchFormat::StrategicMerge, &scale, &patch).expect("it applies");
        assert_eq!(got["spec"]["replicas"], 3);
    }
}
