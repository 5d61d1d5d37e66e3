//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::containers::{self, Around, Role};
use super::{Errors, difference, metadata, names, volumes};
use crate::error::FieldError;
use crate::object;

const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
/// What an update of a pod may change, in upstream's words.
const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
    to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
    was previously negative)";

/// Whether a pod spec is a pod's already: some mistakes of a template show only in its pods
/// (kubelet-images.md 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Pod,
    Template,
}

/// Validates a pod.
pub(super) fn validate(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    if let Some(spec) = new.get("spec") {
        self::spec(errors, "spec", spec, Owner::Pod);
    } else {
        errors.required("spec.containers", "");
    }
    match old {
        Some(old) => update(errors, new, old),
        None if !object::list(new, &["spec", "ephemeralContainers"]).is_empty() => {
            errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
        None => {}
    }
}

/// Validates a template, its labels and annotations included.
pub(super) fn template(errors: &mut Errors, path: &str, template: &Value) {
    let labels = object::at(template, &["metadata", "labels"]);
    metadata::labels(errors, &format!("{path}.metadata.labels"), labels);
    let annotations = object::at(template, &["metadata", "annotations"]);
    metadata::annotations(errors, &format!("{path}.metadata.annotations"), annotations);
    let empty = json!({});
    let found = template.get("spec").unwrap_or(&empty);
    spec(errors, &format!("{path}.spec"), found, Owner::Template);
    if !object::list(template, &["spec", "ephemeralContainers"]).is_empty() {
        let field = format!("{path}.spec.ephemeralContainers");
        errors.forbidden(field, "ephemeral containers not allowed in pod template");
    }
}

fn spec(errors: &mut Errors, path: &str, spec: &Value, owner: Owner) {
    let text = |key: &str| object::text(spec, &[key]);
    volumes::list(errors, &format!("{path}.volumes"), object::list(spec, &["volumes"]), owner);
    let names: Vec<&str> = object::list(spec, &["volumes"])
        .iter()
        .map(|volume| object::text(volume, &["name"]))
        .collect();
    let host_network = object::at(spec, &["hostNetwork"]) == Some(&Value::Bool(true));
    let around = Around { volumes: &names, host_network, owner };
    let mut seen = BTreeSet::new();
    let main = object::list(spec, &["containers"]);
    if main.is_empty() {
        errors.required(format!("{path}.containers"), "");
    }
    let init = object::list(spec, &["initContainers"]);
    containers::list(errors, &format!("{path}.containers"), main, (Role::Main, &around), &mut seen);
    containers::list(
        errors,
        &format!("{path}.initContainers"),
        init,
        (Role::Init, &around),
        &mut seen,
    );
    host_ports(errors, &format!("{path}.containers"), main);
    errors.one_of(&format!("{path}.restartPolicy"), text("restartPolicy"), &RESTART_POLICIES);
    errors.one_of(&format!("{path}.dnsPolicy"), text("dnsPolicy"), &DNS_POLICIES);
    metadata::labels(errors, &format!("{path}.nodeSelector"), object::at(spec, &["nodeSelector"]));
    for key in ["serviceAccountName", "nodeName", "priorityClassName"] {
        let name = text(key);
        if !name.is_empty() {
            errors.grammar(&format!("{path}.{key}"), name, names::subdomain(name));
        }
    }
    for key in ["hostname", "subdomain"] {
        let name = text(key);
        if !name.is_empty() {
            errors.grammar(&format!("{path}.{key}"), name, names::label(name));
        }
    }
    if let Some(seconds) = object::integer(spec, &["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let text = "must be between 1 and 2147483647, inclusive";
        errors.invalid(format!("{path}.activeDeadlineSeconds"), seconds, text);
    }
    if let Some(context) = object::at(spec, &["securityContext"]) {
        let path = format!("{path}.securityContext");
        containers::ids(errors, &path, context);
        let profile = object::at(context, &["seccompProfile"]);
        containers::seccomp(errors, &format!("{path}.seccompProfile"), profile);
    }
    tolerations(errors, &format!("{path}.tolerations"), object::list(spec, &["tolerations"]));
}

/// One port of the host can serve one container.
fn host_ports(errors: &mut Errors, path: &str, containers: &[Value]) {
    let mut taken = BTreeSet::new();
    for (at, container) in containers.iter().enumerate() {
        for (index, port) in object::list(container, &["ports"]).iter().enumerate() {
            let Some(number) = object::integer(port, &["hostPort"]).filter(|port| *port != 0)
            else {
                continue;
            };
            let text = |key: &str| object::text(port, &[key]);
            let place = format!("{}/{}/{number}", text("protocol"), text("hostIP"));
            if !taken.insert(place.clone()) {
                let field = format!("{path}[{at}].ports[{index}].hostPort");
                errors.add(FieldError::duplicate(field, &place.into()));
            }
        }
    }
}

fn tolerations(errors: &mut Errors, path: &str, tolerations: &[Value]) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let text = |key: &str| object::text(toleration, &[key]);
        if !text("key").is_empty() {
            errors.grammar(&format!("{path}.key"), text("key"), names::qualified(text("key")));
        } else if text("operator") != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values \
                          and all keys\"";
            errors.invalid(format!("{path}.operator"), text("operator"), detail);
        }
        if toleration.get("tolerationSeconds").is_some() && text("effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(format!("{path}.effect"), text("effect"), detail);
        }
        match text("operator") {
            "" | "Equal" => {}
            "Exists" if text("value").is_empty() => {}
            "Exists" => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.invalid(format!("{path}.operator"), toleration.clone(), detail);
            }
            other => {
                let field = format!("{path}.operator");
                errors.add(FieldError::not_supported(field, &other.into(), &["Equal", "Exists"]));
            }
        }
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        if !text("effect").is_empty() && !effects.contains(&text("effect")) {
            let field = format!("{path}.effect");
            errors.add(FieldError::not_supported(field, &text("effect").into(), &effects));
        }
    }
}

fn update(errors: &mut Errors, new: &Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        let count = |pod: &Value| object::list(pod, &["spec", list]).len();
        if count(new) != count(old) {
            let text = "pod updates may not add or remove containers";
            errors.forbidden(format!("spec.{list}"), text);
            return;
        }
    }
    deadline(errors, new, old);
    let (is, was) =
        (object::list(new, &["spec", "tolerations"]), object::list(old, &["spec", "tolerations"]));
    let same = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|key| a.get(key) == b.get(key))
    };
    if was.iter().any(|old| !is.iter().any(|new| same(old, new))) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden("spec.tolerations", text);
    }
    let (new, old) = (munged(new, old), old.get("spec").cloned().unwrap_or_default());
    if new != old {
        let lines = difference("spec", Some(&old), Some(&new));
        errors.forbidden("spec", &format!("{MUTABLE}{lines}"));
    }
}

/// A deadline may be set or lowered.
fn deadline(errors: &mut Errors, new: &Value, old: &Value) {
    let of = |pod: &Value| object::integer(pod, &["spec", "activeDeadlineSeconds"]);
    match (of(new), of(old)) {
        (Some(new), Some(old)) if old < new => {
            let text = format!("must be less than or equal to previous value {old}");
            errors.invalid("spec.activeDeadlineSeconds", new, &text);
        }
        (None, Some(_)) => {
            let text = "must not update from a positive integer to nil value";
            errors.invalid("spec.activeDeadlineSeconds", Value::Null, text);
        }
        _ => {}
    }
}

/// The new spec with everything an update may change put back.
fn munged(new: &Value, old: &Value) -> Value {
    let mut spec = new.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        let before = object::list(old, &["spec", list]).to_vec();
        let now = spec.get_mut(list).and_then(Value::as_array_mut);
        for (container, before) in now.into_iter().flatten().zip(before) {
            match before.get("image") {
                Some(image) => object::set(container, &["image"], image.clone()),
                None => drop(object::remove(container, &["image"])),
            }
        }
    }
    let grace = |value: Option<&Value>| value.and_then(Value::as_i64);
    let was = grace(object::at(old, &["spec", "terminationGracePeriodSeconds"]));
    let lifted = was.is_some_and(|was| was < 0)
        && grace(spec.get("terminationGracePeriodSeconds")) == Some(1);
    let mut restored = vec!["activeDeadlineSeconds", "tolerations"];
    restored.extend(lifted.then_some("terminationGracePeriodSeconds"));
    for key in restored {
        match object::at(old, &["spec", key]) {
            Some(value) => object::set(&mut spec, &[key], value.clone()),
            None => drop(object::remove(&mut spec, &[key])),
        }
    }
    spec
}
