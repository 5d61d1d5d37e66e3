//! Quotas as clients meet them.

use http::Method;
use oci_model::Digest;
use registry_server::{ByteSize, Namespace};
use serde_json::{Value, json};

use crate::immutable::futures;
use crate::{Fixture, MANIFEST};

async fn limited(quota: u64) -> Fixture {
    let mut namespace = Namespace::new("team");
    namespace.quota = Some(ByteSize(quota));
    namespace.repositories_max = Some(2);
    Fixture::with(|options, _| options.namespaces = vec![namespace]).await
}

async fn usage(registry: &Fixture) -> Value {
    let document = registry.get("/v2/_shipway/usage").await.json();
    document["namespaces"][0].clone()
}

async fn post(registry: &Fixture, blob: &[u8]) -> crate::Reply {
    let path = format!("/v2/team/app/blobs/uploads/?digest={}", Digest::of(blob));
    registry.send(Method::POST, &path, &[], blob.to_vec()).await
}

#[tokio::test]
async fn an_upload_that_cannot_fit_is_refused_before_its_bytes_come() {
    let registry = limited(10_000).await;
    let reply = post(&registry, &[1; 10_001]).await;
    assert_eq!(reply.refusal(), (403, "DENIED".to_owned()));
    assert_eq!(
        reply.json()["errors"][0]["message"],
        "quota of namespace team exceeded: 9.7 KiB allowed, 0 B used, 0 B reserved for uploads, \
         9.7 KiB more asked for"
    );
    let upload = registry.send(Method::POST, "/v2/team/app/blobs/uploads/", &[], "").await;
    let location = upload.header("location").to_owned();
    let reply = registry.send(Method::PATCH, &location, &[], vec![1; 10_001]).await;
    assert_eq!(reply.refusal(), (403, "DENIED".to_owned()));
    let reply = registry.get(&location).await;
    assert_eq!((reply.status.as_u16(), reply.header("range")), (204, "0-0"));
    assert_eq!(usage(&registry).await["reserved"], 0);
}

#[tokio::test]
async fn room_goes_from_the_upload_to_the_blob_to_the_manifest() {
    let registry = limited(10_000).await;
    let layer = "x".repeat(4000);
    let upload = registry.send(Method::POST, "/v2/team/app/blobs/uploads/", &[], "").await;
    let location = upload.header("location").to_owned();
    for part in [&layer[..1000], &layer[1000..]] {
        let reply = registry.send(Method::PATCH, &location, &[], part.to_owned()).await;
        assert_eq!(reply.status.as_u16(), 202);
    }
    assert_eq!(usage(&registry).await["reserved"], 4000);
    let finish = format!("{location}?digest={}", Digest::of(layer.as_bytes()));
    assert_eq!(registry.send(Method::PUT, &finish, &[], "").await.status.as_u16(), 201);
    assert_eq!(usage(&registry).await["reserved"], 4000);
    let image = registry.push_image("team/app", "v1", &layer).await;
    let held = usage(&registry).await;
    let manifest = registry.get("/v2/team/app/manifests/v1").await.body.len();
    assert_eq!(held["bytes"], json!(4000 + 2 + manifest));
    assert_eq!((&held["reserved"], &held["objects"]), (&json!(0), &json!(3)));
    // A wrong digest brings no blob: its room comes back.
    let path = format!("/v2/team/app/blobs/uploads/?digest={image}");
    let reply = registry.send(Method::POST, &path, &[], vec![7; 3000]).await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(usage(&registry).await["reserved"], 0);
    // Shared within the namespace, and mounted: counted once.
    let blob = Digest::of(layer.as_bytes());
    let mount = format!("/v2/team/b/blobs/uploads/?mount={blob}&from=team/app");
    assert_eq!(registry.send(Method::POST, &mount, &[], "").await.status.as_u16(), 201);
    registry.push_image("team/b", "v1", &layer).await;
    assert_eq!(usage(&registry).await["bytes"], held["bytes"]);
    let proof = registry.get("/v2/_shipway/usage/proof").await.json();
    assert_eq!(proof["exact"], true, "{proof}");
}

#[tokio::test]
async fn a_refused_upload_gives_back_only_its_own_room() {
    let registry = limited(10_000).await;
    let blob = [1; 6000];
    assert_eq!(post(&registry, &blob).await.status.as_u16(), 201);
    let claim = format!("digest={}", Digest::of(&blob));
    let upload = registry.send(Method::POST, "/v2/team/app/blobs/uploads/", &[], "").await;
    let finish = format!("{}?{claim}", upload.header("location"));
    let (single, nowhere) = (
        format!("/v2/team/app/blobs/uploads/?{claim}"),
        format!("/v2/team/app/blobs/uploads/{}?{claim}", Digest::of(&blob)),
    );
    for (method, path) in [(Method::POST, &single), (Method::PUT, &finish), (Method::PUT, &nowhere)]
    {
        let reply = registry.send(method, path, &[], vec![2; 100]).await;
        assert!(reply.status.is_client_error(), "{path}: {}", reply.status);
    }
    let reserved = usage(&registry).await["reserved"].as_u64().expect("a number");
    assert!((6000..=6100).contains(&reserved), "{reserved}");
    assert_eq!(post(&registry, &[3; 6000]).await.status.as_u16(), 403);
}

// registry.md 4.7 row 11.
#[tokio::test(flavor = "multi_thread")]
async fn parallel_pushes_do_not_overrun_the_quota() {
    let registry = limited(10_000).await;
    let blobs: Vec<Vec<u8>> = (0..12_u8).map(|number| vec![number; 3000]).collect();
    let replies = futures(blobs.iter().map(|blob| post(&registry, blob))).await;
    let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201; 3], vec![403; 9]].concat());
    assert_eq!(usage(&registry).await["reserved"], 9000);
}

#[tokio::test]
async fn clients_are_warned_near_the_quota() {
    let registry = limited(10_000).await;
    let reply = post(&registry, &[1; 5000]).await;
    assert_eq!((reply.status.as_u16(), reply.header("warning")), (201, ""));
    let reply = post(&registry, &[2; 4100]).await;
    let warning = "299 - \"namespace team uses 8.8 KiB of 9.7 KiB\"";
    assert_eq!((reply.status.as_u16(), reply.header("warning")), (201, warning));
}

#[tokio::test]
async fn a_namespace_has_so_many_repositories() {
    let registry = limited(100_000).await;
    registry.push_image("team/a", "v1", "a").await;
    registry.push_image("team/b", "v1", "a").await;
    let reply = registry.send(Method::POST, "/v2/team/c/blobs/uploads/", &[], "").await;
    assert_eq!(reply.refusal(), (403, "DENIED".to_owned()));
    let message = reply.json()["errors"][0]["message"].as_str().map(str::to_owned);
    assert_eq!(
        message.as_deref(),
        Some("namespace team has 2 repositories, which is all it may have")
    );
    registry.push_image("team/a", "v2", "b").await;
    let reply = registry.delete("/v2/_shipway/repositories?repository=team/b").await;
    assert_eq!(reply.json()["manifests"], 1);
    registry.push_image("team/c", "v1", "a").await;
    let catalog = registry.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], json!(["team/a", "team/c"]));
}

#[tokio::test]
async fn a_quota_holds_after_a_restart_and_a_new_one_from_then_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let with = |quota: u64| {
        let mut options = crate::options(directory.path());
        let mut namespace = Namespace::new("team");
        namespace.quota = Some(ByteSize(quota));
        options.namespaces = vec![namespace];
        options
    };
    let registry = Fixture::over(with(10_000)).await;
    registry.push_image("team/app", "v1", &"x".repeat(8000)).await;
    let before = usage(&registry).await;
    registry.registry.shutdown().await;
    let registry = Fixture::over(with(10_000)).await;
    assert_eq!(usage(&registry).await, before);
    let manifest = registry.image("elsewhere", "y").await;
    assert_eq!(post(&registry, &[1; 5000]).await.status.as_u16(), 403);
    registry.registry.shutdown().await;
    let registry = Fixture::over(with(20_000)).await;
    assert_eq!(post(&registry, &[1; 5000]).await.status.as_u16(), 201);
    let reply = registry.put_manifest("elsewhere", "v1", MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 201);
    registry.registry.shutdown().await;
}
