use super::*;
use crate::patch::managed::{read, track};
use crate::resources::{CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICE_ACCOUNTS};

fn writer(name: &str) -> FieldManager<'_> {
    FieldManager { name, subresource: "", at: jiff::Timestamp::UNIX_EPOCH }
}

fn applied(
    resource: &'static Resource,
    live: Option<&Value>,
    name: &str,
    configuration: Value,
) -> Result<Value, ApiError> {
    apply(resource, live, &configuration, &writer(name), OnConflict::Refuse)
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

fn owners(object: &Value) -> Vec<(String, String)> {
    read(object)
        .iter()
        .map(|entry| {
            let paths: Vec<String> =
                entry.fields.members().iter().map(|path| display(path)).collect();
            (entry.manager.clone(), paths.join(" "))
        })
        .collect()
}

fn own(manager: &str, paths: &str) -> (String, String) {
    (manager.to_owned(), paths.to_owned())
}

// mini-kubernetes.md 14, row 44.
#[test]
fn field_no_longer_applied_goes_unless_somebody_owns_it() {
    let first =
        applied(&CONFIG_MAPS, None, "a", map(json!({"x": "1", "y": "2"}))).expect("applies");
    assert_eq!(owners(&first), [own("a", ".data.x .data.y")]);
    let shared = applied(&CONFIG_MAPS, Some(&first), "b", map(json!({"y": "2"}))).expect("applies");
    let next = applied(&CONFIG_MAPS, Some(&shared), "a", map(json!({"z": "3"}))).expect("applies");
    assert_eq!(next["data"], json!({"y": "2", "z": "3"}));
    assert_eq!(owners(&next), [own("a", ".data.z"), own("b", ".data.y")]);
    let gone = applied(&CONFIG_MAPS, Some(&next), "b", map(json!({}))).expect("applies");
    assert_eq!(gone["data"], json!({"z": "3"}));
}

#[test]
fn other_value_of_an_owned_field_is_a_conflict_that_force_wins() {
    let first =
        applied(&CONFIG_MAPS, None, "a", map(json!({"x": "1", "y": "1"}))).expect("applies");
    let one =
        applied(&CONFIG_MAPS, Some(&first), "b", map(json!({"x": "2"}))).expect_err("conflict");
    assert_eq!(one.message, "Apply failed with 1 conflict: conflict with \"a\": .data.x");
    assert_eq!(one.reason, Reason::Conflict);
    assert_eq!(one.causes[0].reason, "FieldManagerConflict");
    assert_eq!(one.causes[0].message, "conflict with \"a\"");
    assert_eq!(one.causes[0].field, ".data.x");
    let both = map(json!({"x": "2", "y": "2"}));
    let two = applied(&CONFIG_MAPS, Some(&first), "b", both.clone()).expect_err("conflicts");
    assert_eq!(
        two.message,
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.x\n- .data.y"
    );
    let forced = apply(&CONFIG_MAPS, Some(&first), &both, &writer("b"), OnConflict::Force)
        .expect("force applies");
    assert_eq!(forced["data"], json!({"x": "2", "y": "2"}));
    assert_eq!(owners(&forced), [own("b", ".data.x .data.y")]);
}

#[test]
fn update_takes_over_what_it_changes() {
    let live = applied(&CONFIG_MAPS, None, "a", map(json!({"x": "1", "y": "1"}))).expect("applies");
    let mut new = live.clone();
    new["data"]["x"] = json!("9");
    track(&CONFIG_MAPS, Some(&live), &mut new, &writer("kubectl-edit"));
    assert_eq!(owners(&new), [own("a", ".data.y"), own("kubectl-edit", ".data.x")]);
    let refused = applied(&CONFIG_MAPS, Some(&new), "a", map(json!({"x": "1", "y": "1"})));
    assert_eq!(
        refused.expect_err("conflict").message,
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.x"
    );
    let mut less = new.clone();
    less["data"].as_object_mut().expect("a map").remove("y");
    track(&CONFIG_MAPS, Some(&new), &mut less, &writer("kubectl-edit"));
    assert_eq!(owners(&less), [own("kubectl-edit", ".data.x")]);
}

#[test]
fn two_managers_share_a_keyed_list() {
    let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
    let first =
        applied(&PODS, None, "a", pod(json!([{"name": "a", "image": "1"}]))).expect("applies");
    let port = json!([{"containerPort": 80}]);
    let second = json!([{"name": "b", "image": "2"}, {"name": "a", "ports": port}]);
    let both = applied(&PODS, Some(&first), "b", pod(second)).expect("applies");
    assert_eq!(
        both["spec"]["containers"],
        json!([{"name": "b", "image": "2"}, {"name": "a", "image": "1", "ports": port}])
    );
    let paths = owners(&both);
    assert!(paths[1].1.contains(
        ".spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"].containerPort"
    ));
    // The second manager lets both go; what the first owns stays.
    let alone = applied(&PODS, Some(&both), "b", pod(json!([]))).expect("applies");
    assert_eq!(alone["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
}

// kubelet-images.md 6: the list of a service account is one value.
#[test]
fn pull_secrets_of_a_service_account_conflict_as_a_whole() {
    let account = |secrets: Value| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}, "imagePullSecrets": secrets});
    let first =
        applied(&SERVICE_ACCOUNTS, None, "a", account(json!([{"name": "x"}]))).expect("applies");
    let refused = applied(&SERVICE_ACCOUNTS, Some(&first), "b", account(json!([{"name": "y"}])));
    assert_eq!(
        refused.expect_err("conflict").message,
        "Apply failed with 1 conflict: conflict with \"a\": .imagePullSecrets"
    );
}

#[test]
fn repeated_apply_changes_nothing() {
    let first = applied(&CONFIG_MAPS, None, "a", map(json!({"x": "1"}))).expect("applies");
    let later =
        FieldManager { at: jiff::Timestamp::from_second(99).expect("a time"), ..writer("a") };
    let again =
        apply(&CONFIG_MAPS, Some(&first), &map(json!({"x": "1"})), &later, OnConflict::Refuse)
            .expect("applies");
    assert_eq!(again, first);
}

#[test]
fn status_and_identity_are_nobodys_on_the_main_resource() {
    let mut created = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "uid": "u", "labels": {"a": "b"}},
        "spec": {"replicas": 1}, "status": {"replicas": 1},
    });
    track(&DEPLOYMENTS, None, &mut created, &writer("kubectl-create"));
    assert_eq!(
        created["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:replicas": {}}})
    );
}

#[test]
fn many_updaters_are_joined_into_ancient_changes() {
    let mut object = map(json!({}));
    for index in 0..13 {
        let old = object.clone();
        object["data"][format!("k{index}")] = json!("v");
        let name = format!("m{index:02}");
        let at = jiff::Timestamp::from_second(index).expect("a time");
        track(&CONFIG_MAPS, Some(&old), &mut object, &FieldManager { at, ..writer(&name) });
    }
    let names: Vec<String> = read(&object).into_iter().map(|entry| entry.manager).collect();
    assert_eq!(names.len(), 10);
    assert_eq!(names[0], "ancient-changes");
    assert_eq!(names[9], "m12");
}
