//! Containers of pods and templates.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::pods::Owner;
use super::{Errors, names};
use crate::error::FieldError;
use crate::object;
use crate::schema::quantity::{FORMAT_ERROR, Quantity};

pub(super) const POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const STANDARD_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Which list a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `containers`.
    Main,
    /// `initContainers`.
    Init,
}

/// What is known of the pod around its containers.
pub(super) struct Around<'a> {
    /// Names of the pod's volumes.
    pub(super) volumes: &'a [&'a str],
    /// `hostNetwork`.
    pub(super) host_network: bool,
    pub(super) owner: Owner,
}

/// Validates one list of containers; `seen` are the names of the lists before it.
pub(super) fn list<'a>(
    errors: &mut Errors,
    path: &str,
    containers: &'a [Value],
    (role, around): (Role, &Around<'_>),
    seen: &mut BTreeSet<&'a str>,
) {
    for (index, container) in containers.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = object::text(container, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else {
            errors.grammar(&format!("{path}.name"), name, names::label(name));
            if !seen.insert(name) {
                errors.add(FieldError::duplicate(format!("{path}.name"), &name.into()));
            }
        }
        one(errors, &path, container, role, around);
    }
}

fn one(errors: &mut Errors, path: &str, container: &Value, role: Role, around: &Around<'_>) {
    let image = object::text(container, &["image"]);
    if image.is_empty() {
        errors.required(format!("{path}.image"), "");
    } else if around.owner == Owner::Pod && image.trim() != image {
        let text = "must not have leading or trailing whitespace";
        errors.invalid(format!("{path}.image"), image, text);
    }
    let policy = object::text(container, &["imagePullPolicy"]);
    errors.one_of(&format!("{path}.imagePullPolicy"), policy, &POLICIES);
    let message = object::text(container, &["terminationMessagePolicy"]);
    let words = ["FallbackToLogsOnError", "File"];
    errors.one_of(&format!("{path}.terminationMessagePolicy"), message, &words);
    ports(errors, path, container, around.host_network);
    environment(errors, path, container);
    mounts(errors, path, container, around.volumes);
    resources(errors, &format!("{path}.resources"), object::at(container, &["resources"]));
    let restart = object::at(container, &["restartPolicy"]).and_then(Value::as_str);
    let sidecar = role == Role::Init && restart == Some("Always");
    match restart {
        Some(_) if role == Role::Main => {
            errors.forbidden(
                format!("{path}.restartPolicy"),
                "may not be set for non-init containers",
            );
        }
        Some(policy) if policy != "Always" => {
            let field = format!("{path}.restartPolicy");
            errors.add(FieldError::not_supported(field, &policy.into(), &["Always"]));
        }
        Some(_) | None => {}
    }
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(found) = object::at(container, &[key]) else { continue };
        let path = format!("{path}.{key}");
        if role == Role::Init && !sidecar {
            errors
                .forbidden(path, "may not be set for init containers without restartPolicy=Always");
        } else if key == "lifecycle" {
            lifecycle(errors, &path, found);
        } else {
            probe(errors, &path, key, found);
        }
    }
    security(
        errors,
        &format!("{path}.securityContext"),
        object::at(container, &["securityContext"]),
    );
}

fn ports(errors: &mut Errors, path: &str, container: &Value, host_network: bool) {
    let mut seen = BTreeSet::new();
    for (index, port) in object::list(container, &["ports"]).iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = object::text(port, &["name"]);
        if !name.is_empty() {
            errors.grammar(&format!("{path}.name"), name, names::port_name(name));
            if !seen.insert(name) {
                errors.add(FieldError::duplicate(format!("{path}.name"), &name.into()));
            }
        }
        let number = object::integer(port, &["containerPort"]).unwrap_or(0);
        if number == 0 {
            errors.required(format!("{path}.containerPort"), "");
        } else {
            port_number(errors, &format!("{path}.containerPort"), number);
        }
        if let Some(host) = object::integer(port, &["hostPort"]).filter(|host| *host != 0) {
            port_number(errors, &format!("{path}.hostPort"), host);
            if host_network && host != number {
                let text = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(format!("{path}.containerPort"), number, text);
            }
        }
        errors.one_of(&format!("{path}.protocol"), object::text(port, &["protocol"]), &PROTOCOLS);
    }
}

fn port_number(errors: &mut Errors, path: &str, number: i64) {
    if !(1..=65535).contains(&number) {
        errors.invalid(path, number, "must be between 1 and 65535, inclusive");
    }
}

fn environment(errors: &mut Errors, path: &str, container: &Value) {
    for (index, variable) in object::list(container, &["env"]).iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = object::text(variable, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else {
            errors.grammar(&format!("{path}.name"), name, names::environment(name));
        }
        if let Some(source) = object::at(variable, &["valueFrom"]) {
            value_from(errors, &format!("{path}.valueFrom"), variable, source);
        }
    }
    for (index, source) in object::list(container, &["envFrom"]).iter().enumerate() {
        let path = format!("{path}.envFrom[{index}]");
        let sources: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|key| source.get(key).is_some_and(|value| !value.is_null()))
            .collect();
        match sources.as_slice() {
            [] => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            [one] => reference(errors, &format!("{path}.{one}"), &source[*one], &["name"]),
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(errors: &mut Errors, path: &str, variable: &Value, source: &Value) {
    let keys = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
    let set: Vec<&str> = keys
        .into_iter()
        .filter(|key| source.get(key).is_some_and(|value| !value.is_null()))
        .collect();
    if set.is_empty() {
        let text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                    `secretKeyRef`";
        errors.invalid(path, "", text);
    } else if !object::text(variable, &["value"]).is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if 1 < set.len() {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
    for key in set {
        let (path, value) = (format!("{path}.{key}"), &source[key]);
        match key {
            "fieldRef" => field_reference(errors, &path, value),
            "resourceFieldRef" => reference(errors, &path, value, &["resource"]),
            _ => reference(errors, &path, value, &["name", "key"]),
        }
    }
}

fn reference(errors: &mut Errors, path: &str, value: &Value, keys: &[&str]) {
    for key in keys {
        if object::text(value, &[key]).is_empty() {
            errors.required(format!("{path}.{key}"), "");
        }
    }
}

/// Validates the path of a downward API field of an environment variable.
fn field_reference(errors: &mut Errors, path: &str, value: &Value) {
    let field = object::text(value, &["fieldPath"]);
    if field.is_empty() {
        errors.required(format!("{path}.fieldPath"), "");
        return;
    }
    let keyed = ["metadata.labels['", "metadata.annotations['"];
    if keyed.iter().any(|start| field.starts_with(start) && field.ends_with("']")) {
        return;
    }
    if !FIELD_PATHS.contains(&field) {
        let text = format!("error converting fieldPath: field label not supported: {field}");
        errors.invalid(format!("{path}.fieldPath"), field, &text);
    }
}

fn mounts(errors: &mut Errors, path: &str, container: &Value, volumes: &[&str]) {
    let mut paths = BTreeSet::new();
    for (index, mount) in object::list(container, &["volumeMounts"]).iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = object::text(mount, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if !volumes.contains(&name) {
            errors.add(FieldError::not_found(format!("{path}.name"), &name.into()));
        }
        let place = object::text(mount, &["mountPath"]);
        if place.is_empty() {
            errors.required(format!("{path}.mountPath"), "");
        } else {
            if !paths.insert(place) {
                errors.invalid(format!("{path}.mountPath"), place, "must be unique");
            }
            if place.contains(':') {
                errors.invalid(format!("{path}.mountPath"), place, "must not contain ':'");
            }
        }
        let (sub, expression) =
            (object::text(mount, &["subPath"]), object::text(mount, &["subPathExpr"]));
        if !sub.is_empty() && !expression.is_empty() {
            let field = format!("{path}.subPathExpr");
            errors.invalid(field, expression, "subPathExpr and subPath are mutually exclusive");
        }
        relative(errors, &format!("{path}.subPath"), sub);
        relative(errors, &format!("{path}.subPathExpr"), expression);
    }
}

/// A path below a volume: relative, and never upwards.
pub(super) fn relative(errors: &mut Errors, path: &str, text: &str) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// Validates `resources`.
pub(super) fn resources(errors: &mut Errors, path: &str, resources: Option<&Value>) {
    let Some(resources) = resources else { return };
    let empty = Map::new();
    let amounts = |kind: &str| object::map(resources, &[kind]).unwrap_or(&empty);
    for kind in ["limits", "requests"] {
        for (name, amount) in amounts(kind) {
            let path = format!("{path}.{kind}[{name}]");
            let known =
                STANDARD_RESOURCES.contains(&name.as_str()) || name.starts_with("hugepages-");
            if !known && !name.contains('/') {
                let text = "must be a standard resource type or fully qualified";
                errors.invalid(path.clone(), name.as_str(), text);
            }
            match Quantity::parse(amount.as_str().unwrap_or_default()) {
                None => errors.invalid(path, amount.clone(), FORMAT_ERROR),
                Some(amount) if amount.is_negative() => {
                    errors.invalid(path, amount.canonical(), "must be greater than or equal to 0");
                }
                Some(_) => {}
            }
        }
    }
    for (name, request) in amounts("requests") {
        let parse = |amount: Option<&Value>| Quantity::parse(amount?.as_str()?);
        if let (Some(request), Some(limit)) =
            (parse(Some(request)), parse(amounts("limits").get(name)))
            && request.compare(limit) == Ordering::Greater
        {
            let text =
                format!("must be less than or equal to {name} limit of {}", limit.canonical());
            errors.invalid(format!("{path}.requests"), request.canonical(), &text);
        }
    }
}

fn probe(errors: &mut Errors, path: &str, kind: &str, probe: &Value) {
    handler(errors, path, probe, &HANDLERS);
    let keys = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    errors.not_negative(path, probe, &keys);
    let successes = object::integer(probe, &["successThreshold"]).unwrap_or(1);
    if kind != "readinessProbe" && successes != 1 {
        errors.invalid(format!("{path}.successThreshold"), successes, "must be 1");
    }
    if let Some(seconds) = object::integer(probe, &["terminationGracePeriodSeconds"]) {
        if kind == "readinessProbe" {
            let text = "must not be set for readinessProbes";
            errors.invalid(format!("{path}.terminationGracePeriodSeconds"), seconds, text);
        } else if seconds <= 0 {
            let text = "must be greater than 0";
            errors.invalid(format!("{path}.terminationGracePeriodSeconds"), seconds, text);
        }
    }
}

fn lifecycle(errors: &mut Errors, path: &str, lifecycle: &Value) {
    for hook in ["postStart", "preStop"] {
        if let Some(found) = object::at(lifecycle, &[hook]) {
            handler(
                errors,
                &format!("{path}.{hook}"),
                found,
                &["exec", "httpGet", "tcpSocket", "sleep"],
            );
        }
    }
}

fn handler(errors: &mut Errors, path: &str, handler: &Value, kinds: &[&str]) {
    let set: Vec<&str> =
        kinds.iter().copied().filter(|kind| object::at(handler, &[kind]).is_some()).collect();
    if set.is_empty() {
        errors.required(path, "must specify a handler type");
    }
    for extra in set.iter().skip(1) {
        errors.forbidden(format!("{path}.{extra}"), "may not specify more than 1 handler type");
    }
    for kind in set {
        let value = &handler[kind];
        match kind {
            "exec" if object::list(value, &["command"]).is_empty() => {
                errors.required(format!("{path}.exec.command"), "");
            }
            "httpGet" | "tcpSocket" | "grpc" => {
                port_or_name(errors, &format!("{path}.{kind}.port"), object::at(value, &["port"]));
                let scheme = object::text(value, &["scheme"]);
                if kind == "httpGet" {
                    errors.one_of(&format!("{path}.httpGet.scheme"), scheme, &["HTTP", "HTTPS"]);
                }
            }
            _ => {}
        }
    }
}

fn port_or_name(errors: &mut Errors, path: &str, port: Option<&Value>) {
    match port {
        Some(Value::String(name)) => errors.grammar(path, name, names::port_name(name)),
        Some(number) => port_number(errors, path, number.as_i64().unwrap_or(0)),
        None => port_number(errors, path, 0),
    }
}

/// Validates a container's `securityContext`.
fn security(errors: &mut Errors, path: &str, context: Option<&Value>) {
    let Some(context) = context else { return };
    ids(errors, path, context);
    let flag = |key: &str| object::at(context, &[key]).and_then(Value::as_bool);
    if flag("allowPrivilegeEscalation") == Some(false) {
        if flag("privileged") == Some(true) {
            let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context.clone(), text);
        }
        let added = object::list(context, &["capabilities", "add"]);
        if added.iter().any(|name| matches!(name.as_str(), Some("CAP_SYS_ADMIN"))) {
            let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context.clone(), text);
        }
    }
    seccomp(errors, &format!("{path}.seccompProfile"), object::at(context, &["seccompProfile"]));
}

/// Validates a seccomp profile.
pub(super) fn seccomp(errors: &mut Errors, path: &str, profile: Option<&Value>) {
    let Some(profile) = profile else { return };
    let kind = object::text(profile, &["type"]);
    errors.one_of(&format!("{path}.type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    let file = object::text(profile, &["localhostProfile"]);
    if kind == "Localhost" && file.is_empty() {
        let text = "must be set when seccomp type is Localhost ";
        errors.required(format!("{path}.localhostProfile"), text);
    }
    if kind != "Localhost" && !file.is_empty() {
        let text = "can only be set when seccomp type is Localhost";
        errors.invalid(format!("{path}.localhostProfile"), file, text);
    }
}

/// Validates user and group ids.
pub(super) fn ids(errors: &mut Errors, path: &str, context: &Value) {
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = object::integer(context, &[key])
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            let text = "must be between 0 and 2147483647, inclusive";
            errors.invalid(format!("{path}.{key}"), id, text);
        }
    }
}
