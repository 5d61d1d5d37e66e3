//! Online collection of blobs in a bucket. What happened long ago is written into the log behind
//! the registry's back; the log is what replicas believe.

use std::time::Duration;

use oci_model::Digest;
use registry_server::CollectionSchedule;
use serde_json::json;

use crate::bucket::Bucket;
use crate::{Fixture, MANIFEST, image_manifest, options};

/// Adds an entry to the log, with changes made at `at` milliseconds.
fn write_log(bucket: &Bucket, at: u64, changes: &[serde_json::Value]) {
    let sequence = bucket.keys("registry/log/").len() + 1;
    let stamp = json!({ "at": at, "by": "ann", "request": "r" });
    let changes: Vec<_> =
        changes.iter().map(|change| json!({ "stamp": stamp, "change": change })).collect();
    let entry = json!({ "format": 1, "writer": "test", "nonce": sequence, "changes": changes });
    bucket.plant(&format!("registry/log/{sequence:020}"), entry.to_string());
}

fn old_blob(bucket: &Bucket, content: &'static str, id: &str) -> Digest {
    let (digest, key) = (Digest::of(content.as_bytes()), format!("blobs/{id}"));
    bucket.plant(&format!("registry/{key}"), content);
    let size = content.len();
    let blob = json!({ "repository": "a", "digest": digest, "size": size, "key": key });
    write_log(bucket, 1, &[json!({ "add_blob": blob })]);
    digest
}

async fn until(what: impl AsyncFn() -> bool) {
    let waited = async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it to happen");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_goes_from_the_bucket_in_two_steps() {
    let bucket = Bucket::start();
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let start = async |index: usize, interval| {
        let mut options = options(directories[index].path());
        options.bucket = Some(bucket.options());
        options.collection = Some(CollectionSchedule { interval, delay: Duration::ZERO });
        Fixture::over(options).await
    };
    let registry = start(0, Duration::from_secs(3600)).await;
    registry.push_image("a", "v1", "needed").await;
    let loose = registry.push_blob("a", b"pushed just now").await;
    let ids = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];
    let unseen = old_blob(&bucket, "unseen", ids[0]);
    let tombstone = old_blob(&bucket, "tombstone", ids[1]);
    let old_needed = old_blob(&bucket, "old but needed", "00000000-0000-4000-8000-000000000003");
    let collect = json!({ "collect": { "candidates": [tombstone], "seen_before": 2 } });
    write_log(&bucket, 2, &[collect]);
    let manifest = image_manifest("old but needed");
    let reply = registry.put_manifest("a", "v2", MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 201);
    // Listed, not asked for: that would count as seen.
    assert_eq!(bucket.keys("registry/blobs/").len(), 6);

    let collector = start(1, Duration::from_millis(20)).await;
    let objects = ids.map(|id| format!("registry/blobs/{id}"));
    until(async || bucket.object(&objects[1]).is_none()).await;
    let path = |digest: &Digest| format!("/v2/a/blobs/{digest}");
    until(async || registry.head(&path(&unseen)).await.status.as_u16() == 404).await;
    assert!(bucket.object(&objects[0]).is_some(), "downloads of a tombstone go on");
    assert_eq!(registry.head(&path(&tombstone)).await.status.as_u16(), 404);
    for stays in [&loose, &old_needed, &Digest::of(b"needed"), &Digest::of(b"{}")] {
        assert_eq!(collector.get(&path(stays)).await.status.as_u16(), 200);
    }
    // The tombstone comes back with its object; what is gone is uploaded again.
    for content in ["unseen", "tombstone"] {
        registry.push_image("a", content, content).await;
        let digest = Digest::of(content.as_bytes());
        assert_eq!(collector.get(&path(&digest)).await.body, content);
    }
    assert!(bucket.object(&objects[0]).is_some());
    assert!(bucket.object(&objects[1]).is_none());
}
