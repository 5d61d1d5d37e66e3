//! Cells of every kind but pods and workloads.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{pods, workloads};
use crate::object::{
    annotation, at, human_duration, integer, is_deleting, list, map, name, text, time,
};
use crate::resources::Resource;

/// The cells of one object, as many as its kind has columns.
pub(super) fn of(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    match resource.kind {
        "Pod" => pods::cells(object, now),
        "Job" => workloads::job(object, now),
        "Deployment" => workloads::deployment(object, now),
        "ReplicaSet" | "ReplicationController" => workloads::replicas(object, now),
        "Secret" => {
            vec![
                json!(name(object)),
                json!(text(object, &["type"])),
                count(object, &["data"]),
                age(object, now),
            ]
        }
        "ConfigMap" => config_map(object, now),
        "ServiceAccount" => {
            vec![json!(name(object)), json!(list(object, &["secrets"]).len()), age(object, now)]
        }
        "Event" => event(object, now),
        "Node" => node(object, now),
        "Namespace" => {
            vec![json!(name(object)), json!(text(object, &["status", "phase"])), age(object, now)]
        }
        "PersistentVolumeClaim" => claim(object, now),
        "PersistentVolume" => volume(object, now),
        "StorageClass" => storage_class(object, now),
        "Lease" => {
            vec![
                json!(name(object)),
                json!(text(object, &["spec", "holderIdentity"])),
                age(object, now),
            ]
        }
        _ => vec![json!(name(object)), age(object, now)],
    }
}

/// Time since creation.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    json!(since(object, &["metadata", "creationTimestamp"], now))
}

/// Time since the time at a path, `<unknown>` when there is none.
pub(super) fn since(object: &Value, path: &[&str], now: Timestamp) -> String {
    match time(object, path) {
        Some(then) => human_duration(now.duration_since(then)),
        None => "<unknown>".to_owned(),
    }
}

/// The text at a path, or `missing` when empty.
pub(super) fn text_or(object: &Value, path: &[&str], missing: &str) -> Value {
    match text(object, path) {
        "" => json!(missing),
        found => json!(found),
    }
}

fn count(object: &Value, path: &[&str]) -> Value {
    json!(map(object, path).map_or(0, Map::len))
}

fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let keys = map(object, &["data"]).map_or(0, Map::len)
        + map(object, &["binaryData"]).map_or(0, Map::len);
    vec![json!(name(object)), json!(keys), age(object, now)]
}

fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first = if at(object, &["firstTimestamp"]).is_some() {
        since(object, &["firstTimestamp"], now)
    } else {
        since(object, &["eventTime"], now)
    };
    let last = if at(object, &["series", "lastObservedTime"]).is_some() {
        since(object, &["series", "lastObservedTime"], now)
    } else if at(object, &["lastTimestamp"]).is_some() {
        since(object, &["lastTimestamp"], now)
    } else {
        first.clone()
    };
    let count =
        integer(object, &["series", "count"]).or(integer(object, &["count"])).unwrap_or(0).max(1);
    let regarding =
        if at(object, &["involvedObject"]).is_some() { "involvedObject" } else { "regarding" };
    let kind = text(object, &[regarding, "kind"]).to_lowercase();
    let target = match text(object, &[regarding, "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let message = text(object, &["message"]);
    let message = if message.is_empty() { text(object, &["note"]) } else { message };
    let component = match text(object, &["source", "component"]) {
        "" => text(object, &["reportingComponent"]),
        component => component,
    };
    let source = match text(object, &["source", "host"]) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    vec![
        json!(last),
        json!(text(object, &["type"])),
        json!(text(object, &["reason"])),
        json!(target),
        json!(text(object, &[regarding, "fieldPath"])),
        json!(source),
        json!(message.trim()),
        json!(first),
        json!(count),
        json!(name(object)),
    ]
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = crate::object::condition(object, "Ready");
    let mut status = match ready.map(|condition| text(condition, &["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if at(object, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = list(object, &["status", "addresses"])
            .iter()
            .find(|address| text(address, &["type"]) == kind);
        json!(found.map_or("<none>", |address| text(address, &["address"])))
    };
    let info = |key: &str| text_or(object, &["status", "nodeInfo", key], "<unknown>");
    vec![
        json!(name(object)),
        json!(status),
        json!(roles(object)),
        age(object, now),
        json!(text(object, &["status", "nodeInfo", "kubeletVersion"])),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = map(node, &["metadata", "labels"])
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            Some(_) => None,
            None if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

/// `RWO,ROX` for access modes.
fn access_modes(modes: &[Value]) -> String {
    let short: Vec<&str> = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]
        .iter()
        .zip(["RWO", "ROX", "RWX", "RWOP"])
        .filter(|(long, _)| modes.iter().any(|mode| mode == **long))
        .map(|(_, short)| short)
        .collect();
    short.join(",")
}

fn phase(object: &Value) -> &str {
    if is_deleting(object) { "Terminating" } else { text(object, &["status", "phase"]) }
}

fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = text(object, &["spec", "volumeName"]);
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (
            text(object, &["status", "capacity", "storage"]),
            access_modes(list(object, &["status", "accessModes"])),
        )
    };
    let class = match annotation(object, "volume.beta.kubernetes.io/storage-class") {
        Some(class) => class,
        None => text(object, &["spec", "storageClassName"]),
    };
    vec![
        json!(name(object)),
        json!(phase(object)),
        json!(volume),
        json!(capacity),
        json!(modes),
        json!(class),
        text_or(object, &["spec", "volumeAttributesClassName"], "<unset>"),
        age(object, now),
        text_or(object, &["spec", "volumeMode"], "<unset>"),
    ]
}

fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match at(object, &["spec", "claimRef"]) {
        Some(claim) => format!("{}/{}", text(claim, &["namespace"]), text(claim, &["name"])),
        None => String::new(),
    };
    vec![
        json!(name(object)),
        json!(text(object, &["spec", "capacity", "storage"])),
        json!(access_modes(list(object, &["spec", "accessModes"]))),
        json!(text(object, &["spec", "persistentVolumeReclaimPolicy"])),
        json!(phase(object)),
        json!(claim),
        json!(text(object, &["spec", "storageClassName"])),
        text_or(object, &["spec", "volumeAttributesClassName"], "<unset>"),
        json!(text(object, &["status", "reason"])),
        age(object, now),
        text_or(object, &["spec", "volumeMode"], "<unset>"),
    ]
}

fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotation(object, key) == Some("true"));
    let shown =
        if default { format!("{} (default)", name(object)) } else { name(object).to_owned() };
    vec![
        json!(shown),
        json!(text(object, &["provisioner"])),
        text_or(object, &["reclaimPolicy"], "Delete"),
        text_or(object, &["volumeBindingMode"], "Immediate"),
        json!(at(object, &["allowVolumeExpansion"]) == Some(&Value::Bool(true))),
        age(object, now),
    ]
}
