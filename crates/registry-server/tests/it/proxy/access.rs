//! Names and rights: one cache, whatever name leads to it, for those who may read it.

use http::{Method, StatusCode};
use oci_model::Digest;
use registry_server::{
    AccessRule, Anonymous, Holder, ProxiedRegistry, ProxyOptionsError, RegistryServer, Role,
    UpstreamError, add_user,
};

use super::fake::Fake;
use super::{HUB, behind, cache_of, cache_with};
use crate::{Fixture, MANIFEST, basic, image_manifest, options};

#[tokio::test]
async fn ns_and_path_lead_to_the_same_cache() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "one");
    let cache = cache_with(&fake, |options| {
        options.proxy.upstreams[0].unprefixed = vec!["library/*".to_owned()];
    })
    .await;
    let by_ns = cache.get("/v2/library/app/manifests/v1?ns=hub.example").await;
    assert_eq!((by_ns.status, Digest::of(&by_ns.body)), (StatusCode::OK, digest));
    assert_eq!(by_ns.header("oci-namespace"), "hub.example");
    let by_path = cache.get(&format!("/v2/{HUB}/library/app/manifests/{digest}")).await;
    assert_eq!((by_path.status, by_path.header("oci-namespace")), (StatusCode::OK, ""));
    let plain = cache.get(&format!("/v2/library/app/manifests/{digest}")).await;
    assert_eq!(plain.status, StatusCode::OK);
    assert_eq!(fake.take_log().len(), 2, "fetched once");
    let tags = cache.get("/v2/library/app/tags/list?ns=hub.example").await;
    assert_eq!(tags.json()["name"], "library/app");
    let unknown = cache.get("/v2/library/app/manifests/v1?ns=other.example").await;
    assert_eq!(unknown.refusal(), (404, "NAME_UNKNOWN".to_owned()));
    let missing = cache.get("/v2/library/no/manifests/v1?ns=hub.example").await;
    assert_eq!((missing.status.as_u16(), missing.header("oci-namespace")), (404, "hub.example"));
}

// Feature 57: push and cache in one instance.
#[tokio::test]
async fn local_repositories_live_beside_caches_and_caches_take_no_pushes() {
    let fake = Fake::new();
    fake.image("library/app", "v1", "one");
    let cache = cache_of(&fake).await;
    let pushed = cache.push_image("library/app", "v1", "ours").await;
    let ours = cache.get("/v2/library/app/manifests/v1").await;
    assert_eq!(Digest::of(&ours.body), pushed);
    assert_eq!(fake.take_log(), [""; 0]);
    let refused = |reply: crate::Reply| {
        let text = reply.json()["errors"][0]["message"].as_str().unwrap_or_default().to_owned();
        assert!(text.contains("is a cache of hub.example"), "{text}");
        reply.refusal()
    };
    let unsupported = (405, "UNSUPPORTED".to_owned());
    let put = cache
        .put_manifest(&format!("{HUB}/library/app"), "v1", MANIFEST, &image_manifest("x"))
        .await;
    assert_eq!(refused(put), unsupported);
    for (method, path) in [
        (Method::POST, format!("/v2/{HUB}/library/app/blobs/uploads/")),
        (Method::POST, "/v2/library/app/blobs/uploads/?ns=hub.example".to_owned()),
        (Method::DELETE, format!("/v2/{HUB}/library/app/manifests/v1")),
    ] {
        assert_eq!(refused(cache.send(method, &path, &[], "").await), unsupported, "{path}");
    }
    let from = format!("{HUB}/library/app");
    cache.pull(&from, &format!("blobs/{}", Digest::of(b"one"))).await;
    let mount = format!("/v2/team/app/blobs/uploads/?mount={}&from={from}", Digest::of(b"one"));
    let mounted = cache.send(Method::POST, &mount, &[], "").await;
    assert_eq!(mounted.status, StatusCode::CREATED, "what is cached can be built upon");
}

#[tokio::test]
async fn cached_content_is_for_those_who_may_read_its_name_space() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "one");
    let mut cache = Fixture::with(|options, state| {
        let users = state.join("htpasswd");
        for user in ["ann", "bob"] {
            add_user(&users, user, &format!("{user} has a password")).expect("a user");
        }
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        options.access = vec![AccessRule {
            prefix: HUB.to_owned(),
            holder: Holder::User("ann".to_owned()),
            role: Role::Push,
        }];
        let mut registry = behind(&fake);
        registry.unprefixed = vec!["library/*".to_owned()];
        options.proxy.upstreams.push(registry);
    })
    .await;
    let names = [
        format!("/v2/{HUB}/library/app/manifests/{digest}"),
        format!("/v2/library/app/manifests/{digest}?ns=hub.example"),
        format!("/v2/library/app/manifests/{digest}"),
    ];
    cache.login(basic("ann", "ann has a password"));
    for name in &names {
        assert_eq!(cache.get(name).await.status, StatusCode::OK, "{name}");
    }
    cache.login(basic("bob", "bob has a password"));
    for name in &names {
        assert_eq!(cache.get(name).await.refusal(), (403, "DENIED".to_owned()), "{name}");
    }
    cache.login(None);
    for name in &names {
        assert_eq!(cache.get(name).await.status, StatusCode::UNAUTHORIZED, "{name}");
    }
    // Strangers do not learn what is behind this registry.
    let unknown = cache.get("/v2/library/app/manifests/v1?ns=other.example").await;
    assert_eq!(unknown.status, StatusCode::UNAUTHORIZED);
    assert_eq!(fake.take_log().len(), 1);
}

#[tokio::test]
async fn only_listed_repositories_are_passed_on() {
    let fake = Fake::new();
    fake.image("library/app", "v1", "one");
    fake.image("other/app", "v1", "one");
    let cache = cache_with(&fake, |options| {
        options.proxy.upstreams[0].repositories = vec!["library/**".to_owned()];
    })
    .await;
    assert_eq!(cache.pull(&format!("{HUB}/library/app"), "manifests/v1").await.status, 200);
    fake.take_log();
    let refused = cache.pull(&format!("{HUB}/other/app"), "manifests/v1").await;
    assert_eq!(refused.refusal(), (403, "DENIED".to_owned()));
    assert_eq!(fake.take_log(), [""; 0]);
}

// Feature 52: many upstreams behind one endpoint.
#[tokio::test]
async fn upstreams_are_kept_apart() {
    let (one, two) = (Fake::new(), Fake::new());
    let first = one.image("library/app", "v1", "of one");
    let second = two.image("library/app", "v1", "of two");
    let cache = cache_with(&one, |options| {
        let mut registry = ProxiedRegistry::new("127.0.0.1:5000", two.clone());
        registry.alias = Some("local".to_owned());
        options.proxy.upstreams.push(registry);
    })
    .await;
    for (path, expected) in [
        ("/v2/library/app/manifests/v1?ns=hub.example", first),
        ("/v2/library/app/manifests/v1?ns=127.0.0.1:5000", second),
        ("/v2/local/library/app/manifests/v1", second),
    ] {
        assert_eq!(Digest::of(&cache.get(path).await.body), expected, "{path}");
    }
    one.fail_with(UpstreamError::Unavailable { reason: String::new() });
    assert_eq!(cache.get("/v2/local/library/app/manifests/v1").await.header("warning"), "");
}

#[tokio::test]
async fn a_registry_with_unusable_upstreams_does_not_start() {
    let state = tempfile::tempdir().expect("a directory");
    let mut options = options(state.path());
    options.proxy.upstreams = vec![behind(&Fake::new()), behind(&Fake::new())];
    let error = RegistryServer::bind(options).await.expect_err("a refusal");
    let expected =
        ProxyOptionsError::Twice { host: "hub.example".to_owned(), name: "hub.example".to_owned() };
    assert!(matches!(error, registry_server::BindError::Proxy(error) if error == expected));
}

#[tokio::test]
async fn a_scraper_learns_how_upstreams_fare() {
    let fake = Fake::new();
    let digest = fake.image("library/app", "v1", "one").to_string();
    fake.set_quota(42);
    let cache = cache_with(&fake, |options| {
        options.operations.address = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    for (name, status) in [("v1", 200), (digest.as_str(), 200), ("missing", 404)] {
        let reply = cache.get(&format!("/v2/{HUB}/library/app/manifests/{name}")).await;
        assert_eq!(reply.status.as_u16(), status);
    }
    let known = cache.registry.upstreams().remove(0);
    assert!(known.hits > 0 && known.misses > 0, "{known:?}");
    let page = crate::metrics::page(&cache).await;
    for (name, value) in [
        ("hits_total", known.hits),
        ("misses_total", known.misses),
        ("upstream_requests_total", known.requests),
        ("failures_total", 0),
        ("broken", 0),
    ] {
        let line = format!("registry_proxy_{name}{{upstream=\"hub.example\"}} {value}");
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let line = "registry_proxy_allowance_remaining{upstream=\"hub.example\",credential=\"0\"} 42";
    assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    fake.fail_with(UpstreamError::Unavailable { reason: "down".to_owned() });
    for _ in 0..4 {
        cache.get(&format!("/v2/{HUB}/library/app/manifests/other")).await;
    }
    let page = crate::metrics::page(&cache).await;
    assert!(page.contains("registry_proxy_broken{upstream=\"hub.example\"} 1"), "{page}");
}
