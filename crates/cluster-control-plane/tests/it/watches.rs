//! Watches: every later event once and in order, selectors, bookmarks, ends.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{AsyncBufReadExt, TryStreamExt};
use serde_json::{Value, json};

use crate::cluster::Cluster;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Longest wait for an event that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A watch as lines.
struct Watch {
    lines: futures_util::io::Lines<std::pin::Pin<Box<dyn futures_util::io::AsyncBufRead + Send>>>,
}

impl Watch {
    async fn open(cluster: &Cluster, query: &str) -> Self {
        let request = http::Request::get(format!("{CONFIG_MAPS}?watch=1&{query}"))
            .body(Vec::new())
            .expect("request");
        let reader = cluster.client.request_stream(request).await.expect("watch");
        let reader: std::pin::Pin<Box<dyn futures_util::io::AsyncBufRead + Send>> =
            Box::pin(reader);
        Self { lines: reader.lines() }
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.lines.try_next()).await.expect("in time");
        line.expect("stream").map(|line| serde_json::from_str(&line).expect("json"))
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("event");
        assert_eq!(
            (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
            (Some(kind), Some(name)),
            "{event}"
        );
        event
    }
}

fn labelled(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"l": label}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_later_event_comes_once_and_in_order() {
    let cluster = Cluster::start().await;
    let list = cluster.get(CONFIG_MAPS).await.body;
    let from = list["metadata"]["resourceVersion"].as_str().expect("version").to_owned();
    let mut state: BTreeMap<String, Value> = BTreeMap::new();
    for item in list["items"].as_array().expect("items") {
        state.insert(item["metadata"]["name"].as_str().expect("name").to_owned(), item.clone());
    }
    let mut watch = Watch::open(&cluster, &format!("resourceVersion={from}")).await;
    // Four writers on overlapping names, with a fixed seed each.
    let writers = (0..4_u64).map(|seed| {
        let cluster = &cluster;
        async move {
            let mut random = fastrand::Rng::with_seed(seed);
            for round in 0..30 {
                let name = format!("x{}", random.u8(0..6));
                let path = format!("{CONFIG_MAPS}/{name}");
                match random.u8(0..3) {
                    0 => drop(cluster.send("POST", CONFIG_MAPS, &labelled(&name, "a")).await),
                    1 => drop(
                        cluster
                            .send(
                                "PATCH",
                                &path,
                                &json!({"data": {"r": format!("{seed}-{round}")}}),
                            )
                            .await,
                    ),
                    _ => drop(cluster.raw("DELETE", &path, &[], "").await),
                }
            }
        }
    });
    futures_util::future::join_all(writers).await;
    cluster.send("POST", CONFIG_MAPS, &labelled("the-end", "a")).await;
    let mut last = 0;
    loop {
        let event = watch.next().await.expect("event");
        let object = &event["object"];
        let version: u64 = object["metadata"]["resourceVersion"]
            .as_str()
            .expect("version")
            .parse()
            .expect("number");
        assert!(last < version, "{event}");
        last = version;
        let name = object["metadata"]["name"].as_str().expect("name").to_owned();
        match event["type"].as_str() {
            Some("ADDED") => {
                assert!(state.insert(name.clone(), object.clone()).is_none(), "{event}")
            }
            Some("MODIFIED") => {
                assert!(state.insert(name.clone(), object.clone()).is_some(), "{event}")
            }
            Some("DELETED") => assert!(state.remove(&name).is_some(), "{event}"),
            other => panic!("{other:?}"),
        }
        if name == "the-end" {
            break;
        }
    }
    let now = cluster.get(CONFIG_MAPS).await.body;
    let now: BTreeMap<String, Value> = now["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| (item["metadata"]["name"].as_str().expect("name").to_owned(), item.clone()))
        .collect();
    assert_eq!(state, now);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selector_turns_changes_into_arrivals_and_departures() {
    let cluster = Cluster::start().await;
    let mut watch = Watch::open(&cluster, "labelSelector=l%3Da").await;
    let path = format!("{CONFIG_MAPS}/x");
    cluster.send("POST", CONFIG_MAPS, &labelled("x", "b")).await;
    cluster.send("PATCH", &path, &json!({"metadata": {"labels": {"l": "a"}}})).await;
    watch.expect("ADDED", "x").await;
    cluster.send("PATCH", &path, &json!({"data": {"k": "1"}})).await;
    watch.expect("MODIFIED", "x").await;
    let moved =
        cluster.send("PATCH", &path, &json!({"metadata": {"labels": {"l": "c"}}})).await.body;
    let left = watch.expect("DELETED", "x").await;
    assert_eq!(left["object"]["metadata"]["labels"]["l"], "a");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"]);
    cluster.raw("DELETE", &path, &[], "").await;
    cluster.send("POST", CONFIG_MAPS, &labelled("y", "a")).await;
    watch.expect("ADDED", "y").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_list_sends_the_state_then_its_bookmark_then_news() {
    let cluster = Cluster::start().await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dx";
    let mut empty = Watch::open(&cluster, query).await;
    let bookmark = empty.next().await.expect("event");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    cluster.send("POST", CONFIG_MAPS, &labelled("x", "a")).await;
    empty.expect("ADDED", "x").await;

    let mut full = Watch::open(&cluster, query).await;
    full.expect("ADDED", "x").await;
    assert_eq!(full.next().await.expect("event")["type"], "BOOKMARK");

    let wrong = cluster.get(&format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(wrong.status, 422, "{wrong:?}");
    let wrong = cluster
        .get(&format!("{CONFIG_MAPS}?watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1"))
        .await;
    assert_eq!(wrong.status, 422, "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_ends_at_its_timeout_with_a_bookmark_only_for_those_who_asked() {
    let cluster = Cluster::start().await;
    let mut plain = Watch::open(&cluster, "timeoutSeconds=1&labelSelector=l%3Dnone").await;
    assert_eq!(plain.next().await, None);
    let mut marked =
        Watch::open(&cluster, "timeoutSeconds=1&labelSelector=l%3Dnone&allowWatchBookmarks=true")
            .await;
    assert_eq!(marked.next().await.expect("bookmark")["type"], "BOOKMARK");
    assert_eq!(marked.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_watches_cleanly() {
    let cluster = Cluster::start().await;
    let mut watch = Watch::open(&cluster, "labelSelector=l%3Dnone").await;
    let Cluster { running, dir: _dir, client: _client } = cluster;
    let (ended, ()) = tokio::join!(watch.next(), running.shutdown());
    assert_eq!(ended, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_watches_share_the_server() {
    let cluster = Cluster::start().await;
    let open = (0..200).map(|_| Watch::open(&cluster, "labelSelector=l%3Da"));
    let mut watches = futures_util::future::join_all(open).await;
    cluster.send("POST", CONFIG_MAPS, &labelled("x", "a")).await;
    for watch in &mut watches {
        watch.expect("ADDED", "x").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_watch_sends_column_definitions_once() {
    let cluster = Cluster::start().await;
    let request = http::Request::get(format!("{CONFIG_MAPS}?watch=1&labelSelector=l%3Da"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .expect("request");
    let reader = cluster.client.request_stream(request).await.expect("watch");
    let mut watch = Watch {
        lines: {
            let reader: std::pin::Pin<Box<dyn futures_util::io::AsyncBufRead + Send>> =
                Box::pin(reader);
            reader.lines()
        },
    };
    for name in ["x", "y"] {
        cluster.send("POST", CONFIG_MAPS, &labelled(name, "a")).await;
    }
    let first = watch.next().await.expect("event");
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    let second = watch.next().await.expect("event");
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    assert_eq!(second["object"]["rows"][0]["cells"][0], "y");
}
