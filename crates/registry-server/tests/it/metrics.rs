//! Metrics, request ids, traces, health.

use std::net::SocketAddr;

use http::Method;
use registry_server::{ByteSize, MetricsOptions, Namespace};

use crate::Fixture;

async fn with_operators() -> (Fixture, String) {
    let registry = Fixture::with(|options, _| {
        options.operations.address = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        options.operations.metrics = MetricsOptions { repositories_max: Some(1) };
    })
    .await;
    let address = registry.registry.operators_address().expect("an address for operators");
    (registry, format!("http://{address}"))
}

#[tokio::test]
async fn requests_bytes_commits_and_repositories_are_counted() {
    let (registry, operators) = with_operators().await;
    registry.push_image("team/app", "v1", "layer").await;
    registry.push_image("team/other", "v1", "layer").await;
    registry.get("/v2/team/app/manifests/v1").await;
    registry.get("/v2/team/app/manifests/missing").await;
    let reply = registry.get(&format!("{operators}/metrics")).await;
    assert!(reply.header("content-type").starts_with("application/openmetrics-text"));
    let page = String::from_utf8(reply.body.to_vec()).expect("text");
    for line in [
        "registry_requests_total{method=\"PUT\",route=\"manifest\",code=\"201\"} 2",
        "registry_requests_total{method=\"GET\",route=\"manifest\",code=\"404\"} 1",
        "registry_request_duration_seconds_count{method=\"PUT\",route=\"manifest\"} 2",
        "registry_repository_requests_total{repository=\"team/app\",operation=\"write\"} 3",
        "registry_repository_requests_total{repository=\"(other)\",operation=\"write\"} 3",
        "registry_requests_in_flight 0",
        "registry_uploads_in_flight 0",
        "registry_collections_total 0",
        "# EOF",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    for name in ["registry_commit_changes_sum", "registry_sent_bytes_total"] {
        let value = page.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        assert!(value.trim().parse::<f64>().expect("a number") > 0.0, "{name}{value}");
    }
    assert!(!page.contains("sha256:") && !page.contains("v1\""), "no digests and no tags");
}

#[tokio::test]
async fn namespaces_have_what_they_hold_and_may_hold() {
    let registry = Fixture::with(|options, _| {
        options.operations.address = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut namespace = Namespace::new("team");
        namespace.quota = Some(ByteSize(1_000_000));
        options.namespaces = vec![namespace];
    })
    .await;
    registry.push_image("team/app", "v1", "layer").await;
    registry.push_blob("team/app", &[0; 1000]).await;
    let usage = registry.get("/v2/_shipway/usage").await.json();
    let all = usage["namespaces"].as_array().expect("a list");
    let team = all.iter().find(|one| one["prefix"] == "team").expect("the namespace");
    let page = page(&registry).await;
    for line in [
        format!("registry_namespace_used_bytes{{namespace=\"team\"}} {}", team["bytes"]),
        "registry_namespace_reserved_bytes{namespace=\"team\"} 1000".to_owned(),
        "registry_namespace_quota_bytes{namespace=\"team\"} 1000000".to_owned(),
        "registry_namespace_repositories{namespace=\"team\"} 1".to_owned(),
        "registry_namespace_used_bytes{namespace=\"(default)\"} 0".to_owned(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let limits = page.lines().filter(|line| line.starts_with("registry_namespace_quota_bytes{"));
    assert_eq!(limits.count(), 1, "the others may hold everything");
}

/// What the scraper of a registry with an address for operators gets.
pub(crate) async fn page(registry: &Fixture) -> String {
    let address = registry.registry.operators_address().expect("an address for operators");
    let reply = registry.get(&format!("http://{address}/metrics")).await;
    String::from_utf8(reply.body.to_vec()).expect("text")
}

#[tokio::test]
async fn what_clients_invent_makes_no_series() {
    let (registry, operators) = with_operators().await;
    for n in 0..20 {
        registry.get(&format!("/nothing/{n}")).await;
        registry.get(&format!("/v2/invented{n}/manifests/x")).await;
        let method = Method::from_bytes(format!("INVENTED{n}").as_bytes()).expect("a method");
        registry.send(method, "/v2/", &[], "").await;
    }
    let page = registry.get(&format!("{operators}/metrics")).await;
    let page = String::from_utf8(page.body.to_vec()).expect("text");
    assert!(!page.to_lowercase().contains("invented"), "{page}");
    let series = page.lines().filter(|line| line.starts_with("registry_requests_total")).count();
    assert_eq!(series, 3, "{page}");
}

#[tokio::test]
async fn the_registry_says_how_it_is_to_those_who_ask_without_credentials() {
    let (registry, operators) = with_operators().await;
    for place in [registry.registry.url(), operators.clone()] {
        for path in ["/healthz", "/readyz", "/startupz"] {
            assert_eq!(registry.get(&format!("{place}{path}")).await.status.as_u16(), 200);
        }
    }
    assert_eq!(registry.get("/metrics").await.status.as_u16(), 404, "not for clients");
    assert_eq!(registry.get(&format!("{operators}/v2/")).await.status.as_u16(), 404);
    let catalog = registry.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], serde_json::json!([]), "probes leave nothing");
}

#[tokio::test]
async fn ids_and_traces_of_clients_come_back() {
    let registry = Fixture::open().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("x-request-id", "deploy-17"), ("traceparent", trace)];
    let reply = registry.send(Method::GET, "/v2/", &headers, "").await;
    assert_eq!(reply.header("x-request-id"), "deploy-17");
    let back = reply.header("traceparent");
    assert!(back.starts_with(&trace[..36]) && back != trace, "{back}");
    let (first, second) = (registry.get("/v2/").await, registry.get("/v2/").await);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    assert!(!first.header("x-request-id").is_empty());
    let evil = [("x-request-id", "a\"b")];
    let reply = registry.send(Method::GET, "/v2/", &evil, "").await;
    assert_ne!(reply.header("x-request-id"), "a\"b");
}
