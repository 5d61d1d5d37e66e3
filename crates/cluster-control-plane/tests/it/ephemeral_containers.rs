//! Containers that are added to a running pod, and AlwaysPullImages beside them.

use std::path::Path;

use cluster_control_plane::admission::Switches;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const POD: &str = "/api/v1/namespaces/default/pods/p";
const EPHEMERAL: &str = "/api/v1/namespaces/default/pods/p/ephemeralcontainers";

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "initContainers": [{"name": "i", "image": "a:1", "imagePullPolicy": "Never"}],
            "containers": [{"name": "c", "image": "b:1", "imagePullPolicy": "Never"}],
            "volumes": [{"name": "v", "image": {"reference": "c:1", "pullPolicy": "Never"}}],
        },
    })
}

fn debug(name: &str) -> Value {
    let container = json!({"name": name, "image": "busybox:1", "imagePullPolicy": "IfNotPresent"});
    json!({"spec": {"ephemeralContainers": [container]}})
}

async fn patch(cluster: &Cluster, body: &Value) -> Value {
    let headers = [("content-type", "application/strategic-merge-patch+json")];
    let answer = cluster.raw("PATCH", EPHEMERAL, &headers, body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn policies(pod: &Value) -> Vec<&str> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists
        .iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
        .filter_map(|container| container["imagePullPolicy"].as_str())
        .collect()
}

// kubelet-images.md 15.8, S12 and S13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn always_pull_images_covers_them_only_with_its_own_switch() {
    for (covered, expected) in [(false, "IfNotPresent"), (true, "Always")] {
        let switches = Switches {
            always_pull_images: true,
            always_pull_images_for_ephemeral_containers: covered,
            ..Switches::default()
        };
        let cluster = Cluster::with_switches(switches).await;
        let created = cluster.send("POST", "/api/v1/namespaces/default/pods", &pod()).await;
        assert_eq!(created.status, 201, "{created:?}");
        assert_eq!(policies(&created.body), ["Always", "Always"], "S12");
        assert_eq!(created.body["spec"]["volumes"][0]["image"]["pullPolicy"], "Always", "S12");
        let added = patch(&cluster, &debug("d")).await;
        assert_eq!(policies(&added), ["Always", "Always", expected], "S13");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_added_by_patch_and_update_and_stay_as_they_are() {
    let cluster = Cluster::start().await;
    let mut with_one = pod();
    with_one["spec"]["ephemeralContainers"] = debug("d")["spec"]["ephemeralContainers"].clone();
    let refused = cluster.send("POST", "/api/v1/namespaces/default/pods", &with_one).await;
    assert_eq!(refused.status, 422);
    assert_eq!(
        refused.body["message"],
        "Pod \"p\" is invalid: spec.ephemeralContainers: Forbidden: cannot be set on create"
    );
    cluster.send("POST", "/api/v1/namespaces/default/pods", &pod()).await;
    patch(&cluster, &debug("d")).await;
    let both = patch(&cluster, &debug("e")).await;
    assert_eq!(both["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(2), "{both}");

    let mut changed = cluster.get(EPHEMERAL).await.body;
    changed["spec"]["containers"][0]["image"] = json!("other:1");
    changed["metadata"]["labels"] = json!({"a": "b"});
    let third = json!({"name": "f", "image": "busybox:1"});
    changed["spec"]["ephemeralContainers"].as_array_mut().expect("a list").push(third);
    let put = cluster.send("PUT", EPHEMERAL, &changed).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(put.body["spec"]["containers"][0]["image"], "b:1", "only their list is written");
    assert!(put.body["metadata"].get("labels").is_none());
    assert_eq!(put.body["spec"]["ephemeralContainers"][2]["imagePullPolicy"], "IfNotPresent");

    let mut removed = put.body.clone();
    removed["spec"]["ephemeralContainers"] = json!([]);
    let refused = cluster.send("PUT", EPHEMERAL, &removed).await;
    assert_eq!(refused.status, 422);
    let message = refused.body["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("existing ephemeral containers \"d\" may not be removed"),
        "{message}"
    );
    let elsewhere = cluster.send("PATCH", POD, &debug("g")).await;
    assert_eq!(elsewhere.status, 422, "the pod's own door is closed to them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_debug_adds_one() {
    let cluster = Cluster::start().await;
    cluster.send("POST", "/api/v1/namespaces/default/pods", &pod()).await;
    let debug = ["debug", "p", "--image=busybox:1", "--target=c", "-c", "d", "--", "true"];
    let output = cluster.run(Path::new("kubectl"), &debug, "").await;
    assert_eq!(output.code, 0, "{output:?}");
    let path = "jsonpath={.spec.ephemeralContainers[0].name} {.spec.ephemeralContainers[0].image}";
    assert_eq!(cluster.kubectl(&["get", "pod", "p", "-o", path], "").await, "d busybox:1");
}

// kubelet-images.md 6, enforce-mountable-secrets: containers that come later are limited too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_limit_the_secrets_of_containers_that_are_added() {
    let cluster = Cluster::start().await;
    let annotate = ["annotate", "sa", "default", "kubernetes.io/enforce-mountable-secrets=true"];
    cluster.kubectl(&annotate, "").await;
    let created = cluster.send("POST", "/api/v1/namespaces/default/pods", &pod()).await;
    assert_eq!(created.status, 201, "{created:?}");
    let mut body = debug("d");
    body["spec"]["ephemeralContainers"][0]["env"] =
        json!([{"name": "V", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}]);
    let refused = cluster.send("PATCH", EPHEMERAL, &body).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(
        refused.body["message"],
        "pods \"p\" is forbidden: ephemeral container d with envVar V referencing \
         secret.secretName=\"x\" is not allowed because service account default does not reference \
         that secret"
    );
}
