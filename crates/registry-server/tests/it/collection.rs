//! Collection beside requests at full speed: nothing that is referenced goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blob_store::{CollectMode, CollectOptions};
use http::Method;
use oci_model::Digest;

use crate::{Fixture, MANIFEST, image_manifest};

const CLIENTS: usize = 16;

/// Images that each client pushes.
const IMAGES: usize = 30;

/// Tries of one push. A collection without any delay may take a blob before the manifest names
/// it; the client is told and pushes again.
const TRIES_MAX: usize = 200;

/// Registry.md 4.7, races 3 to 5, all at once and with a delay of nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collections_without_a_delay_take_nothing_that_is_referenced() {
    let mut store = None;
    let registry = Arc::new(Fixture::with(|options, _| store = Some(options.store.clone())).await);
    let store = store.expect("the store");
    let done = Arc::new(AtomicBool::new(false));
    let removed = Arc::new(AtomicU64::new(0));
    let collector = {
        let (done, removed) = (Arc::clone(&done), Arc::clone(&removed));
        std::thread::spawn(move || {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                let options = CollectOptions {
                    now: std::time::SystemTime::now() + Duration::from_secs(5),
                    delay: Duration::ZERO,
                    upload_idle_max: Duration::from_secs(3600),
                    mode: CollectMode::Apply,
                };
                let collected = store.collect(&options, |_, _| {}).expect("a collection");
                removed.fetch_add(collected.blobs, Ordering::Relaxed);
                rounds += 1;
            }
            rounds
        })
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(push_and_delete(Arc::clone(&registry), client)))
        .collect();
    let mut acknowledged = BTreeMap::new();
    let mut again = 0;
    for client in clients {
        let (tags, tries) = client.await.expect("no panic");
        acknowledged.extend(tags);
        again += tries;
    }
    done.store(true, Ordering::Relaxed);
    let rounds = collector.join().expect("no panic");
    for ((repository, tag), layer) in &acknowledged {
        let reply = registry.get(&format!("/v2/{repository}/manifests/{tag}")).await;
        assert_eq!(reply.status, 200, "{repository}:{tag}");
        for bytes in ["{}", layer] {
            let digest = Digest::of(bytes.as_bytes());
            let reply = registry.get(&format!("/v2/{repository}/blobs/{digest}")).await;
            assert_eq!(reply.status, 200, "{repository}:{tag} lost {digest}");
            assert_eq!(reply.body, bytes.as_bytes());
        }
    }
    assert_eq!(acknowledged.len(), CLIENTS * (IMAGES - IMAGES / 3));
    let removed = removed.load(Ordering::Relaxed);
    assert!(removed > 0 && rounds > 1, "{rounds} rounds removed {removed}, {again} pushes again");
}

/// Pushes images to two repositories that all clients share, with layers that others push as well,
/// and deletes every third; returns what must be there and how often a push was begun again.
async fn push_and_delete(
    registry: Arc<Fixture>,
    client: usize,
) -> (BTreeMap<(String, String), String>, usize) {
    let repository = format!("r{}", client % 2);
    let mut pushed = BTreeMap::new();
    let mut again = 0;
    for image in 0..IMAGES {
        // Neighbours push the same layer at about the same time, and some delete it.
        let layer = format!("layer {} {image}", client / 4);
        let tag = format!("t{client}-{image}");
        let mut manifest = image_manifest(&layer);
        manifest["annotations"] = serde_json::json!({ "tag": tag });
        for tries in 0.. {
            assert!(tries < TRIES_MAX, "the push never came through");
            again += usize::from(tries > 0);
            if push(&registry, &repository, &tag, &layer, &manifest).await {
                break;
            }
        }
        if image % 3 == 0 {
            let digest = Digest::of(manifest.to_string().as_bytes());
            let reply = registry.delete(&format!("/v2/{repository}/manifests/{digest}")).await;
            assert_eq!(reply.status, 202, "{reply:?}");
        } else {
            pushed.insert((repository.clone(), tag), layer);
        }
    }
    (pushed, again)
}

/// As clients push: what the registry has is not sent again.
async fn push(
    registry: &Fixture,
    repository: &str,
    tag: &str,
    layer: &str,
    manifest: &serde_json::Value,
) -> bool {
    for bytes in ["{}", layer] {
        let digest = Digest::of(bytes.as_bytes());
        let known = registry.head(&format!("/v2/{repository}/blobs/{digest}")).await.status;
        if known == 404 {
            let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
            let reply = registry.send(Method::POST, &path, &[], bytes.to_owned()).await;
            assert_eq!(reply.status, 201, "{reply:?}");
        } else {
            assert_eq!(known, 200);
        }
    }
    let reply = registry.put_manifest(repository, tag, MANIFEST, manifest).await;
    if reply.status == 201 {
        return true;
    }
    assert_eq!(reply.refusal().1, "MANIFEST_BLOB_UNKNOWN", "{reply:?}");
    false
}
