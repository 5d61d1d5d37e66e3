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

/// Every rule that a write of `pods/ephemeralcontainers` breaks; the rest of the pod is as it was.
pub fn validate_ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::validate_ephemeral_containers(new, old)
}

/// Every rule a status write breaks.
pub fn validate_status(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (resource, new, old);
    Vec::new()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::patch::{self, FieldManager, OnConflict, PatchFormat};
    use crate::resources::ALL;
    use crate::schema::types::{FieldType, Shape, StructType};

    /// JSON of the right shape most of the time, and of a wrong one now and then.
    fn value_of(found: &'static StructType, depth: u32) -> BoxedStrategy<Value> {
        if depth == 0 {
            return Just(json!({})).boxed();
        }
        let names: Vec<(&'static str, FieldType, Shape)> = found
            .fields
            .iter()
            .filter(|field| !field.name.is_empty())
            .map(|field| (field.name, field.ty, field.shape))
            .collect();
        let member = (0..names.len()).prop_flat_map(move |at| {
            let (name, ty, shape) = names[at];
            field_value(ty, shape, depth - 1).prop_map(move |value| (name.to_owned(), value))
        });
        proptest::collection::vec(member, 0..6)
            .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
            .boxed()
    }

    fn field_value(ty: FieldType, shape: Shape, depth: u32) -> BoxedStrategy<Value> {
        let one = match ty {
            FieldType::Struct(id) => value_of(types::get(id), depth),
            _ => scalar(),
        };
        let right = match shape {
            Shape::One => one,
            Shape::List => proptest::collection::vec(one, 0..3).prop_map(Value::Array).boxed(),
            Shape::Map => proptest::collection::vec(("[a-z.]{0,3}", one), 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect()))
                .boxed(),
        };
        prop_oneof![9 => right, 1 => scalar()].boxed()
    }

    fn scalar() -> BoxedStrategy<Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            prop_oneof!["[a-z0-9/:.%$-]{0,6}", Just("Always".to_owned()), Just("1Gi".to_owned())]
                .prop_map(Value::from),
            Just(json!([])),
            Just(json!({"$patch": "replace"})),
        ]
        .boxed()
    }

    fn objects() -> impl Strategy<Value = (&'static Resource, Value, Value)> {
        (0..ALL.len()).prop_flat_map(|at| {
            let resource = ALL[at];
            let found = types::by_kind(&resource.api_version(), resource.kind)
                .expect("every served kind is in the table");
            (Just(resource), value_of(found, 7), value_of(found, 7))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        // mini-kubernetes.md 14, row 91.
        #[test]
        fn no_object_and_no_patch_panics((resource, mut object, patch) in objects()) {
            let ignore = FieldValidation::Ignore;
            if decode(resource, &mut object, ignore, Ingest::Body).is_err() {
                return Ok(());
            }
            default(resource, &mut object);
            prepare_create(resource, &mut object);
            validate(resource, &object, None);
            let again = {
                let mut again = object.clone();
                default(resource, &mut again);
                again
            };
            // A job's labels come from its template, which `prepare_create` completes.
            if resource.kind != "Job" {
                prop_assert_eq!(&again, &object, "defaults are stable");
            }
            let writer = FieldManager { name: "m", subresource: "", at: jiff::Timestamp::UNIX_EPOCH };
            for format in [PatchFormat::StrategicMerge, PatchFormat::Merge] {
                if let Ok(mut next) = patch::apply(resource, format, &object, &patch)
                    && decode(resource, &mut next, ignore, Ingest::Patch).is_ok()
                {
                    prepare_update(resource, &mut next, &object);
                    default(resource, &mut next);
                    patch::track_update(resource, Some(&object), &mut next, &writer);
                    validate(resource, &next, Some(&object));
                }
            }
            let mut applied = patch.clone();
            if decode(resource, &mut applied, ignore, Ingest::Body).is_ok() {
                let force = OnConflict::Force;
                let once = patch::server_side_apply(resource, Some(&object), &applied, &writer, force);
                if let Ok(once) = once {
                    let twice = patch::server_side_apply(resource, Some(&once), &applied, &writer, force);
                    prop_assert_eq!(twice.ok(), Some(once), "applying twice changes nothing");
                }
            }
        }
    }
}
