//! The race catalogue of the registry reference, as far as one process is concerned.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blob_store::{CollectMode, CollectOptions};
use http::Method;
use oci_model::Digest;
use tokio::task::JoinSet;

use crate::{Fixture, MANIFEST, image_manifest, options};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_upload_the_same_blob() {
    let registry = Arc::new(Fixture::open().await);
    let mut clients = JoinSet::new();
    for client in 0..50 {
        let registry = Arc::clone(&registry);
        let bytes = vec![42; 300_000];
        clients.spawn(async move { registry.push_blob(&format!("r{}", client % 5), &bytes).await });
    }
    let digests = clients.join_all().await;
    for repository in 0..5 {
        let path = format!("/v2/r{repository}/blobs/{}", digests[0]);
        assert_eq!(registry.get(&path).await.body, vec![42; 300_000]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_to_one_tag_leave_one_winner_and_all_manifests() {
    let registry = Arc::new(Fixture::open().await);
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let registry = Arc::clone(&registry);
        clients.spawn(async move {
            registry.push_image("a", "latest", &format!("layer {client}")).await
        });
    }
    let digests = clients.join_all().await;
    for digest in &digests {
        let reply = registry.get(&format!("/v2/a/manifests/{digest}")).await;
        assert_eq!(reply.status.as_u16(), 200);
    }
    let winner = registry.get("/v2/a/manifests/latest").await;
    let winner = winner.header("docker-content-digest").to_owned();
    assert!(digests.iter().any(|digest| digest.to_string() == winner));
    // All others may go without the tag going with them.
    for digest in digests.iter().filter(|digest| digest.to_string() != winner) {
        registry.delete(&format!("/v2/a/manifests/{digest}")).await;
    }
    let reply = registry.get("/v2/a/manifests/latest").await;
    assert_eq!(reply.header("docker-content-digest"), winner);
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_chunks_never_interleave() {
    let registry = Arc::new(Fixture::open().await);
    let reply = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = reply.header("location").to_owned();
    let mut clients = JoinSet::new();
    for client in 0..8u8 {
        let (registry, location) = (Arc::clone(&registry), location.clone());
        clients.spawn(async move {
            let body = vec![client; 700_000];
            let headers = [("content-range", "0-699999")];
            (registry.send(Method::PATCH, &location, &headers, body).await.status.as_u16(), client)
        });
    }
    let mut outcomes = clients.join_all().await;
    outcomes.sort_unstable();
    let statuses: Vec<u16> = outcomes.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [202, 416, 416, 416, 416, 416, 416, 416]);
    assert_eq!(registry.get(&location).await.header("range"), "0-699999");
    let digest = Digest::of(&vec![outcomes[0].1; 700_000]);
    let path = format!("{location}?digest={digest}");
    assert_eq!(registry.send(Method::PUT, &path, &[], "").await.status.as_u16(), 201);
}

#[tokio::test]
async fn a_repeated_push_is_the_same_push() {
    let registry = Fixture::open().await;
    for _ in 0..2 {
        registry.push_image("a", "v1", "layer").await;
    }
    assert_eq!(registry.get("/v2/a/manifests/v1").await.status.as_u16(), 200);
}

/// The client saw the blob with HEAD and skips its upload; a collection runs before the manifest
/// comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_skips_an_upload_does_not_lose_to_a_collection() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = options(directory.path());
    let store = options.store.clone();
    let registry = Fixture::over(options).await;
    registry.image("a", "layer").await;
    let week = Duration::from_secs(7 * 86_400);
    let digest = Digest::of(b"layer");
    for digest in [digest, Digest::of(b"{}")] {
        let file = std::fs::File::open(store.path(&digest)).expect("the blob");
        let old = std::fs::FileTimes::new().set_modified(SystemTime::now() - week);
        file.set_times(old).expect("an older time");
        let reply = registry.head(&format!("/v2/a/blobs/{digest}")).await;
        assert_eq!(reply.status.as_u16(), 200);
    }
    let collect = CollectOptions {
        now: SystemTime::now(),
        delay: Duration::from_secs(3600),
        upload_idle_max: week,
        mode: CollectMode::Apply,
    };
    let collected = store.collect(&collect, |_, _| {}).expect("a collection");
    assert_eq!((collected.blobs, collected.kept_blobs), (0, 2));
    let reply = registry.put_manifest("a", "v1", MANIFEST, &image_manifest("layer")).await;
    assert_eq!(reply.status.as_u16(), 201);
    // From now on the manifest keeps them, whatever the delay.
    let at_once =
        CollectOptions { now: SystemTime::now() + week, delay: Duration::ZERO, ..collect };
    assert_eq!(store.collect(&at_once, |_, _| {}).expect("a collection").blobs, 0);
    // A blob that a collection took is unknown, not a broken download.
    registry.delete("/v2/a/manifests/v1").await;
    let manifest = Digest::of(image_manifest("layer").to_string().as_bytes());
    registry.delete(&format!("/v2/a/manifests/{manifest}")).await;
    assert_eq!(store.collect(&at_once, |_, _| {}).expect("a collection").blobs, 2);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.status.as_u16(), 404);
    let reply = registry.put_manifest("a", "v1", MANIFEST, &image_manifest("layer")).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    registry.push_image("a", "v1", "layer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_blob_and_pushing_its_manifest_leave_no_broken_image() {
    let registry = Arc::new(Fixture::open().await);
    for round in 0..20 {
        let layer = format!("layer {round}");
        let manifest = registry.image("a", &layer).await;
        let path = format!("/v2/a/blobs/{}", Digest::of(layer.as_bytes()));
        let tag = format!("t{round}");
        let (pushed, deleted) = tokio::join!(
            registry.put_manifest("a", &tag, MANIFEST, &manifest),
            registry.delete(&path)
        );
        let both = (pushed.status.as_u16(), deleted.status.as_u16());
        assert!(both == (201, 409) || both == (400, 202), "{both:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_and_the_end_of_their_subject_do_not_disturb_each_other() {
    let registry = Arc::new(Fixture::open().await);
    for round in 0..10 {
        let subject = registry.push_image("a", "v1", &format!("layer {round}")).await;
        let mut manifest = registry.image("a", "signature").await;
        manifest["subject"] = serde_json::json!({
            "mediaType": MANIFEST, "digest": subject, "size": 1,
        });
        let path = format!("/v2/a/manifests/{subject}");
        let tag = format!("sig{round}");
        let (pushed, deleted) = tokio::join!(
            registry.put_manifest("a", &tag, MANIFEST, &manifest),
            registry.delete(&path)
        );
        assert_eq!((pushed.status.as_u16(), deleted.status.as_u16()), (201, 202));
        let list = registry.get(&format!("/v2/a/referrers/{subject}")).await.json();
        assert_eq!(list["manifests"].as_array().map(Vec::len), Some(1));
    }
}
