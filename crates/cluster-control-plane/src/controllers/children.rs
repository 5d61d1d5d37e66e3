//! What the workload controllers have in common: pods from templates, and whose pod is whose.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{DeleteOptions, ListOptions, PatchBody, Propagation};
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::Resource;
use crate::selectors::LabelSelector;

/// The reference by which a controller owns what it made.
pub(super) fn controller_reference(resource: &Resource, owner: &Value) -> Value {
    json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind,
        "name": object::name(owner),
        "uid": object::uid(owner),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// A pod (or any object) of a template, owned by its controller and named after it.
pub(super) fn from_template(resource: &Resource, owner: &Value, template: &Value) -> Value {
    let mut metadata = json!({
        "generateName": format!("{}-", object::name(owner)),
        "namespace": object::namespace(owner),
        "ownerReferences": [controller_reference(resource, owner)],
    });
    for key in ["labels", "annotations", "finalizers"] {
        if let Some(value) = object::at(template, &["metadata", key]) {
            object::set(&mut metadata, &[key], value.clone());
        }
    }
    json!({"metadata": metadata, "spec": object::at(template, &["spec"]).cloned().unwrap_or_default()})
}

/// Whether an object is controlled by an owner of this uid.
pub(super) fn is_controlled_by(child: &Value, uid: &str) -> bool {
    object::controller_of(child).is_some_and(|reference| object::text(reference, &["uid"]) == uid)
}

/// The children of an owner: those it controls. Matching orphans are adopted, children that no
/// longer match are released.
pub(super) async fn claim(
    client: &Client,
    (resource, owner): (&'static Resource, &Value),
    child_resource: &'static Resource,
    selector: &LabelSelector,
) -> Result<Vec<Arc<Value>>, ApiError> {
    let namespace = object::namespace(owner);
    let uid = object::uid(owner);
    let listed = client.list(child_resource, namespace, &ListOptions::default())?;
    let mut claimed = Vec::new();
    for child in listed.items {
        let matches = !selector.is_empty() && selector.matches(&child);
        match object::controller_of(&child) {
            Some(reference) if object::text(reference, &["uid"]) == uid => {
                if matches || object::is_deleting(owner) {
                    claimed.push(child);
                } else {
                    let kept: Vec<Value> = object::list(&child, &["metadata", "ownerReferences"])
                        .iter()
                        .filter(|reference| object::text(reference, &["uid"]) != uid)
                        .cloned()
                        .collect();
                    set_owners(client, child_resource, &child, kept).await?;
                }
            }
            Some(_) => {}
            None if matches && !object::is_deleting(owner) && !object::is_deleting(&child) => {
                let mut owners = object::list(&child, &["metadata", "ownerReferences"]).to_vec();
                owners.push(controller_reference(resource, owner));
                if let Some(adopted) = set_owners(client, child_resource, &child, owners).await? {
                    claimed.push(adopted);
                }
            }
            None => {}
        }
    }
    Ok(claimed)
}

async fn set_owners(
    client: &Client,
    resource: &'static Resource,
    child: &Value,
    owners: Vec<Value>,
) -> Result<Option<Arc<Value>>, ApiError> {
    let patch = json!({"metadata": {
        "uid": object::uid(child),
        "resourceVersion": object::text(child, &["metadata", "resourceVersion"]),
        "ownerReferences": owners,
    }});
    let patch = PatchBody::Patch { format: PatchFormat::Merge, body: patch };
    let (namespace, name) = (object::namespace(child), object::name(child));
    gone_is_none(client.patch(resource, namespace, name, "", patch).await)
}

/// Makes "it is gone" an answer instead of an error.
pub(super) fn gone_is_none<T>(result: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes exactly this incarnation of a child in the background; one that is gone is fine.
pub(super) async fn delete(
    client: &Client,
    resource: &'static Resource,
    child: &Value,
) -> Result<(), ApiError> {
    let options = DeleteOptions {
        propagation: Some(Propagation::Background),
        precondition_uid: Some(object::uid(child).to_owned()),
        ..DeleteOptions::default()
    };
    let (namespace, name) = (object::namespace(child), object::name(child));
    match client.delete(resource, namespace, name, &options).await {
        // A name that now belongs to another incarnation is as good as gone.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Whether a pod still runs or will.
pub(super) fn is_active(pod: &Value) -> bool {
    !is_finished(pod) && !object::is_deleting(pod)
}

/// Whether a pod reached a final phase.
pub(super) fn is_finished(pod: &Value) -> bool {
    matches!(object::text(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// Whether a pod's `Ready` condition is true.
pub(super) fn is_ready(pod: &Value) -> bool {
    object::condition(pod, "Ready")
        .is_some_and(|condition| object::text(condition, &["status"]) == "True")
}

/// When a pod's `Ready` condition became true.
pub(super) fn ready_since(pod: &Value) -> Option<Timestamp> {
    let condition = object::condition(pod, "Ready")?;
    let ready = object::text(condition, &["status"]) == "True";
    object::time(condition, &["lastTransitionTime"]).filter(|_| ready)
}

/// The conditions with one of them set; its transition time moves only with its status.
pub(super) fn with_condition(
    conditions: &[Value],
    kind: &str,
    status: &str,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> Vec<Value> {
    let mut conditions = conditions.to_vec();
    let time = object::format_time(now);
    let mut new = json!({
        "type": kind,
        "status": status,
        "lastTransitionTime": time,
        "reason": reason,
        "message": message,
    });
    match conditions.iter_mut().find(|old| object::text(old, &["type"]) == kind) {
        Some(old) => {
            if object::text(old, &["status"]) == status {
                let since = object::text(old, &["lastTransitionTime"]).to_owned();
                object::set(&mut new, &["lastTransitionTime"], since);
            }
            *old = new;
        }
        None => conditions.push(new),
    }
    conditions
}
