//! Blobs: single flight, tee, resume, verification.

use std::sync::Arc;

use http::StatusCode;
use oci_model::Digest;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fake::{Fake, PIECE, blob};
use crate::bucket::Bucket;

use super::{HUB, cache_of, cache_with, rest, some_bytes};

/// Content of which no two pieces are equal.
fn content(size: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_le_bytes).take(size).collect()
}

fn path(digest: &Digest) -> String {
    format!("/v2/{HUB}/library/app/blobs/{digest}")
}

fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_of_a_cold_image_fetch_everything_once() {
    const CLIENTS: usize = 200;
    let (fake, gate) = (Fake::new(), gate());
    let layer = content(40 * PIECE);
    let mut gated = blob(layer.clone());
    gated.gate = Some((2 * PIECE, gate.clone()));
    let layer_digest = fake.put_blob("library/app", gated);
    let config_digest = fake.put_blob("library/app", blob("{}"));
    let mut manifest = crate::image_manifest("x");
    manifest["layers"][0]["digest"] = layer_digest.to_string().into();
    let digest = fake.tag("library/app", "v1", crate::MANIFEST, &manifest);
    let cache = Arc::new(cache_of(&fake).await);
    let started = Arc::new(Semaphore::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (cache, started) = (cache.clone(), started.clone());
        clients.spawn(async move {
            let reply =
                cache.pull(&format!("{HUB}/library/app"), &format!("manifests/{digest}")).await;
            assert_eq!(reply.status, StatusCode::OK);
            let config = cache.get(&path(&config_digest)).await;
            assert_eq!(config.body, "{}");
            let mut response = cache.begin(&path(&layer_digest), &[]).await;
            started.add_permits(1);
            rest(response.body_mut()).await
        });
    }
    let _all = started.acquire_many(200).await.expect("all started");
    gate.close();
    while let Some(pulled) = clients.join_next().await {
        let (bytes, broken) = pulled.expect("no panic");
        assert!(bytes == layer && !broken);
    }
    let mut log = fake.take_log();
    log.sort();
    let mut expected = [
        format!("GET library/app {config_digest} 0"),
        format!("GET library/app {digest}"),
        format!("GET library/app {layer_digest} 0"),
    ];
    expected.sort();
    assert_eq!(log, expected);
    assert_eq!(fake.bytes_sent(), layer.len() as u64 + 2);
    assert_eq!(cache.registry.upstreams()[0].bytes, fake.bytes_sent());
}

#[tokio::test]
async fn bytes_are_passed_on_before_the_last_has_come_and_late_readers_get_all() {
    let (fake, gate) = (Fake::new(), gate());
    let layer = content(10 * PIECE);
    let mut gated = blob(layer.clone());
    gated.gate = Some((5 * PIECE, gate.clone()));
    let digest = fake.put_blob("library/app", gated);
    let cache = cache_of(&fake).await;
    let mut first = cache.begin(&path(&digest), &[]).await;
    assert_eq!(first.headers()["content-length"], layer.len().to_string().as_str());
    let mut early = some_bytes(first.body_mut()).await;
    assert!(early.len() < 5 * PIECE, "the gate is shut");
    let mut late = cache.begin(&path(&digest), &[]).await;
    let mut begun = some_bytes(late.body_mut()).await;
    gate.close();
    for (bytes, response) in [(&mut early, &mut first), (&mut begun, &mut late)] {
        let (more, broken) = rest(response.body_mut()).await;
        bytes.extend(more);
        assert!(*bytes == layer && !broken);
    }
    assert_eq!(fake.take_log().len(), 1);
}

#[tokio::test]
async fn a_reader_that_dies_leaves_the_fill_alone() {
    let (fake, gate) = (Fake::new(), gate());
    let layer = content(10 * PIECE);
    let mut gated = blob(layer.clone());
    gated.gate = Some((5 * PIECE, gate.clone()));
    let digest = fake.put_blob("library/app", gated);
    let cache = cache_of(&fake).await;
    let mut first = cache.begin(&path(&digest), &[]).await;
    some_bytes(first.body_mut()).await;
    drop(first);
    gate.close();
    let second = cache.get(&path(&digest)).await;
    assert!(second.body == layer);
    assert_eq!(fake.take_log(), [format!("GET library/app {digest} 0")]);
}

#[tokio::test]
async fn a_fill_goes_on_where_its_connection_broke() {
    for (resumes, sent) in [(true, 10 * PIECE), (false, 10 * PIECE + 3 * PIECE + 7 * PIECE)] {
        let fake = Fake::new();
        let layer = content(10 * PIECE);
        let mut breaking = blob(layer.clone());
        breaking.breaks = [3 * PIECE, 7 * PIECE].into();
        breaking.resumes = resumes;
        let digest = fake.put_blob("library/app", breaking);
        let cache = cache_of(&fake).await;
        let reply = cache.get(&path(&digest)).await;
        assert!(reply.body == layer);
        let asked = [0, 3 * PIECE, 7 * PIECE].map(|at| format!("GET library/app {digest} {at}"));
        assert_eq!(fake.take_log(), asked);
        assert_eq!(fake.bytes_sent(), sent as u64);
    }
}

#[tokio::test]
async fn a_fill_that_cannot_go_on_breaks_its_readers_and_leaves_nothing() {
    let fake = Fake::new();
    let layer = content(10 * PIECE);
    let mut breaking = blob(layer.clone());
    breaking.breaks = [3 * PIECE].into();
    let digest = fake.put_blob("library/app", breaking);
    fake.fail(|line, _| {
        let reason = "404 in the middle".to_owned();
        line.ends_with(&format!(" {}", 3 * PIECE))
            .then_some(registry_server::UpstreamError::Malformed { reason })
    });
    let cache = cache_of(&fake).await;
    let mut response = cache.begin(&path(&digest), &[]).await;
    let (bytes, broken) = rest(response.body_mut()).await;
    assert!(broken && bytes.len() <= 3 * PIECE);
    assert_eq!(cache.get(&path(&digest)).await.status, StatusCode::BAD_GATEWAY);
}

// Security rows 26 (CVE-2014-8179) and 34: wrong bytes never become a blob, and no client takes
// them for one.
#[tokio::test]
async fn wrong_bytes_break_the_client_and_are_never_kept() {
    for (tells_size, size) in [(true, 10 * PIECE), (false, 10 * PIECE), (true, 10)] {
        let fake = Fake::new();
        let right = content(size);
        let mut wrong = right.clone();
        wrong[size / 2] ^= 1;
        let digest = Digest::of(&right);
        let mut lying = blob(wrong);
        lying.tells_size = tells_size;
        fake.put_blob_as("library/app", &digest, lying);
        let cache = cache_of(&fake).await;
        let mut response = cache.begin(&path(&digest), &[]).await;
        let (bytes, broken) = rest(response.body_mut()).await;
        assert!(broken && bytes.len() < size, "the last bytes are withheld: {}", bytes.len());
        // Not asked for again at once, not in the store, and told to whoever looks.
        fake.take_log();
        assert_eq!(cache.get(&path(&digest)).await.status, StatusCode::BAD_GATEWAY);
        assert_eq!(fake.take_log(), [""; 0]);
        assert_eq!(cache.registry.upstreams()[0].mismatches, 1);
        let blobs = cache.directory.as_ref().expect("a state").path().join("blobs/sha256");
        assert_eq!(std::fs::read_dir(blobs).expect("blobs").count(), 0);
    }
}

#[tokio::test]
async fn a_blob_of_unknown_size_arrives_whole() {
    let fake = Fake::new();
    let layer = content(5 * PIECE + 3);
    let mut silent = blob(layer.clone());
    silent.tells_size = false;
    let digest = fake.put_blob("library/app", silent);
    let cache = cache_of(&fake).await;
    for _ in 0..2 {
        assert!(cache.get(&path(&digest)).await.body == layer);
    }
    assert_eq!(fake.take_log().len(), 1);
}

#[tokio::test]
async fn a_part_of_a_cold_blob_is_answered_with_that_part() {
    let fake = Fake::new();
    let layer = content(10 * PIECE);
    let digest = fake.put_blob("library/app", blob(layer.clone()));
    let cache = cache_of(&fake).await;
    let mut response = cache.begin(&path(&digest), &[("range", "bytes=70000-80000")]).await;
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(response.headers()["content-range"], "bytes 70000-80000/163840");
    let (bytes, broken) = rest(response.body_mut()).await;
    assert!(!broken && bytes == layer[70_000..=80_000]);
    let whole = cache.get(&path(&digest)).await;
    assert!(whole.body == layer);
    let beyond = cache.begin(&path(&digest), &[("range", "bytes=999999-")]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(fake.take_log().len(), 1, "one fill");
}

#[tokio::test]
async fn a_look_at_a_cold_blob_fetches_nothing() {
    let fake = Fake::new();
    let digest = fake.put_blob("library/app", blob(content(100)));
    let cache = cache_of(&fake).await;
    let reply = cache.head(&path(&digest)).await;
    assert_eq!((reply.status, reply.header("content-length")), (StatusCode::OK, "100"));
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    assert_eq!(fake.take_log(), [format!("HEAD library/app {digest}")]);
    let missing = Digest::of(b"missing");
    for _ in 0..2 {
        assert_eq!(cache.head(&path(&missing)).await.status, StatusCode::NOT_FOUND);
        assert_eq!(cache.get(&path(&missing)).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(fake.take_log().len(), 1, "its absence is believed for a while");
}

// Security row 8 (CVE-2024-39897) for the cache: bytes that are here belong to nobody else.
#[tokio::test]
async fn bytes_that_others_have_are_shown_only_where_the_upstream_has_them_too() {
    let fake = Fake::new();
    let cache = cache_of(&fake).await;
    let secret = cache.push_blob("team/private", b"secret").await;
    assert_eq!(cache.get(&path(&secret)).await.status, StatusCode::NOT_FOUND);
    // Another repository upstream shares a layer: proved by a HEAD, not fetched again.
    let layer = fake.put_blob("library/app", blob("shared layer"));
    fake.put_blob("library/other", blob("shared layer"));
    assert_eq!(cache.get(&path(&layer)).await.status, StatusCode::OK);
    fake.take_log();
    let other = format!("/v2/{HUB}/library/other/blobs/{layer}");
    assert_eq!(cache.get(&other).await.body, "shared layer");
    assert_eq!(cache.get(&other).await.body, "shared layer");
    assert_eq!(fake.take_log(), [format!("HEAD library/other {layer}")]);
    let third = format!("/v2/{HUB}/library/third/blobs/{layer}");
    assert_eq!(cache.get(&third).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn repositories_that_ask_during_a_fill_share_it_if_theirs_has_the_blob() {
    let (fake, gate) = (Fake::new(), gate());
    let layer = content(10 * PIECE);
    let mut gated = blob(layer.clone());
    gated.gate = Some((5 * PIECE, gate.clone()));
    let digest = fake.put_blob("library/app", gated);
    fake.put_blob("library/other", blob(layer.clone()));
    let cache = cache_of(&fake).await;
    let mut first = cache.begin(&path(&digest), &[]).await;
    let mut other = cache.begin(&format!("/v2/{HUB}/library/other/blobs/{digest}"), &[]).await;
    let third = cache.pull(&format!("{HUB}/library/third"), &format!("blobs/{digest}")).await;
    assert_eq!(third.status, StatusCode::NOT_FOUND);
    gate.close();
    for response in [&mut first, &mut other] {
        assert!(rest(response.body_mut()).await == (layer.clone(), false));
    }
    let log = fake.take_log();
    assert_eq!(log.iter().filter(|line| line.starts_with("GET")).count(), 1, "{log:?}");
    let again = cache.pull(&format!("{HUB}/library/other"), &format!("blobs/{digest}")).await;
    assert!(again.body == layer);
    assert_eq!(fake.take_log(), [""; 0]);
}

#[tokio::test]
async fn an_upstream_that_hangs_is_given_up() {
    let fake = Fake::new();
    let digest = fake.put_blob("library/app", blob("x"));
    fake.hang();
    let cache = cache_with(&fake, |options| {
        options.proxy.upstreams[0].answer_max = std::time::Duration::from_millis(20);
    })
    .await;
    let reply = cache.get(&path(&digest)).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.header("retry-after"), "5");
}

#[tokio::test]
async fn replicas_over_a_bucket_share_what_one_of_them_filled() {
    let (fake, bucket) = (Fake::new(), Bucket::start());
    let layer = content(10 * PIECE);
    let digest = fake.put_blob("library/app", blob(layer.clone()));
    fake.put_blob("library/other", blob(layer.clone()));
    let place = || bucket.options();
    let one = cache_with(&fake, |options| options.bucket = Some(place())).await;
    let two = cache_with(&fake, |options| options.bucket = Some(place())).await;
    assert!(one.get(&path(&digest)).await.body == layer);
    assert_eq!(fake.take_log(), [format!("GET library/app {digest} 0")]);
    assert!(two.get(&path(&digest)).await.body == layer);
    assert_eq!(fake.take_log(), [""; 0]);
    // Another repository proves that it has it, and the object is not stored again.
    let other = format!("/v2/{HUB}/library/other/blobs/{digest}");
    assert!(two.get(&other).await.body == layer);
    assert_eq!(fake.take_log(), [format!("HEAD library/other {digest}")]);
    assert_eq!(bucket.keys("registry/blobs/").len(), 1);
    // Two replicas that fill at once: the second one removes its copy.
    let gate = gate();
    let second = content(12 * PIECE);
    let mut gated = blob(second.clone());
    gated.gate = Some((5 * PIECE, gate.clone()));
    let digest = fake.put_blob("library/app", gated);
    let mut here = one.begin(&path(&digest), &[]).await;
    let mut there = two.begin(&path(&digest), &[]).await;
    gate.close();
    for response in [&mut here, &mut there] {
        assert!(rest(response.body_mut()).await == (second.clone(), false));
    }
    assert_eq!(bucket.keys("registry/blobs/").len(), 2);
}
