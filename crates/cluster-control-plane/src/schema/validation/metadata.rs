//! `metadata` of every kind.

use serde_json::{Value, json};

use super::{Errors, names};
use crate::error::FieldError;
use crate::object;
use crate::resources::Resource;

/// Keys and values of all annotations together, in bytes.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;
/// Finalizers without a domain that Kubernetes itself uses.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "foregroundDeletion", "orphan"];

/// Validates `metadata`.
pub(super) fn validate(errors: &mut Errors, resource: &Resource, object: &Value) {
    let name = object::name(object);
    let complaints =
        if resource.kind == "Namespace" { names::label(name) } else { names::subdomain(name) };
    errors.grammar("metadata.name", name, complaints);
    labels(errors, "metadata.labels", object::at(object, &["metadata", "labels"]));
    annotations(errors, "metadata.annotations", object::at(object, &["metadata", "annotations"]));
    for finalizer in object::finalizers(object) {
        let path = "metadata.finalizers";
        let complaints = names::qualified(finalizer);
        if complaints.is_empty()
            && !finalizer.contains('/')
            && !STANDARD_FINALIZERS.contains(&finalizer)
        {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(path, finalizer, text);
        }
        errors.grammar(path, finalizer, complaints);
    }
    owners(errors, object);
}

/// Validates labels.
pub(super) fn labels(errors: &mut Errors, path: &str, labels: Option<&Value>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.grammar(path, key, names::qualified(key));
        let value = value.as_str().unwrap_or_default();
        errors.grammar(path, value, names::label_value(value));
    }
}

/// Validates annotations.
pub(super) fn annotations(errors: &mut Errors, path: &str, annotations: Option<&Value>) {
    let mut bytes = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        errors.grammar(path, key, names::qualified(&key.to_ascii_lowercase()));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if ANNOTATION_BYTES_MAX < bytes {
        errors.add(FieldError::too_long(path, ANNOTATION_BYTES_MAX));
    }
}

fn owners(errors: &mut Errors, object: &Value) {
    let mut controller: Option<&str> = None;
    for (index, owner) in object::list(object, &["metadata", "ownerReferences"]).iter().enumerate()
    {
        let path = format!("metadata.ownerReferences[{index}]");
        for (key, text) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let value = object::text(owner, &[key]);
            if value.is_empty() {
                errors.invalid(format!("{path}.{key}"), value, text);
            }
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            continue;
        }
        let name = object::text(owner, &["name"]);
        if let Some(first) = controller {
            let text = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for \
                 {first} and {name}"
            );
            let all = object::at(object, &["metadata", "ownerReferences"]).cloned();
            errors.invalid("metadata.ownerReferences", all.unwrap_or_else(|| json!([])), &text);
        }
        controller = Some(name);
    }
}
