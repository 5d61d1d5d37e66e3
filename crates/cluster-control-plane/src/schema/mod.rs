//! What each kind looks like: type check on ingest, defaults, preparation and validation.

mod decode;
mod defaults;
mod pod_defaults;
pub(crate) mod prepare;
pub(crate) mod quantity;
pub(crate) mod types;
mod validation;

use serde_json::Value;

use crate::error::{ApiError, FieldError};
use crate::resources::Resource;

/// What to do with fields the kind does not have (query parameter `fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Refuse with 400.
    Strict,
    /// Drop and answer with a `Warning` header each.
    Warn,
    /// Drop silently.
    Ignore,
}

/// Where an object comes from, which decides the code of a refusal: 400 for a body, 422 for the
/// result of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingest {
    /// The body of a create or update.
    Body,
    /// The result of a patch.
    Patch,
}

/// Checks an object's types against the kind, drops unknown fields, and returns one warning per
/// dropped field under `Warn`.
///
/// # Errors
/// The upstream texts: `Pod in version "v1" cannot be handled as a Pod: …`.
pub fn decode(
    resource: &Resource,
    object: &mut Value,
    validation: FieldValidation,
    ingest: Ingest,
) -> Result<Vec<String>, ApiError> {
    decode::decode(resource, object, validation, ingest)
}

/// Fills the defaults of the kind; running it twice changes nothing.
pub fn default(resource: &Resource, object: &mut Value) {
    defaults::fill(resource, object);
}

/// Sets what a fresh object of the kind starts with and clears what its writer may not set
/// (the initial `status`, generated selectors, finalizers). Runs after `default`.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    prepare::create(resource, object);
}

/// Copies what an update may not touch from `old` into `new`. `api` has already carried over
/// metadata and `status` (or everything but `status` for a status write).
pub fn prepare_update(resource: &Resource, new: &mut Value, old: &Value) {
    prepare::update(resource, new, old);
}

/// Every rule of the kind the object breaks; `old` is present for an update.
pub fn validate(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    validation::validate(resource, new, old)
}

/// Every rule a status write breaks.
pub fn validate_status(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (resource, new, old);
    Vec::new()
}
