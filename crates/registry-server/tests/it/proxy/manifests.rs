//! Tags and manifests: checked for nothing, fetched when new, served when the upstream is not.

use std::time::Duration;

use http::StatusCode;
use oci_model::Digest;
use registry_server::{UpstreamError, UpstreamNetwork};
use serde_json::json;

use super::fake::Fake;
use super::{HUB, behind, cache_of, cache_with};
use crate::{Fixture, INDEX, MANIFEST, image_manifest, options};

const NONE: [&str; 0] = [];

fn app() -> String {
    format!("{HUB}/library/app")
}

fn unavailable() -> UpstreamError {
    UpstreamError::Unavailable { reason: "status 503".to_owned() }
}

#[tokio::test]
async fn a_tag_is_checked_by_head_and_fetched_only_if_it_moved() {
    let fake = Fake::new();
    let first = fake.image("library/app", "v1", "one");
    let cache = cache_of(&fake).await;
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!((reply.status, reply.header("cache-control")), (StatusCode::OK, "no-cache"));
    assert_eq!(reply.header("docker-content-digest"), first.to_string());
    assert_eq!(Digest::of(&reply.body), first);
    let head = "HEAD library/app v1".to_owned();
    assert_eq!(fake.take_log(), [head.clone(), format!("GET library/app {first}")]);
    cache.pull(&app(), "manifests/v1").await;
    assert_eq!(fake.take_log(), ["HEAD library/app v1"]);
    cache.pull(&app(), &format!("manifests/{first}")).await;
    assert_eq!(fake.take_log(), NONE, "a digest never changes");
    let second = fake.image("library/app", "v1", "two");
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!(Digest::of(&reply.body), second);
    assert_eq!(fake.take_log(), [head.clone(), format!("GET library/app {second}")]);
    // Back again: known content is not fetched.
    fake.image("library/app", "v1", "one");
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!(Digest::of(&reply.body), first);
    assert_eq!(fake.take_log(), [head]);
}

#[tokio::test]
async fn a_tag_is_believed_for_its_life() {
    let fake = Fake::new();
    fake.image("library/app", "v1", "one");
    let cache =
        cache_with(&fake, |options| options.proxy.upstreams[0].tag_life = Duration::from_secs(600))
            .await;
    for _ in 0..3 {
        assert_eq!(cache.pull(&app(), "manifests/v1").await.status, StatusCode::OK);
    }
    assert_eq!(fake.take_log().len(), 2, "one HEAD, one GET");
    let status = &cache.registry.upstreams()[0];
    assert_eq!((status.hits, status.misses, status.requests), (2, 1, 2));
}

#[tokio::test]
async fn whoever_only_looks_costs_no_pull() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "one");
    let cache = cache_of(&fake).await;
    let head = cache.head(&format!("/v2/{}/manifests/v1", app())).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("docker-content-digest"), digest.to_string());
    assert_eq!(head.header("content-type"), MANIFEST);
    assert_eq!(fake.take_log(), ["HEAD library/app v1"]);
    let get = cache.pull(&app(), "manifests/v1").await;
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

// What containerd does: it looks at the tag and then asks for the digest.
#[tokio::test]
async fn a_tag_that_was_only_looked_at_is_served_when_there_is_no_answer() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "one");
    let cache = cache_of(&fake).await;
    cache.head(&format!("/v2/{}/manifests/v1", app())).await;
    cache.pull(&app(), &format!("manifests/{digest}")).await;
    fake.fail_with(unavailable());
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!((reply.status, Digest::of(&reply.body)), (StatusCode::OK, digest));
}

// Section 10 row 13: proxies that fail although the content is cached.
#[tokio::test]
async fn what_is_cached_is_served_with_a_warning_when_there_is_no_answer() {
    for error in [
        UpstreamError::RateLimited { retry_after: Some(Duration::from_secs(1)) },
        unavailable(),
        UpstreamError::Malformed { reason: "led to 10.0.0.1".to_owned() },
    ] {
        let fake = Fake::new();
        let digest = fake.image("library/app", "v1", "one");
        let cache = cache_of(&fake).await;
        cache.pull(&app(), "manifests/v1").await;
        fake.fail_with(error.clone());
        let reply = cache.pull(&app(), "manifests/v1").await;
        assert_eq!((reply.status, Digest::of(&reply.body)), (StatusCode::OK, digest), "{error}");
        let warning = reply.header("warning");
        assert!(warning.starts_with("299 - \"stale: hub.example "), "{warning}");
        assert_eq!(cache.registry.upstreams()[0].stale, 1);
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_is_stale_too() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "one");
    let cache = cache_with(&fake, |options| {
        options.proxy.upstreams[0].answer_max = Duration::from_millis(50);
    })
    .await;
    cache.pull(&app(), "manifests/v1").await;
    fake.hang();
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!(Digest::of(&reply.body), digest);
    assert!(reply.header("warning").contains("no answer in time"));
}

#[tokio::test]
async fn what_is_gone_or_refused_upstream_is_not_served_from_the_cache() {
    let fake = Fake::new();
    fake.image("library/app", "gone", "one");
    fake.image("library/app", "hidden", "one");
    let cache = cache_of(&fake).await;
    for tag in ["gone", "hidden"] {
        cache.pull(&app(), &format!("manifests/{tag}")).await;
    }
    fake.untag("library/app", "gone");
    let reply = cache.pull(&app(), "manifests/gone").await;
    assert_eq!(reply.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
    let reason = "the subscription ended".to_owned();
    fake.fail_with(UpstreamError::Denied { reason });
    let reply = cache.pull(&app(), "manifests/hidden").await;
    assert_eq!(reply.refusal(), (403, "DENIED".to_owned()));
    // Nor does it come back when the upstream is down.
    fake.fail_with(unavailable());
    let reply = cache.pull(&app(), "manifests/gone").await;
    assert_eq!(reply.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn without_a_copy_the_client_learns_what_happened() {
    let fake = Fake::new();
    let cache = cache_of(&fake).await;
    fake.fail_with(UpstreamError::RateLimited { retry_after: Some(Duration::from_secs(90)) });
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!(reply.refusal(), (429, "TOOMANYREQUESTS".to_owned()));
    assert_eq!(reply.header("retry-after"), "90");
    assert!(reply.json()["errors"][0]["message"].as_str().expect("text").contains("hub.example"));
}

#[tokio::test]
async fn absence_is_believed_for_a_while() {
    let fake = Fake::new();
    let cache = cache_of(&fake).await;
    for _ in 0..3 {
        assert_eq!(cache.pull(&app(), "manifests/v1").await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(fake.take_log(), ["HEAD library/app v1"]);
}

#[tokio::test]
async fn a_broken_upstream_is_left_alone() {
    let fake = Fake::new();
    let cache = cache_of(&fake).await;
    fake.fail_with(unavailable());
    for tag in 0..10 {
        let reply = cache.pull(&app(), &format!("manifests/{tag}")).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(fake.take_log().len(), 3);
    assert!(cache.registry.upstreams()[0].broken);
}

#[tokio::test]
async fn credentials_take_turns_and_what_is_left_is_known() {
    let fake = Fake::with_credentials(2);
    fake.image("library/app", "v1", "one");
    fake.set_quota(41);
    let cache = cache_of(&fake).await;
    fake.fail(|_, credential| {
        let limited = UpstreamError::RateLimited { retry_after: None };
        (credential == 0).then_some(limited)
    });
    for _ in 0..2 {
        let reply = cache.pull(&app(), "manifests/v1").await;
        assert_eq!((reply.status, reply.header("warning")), (StatusCode::OK, ""));
    }
    let head = "HEAD library/app v1";
    let log = fake.take_log();
    assert_eq!((log[0].as_str(), log[1].as_str(), log.len()), (head, head, 4), "{log:?}");
    let status = &cache.registry.upstreams()[0];
    assert_eq!((status.limited_credentials, status.rate_limited), (1, 1));
    assert_eq!(status.quotas[0], None);
    assert_eq!(status.quotas[1].as_ref().map(|quota| quota.remaining), Some(41));
}

#[tokio::test]
async fn a_head_that_tells_nothing_is_replaced_by_a_conditional_get() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "one");
    fake.heads_tell_nothing();
    let cache = cache_of(&fake).await;
    for _ in 0..2 {
        let reply = cache.pull(&app(), "manifests/v1").await;
        assert_eq!(Digest::of(&reply.body), digest);
        assert_eq!(fake.take_log(), ["HEAD library/app v1", "GET library/app v1"]);
    }
    assert_eq!(cache.head(&format!("/v2/{}/manifests/v1", app())).await.status, StatusCode::OK);
}

// Security row 26: content that is not what its digest says.
#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused_and_not_kept() {
    let fake = Fake::new();
    let wanted = Digest::of(b"right");
    fake.lie("library/app", &wanted.to_string(), &image_manifest("x").to_string());
    let cache = cache_of(&fake).await;
    for _ in 0..2 {
        let reply = cache.pull(&app(), &format!("manifests/{wanted}")).await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(fake.take_log().len(), 1);
    assert_eq!(cache.registry.upstreams()[0].mismatches, 1);
}

// Security row 2 (CVE-2021-41190) holds for what upstreams send, too.
#[tokio::test]
async fn what_is_no_manifest_does_not_become_one() {
    let mut both = image_manifest("x");
    both["manifests"] = json!([]);
    for (tag, body) in [("html", "<html>log in</html>".to_owned()), ("both", both.to_string())] {
        let fake = Fake::new();
        fake.lie("library/app", tag, &body);
        fake.lie("library/app", &Digest::of(body.as_bytes()).to_string(), &body);
        let cache = cache_of(&fake).await;
        let reply = cache.pull(&app(), &format!("manifests/{tag}")).await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{tag}");
    }
}

// Security row 29 (CVE-2024-3727): digests are parsed before anything is done with them.
#[tokio::test]
async fn nonsense_never_reaches_the_upstream() {
    let fake = Fake::new();
    let cache = cache_of(&fake).await;
    let zeros = "0".repeat(64);
    for what in [
        "blobs/sha256:../../etc/passwd".to_owned(),
        "blobs/sha256:".to_owned(),
        format!("blobs/sha256:{}", zeros.to_uppercase().replace('0', "A")),
        format!("blobs/sha256:{}é", &zeros[2..]),
        "blobs/md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        "manifests/..%2f..".to_owned(),
        "manifests/sha256:x".to_owned(),
    ] {
        let reply = cache.pull(&app(), &what.replace('é', "%C3%A9")).await;
        assert!(reply.status.is_client_error(), "{what}: {}", reply.status);
    }
    for name in ["../etc", "A", "a//b"] {
        let reply = cache.get(&format!("/v2/{HUB}/{name}/manifests/v1")).await;
        assert!(reply.status.is_client_error(), "{name}: {}", reply.status);
    }
    assert_eq!(fake.take_log(), NONE);
}

#[tokio::test]
async fn children_of_an_index_come_when_somebody_wants_them() {
    let fake = Fake::new();
    let [amd64, arm64] = ["amd64", "arm64"].map(|name| fake.image("library/app", name, name));
    let child = |digest| json!({ "mediaType": MANIFEST, "digest": digest, "size": 1 });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [child(amd64), child(arm64)],
    });
    fake.tag("library/app", "v1", INDEX, &index);
    let cache = cache_of(&fake).await;
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!(reply.body, index.to_string());
    assert_eq!(fake.take_log().len(), 2, "HEAD and GET of the index");
    let child = cache.pull(&app(), &format!("manifests/{arm64}")).await;
    assert_eq!(Digest::of(&child.body), arm64);
    assert_eq!(fake.take_log(), [format!("GET library/app {arm64}")]);
}

#[tokio::test]
async fn the_cache_outlives_a_restart_and_serves_offline() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "layer");
    let state = tempfile::tempdir().expect("a directory");
    let start = |network| {
        let mut options = options(state.path());
        let mut registry = behind(&fake);
        registry.network = network;
        options.proxy.upstreams.push(registry);
        Fixture::over(options)
    };
    let cache = start(UpstreamNetwork::Online).await;
    let layer = format!("blobs/{}", Digest::of(b"layer"));
    assert_eq!(cache.pull(&app(), "manifests/v1").await.status, StatusCode::OK);
    assert_eq!(cache.pull(&app(), &layer).await.body, "layer");
    cache.registry.shutdown().await;
    fake.take_log();
    let cache = start(UpstreamNetwork::Offline).await;
    let reply = cache.pull(&app(), "manifests/v1").await;
    assert_eq!(Digest::of(&reply.body), digest);
    assert!(reply.header("warning").contains("offline"));
    assert_eq!(cache.pull(&app(), &layer).await.body, "layer");
    let config = cache.pull(&app(), &format!("blobs/{}", Digest::of(b"{}"))).await;
    assert_eq!(config.status, StatusCode::SERVICE_UNAVAILABLE, "it was never pulled");
    assert_eq!(fake.take_log(), NONE);
    cache.registry.shutdown().await;
}

#[tokio::test]
async fn tags_and_referrers_are_the_upstreams_or_what_is_known_of_them() {
    let fake = Fake::new();
    let subject = fake.image("library/app", "v1", "one");
    fake.image("library/app", "v2", "two");
    let signature = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x.signature",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2,
        },
        "layers": [],
        "subject": { "mediaType": MANIFEST, "digest": subject, "size": 1 },
    });
    let digest = fake.tag("library/app", "sig", MANIFEST, &signature);
    let descriptor = json!({
        "mediaType": MANIFEST, "digest": digest, "size": signature.to_string().len(),
        "artifactType": "application/x.signature",
    });
    fake.set_referrers(vec![descriptor, json!("no descriptor")]);
    let cache = cache_of(&fake).await;
    let tags = cache.pull(&app(), "tags/list?n=2").await;
    assert_eq!(tags.json(), json!({ "name": app(), "tags": ["sig", "v1"] }));
    let link = format!("</v2/{}/tags/list?n=2&last=v1>; rel=\"next\"", app());
    assert_eq!(tags.header("link"), link);
    let next = cache.pull(&app(), "tags/list?n=2&last=v1").await;
    assert_eq!(next.json()["tags"], json!(["v2"]));
    assert_eq!(cache.pull(&format!("{HUB}/no/such"), "tags/list").await.status, 404);
    let path = format!("referrers/{subject}?artifactType=application/x.signature");
    let found = cache.pull(&app(), &path).await;
    assert_eq!(found.json()["manifests"][0]["digest"], digest.to_string());
    assert_eq!(found.json()["manifests"].as_array().map(Vec::len), Some(1));
    assert_eq!(found.header("oci-filters-applied"), "artifactType");
    let none = cache.pull(&app(), &format!("referrers/{subject}?artifactType=x")).await;
    assert_eq!(none.json()["manifests"], json!([]));
    // Without the upstream: what was pulled of it.
    cache.pull(&app(), "manifests/sig").await;
    fake.fail_with(unavailable());
    let tags = cache.pull(&app(), "tags/list").await;
    assert_eq!(tags.json()["tags"], json!(["sig"]));
    assert!(tags.header("warning").contains("stale"));
    let found = cache.pull(&app(), &path).await;
    assert_eq!(found.json()["manifests"][0]["digest"], digest.to_string());
    assert!(found.header("warning").contains("stale"));
}
