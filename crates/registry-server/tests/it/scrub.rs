//! Blobs that rot on disk are never served, and come back with the next push.

use std::time::Duration;

use blob_store::BlobStore;
use oci_model::Digest;
use registry_server::ScrubSchedule;

use crate::{Fixture, MANIFEST};

/// Changes a byte of a blob on disk.
fn damage(store: &BlobStore, digest: &Digest) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = store.path(digest);
    let mut bytes = std::fs::read(&path).expect("the blob");
    bytes[0] ^= 1;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(&path, bytes).expect("damage");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_blobs_answer_404_everywhere_until_they_are_pushed_again() {
    let mut store = None;
    let registry = Fixture::with(|options, _| {
        options.scrub = Some(ScrubSchedule {
            bytes_per_second: u64::MAX,
            interval: Duration::ZERO,
            start_delay: Duration::ZERO,
        });
        store = Some(options.store.clone());
    })
    .await;
    let store = store.expect("the store");
    registry.push_image("a", "v1", "layer").await;
    registry.push_image("b", "v1", "layer").await;
    let layer = Digest::of(b"layer");
    damage(&store, &layer);
    // The scrubber passes once a second.
    while store.contains(&layer) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for repository in ["a", "b"] {
        let path = format!("/v2/{repository}/blobs/{layer}");
        assert_eq!(registry.head(&path).await.status.as_u16(), 404);
        assert_eq!(registry.get(&path).await.refusal(), (404, "BLOB_UNKNOWN".to_owned()));
        assert_eq!(registry.get(&format!("/v2/{repository}/manifests/v1")).await.status, 200);
    }
    // No new manifest may rest on it, by whatever way.
    let manifest = crate::image_manifest("layer");
    let mut other = manifest.clone();
    other["annotations"] = serde_json::json!({ "a": "b" });
    let refused = registry.put_manifest("a", "v2", MANIFEST, &other).await;
    assert_eq!(refused.refusal().1, "MANIFEST_BLOB_UNKNOWN");
    let mount = format!("/v2/c/blobs/uploads/?mount={layer}&from=a");
    let mounted = registry.send(http::Method::POST, &mount, &[], "").await;
    assert_eq!(mounted.status.as_u16(), 202, "an upload instead of a mount");
    // A client that pushes again finds it missing, uploads it, and everything is well.
    registry.push_blob("a", b"layer").await;
    assert_eq!(registry.put_manifest("a", "v2", MANIFEST, &other).await.status, 201);
    for repository in ["a", "b"] {
        let reply = registry.get(&format!("/v2/{repository}/blobs/{layer}")).await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"layer"[..]));
    }
    registry.registry.shutdown().await;
}

#[tokio::test]
async fn a_blob_of_the_wrong_length_is_not_served() {
    let mut store = None;
    let registry = Fixture::with(|options, _| store = Some(options.store.clone())).await;
    let store = store.expect("the store");
    registry.push_image("a", "v1", "layer").await;
    let layer = Digest::of(b"layer");
    std::fs::remove_file(store.path(&layer)).expect("the blob");
    std::fs::write(store.path(&layer), "lay").expect("a short file");
    let path = format!("/v2/a/blobs/{layer}");
    assert_eq!(registry.get(&path).await.status.as_u16(), 404);
    assert_eq!(registry.head(&path).await.status.as_u16(), 404);
    registry.push_blob("a", b"layer").await;
    assert_eq!(&registry.get(&path).await.body[..], b"layer");
}
