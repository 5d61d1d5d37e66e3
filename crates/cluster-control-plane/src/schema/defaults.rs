//! Defaults of every kind but the pod's own, which `pod_defaults` has.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pod_defaults;
use crate::object;
use crate::resources::Resource;

/// Fills the defaults of one object.
pub(super) fn fill(resource: &Resource, object: &mut Value) {
    match (resource.group, resource.kind) {
        ("", "Pod") => pod_defaults::pod(object),
        ("", "Secret") => secret(object),
        ("", "Namespace") => namespace(object),
        ("", "PersistentVolumeClaim") => {
            object::set_default(object, &["spec", "volumeMode"], "Filesystem");
            object::set_default(object, &["status", "phase"], "Pending");
        }
        ("", "PersistentVolume") => persistent_volume(object),
        ("", "ReplicationController") => replication_controller(object),
        ("apps", "ReplicaSet") => {
            object::set_default(object, &["spec", "replicas"], 1);
            labels_from_template(object);
            template(object);
        }
        ("apps", "Deployment") => deployment(object),
        ("batch", "Job") => job(object),
        ("storage.k8s.io", "StorageClass") => {
            object::set_default(object, &["reclaimPolicy"], "Delete");
            object::set_default(object, &["volumeBindingMode"], "Immediate");
        }
        _ => {}
    }
}

fn secret(object: &mut Value) {
    object::set_default(object, &["type"], "Opaque");
    if object::text(object, &["type"]).is_empty() {
        object::set(object, &["type"], "Opaque");
    }
    let Some(Value::Object(texts)) = object::remove(object, &["stringData"]) else { return };
    for (key, text) in texts {
        let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
        object::set(object, &["data", &key], encoded);
    }
}

fn namespace(object: &mut Value) {
    let name = object::name(object).to_owned();
    if !name.is_empty() {
        object::set(object, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
    }
}

fn persistent_volume(object: &mut Value) {
    object::set_default(object, &["spec", "persistentVolumeReclaimPolicy"], "Retain");
    object::set_default(object, &["spec", "volumeMode"], "Filesystem");
    if object::at(object, &["spec", "hostPath"]).is_some() {
        object::set_default(object, &["spec", "hostPath", "type"], "");
    }
}

fn replication_controller(object: &mut Value) {
    object::set_default(object, &["spec", "replicas"], 1);
    let labels = object::at(object, &["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels {
        if object::map(object, &["spec", "selector"]).is_none_or(serde_json::Map::is_empty) {
            object::set(object, &["spec", "selector"], labels);
        }
        labels_from_template(object);
    }
    template(object);
}

fn deployment(object: &mut Value) {
    object::set_default(object, &["spec", "replicas"], 1);
    object::set_default(object, &["spec", "strategy", "type"], "RollingUpdate");
    if object::text(object, &["spec", "strategy", "type"]) == "RollingUpdate" {
        for key in ["maxUnavailable", "maxSurge"] {
            object::set_default(object, &["spec", "strategy", "rollingUpdate", key], "25%");
        }
    }
    object::set_default(object, &["spec", "revisionHistoryLimit"], 10);
    object::set_default(object, &["spec", "progressDeadlineSeconds"], 600);
    template(object);
}

fn job(object: &mut Value) {
    let is_set = |object: &Value, key: &str| object::at(object, &["spec", key]).is_some();
    if !is_set(object, "completions") && !is_set(object, "parallelism") {
        object::set(object, &["spec", "completions"], 1);
    }
    object::set_default(object, &["spec", "parallelism"], 1);
    let limit = if is_set(object, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    object::set_default(object, &["spec", "backoffLimit"], limit);
    object::set_default(object, &["spec", "completionMode"], "NonIndexed");
    object::set_default(object, &["spec", "suspend"], false);
    object::set_default(object, &["spec", "manualSelector"], false);
    let replacement =
        if is_set(object, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    object::set_default(object, &["spec", "podReplacementPolicy"], replacement);
    labels_from_template(object);
    template(object);
}

/// An object without labels takes those of its pods.
fn labels_from_template(object: &mut Value) {
    let own = object::map(object, &["metadata", "labels"]).is_some_and(|own| !own.is_empty());
    let labels = object::at(object, &["spec", "template", "metadata", "labels"]).cloned();
    if let (false, Some(labels)) = (own, labels) {
        object::set(object, &["metadata", "labels"], labels);
    }
}

fn template(object: &mut Value) {
    if let Some(template) = object.pointer_mut("/spec/template") {
        pod_defaults::template(template);
        if template.get("metadata").is_none() {
            object::set(template, &["metadata"], json!({}));
        }
    }
}
