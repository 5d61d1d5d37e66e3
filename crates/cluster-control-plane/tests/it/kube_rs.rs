//! kube-rs as a client: typed objects, watchers, recorder, patches, exec.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(20);

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"l": "x"}}, "data": {"k": "1"}}),
    )
    .expect("config map")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_objects_go_there_and_back() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let created = maps.create(&PostParams::default(), &config_map("a")).await.expect("created");
    let mut changed = created.clone();
    changed.data.get_or_insert_default().insert("k".to_owned(), "2".to_owned());
    let replaced = maps.replace("a", &PostParams::default(), &changed).await.expect("replaced");
    assert_ne!(replaced.resource_version(), created.resource_version());
    let stale = maps.replace("a", &PostParams::default(), &created).await.expect_err("stale");
    assert!(matches!(&stale, kube::Error::Api(status) if status.code == 409), "{stale}");
    let patch = Patch::Merge(json!({"data": {"k": "3"}}));
    maps.patch("a", &PatchParams::default(), &patch).await.expect("patched");
    let metadata =
        maps.list_metadata(&ListParams::default().labels("l=x")).await.expect("metadata");
    assert_eq!(metadata.items.len(), 1);
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("l=x"))
        .await
        .expect("deleted");
    assert!(maps.get_opt("a").await.expect("asked").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_the_state_and_what_follows_in_both_modes() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        maps.create(&PostParams::default(), &config_map("before")).await.expect("created");
        let mut events = pin!(watcher(maps.clone(), config.labels("l=x")));
        let mut next = async || {
            tokio::time::timeout(PATIENCE, events.try_next())
                .await
                .expect("in time")
                .expect("event")
                .expect("more")
        };
        assert!(matches!(next().await, watcher::Event::Init));
        match next().await {
            watcher::Event::InitApply(object) => assert_eq!(object.name_any(), "before"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(next().await, watcher::Event::InitDone));
        maps.create(&PostParams::default(), &config_map("after")).await.expect("created");
        match next().await {
            watcher::Event::Apply(object) => assert_eq!(object.name_any(), "after"),
            other => panic!("{other:?}"),
        }
        for name in ["before", "after"] {
            maps.delete(name, &DeleteParams::default()).await.expect("deleted");
            assert!(matches!(next().await, watcher::Event::Delete(_)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_finds_every_kind() {
    let cluster = Cluster::start().await;
    let discovery = kube::Discovery::new(cluster.client.clone()).run().await.expect("discovery");
    let kinds: Vec<String> = discovery
        .groups()
        .flat_map(|group| group.recommended_resources())
        .map(|(resource, _)| resource.kind)
        .collect();
    for kind in ["Pod", "Job", "Deployment", "Lease", "StorageClass", "Secret"] {
        assert!(kinds.iter().any(|have| have == kind), "{kind}");
    }
    let version = cluster.client.apiserver_version().await.expect("version");
    assert_eq!(version.major, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorder_publishes_and_counts_repeats() {
    let cluster = Cluster::start().await;
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client.clone());
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}})).expect("secret");
    let secret = secrets.create(&PostParams::default(), &secret).await.expect("created");
    let reporter = Reporter { controller: "tester".to_owned(), instance: Some("t-1".to_owned()) };
    let recorder = Recorder::new(cluster.client.clone(), reporter);
    for _ in 0..2 {
        let event = Event {
            type_: EventType::Normal,
            reason: "Tested".to_owned(),
            note: Some("it works".to_owned()),
            action: "Test".to_owned(),
            secondary: None,
        };
        recorder.publish(&event, &secret.object_ref(&())).await.expect("published");
    }
    let shown = cluster
        .kubectl(&["get", "events", "--field-selector=reason=Tested", "-o", "wide"], "")
        .await;
    assert!(shown.contains("secret/s") && shown.contains("it works"), "{shown}");
    assert_eq!(shown.lines().count(), 2, "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_is_watched_until_it_is_gone() {
    let cluster = Cluster::start().await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    }))
    .expect("pod");
    let created = pods.create(&PostParams::default(), &pod).await.expect("created");
    let uid = created.uid().expect("uid");
    let gone = kube::runtime::wait::await_condition(
        pods.clone(),
        "p",
        kube::runtime::wait::conditions::is_deleted(&uid),
    );
    let deleting = async { pods.delete("p", &DeleteParams::default()).await.expect("deleted") };
    let (gone, _) = tokio::join!(tokio::time::timeout(PATIENCE, gone), deleting);
    gone.expect("in time").expect("watched");
    let left = pods.list(&ListParams::default()).await.expect("list");
    assert!(left.items.is_empty(), "{left:?}");
}
