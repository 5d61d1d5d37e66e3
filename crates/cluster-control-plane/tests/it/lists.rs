//! Lists, pages, tables, discovery, negotiation.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(cluster: &Cluster, name: &str) {
    let made = cluster
        .send("POST", CONFIG_MAPS, &json!({"metadata": {"name": name, "labels": {"t": "1"}}}))
        .await;
    assert_eq!(made.status, 201, "{made:?}");
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_one_moment_while_objects_come_and_go() {
    let cluster = Cluster::start().await;
    for name in ["a", "c", "e", "g"] {
        create(&cluster, name).await;
    }
    let selected = format!("{CONFIG_MAPS}?labelSelector=t%3D1");
    let mut page = cluster.get(&format!("{selected}&limit=1")).await.body;
    let revision = page["metadata"]["resourceVersion"].clone();
    let mut seen = names(&page);
    let mut step = 0;
    while let Some(token) = page["metadata"]["continue"].as_str() {
        match step {
            0 => create(&cluster, "b").await,
            1 => drop(cluster.raw("DELETE", &format!("{CONFIG_MAPS}/e"), &[], "").await),
            _ => drop(cluster.raw("DELETE", &format!("{CONFIG_MAPS}/g"), &[], "").await),
        }
        step += 1;
        page = cluster.get(&format!("{selected}&limit=1&continue={token}")).await.body;
        assert_eq!(page["metadata"]["resourceVersion"], revision);
        seen.extend(names(&page));
    }
    assert_eq!(seen, ["a", "c", "e", "g"]);
    let exact = format!(
        "{selected}&resourceVersionMatch=Exact&resourceVersion={}",
        revision.as_str().unwrap_or_default()
    );
    assert_eq!(names(&cluster.get(&exact).await.body), ["a", "c", "e", "g"]);
    assert_eq!(names(&cluster.get(&selected).await.body), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_page_and_broken_token_are_told_apart() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        create(&cluster, name).await;
    }
    let page = cluster.get(&format!("{CONFIG_MAPS}?limit=1")).await.body;
    let token = page["metadata"]["continue"].as_str().expect("token").to_owned();
    assert!(page["metadata"]["remainingItemCount"].is_number(), "{page}");
    // Larger than the history keeps.
    let blob = "x".repeat(900 * 1024);
    for n in 0..6 {
        let body = json!({"metadata": {"name": format!("big{n}")}, "data": {"k": blob}});
        assert_eq!(cluster.send("POST", CONFIG_MAPS, &body).await.status, 201);
    }
    let expired = cluster.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await;
    assert_eq!((expired.status, &expired.body["reason"]), (410, &json!("Expired")), "{expired:?}");
    let broken = cluster.get(&format!("{CONFIG_MAPS}?limit=1&continue=xyz")).await;
    assert_eq!(broken.status, 400);
    let old_watch = cluster.get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    assert_eq!((old_watch.status, &old_watch.body["reason"]), (410, &json!("Expired")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_metadata_are_given_when_asked_for() {
    let cluster = Cluster::start().await;
    create(&cluster, "a").await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer =
        cluster.raw("GET", &format!("{CONFIG_MAPS}/a"), &[("accept", table)], "").await.body;
    assert_eq!(answer["kind"], "Table");
    assert_eq!(answer["columnDefinitions"][0]["name"], "Name");
    assert_eq!(answer["rows"][0]["cells"][0], "a");
    assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = format!("{CONFIG_MAPS}?includeObject=Object&labelSelector=t%3D1");
    let answer = cluster.raw("GET", &whole, &[("accept", table)], "").await.body;
    assert_eq!(answer["rows"][0]["object"]["kind"], "ConfigMap");
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let answer = cluster.raw("GET", CONFIG_MAPS, &[("accept", metadata)], "").await.body;
    assert_eq!(answer["kind"], "PartialObjectMetadataList");
    assert!(answer["items"][0]["metadata"]["name"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_are_compressed_for_clients_that_take_gzip() {
    let cluster = Cluster::start().await;
    let body = json!({"metadata": {"name": "big"}, "data": {"k": "x".repeat(300 * 1024)}});
    cluster.send("POST", CONFIG_MAPS, &body).await;
    let path = format!("{CONFIG_MAPS}/big");
    let packed = cluster.raw("GET", &path, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(
        packed.headers.get("content-encoding").map(|value| value.as_bytes()),
        Some(&b"gzip"[..])
    );
    let plain = cluster.raw("GET", &path, &[("accept-encoding", "identity")], "").await;
    assert_eq!(plain.headers.get("content-encoding"), None);
    assert_eq!(plain.body["metadata"]["name"], "big");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_is_given_in_the_form_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    for path in ["/api", "/apis"] {
        for wanted in [v2, beta] {
            let accept = format!("{wanted},application/json");
            let answer = cluster.raw("GET", path, &[("accept", &accept)], "").await;
            let content_type =
                answer.headers.get("content-type").and_then(|value| value.to_str().ok());
            assert_eq!(content_type, Some(wanted));
            assert_eq!(answer.body["kind"], "APIGroupDiscoveryList");
        }
    }
    assert_eq!(cluster.get("/api").await.body["kind"], "APIVersions");
    assert_eq!(cluster.get("/apis").await.body["kind"], "APIGroupList");
    assert_eq!(cluster.get("/apis/batch").await.body["kind"], "APIGroup");
    assert_eq!(cluster.get("/apis/batch/v1").await.body["groupVersion"], "batch/v1");
    let unknown = cluster.get("/api/v1/nopes").await;
    assert_eq!((unknown.status, unknown.body), (404, json!("404 page not found\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_flags_that_shape_lists_work() {
    let cluster = Cluster::start().await;
    for name in ["b", "a"] {
        create(&cluster, name).await;
    }
    let sorted = cluster
        .kubectl(
            &["get", "cm", "-l", "t", "--sort-by=.metadata.creationTimestamp", "--no-headers"],
            "",
        )
        .await;
    assert_eq!(sorted.lines().count(), 2, "{sorted}");
    let everywhere = cluster.kubectl(&["get", "cm", "-A", "--chunk-size=1", "-l", "t"], "").await;
    assert!(everywhere.starts_with("NAMESPACE"), "{everywhere}");
    let labels = cluster.kubectl(&["get", "cm", "-l", "t", "--show-labels"], "").await;
    assert!(labels.contains("t=1"), "{labels}");
    let columns = cluster
        .kubectl(&["get", "cm", "-l", "t", "-o", "custom-columns=N:.metadata.name"], "")
        .await;
    assert_eq!(columns, "N\na\nb\n");
}
