use serde_json::json;

use super::*;

const NODE: NodeFacts = NodeFacts {
    ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    cpu_milli: 1000,
    memory_bytes: 1 << 30,
    disk_bytes: 1 << 30,
};

fn data(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, Vec<u8>>> {
    Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
}

fn objects() -> Objects {
    Objects {
        secrets: [
            ("s".to_owned(), data(&[("key", "v"), ("bad\u{e9}", "x")])),
            ("gone".to_owned(), None),
        ]
        .into(),
        config_maps: [
            ("m".to_owned(), data(&[("A", "from-map"), ("B", "b")])),
            ("gone".to_owned(), None),
        ]
        .into(),
    }
}

fn build(container: serde_json::Value) -> Result<Environment, EnvironmentError> {
    let mut container = container;
    container["name"] = json!("c");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]},
    }))
    .expect("pod");
    let container = &pod.spec.as_ref().expect("spec").containers[0];
    environment(&pod, container, &objects(), &NODE, None)
}

fn check(container: serde_json::Value, expected: &[(&str, &str)]) {
    let built = build(container).expect("an environment");
    let got: Vec<(&str, &str)> =
        built.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(got, expected);
}

/// mini-kubernetes.md 14, row 70.
#[test]
fn row_70_later_values_see_earlier_ones_only() {
    check(
        json!({"env": [
            {"name": "A", "value": "$(B)"}, {"name": "B", "value": "1"}, {"name": "C", "value": "$(B)$$(B)"}]}),
        &[("A", "$(B)"), ("B", "1"), ("C", "1$(B)")],
    );
}

#[test]
fn row_70_env_overrides_env_from_and_prefix_applies() {
    check(
        json!({"envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "P_", "configMapRef": {"name": "m"}}],
               "env": [{"name": "A", "value": "mine"}]}),
        &[("A", "mine"), ("B", "b"), ("P_A", "from-map"), ("P_B", "b")],
    );
}

#[test]
fn row_70_invalid_env_from_keys_are_skipped_and_named() {
    let built = build(json!({"envFrom": [{"secretRef": {"name": "s"}}]})).expect("environment");
    assert_eq!(built.variables, [("key".to_owned(), "v".to_owned())]);
    assert_eq!(built.skipped.len(), 1);
    assert!(
        built.skipped[0].starts_with("Keys [bad\u{e9}] from the EnvFrom Secret s were skipped")
    );
}

#[test]
fn row_70_missing_references_fail_unless_optional() {
    let reference = |kind: &str, name: &str, key: &str, optional: bool| json!({"env": [{"name": "A", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]});
    let text = |container| build(container).expect_err("an error").to_string();
    assert_eq!(text(reference("secretKeyRef", "gone", "k", false)), "secret \"gone\" not found");
    assert_eq!(
        text(reference("configMapKeyRef", "gone", "k", false)),
        "configmap \"gone\" not found"
    );
    assert_eq!(
        text(reference("secretKeyRef", "s", "k", false)),
        "couldn't find key k in Secret ns/s"
    );
    assert_eq!(
        text(reference("configMapKeyRef", "m", "k", false)),
        "couldn't find key k in ConfigMap ns/m"
    );
    for (kind, name) in [("secretKeyRef", "gone"), ("secretKeyRef", "s"), ("configMapKeyRef", "m")]
    {
        check(reference(kind, name, "k", true), &[]);
    }
    check(reference("secretKeyRef", "s", "key", false), &[("A", "v")]);
    assert_eq!(
        text(json!({"envFrom": [{"secretRef": {"name": "gone"}}]})),
        "secret \"gone\" not found"
    );
    check(json!({"envFrom": [{"secretRef": {"name": "gone", "optional": true}}]}), &[]);
}

#[test]
fn references_name_each_object_once() {
    let container = serde_json::from_value(json!({"name": "c",
        "envFrom": [{"secretRef": {"name": "b"}}, {"configMapRef": {"name": "m"}}],
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}},
                {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}]}))
    .expect("container");
    let found = references(&container);
    assert_eq!(found.secrets, ["a", "b"]);
    assert_eq!(found.config_maps, ["m"]);
}

#[test]
fn api_server_address_is_always_in_the_environment() {
    let mut result = Environment::default();
    service_variables("127.0.0.1:6443".parse().expect("address"), &mut result);
    assert_eq!(result.get("KUBERNETES_SERVICE_HOST").as_deref(), Some("127.0.0.1"));
    assert_eq!(result.get("KUBERNETES_SERVICE_PORT").as_deref(), Some("6443"));
    assert_eq!(result.get("KUBERNETES_PORT_6443_TCP").as_deref(), Some("tcp://127.0.0.1:6443"));
}

#[test]
fn command_replaces_entrypoint_and_args_replace_cmd() {
    let line = |command: Option<&[&str]>, args: Option<&[&str]>| -> String {
        let owned =
            |list: Option<&[&str]>| list.map(|list| list.iter().map(|s| (*s).to_owned()).collect());
        let container =
            Container { command: owned(command), args: owned(args), ..Container::default() };
        let environment =
            Environment { variables: vec![("V".into(), "1".into())], skipped: Vec::new() };
        command_line(&container, &["/entry".into()], &["cmd".into()], &environment).join(" ")
    };
    assert_eq!(line(None, None), "/entry cmd");
    assert_eq!(line(Some(&["/x", "$(V)"]), None), "/x 1");
    assert_eq!(line(None, Some(&["a"])), "/entry a");
    assert_eq!(line(Some(&["/x"]), Some(&["$(V)"])), "/x 1");
}
