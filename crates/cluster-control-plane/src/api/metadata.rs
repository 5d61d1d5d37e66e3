//! The metadata the server owns: names, uids, times, generations, what an update may not touch.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, FieldError, Reason};
use crate::object;
use crate::resources::{Generation, Resource, StatusPart};

/// Letters of generated names; no vowels, so that they form no words (apimachinery `rand.String`).
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Characters added to `generateName`.
const NAME_SUFFIX_LENGTH: usize = 5;
/// Longest part of `generateName` that is kept, so that the whole stays within 63 characters.
const GENERATE_NAME_MAX: usize = 58;

/// Makes a name from a `generateName` base.
pub(super) fn generate_name(base: &str) -> String {
    let kept: String = base.chars().take(GENERATE_NAME_MAX).collect();
    let suffix: String = (0..NAME_SUFFIX_LENGTH)
        .map(|_| char::from(NAME_LETTERS[fastrand::usize(..NAME_LETTERS.len())]))
        .collect();
    format!("{kept}{suffix}")
}

/// Checks `apiVersion` and `kind` of a body against the endpoint and fills them when empty.
pub(super) fn check_type(resource: &Resource, body: &mut Value) -> Result<(), ApiError> {
    if !body.is_object() {
        let message = format!(
            "{} in version {:?} cannot be handled as a {}: the body is not an object",
            resource.kind, resource.version, resource.kind
        );
        return Err(ApiError::bad_request(message));
    }
    let (api_version, kind) = (object::text(body, &["apiVersion"]), object::text(body, &["kind"]));
    let expected = resource.api_version();
    if !api_version.is_empty() && api_version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version \
             ({expected})"
        )));
    }
    if !kind.is_empty() && kind != resource.kind {
        return Err(ApiError::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({})",
            resource.kind
        )));
    }
    object::set(body, &["apiVersion"], expected);
    object::set(body, &["kind"], resource.kind);
    Ok(())
}

/// Checks that the body's namespace is the URL's (or empty) and fills it.
pub(super) fn check_namespace(
    resource: &Resource,
    namespace: &str,
    body: &mut Value,
) -> Result<(), ApiError> {
    let own = object::namespace(body);
    if !resource.is_namespaced() {
        object::remove(body, &["metadata", "namespace"]);
        return Ok(());
    }
    if !own.is_empty() && own != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object::set(body, &["metadata", "namespace"], namespace);
    Ok(())
}

/// Fills what a fresh object gets and wipes what its writer may not choose.
pub(super) fn fill_created(resource: &Resource, object: &mut Value, now: Timestamp) {
    let metadata = object::ensure_map(object, &["metadata"]);
    for key in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
        "generation",
    ] {
        metadata.remove(key);
    }
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(object::format_time(now)));
    if resource.generation == Generation::Tracked {
        metadata.insert("generation".to_owned(), json!(1));
    }
    if resource.status == StatusPart::Subresource {
        object::remove(object, &["status"]);
    }
}

/// Refuses a PUT whose body is about another object.
pub(super) fn check_identity(
    resource: &Resource,
    body: &Value,
    current: &Value,
) -> Result<(), ApiError> {
    let (name, wanted) = (object::name(body), object::name(current));
    if !name.is_empty() && name != wanted {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let (uid, stored) = (object::uid(body), object::uid(current));
    if !uid.is_empty() && uid != stored {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}"
        );
        return Err(ApiError::conflict(resource, wanted, &why));
    }
    let version = object::text(body, &["metadata", "resourceVersion"]);
    if version.is_empty() {
        return Ok(());
    }
    let parsed: u64 = version.parse().map_err(|_| {
        let detail = "must be a decimal integer";
        let field = FieldError::invalid("metadata.resourceVersion", &json!(version), detail);
        ApiError::invalid(resource, wanted, &[field])
    })?;
    // "0" means "no condition", as upstream reads it.
    if parsed != 0 && parsed != object::resource_version(current) {
        return Err(ApiError::modified(resource, wanted));
    }
    Ok(())
}

/// Carries the server's part of metadata from the stored object into its replacement.
pub(super) fn carry_over(new: &mut Value, old: &Value) {
    const OWNED: [&str; 11] = [
        "name",
        "namespace",
        "generateName",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "managedFields",
    ];
    let empty = Map::new();
    let stored = object::map(old, &["metadata"]).unwrap_or(&empty);
    let metadata = object::ensure_map(new, &["metadata"]);
    for key in OWNED {
        match stored.get(key) {
            Some(value) => metadata.insert(key.to_owned(), value.clone()),
            None => metadata.remove(key),
        };
    }
    drop_empty_metadata(metadata);
}

/// Removes metadata fields whose empty value means the same as none.
pub(super) fn drop_empty_metadata(metadata: &mut Map<String, Value>) {
    const OPTIONAL: [&str; 6] =
        ["labels", "annotations", "finalizers", "ownerReferences", "managedFields", "generateName"];
    for key in OPTIONAL {
        let empty = match metadata.get(key) {
            Some(Value::Null) => true,
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Bool(_) | Value::Number(_)) | None => false,
        };
        if empty {
            metadata.remove(key);
        }
    }
}

/// Refuses finalizers added after deletion began.
pub(super) fn check_finalizers(
    resource: &Resource,
    new: &Value,
    old: &Value,
) -> Result<(), ApiError> {
    if !object::is_deleting(old) {
        return Ok(());
    }
    let before = object::finalizers(old);
    let added: Vec<&str> =
        object::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let quoted: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers \
         []string{{{}}}",
        quoted.join(", ")
    );
    let field = FieldError::forbidden("metadata.finalizers", &detail);
    Err(ApiError::invalid(resource, object::name(old), &[field]))
}

/// Raises the generation when anything outside metadata and status changed.
pub(super) fn count_generation(resource: &Resource, new: &mut Value, old: &Value) {
    if resource.generation == Generation::Absent {
        return;
    }
    let desired = |object: &Value| -> Vec<(String, Value)> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| {
                !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind")
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    if desired(new) != desired(old) {
        object::set(new, &["metadata", "generation"], object::generation(old) + 1);
    }
}

/// Whether two states differ only in bookkeeping, so that nothing needs to be written.
pub(super) fn is_unchanged(new: &Value, old: &Value) -> bool {
    let same_metadata = {
        let empty = Map::new();
        let (a, b) = (
            object::map(new, &["metadata"]).unwrap_or(&empty),
            object::map(old, &["metadata"]).unwrap_or(&empty),
        );
        let relevant = |map: &Map<String, Value>| -> usize {
            map.keys().filter(|key| !is_bookkeeping(key)).count()
        };
        relevant(a) == relevant(b)
            && a.iter().all(|(key, value)| is_bookkeeping(key) || b.get(key) == Some(value))
    };
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else {
        return new == old;
    };
    same_metadata
        && a.len() == b.len()
        && a.iter().all(|(key, value)| key == "metadata" || b.get(key) == Some(value))
}

fn is_bookkeeping(key: &str) -> bool {
    matches!(key, "managedFields" | "resourceVersion")
}

/// 422 for an object without any name.
pub(super) fn name_required(resource: &Resource) -> ApiError {
    let field = FieldError::required("metadata.name", "name or generateName is required");
    ApiError::invalid(resource, "", &[field])
}

/// 409 after every generated name was taken.
pub(super) fn no_unique_name(resource: &Resource, name: &str) -> ApiError {
    let mut error = ApiError::already_exists(resource, name);
    error.reason = Reason::AlreadyExists;
    error.message = format!(
        "{}; the server was not able to generate a unique name for the object",
        error.message
    );
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::PODS;

    #[test]
    fn generated_names_keep_58_characters_and_add_five_letters() {
        let name = generate_name(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        let short = generate_name("job-");
        assert!(short.starts_with("job-") && short.len() == 9);
        assert!(short.bytes().skip(4).all(|letter| NAME_LETTERS.contains(&letter)));
    }

    #[test]
    fn generation_counts_spec_changes_only() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"a": 1}, "status": {}});
        let mut label =
            json!({"metadata": {"generation": 3, "labels": {"x": "y"}}, "spec": {"a": 1}});
        count_generation(&PODS, &mut label, &old);
        assert_eq!(object::generation(&label), 3);
        let mut spec = json!({"metadata": {"generation": 3}, "spec": {"a": 2}});
        count_generation(&PODS, &mut spec, &old);
        assert_eq!(object::generation(&spec), 4);
    }

    #[test]
    fn bookkeeping_alone_is_no_change() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": 1});
        let new = json!({"metadata": {"name": "a", "managedFields": [1]}, "spec": 1});
        assert!(is_unchanged(&new, &old));
        assert!(!is_unchanged(
            &json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": 1}),
            &old
        ));
        assert!(!is_unchanged(&json!({"metadata": {"name": "a"}, "spec": 1, "status": {}}), &old));
    }
}
