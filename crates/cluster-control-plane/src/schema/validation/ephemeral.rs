//! Ephemeral containers: added to a running pod, never changed, never taken away.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::containers::{self, Around, Role};
use super::pods::Owner;
use super::{Errors, difference};
use crate::error::FieldError;
use crate::object;

const PATH: &str = "spec.ephemeralContainers";
const CANNOT: &str = "cannot be set for an Ephemeral Container";
/// The fields that one may have; what keeps a pod in order is for its own containers.
const ALLOWED: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// Validates a write through the subresource: the containers themselves, and what became of those
/// that were there.
pub(super) fn update(errors: &mut Errors, new: &Value, old: &Value) {
    if object::annotation(old, "kubernetes.io/config.mirror").is_some() {
        errors.forbidden("", "static pods do not support ephemeral containers");
        return;
    }
    list(errors, new);
    let now = object::list(new, &["spec", "ephemeralContainers"]);
    for was in object::list(old, &["spec", "ephemeralContainers"]) {
        let name = object::text(was, &["name"]);
        let is = now.iter().find(|container| object::text(container, &["name"]) == name);
        if is.is_none() {
            let text = format!("existing ephemeral containers {name:?} may not be removed\n");
            errors.forbidden(PATH, &text);
        } else if is != Some(was) {
            let lines = difference(name, Some(was), is);
            let text = format!("existing ephemeral containers {name:?} may not be changed{lines}");
            errors.forbidden(PATH, &text);
        }
    }
}

fn list(errors: &mut Errors, pod: &Value) {
    let of = |list: &str| object::list(pod, &["spec", list]);
    let names = |list: &str| -> Vec<&str> {
        of(list).iter().map(|one| object::text(one, &["name"])).collect()
    };
    let targets = [names("initContainers"), names("containers")].concat();
    let mut seen: BTreeSet<&str> = targets.iter().copied().collect();
    let volumes = names("volumes");
    let host_network = object::at(pod, &["spec", "hostNetwork"]) == Some(&Value::Bool(true));
    let around = Around { volumes: &volumes, host_network, owner: Owner::Pod };
    let stripped: Vec<Value> = of("ephemeralContainers").iter().map(allowed).collect();
    containers::list(errors, PATH, &stripped, (Role::Main, &around), &mut seen);
    for (index, container) in of("ephemeralContainers").iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        let keys = container.as_object().into_iter().flat_map(Map::keys);
        for key in keys.filter(|key| !ALLOWED.contains(&key.as_str())) {
            if !is_unset(object::at(container, &[key])) {
                errors.forbidden(format!("{path}.{key}"), CANNOT);
            }
        }
        for (at, mount) in object::list(container, &["volumeMounts"]).iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !object::text(mount, &[key]).is_empty() {
                    errors.forbidden(format!("{path}.volumeMounts[{at}].{key}"), CANNOT);
                }
            }
        }
        let target = object::text(container, &["targetContainerName"]);
        if !target.is_empty() && !targets.contains(&target) {
            let field = format!("{path}.targetContainerName");
            errors.add(FieldError::not_found(field, &target.into()));
        }
    }
}

/// The container without the fields that it may not have, which have an error of their own.
fn allowed(container: &Value) -> Value {
    let fields = container.as_object().into_iter().flatten();
    let kept = fields.filter(|(key, _)| ALLOWED.contains(&key.as_str()));
    Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Whether a field is as if it had not been written.
fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(ephemeral: Value) -> Value {
        json!({"spec": {
            "containers": [{"name": "app", "image": "i"}],
            "ephemeralContainers": ephemeral,
        }})
    }

    fn container(name: &str, more: Value) -> Value {
        let mut container = json!({
            "name": name, "image": "busybox", "imagePullPolicy": "Always", "resources": {},
            "terminationMessagePolicy": "File",
        });
        json_patch::merge(&mut container, &more);
        container
    }

    fn texts(new: Value, old: Value) -> Vec<String> {
        let mut errors = Errors::default();
        update(&mut errors, &new, &old);
        errors.list.iter().map(FieldError::to_string).collect()
    }

    fn added(more: Value) -> Vec<String> {
        texts(pod(json!([container("debug", more)])), pod(json!([])))
    }

    #[test]
    fn one_may_be_added_and_aim_at_a_container() {
        assert!(added(json!({})).is_empty());
        assert!(
            added(json!({"targetContainerName": "app", "stdin": true, "tty": true})).is_empty()
        );
        assert_eq!(
            added(json!({"targetContainerName": "nobody"})),
            ["spec.ephemeralContainers[0].targetContainerName: Not found: \"nobody\""]
        );
        assert_eq!(
            added(json!({"name": "app"})),
            ["spec.ephemeralContainers[0].name: Duplicate value: \"app\""]
        );
        assert_eq!(
            added(json!({"image": ""})),
            ["spec.ephemeralContainers[0].image: Required value"]
        );
    }

    #[test]
    fn what_keeps_a_pod_in_order_is_for_its_own_containers() {
        for (field, value) in [
            ("ports", json!([{"containerPort": 80, "protocol": "TCP"}])),
            ("livenessProbe", json!({"tcpSocket": {"port": 80}})),
            ("lifecycle", json!({"preStop": {"exec": {"command": ["x"]}}})),
            ("resources", json!({"limits": {"cpu": "1"}})),
            ("restartPolicy", json!("Always")),
        ] {
            let expected = format!("spec.ephemeralContainers[0].{field}: Forbidden: {CANNOT}");
            assert_eq!(added(json!({field: value})), [expected]);
        }
    }

    #[test]
    fn those_that_exist_are_neither_changed_nor_removed() {
        let old = || pod(json!([container("a", json!({}))]));
        let both = pod(json!([container("b", json!({})), container("a", json!({}))]));
        assert!(texts(both, old()).is_empty(), "order is free");
        assert_eq!(
            texts(pod(json!([])), old()),
            [
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not be \
              removed\n"
            ]
        );
        let changed = texts(pod(json!([container("a", json!({"image": "other"}))])), old());
        assert!(
            changed[0].starts_with(
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not \
                 be changed\n"
            ),
            "{changed:?}"
        );
    }

    #[test]
    fn pods_of_the_nodes_files_take_none() {
        let mut old = pod(json!([]));
        object::set(&mut old, &["metadata", "annotations", "kubernetes.io/config.mirror"], "x");
        assert_eq!(
            texts(old.clone(), old),
            [": Forbidden: static pods do not support ephemeral containers"]
        );
    }
}
