use super::*;
use serde_json::json;

fn patched(kind: &str, current: Value, patch: Value) -> Value {
    let found = types::by_name(kind).expect("the type is in the table");
    let mut object = current;
    apply(found, &mut object, &patch).expect("the patch applies");
    object
}

fn pod_spec(current: Value, patch: Value) -> Value {
    patched("core.v1.PodSpec", current, patch)
}

// mini-kubernetes.md 14, row 39.
#[test]
fn keyed_lists_merge_and_others_are_replaced() {
    let rows = [
        // Containers by name, their env by name, command as a whole.
        (
            json!({"containers": [{"name": "a", "image": "1", "command": ["x"], "env": [{"name": "E", "value": "1"}]}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2", "command": ["y"], "env": [{"name": "F", "value": "2"}]}]}),
            json!({"containers": [{"name": "a", "image": "2", "command": ["y"], "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]}, {"name": "b"}]}),
        ),
        // Ports by containerPort.
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]}]}),
        ),
        // Delete one, replace one.
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "tty": true, "$patch": "replace"}]}),
            json!({"containers": [{"name": "b", "tty": true}]}),
        ),
        // Replace the list.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        // Pull secrets of a pod merge by name.
        (
            json!({"imagePullSecrets": [{"name": "a"}]}),
            json!({"imagePullSecrets": [{"name": "b"}]}),
            json!({"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}),
        ),
        // Tolerations have no key.
        (
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        // A volume changes its source: the old one is not retained.
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        ),
        // Null deletes a field; a map is replaced on request.
        (
            json!({"nodeName": "n", "nodeSelector": {"a": "b"}}),
            json!({"nodeName": null, "nodeSelector": {"$patch": "replace", "c": "d"}}),
            json!({"nodeSelector": {"c": "d"}}),
        ),
        (
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "delete"}}),
            json!({}),
        ),
    ];
    for (current, patch, expected) in rows {
        assert_eq!(pod_spec(current, patch.clone()), expected, "{patch}");
    }
}

// kubelet-images.md 15.8, S11; mini-kubernetes.md 14, row 41.
#[test]
fn pull_secrets_of_a_service_account_are_replaced() {
    let current =
        json!({"imagePullSecrets": [{"name": "a"}, {"name": "b"}], "secrets": [{"name": "s"}]});
    let patch = json!({"imagePullSecrets": [{"name": "c"}], "secrets": [{"name": "t"}]});
    assert_eq!(
        patched("core.v1.ServiceAccount", current, patch),
        json!({"imagePullSecrets": [{"name": "c"}], "secrets": [{"name": "s"}, {"name": "t"}]})
    );
}

#[test]
fn finalizers_join_and_leave_as_scalars() {
    let current = json!({"finalizers": ["a", "b"]});
    let added = patched("meta.v1.ObjectMeta", current.clone(), json!({"finalizers": ["b", "c"]}));
    assert_eq!(added, json!({"finalizers": ["a", "b", "c"]}));
    let removed = patched(
        "meta.v1.ObjectMeta",
        current,
        json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}),
    );
    assert_eq!(removed, json!({"finalizers": ["b"]}));
}

// What `kubectl edit` and `kubectl apply` send.
#[test]
fn element_order_sorts_and_keeps_items_of_others_in_place() {
    let current = json!({"env": [{"name": "server"}, {"name": "a"}, {"name": "b"}]});
    let patch = json!({
        "$setElementOrder/env": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
        "env": [{"name": "c", "value": "1"}],
    });
    assert_eq!(
        patched("core.v1.Container", current, patch),
        json!({"env": [{"name": "server"}, {"name": "b"}, {"name": "c", "value": "1"}, {"name": "a"}]})
    );
    let swapped = patched(
        "core.v1.Container",
        json!({"env": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/env": [{"name": "b"}, {"name": "a"}]}),
    );
    assert_eq!(swapped, json!({"env": [{"name": "b"}, {"name": "a"}]}));
}

#[test]
fn strategy_of_a_deployment_retains_only_its_type() {
    let current = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
    let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
    assert_eq!(
        patched("apps.v1.DeploymentSpec", current, patch),
        json!({"strategy": {"type": "Recreate"}})
    );
}

#[test]
fn conditions_merge_by_type() {
    let current = json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other"}]});
    let patch = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(
        patched("core.v1.PodStatus", current, patch),
        json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]})
    );
}

#[test]
fn item_without_its_key_and_unknown_directives_are_refused() {
    let found = types::by_name("core.v1.PodSpec").expect("pods are in the table");
    let refused = |patch: Value| apply(found, &mut json!({}), &patch).expect_err("refused");
    assert_eq!(
        refused(json!({"containers": [{"image": "x"}]})),
        PatchError::MissingMergeKey { key: "name", item: "{\"image\":\"x\"}".to_owned() }
    );
    assert_eq!(
        refused(json!({"$patch": "explode"})),
        PatchError::UnknownDirective("explode".to_owned())
    );
}
