//! What is cached goes when nobody uses it, or when there is too much; what is pinned stays.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use oci_model::Digest;
use tokio::task::JoinSet;

use super::fake::{Fake, PIECE, blob};
use super::{HUB, cache_with};
use crate::Fixture;

fn app() -> String {
    format!("{HUB}/library/app")
}

/// The size of a blob as the catalog of links knows it: asked of the cache without the upstream.
async fn is_cached(cache: &Fixture, fake: &Fake, digest: &Digest) -> bool {
    fake.take_log();
    let reply = cache.head(&format!("/v2/{}/blobs/{digest}", app())).await;
    assert_eq!(reply.status, StatusCode::OK);
    fake.take_log().is_empty()
}

async fn until_gone(cache: &Fixture, fake: &Fake, digest: &Digest) {
    while is_cached(cache, fake, digest).await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_not_used_for_longest_makes_room() {
    let fake = Fake::new();
    let blobs: Vec<Digest> =
        (0..4_u8).map(|n| fake.put_blob("library/app", blob(vec![n; 1000]))).collect();
    let cache = cache_with(&fake, |options| {
        options.proxy.bytes_max = Some(2500);
        options.proxy.sweep_interval = Duration::from_secs(3600);
    })
    .await;
    for digest in &blobs {
        let reply = cache.pull(&app(), &format!("blobs/{digest}")).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    until_gone(&cache, &fake, &blobs[0]).await;
    assert!(is_cached(&cache, &fake, &blobs[3]).await, "the last one stays");
    // What went comes again.
    let reply = cache.pull(&app(), &format!("blobs/{}", blobs[0])).await;
    assert_eq!(reply.body, vec![0; 1000]);
}

#[tokio::test]
async fn what_nobody_uses_goes_and_what_is_pinned_stays() {
    let fake = Fake::new();
    fake.image("library/app", "pinned", "kept layer");
    fake.image("library/app", "v1", "other layer");
    let cache = cache_with(&fake, |options| {
        options.proxy.upstreams[0].pins = vec!["library/app:pin*".to_owned()];
        options.proxy.unused_max = Duration::ZERO;
        options.proxy.sweep_interval = Duration::from_millis(5);
    })
    .await;
    let [kept, other] = ["kept layer", "other layer"].map(|layer| Digest::of(layer.as_bytes()));
    let pinned = cache.pull(&app(), "manifests/pinned").await;
    cache.pull(&app(), "manifests/v1").await;
    for digest in [&kept, &other] {
        cache.pull(&app(), &format!("blobs/{digest}")).await;
    }
    until_gone(&cache, &fake, &other).await;
    // The blob may have gone before the tag that pins it was there; now it is.
    cache.pull(&app(), "manifests/pinned").await;
    cache.pull(&app(), &format!("blobs/{kept}")).await;
    assert!(is_cached(&cache, &fake, &kept).await);
    let again = cache.pull(&app(), &format!("manifests/{}", Digest::of(&pinned.body))).await;
    assert_eq!(again.status, StatusCode::OK);
}

// Race 12 (registry.md 4.7): a blob that expires while it is filled and read. Section 10 row 12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_beside_fills_of_the_same_blob_never_breaks_a_client() {
    let fake = Fake::new();
    let layer: Vec<u8> = (0_u32..).flat_map(u32::to_le_bytes).take(8 * PIECE).collect();
    let digest = fake.put_blob("library/app", blob(layer.clone()));
    fake.put_blob("library/other", blob(layer.clone()));
    let cache = cache_with(&fake, |options| {
        options.proxy.unused_max = Duration::ZERO;
        options.proxy.sweep_interval = Duration::from_millis(1);
    })
    .await;
    let cache = Arc::new(cache);
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (cache, layer) = (cache.clone(), layer.clone());
        clients.spawn(async move {
            let name = if client % 2 == 0 { app() } else { format!("{HUB}/library/other") };
            for _ in 0..25 {
                let reply = cache.pull(&name, &format!("blobs/{digest}")).await;
                assert!(reply.status == StatusCode::OK && reply.body == layer, "{}", reply.status);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every answer was whole");
    }
    assert!(fake.take_log().len() > 2, "it did go in between");
}
