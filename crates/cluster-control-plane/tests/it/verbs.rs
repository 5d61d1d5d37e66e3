//! Create, update, patch, delete by raw requests: the rules clients rely on.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}], "nodeName": "n1"},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_generated_checked_and_taken_once() {
    let cluster = Cluster::start().await;
    let generated =
        cluster.send("POST", CONFIG_MAPS, &json!({"metadata": {"generateName": "x-"}})).await;
    assert_eq!(generated.status, 201);
    let name = generated.body["metadata"]["name"].as_str().expect("name");
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");

    let nameless = cluster.send("POST", CONFIG_MAPS, &json!({"metadata": {}})).await;
    assert_eq!(nameless.status, 422);
    assert_eq!(
        nameless.body["message"],
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
    let taken = cluster.send("POST", CONFIG_MAPS, &json!({"metadata": {"name": name}})).await;
    assert_eq!((taken.status, &taken.body["reason"]), (409, &json!("AlreadyExists")));
    let elsewhere = json!({"metadata": {"name": "a", "namespace": "other"}});
    let elsewhere = cluster.send("POST", CONFIG_MAPS, &elsewhere).await;
    assert_eq!(elsewhere.status, 400);
    let missing = cluster
        .send("POST", "/api/v1/namespaces/nowhere/configmaps", &json!({"metadata": {"name": "a"}}))
        .await;
    assert_eq!(missing.body["message"], "namespaces \"nowhere\" not found");
    let wrong_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert_eq!(cluster.send("POST", CONFIG_MAPS, &wrong_kind).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_update_conflicts_and_unconditional_update_wins() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let created = cluster
        .send("POST", CONFIG_MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "1"}}))
        .await;
    let mut newer = created.body.clone();
    newer["data"]["k"] = json!("2");
    assert_eq!(cluster.send("PUT", &path, &newer).await.status, 200);
    let stale = cluster.send("PUT", &path, &newer).await;
    assert_eq!(stale.status, 409);
    assert_eq!(
        stale.body["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    let blind = json!({"metadata": {"name": "a"}, "data": {"k": "3"}});
    assert_eq!(cluster.send("PUT", &path, &blind).await.status, 200);
    let other_name = json!({"metadata": {"name": "b"}});
    assert_eq!(cluster.send("PUT", &path, &other_name).await.status, 400);
    let other_uid = json!({"metadata": {"name": "a", "uid": "x"}});
    assert_eq!(cluster.send("PUT", &path, &other_uid).await.status, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_changed_means_no_new_revision() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let created = cluster
        .send("POST", CONFIG_MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "1"}}))
        .await;
    let put = cluster.send("PUT", &path, &created.body).await;
    let patched = cluster.send("PATCH", &path, &json!({"data": {"k": "1"}})).await;
    let version = |value: &Value| value["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&put.body), version(&created.body));
    assert_eq!(version(&patched.body), version(&created.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_answers_but_stores_nothing() {
    let cluster = Cluster::start().await;
    let body = json!({"metadata": {"name": "a"}});
    let dry = cluster.send("POST", &format!("{CONFIG_MAPS}?dryRun=All"), &body).await;
    assert_eq!(dry.status, 201);
    assert!(dry.body["metadata"]["uid"].is_string());
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.status, 404);
    cluster.send("POST", CONFIG_MAPS, &body).await;
    let dry = cluster.raw("DELETE", &format!("{CONFIG_MAPS}/a?dryRun=All"), &[], "").await;
    assert_eq!(dry.status, 200);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_spec_are_written_through_their_own_doors() {
    let cluster = Cluster::start().await;
    cluster.send("POST", PODS, &pod("p")).await;
    let path = format!("{PODS}/p");
    let before = cluster.get(&path).await.body;
    let sneaked = cluster.send("PATCH", &path, &json!({"status": {"phase": "Running"}})).await;
    assert_eq!(sneaked.body["status"]["phase"], "Pending");
    let both = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "other"}});
    let through = cluster.send("PATCH", &format!("{path}/status"), &both).await;
    assert_eq!(through.body["status"]["phase"], "Running");
    assert_eq!(through.body["spec"]["nodeName"], "n1");
    assert_eq!(through.body["metadata"]["generation"], before["metadata"]["generation"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_deletion_waits_for_its_grace_and_only_shortens() {
    let cluster = Cluster::start().await;
    cluster.send("POST", PODS, &pod("p")).await;
    let path = format!("{PODS}/p");
    cluster
        .send("PATCH", &format!("{path}/status"), &json!({"status": {"phase": "Running"}}))
        .await;
    let marked = cluster.raw("DELETE", &path, &[], "").await;
    assert_eq!(marked.body["metadata"]["deletionGracePeriodSeconds"], 30);
    let longer = cluster.raw("DELETE", &format!("{path}?gracePeriodSeconds=60"), &[], "").await;
    assert_eq!(longer.body["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = cluster.raw("DELETE", &format!("{path}?gracePeriodSeconds=1"), &[], "").await;
    assert_eq!(shorter.body["metadata"]["deletionGracePeriodSeconds"], 1);
    let wrong = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
                       "preconditions": {"uid": "other"}});
    assert_eq!(cluster.send("DELETE", &path, &wrong).await.status, 409);
    let uid = &marked.body["metadata"]["uid"];
    let last = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
                      "preconditions": {"uid": uid}});
    let gone = cluster.send("DELETE", &path, &last).await;
    assert_eq!((gone.status, &gone.body["status"]), (200, &json!("Success")));
    assert_eq!(cluster.get(&path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_keep_an_object_until_they_are_gone() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let body = json!({"metadata": {"name": "a", "finalizers": ["example.test/hold"]}});
    cluster.send("POST", CONFIG_MAPS, &body).await;
    let marked = cluster.raw("DELETE", &path, &[], "").await;
    assert!(marked.body["metadata"]["deletionTimestamp"].is_string(), "{marked:?}");
    let more = json!({"metadata": {"finalizers": ["example.test/hold", "example.test/more"]}});
    let refused = cluster.send("PATCH", &path, &more).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    let released = cluster.send("PATCH", &path, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.status, 200, "{released:?}");
    assert_eq!(cluster.get(&path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletecollection_takes_what_the_selector_takes() {
    let cluster = Cluster::start().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let body = json!({"metadata": {"name": name, "labels": {"l": label}}});
        cluster.send("POST", CONFIG_MAPS, &body).await;
    }
    let deleted =
        cluster.raw("DELETE", &format!("{CONFIG_MAPS}?labelSelector=l%3Dx"), &[], "").await;
    assert_eq!(deleted.body["items"].as_array().map(Vec::len), Some(2), "{deleted:?}");
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.status, 404);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/c")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_unknown_type_size_or_shape_are_refused_as_such() {
    let cluster = Cluster::start().await;
    let html = cluster.raw("POST", CONFIG_MAPS, &[("content-type", "text/html")], "x").await;
    assert_eq!((html.status, &html.body["reason"]), (415, &json!("UnsupportedMediaType")));
    let json_type = [("content-type", "application/json")];
    for body in ["", "{", "[]", "1", "null", "\"x\""] {
        let answer = cluster.raw("POST", CONFIG_MAPS, &json_type, body).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    let large = format!("{{\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(3 * 1024 * 1024));
    let large = cluster.raw("POST", CONFIG_MAPS, &json_type, large).await;
    assert_eq!(large.status, 413, "{:?}", large.body["message"]);
    let accept = cluster.raw("GET", CONFIG_MAPS, &[("accept", "text/html")], "").await;
    assert_eq!(accept.status, 406);
    let patch = cluster.raw("PATCH", &format!("{CONFIG_MAPS}/a"), &json_type, "{}").await;
    assert_eq!(patch.status, 415);
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    assert_eq!(cluster.raw("POST", CONFIG_MAPS, &protobuf, "k8s").await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_and_unknown_fields_are_refused_warned_of_or_dropped() {
    let cluster = Cluster::start().await;
    let body = r#"{"metadata": {"name": "a"}, "data": {"k": "1", "k": "2"}, "foo": 1}"#;
    let json_type = [("content-type", "application/json")];
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let strict = cluster.raw("POST", &strict, &json_type, body).await;
    assert_eq!(strict.status, 400);
    let message = strict.body["message"].as_str().expect("message");
    assert!(
        message.starts_with(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
             duplicate field \"data.k\""
        ),
        "{message}"
    );
    let warned = format!("{CONFIG_MAPS}?fieldValidation=Warn&dryRun=All");
    let warned = cluster.raw("POST", &warned, &json_type, body).await;
    let warnings: Vec<_> = warned.headers.get_all("warning").iter().collect();
    assert_eq!(
        warnings,
        ["299 - \"duplicate field \\\"data.k\\\"\"", "299 - \"unknown field \\\"foo\\\"\""]
    );
    let ignored = format!("{CONFIG_MAPS}?fieldValidation=Ignore");
    let ignored = cluster.raw("POST", &ignored, &json_type, body).await;
    assert_eq!(ignored.body["data"]["k"], "2");
    assert_eq!(ignored.headers.get("warning"), None);
    assert_eq!(ignored.body.get("foo"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_shows_through_both_groups() {
    let cluster = Cluster::start().await;
    let event = json!({
        "metadata": {"name": "e1"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "note": "hello", "reason": "Test", "type": "Normal", "action": "Try",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "test",
        "reportingInstance": "t-1",
    });
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let created = cluster.send("POST", path, &event).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.body["note"], "hello");
    let core = cluster.get("/api/v1/namespaces/default/events/e1").await.body;
    assert_eq!(core["message"], "hello");
    assert_eq!(core["involvedObject"]["name"], "p");
    let selected = cluster.get(&format!("{path}?fieldSelector=regarding.name%3Dp")).await.body;
    assert_eq!(selected["items"][0]["regarding"]["kind"], "Pod");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}});
    let patched = cluster.send("PATCH", &format!("{path}/e1"), &series).await;
    assert_eq!(patched.body["series"]["count"], 2, "{patched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_and_binding_and_eviction_act_on_their_object() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    assert_eq!(cluster.send("POST", deployments, &body).await.status, 201);
    let path = format!("{deployments}/d/scale");
    let scaled = cluster.send("PATCH", &path, &json!({"spec": {"replicas": 2}})).await;
    assert_eq!(scaled.body["kind"], "Scale");
    assert_eq!(scaled.body["status"]["selector"], "a=b");
    let deployment = cluster.get(&format!("{deployments}/d")).await.body;
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["metadata"]["generation"], 2);

    cluster.send("POST", PODS, &pod("evicted")).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                          "metadata": {"name": "evicted"},
                          "deleteOptions": {"gracePeriodSeconds": 0}});
    let evicted = cluster.send("POST", &format!("{PODS}/evicted/eviction"), &eviction).await;
    assert_eq!(evicted.status, 201, "{evicted:?}");
    assert_eq!(cluster.get(&format!("{PODS}/evicted")).await.status, 404);
    let bound = json!({"target": {"name": "elsewhere"}});
    cluster.send("POST", PODS, &pod("bound")).await;
    let refused = cluster.send("POST", &format!("{PODS}/bound/binding"), &bound).await;
    assert_eq!(refused.status, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arbitrary_requests_are_answered_and_never_break_the_server() {
    let cluster = Cluster::start().await;
    let mut random = fastrand::Rng::with_seed(7);
    let paths = [
        CONFIG_MAPS,
        PODS,
        "/api/v1/namespaces/default/pods/p",
        "/api/v1/namespaces/default/pods/p/status",
        "/api/v1/namespaces/default/pods/p/binding",
        "/apis/batch/v1/namespaces/default/jobs",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        "/api/v1/namespaces/default/serviceaccounts/default/token",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "/%ff/%00",
    ];
    let types = [
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "text/plain",
    ];
    let words = [
        "metadata",
        "name",
        "p",
        "spec",
        "containers",
        "image",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "\"",
        "null",
        "-1",
        "1e999",
        "$patch",
        "op",
        "path",
        "/",
        "k8s\0",
        "\u{0}",
        "\n",
        "- ",
        "template",
    ];
    let queries = [
        "",
        "?limit=-1",
        "?fieldValidation=Strict",
        "?dryRun=x",
        "?labelSelector=%ff,((",
        "?fieldSelector=a%5C",
        "?fieldManager=m&force=true",
        "?continue=%00",
        "?resourceVersion=99999999999999999999",
    ];
    cluster.send("POST", PODS, &pod("p")).await;
    for _ in 0..600 {
        let method = ["GET", "POST", "PUT", "PATCH", "DELETE"][random.usize(..5)];
        let path = format!(
            "{}{}",
            paths[random.usize(..paths.len())],
            queries[random.usize(..queries.len())]
        );
        let mut body = String::new();
        for _ in 0..random.usize(..14) {
            body.push_str(words[random.usize(..words.len())]);
        }
        if random.bool() {
            body = format!(
                "{{\"metadata\":{{\"name\":\"p\"}},\"spec\":{{\"containers\":[{{{body:?}:{}}}]}}}}",
                random.i64(..)
            );
        }
        let content_type = [("content-type", types[random.usize(..types.len())])];
        let answer = cluster.raw(method, &path, &content_type, body.clone()).await;
        assert!(answer.status < 500, "{method} {path} {body:?}: {answer:?}");
    }
    assert_eq!(cluster.get("/readyz").await.status, 200);
}
