//! What a fresh object starts with, and what an update may not touch (upstream's strategies).

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::quantity::Quantity;
use crate::object;
use crate::resources::Resource;

/// Finalizer that keeps a claim while a pod uses it.
pub(crate) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Finalizer that keeps a volume while a claim is bound to it.
pub(crate) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Finalizer of a namespace's content.
pub(crate) const NAMESPACE_CONTENT: &str = "kubernetes";

/// Prepares a new object.
pub(super) fn create(resource: &Resource, object: &mut Value) {
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            let class = qos_class(object);
            object::set(object, &["status"], json!({"phase": "Pending", "qosClass": class}));
        }
        ("", "Namespace") => {
            object::set(object, &["spec", "finalizers"], json!([NAMESPACE_CONTENT]));
            object::set(object, &["status"], json!({"phase": "Active"}));
        }
        ("", "PersistentVolumeClaim") => {
            object::set(object, &["status"], json!({"phase": "Pending"}));
            add_finalizer(object, CLAIM_PROTECTION);
        }
        ("", "PersistentVolume") => {
            object::set(object, &["status"], json!({"phase": "Pending"}));
            add_finalizer(object, VOLUME_PROTECTION);
        }
        ("", "ReplicationController") | ("apps", "ReplicaSet") => {
            object::set(object, &["status"], json!({"replicas": 0}));
        }
        ("batch", "Job") => {
            object::set(object, &["status"], json!({}));
            generate_job_selector(object);
        }
        ("apps", "Deployment") | ("", "Node") => object::set(object, &["status"], json!({})),
        _ => {}
    }
}

/// Prepares a replacement.
pub(super) fn update(resource: &Resource, new: &mut Value, old: &Value) {
    let keep = |new: &mut Value, path: &[&str]| match object::at(old, path) {
        Some(value) => object::set(new, path, value.clone()),
        None => drop(object::remove(new, path)),
    };
    match (resource.group, resource.kind) {
        // Only the finalize subresource writes them.
        ("", "Namespace") => keep(new, &["spec", "finalizers"]),
        ("", "Secret") if object::text(new, &["type"]).is_empty() => keep(new, &["type"]),
        _ => {}
    }
}

fn add_finalizer(object: &mut Value, name: &str) {
    let mut finalizers: Vec<Value> = object::list(object, &["metadata", "finalizers"]).to_vec();
    if !finalizers.iter().any(|own| own.as_str() == Some(name)) {
        finalizers.push(json!(name));
        object::set(object, &["metadata", "finalizers"], finalizers);
    }
}

/// A job finds its pods by its own uid unless the writer insists on a selector.
fn generate_job_selector(job: &mut Value) {
    if object::at(job, &["spec", "manualSelector"]) == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, name) = (object::uid(job).to_owned(), object::name(job).to_owned());
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        object::set(job, &["spec", "template", "metadata", "labels", key], value.as_str());
    }
    // A selector that the writer gave stays for validation to refuse.
    if object::at(job, &["spec", "selector"]).is_none() {
        let labels = json!({"batch.kubernetes.io/controller-uid": uid});
        object::set(job, &["spec", "selector", "matchLabels"], labels);
    }
}

/// The quality of service class (core/v1 `PodQOSClass`).
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let containers = || {
        ["initContainers", "containers"]
            .into_iter()
            .flat_map(|list| object::list(pod, &["spec", list]))
    };
    let amount = |container: &Value, kind: &str, name: &str| {
        Quantity::parse(object::text(container, &["resources", kind, name]))
            .filter(|quantity| !quantity.is_zero())
    };
    let kinds = ["requests", "limits"];
    let any = containers().any(|container| {
        kinds.iter().any(|kind| {
            ["cpu", "memory"].iter().any(|name| amount(container, kind, name).is_some())
        })
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = containers().all(|container| {
        ["cpu", "memory"].iter().all(|name| {
            match (amount(container, "requests", name), amount(container, "limits", name)) {
                (Some(request), Some(limit)) => request.compare(limit) == Ordering::Equal,
                (None, Some(_)) => true,
                (_, None) => false,
            }
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}
