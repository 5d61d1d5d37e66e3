use serde_json::json;

use super::*;

const NODE: NodeFacts = NodeFacts {
    ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    cpu_milli: 1000,
    memory_bytes: 1 << 30,
    disk_bytes: 1 << 30,
};

fn build(volume: serde_json::Value) -> Result<Vec<String>, String> {
    let mut volume = volume;
    volume["name"] = json!("v");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "1Mi"}}}], "volumes": [volume]},
    }))
    .expect("pod");
    let data = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect())
    };
    let objects = Objects {
        secrets: [("s".to_owned(), data(&[("user", "ada"), ("pass", "x")]))].into(),
        config_maps: [("m".to_owned(), data(&[("conf", "1")]))].into(),
    };
    let tokens = [(TokenNeed { audience: String::new(), seconds: 3607 }, "tok".to_owned())].into();
    let volume = &pod.spec.as_ref().expect("spec").volumes.as_ref().expect("volumes")[0];
    payload(&pod, volume, &objects, &tokens, &NODE)
        .map(|files| {
            files
                .iter()
                .map(|(path, file)| {
                    format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.bytes))
                })
                .collect()
        })
        .map_err(|error| error.to_string())
}

fn check(volume: serde_json::Value, expected: &[&str]) {
    assert_eq!(build(volume).expect("payload"), expected);
}

fn refuse(volume: serde_json::Value, expected: &str) {
    assert_eq!(build(volume).expect_err("an error"), expected);
}

/// mini-kubernetes.md 14, row 71.
#[test]
fn row_71_all_keys_or_chosen_items_with_modes() {
    check(json!({"secret": {"secretName": "s"}}), &["pass 644 x", "user 644 ada"]);
    check(
        json!({"secret": {"secretName": "s", "defaultMode": 256}}),
        &["pass 400 x", "user 400 ada"],
    );
    check(
        json!({"secret": {"secretName": "s", "items": [{"key": "user", "path": "a/b", "mode": 384}]}}),
        &["a/b 600 ada"],
    );
    check(json!({"configMap": {"name": "m"}}), &["conf 644 1"]);
}

#[test]
fn row_71_missing_sources_fail_unless_optional() {
    refuse(json!({"secret": {"secretName": "none"}}), "secret \"none\" not found");
    refuse(json!({"configMap": {"name": "none"}}), "configmap \"none\" not found");
    check(json!({"secret": {"secretName": "none", "optional": true}}), &[]);
    let items = json!([{"key": "k", "path": "p"}]);
    refuse(
        json!({"secret": {"secretName": "s", "items": items}}),
        "references non-existent secret key: k",
    );
    check(json!({"configMap": {"name": "m", "items": items, "optional": true}}), &[]);
}

#[test]
fn row_71_projected_volume_combines_sources() {
    check(
        json!({"projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "m", "items": [{"key": "conf", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "mem", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory"}}]}},
            {"secret": {"name": "s", "items": [{"key": "user", "path": "user"}]}}]}}),
        &[
            "ca.crt 644 1",
            "labels 644 app=\"web\"",
            "mem 644 1048576",
            "token 644 tok",
            "user 644 ada",
        ],
    );
}

#[test]
fn paths_out_of_the_volume_are_refused() {
    for path in ["../x", "/x", "a/../b", "", "..data"] {
        let items = json!([{"key": "user", "path": path}]);
        assert!(build(json!({"secret": {"secretName": "s", "items": items}})).is_err(), "{path}");
    }
}

#[test]
fn token_is_private_when_all_containers_run_as_one_user() {
    let pod = |user: serde_json::Value| -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {
            "securityContext": {"runAsUser": user}, "containers": [{"name": "c"}]}}))
        .expect("pod")
    };
    assert_eq!(token_mode(&pod(json!(1000)), 0o644), 0o600);
    assert_eq!(token_owner(&pod(json!(1000))), Some(1000));
    assert_eq!(token_mode(&pod(json!(null)), 0o644), 0o644);
    assert_eq!(token_owner(&pod(json!(null))), None);
}
