//! Defaults of pods and pod templates (core/v1 `defaults.go`).

use image_policy::PullPolicy;
use serde_json::{Map, Value, json};

use crate::object;

/// Mode of projected files unless told otherwise (0644).
const FILE_MODE: u32 = 0o644;
/// Lifetime of a projected token unless told otherwise, in seconds.
const TOKEN_SECONDS: u32 = 3600;

/// Fills the defaults of a pod.
pub(super) fn pod(object: &mut Value) {
    object::set_default(object, &["spec", "enableServiceLinks"], true);
    object::set_default(object, &["status", "phase"], "Pending");
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    fill_spec(spec);
    for list in ["initContainers", "containers"] {
        for container in members(spec, list) {
            requests_from_limits(container);
        }
    }
}

/// Fills the defaults of a template; its requests stay as written.
pub(super) fn template(object: &mut Value) {
    object::set_default(object, &["spec"], json!({}));
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        fill_spec(spec);
    }
}

fn fill_spec(spec: &mut Map<String, Value>) {
    let set = |spec: &mut Map<String, Value>, key: &str, value: Value| {
        if spec.get(key).is_none_or(Value::is_null) {
            spec.insert(key.to_owned(), value);
        }
    };
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "schedulerName", json!("default-scheduler"));
    mirror_service_account(spec);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for one in members(spec, list) {
            container(one, host_network);
        }
    }
    for one in members(spec, "volumes") {
        volume(one);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always shown.
fn mirror_service_account(spec: &mut Map<String, Value>) {
    let of = |key: &str| spec.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = of("serviceAccountName").or_else(|| of("serviceAccount")).map(str::to_owned);
    if let Some(name) = name {
        spec.insert("serviceAccountName".to_owned(), json!(name));
        spec.insert("serviceAccount".to_owned(), json!(name));
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = PullPolicy::default_for(image).as_str();
    set_text(container, "imagePullPolicy", policy);
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    container.entry("resources").or_insert_with(|| json!({}));
    for port in members(container, "ports") {
        set_text(port, "protocol", "TCP");
        let number = port.get("containerPort").cloned();
        if let (true, Some(number)) = (host_network, number) {
            port.entry("hostPort").or_insert(number);
        }
    }
    for variable in members(container, "env") {
        if let Some(Value::Object(source)) = variable.get_mut("valueFrom") {
            downward_source(source);
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(found)) = container.get_mut(key) {
            probe(found);
        }
    }
    for hook in ["postStart", "preStop"] {
        let found = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook));
        if let Some(Value::Object(handler)) = found {
            http_get(handler);
        }
    }
}

fn probe(probe: &mut Map<String, Value>) {
    for (key, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        let unset = probe.get(key).and_then(Value::as_i64).unwrap_or(0) == 0;
        if unset {
            probe.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
        grpc.entry("service").or_insert_with(|| json!(""));
    }
    http_get(probe);
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = handler.get_mut("httpGet") {
        set_text(get, "path", "/");
        set_text(get, "scheme", "HTTP");
    }
}

fn downward_source(source: &mut Map<String, Value>) {
    if let Some(Value::Object(field)) = source.get_mut("fieldRef") {
        set_text(field, "apiVersion", "v1");
    }
    if let Some(Value::Object(field)) = source.get_mut("resourceFieldRef") {
        set_text(field, "divisor", "0");
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(Value::Object(source)) = volume.get_mut(key) {
            source.entry("defaultMode").or_insert_with(|| json!(FILE_MODE));
            for item in members(source, "items") {
                downward_source(item);
            }
        }
    }
    if let Some(Value::Object(projected)) = volume.get_mut("projected") {
        for source in members(projected, "sources") {
            if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
                token.entry("expirationSeconds").or_insert_with(|| json!(TOKEN_SECONDS));
            }
            if let Some(Value::Object(downward)) = source.get_mut("downwardAPI") {
                for item in members(downward, "items") {
                    downward_source(item);
                }
            }
        }
    }
    if let Some(Value::Object(host_path)) = volume.get_mut("hostPath") {
        host_path.entry("type").or_insert_with(|| json!(""));
    }
    if let Some(Value::Object(image)) = volume.get_mut("image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = PullPolicy::default_for(reference).as_str();
        set_text(image, "pullPolicy", policy);
    }
    if let Some(claim) = volume.get_mut("ephemeral").and_then(|e| e.get_mut("volumeClaimTemplate"))
    {
        object::set_default(claim, &["spec", "volumeMode"], "Filesystem");
    }
}

/// A limit without a request asks for as much as it allows.
fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Value::Object(requests) = requests {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Sets a text that is missing or empty.
fn set_text(map: &mut Map<String, Value>, key: &str, text: &str) {
    if map.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
        map.insert(key.to_owned(), json!(text));
    }
}

/// The objects of a list.
fn members<'a>(
    map: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(list)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}
