//! Uploads in a bucket: what is asked of it, and what becomes of the rest when things fail.

use std::time::Duration;

use http::Method;
use oci_model::{Algorithm, Digest, Hasher};
use registry_server::UploadExpiry;

use crate::bucket::{Bucket, Fault, Gate, How};
use crate::{Fixture, Kind, Reply};

/// Larger than one part; the parts differ.
fn large() -> Vec<u8> {
    (0..17_000_003_u32).map(|n| (n / 7 % 251) as u8).collect()
}

async fn begin(registry: &Fixture) -> String {
    let reply = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    assert_eq!(reply.status.as_u16(), 202, "{reply:?}");
    reply.header("location").to_owned()
}

async fn patch(registry: &Fixture, location: &str, bytes: &[u8]) -> Reply {
    registry.send(Method::PATCH, location, &[], bytes.to_vec()).await
}

async fn put(registry: &Fixture, location: &str, digest: &Digest, bytes: &[u8]) -> Reply {
    let path = format!("{location}?digest={digest}");
    registry.send(Method::PUT, &path, &[], bytes.to_vec()).await
}

impl Fixture {
    fn bucket(&self) -> &Bucket {
        self.bucket.as_ref().expect("a registry over a bucket")
    }
}

/// Waits until the registry has done what it does after its answer.
async fn until(what: impl Fn() -> bool) {
    let waited = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it to happen");
}

#[tokio::test]
async fn a_large_blob_goes_in_parts_to_the_place_where_it_stays() {
    let registry = Fixture::of(Kind::Bucket).await;
    let (bucket, bytes) = (registry.bucket(), large());
    let digest = Digest::of(&bytes);
    let location = begin(&registry).await;
    assert_eq!(patch(&registry, &location, &bytes[..9_000_001]).await.header("range"), "0-9000000");
    assert_eq!(patch(&registry, &location, &bytes[9_000_001..]).await.status.as_u16(), 202);
    assert_eq!(bucket.keys("registry/blobs/"), [""; 0], "nothing is readable before it is whole");
    assert_eq!(put(&registry, &location, &digest, b"").await.status.as_u16(), 201);
    let id = location.rsplit('/').next().expect("an id");
    assert_eq!(bucket.keys("registry/blobs/"), [format!("registry/blobs/{id}")]);
    assert_eq!(bucket.object(&format!("registry/blobs/{id}")).expect("it"), bytes);
    until(|| bucket.keys("registry/uploads/").is_empty()).await;
    assert_eq!(bucket.multiparts(), [""; 0]);
    let asked = bucket.asked();
    let count = |kind: &str| asked.iter().filter(|line| line.starts_with(kind)).count();
    assert_eq!((count("PUT part "), count("POST begin "), count("POST join ")), (3, 1, 1));
    assert!(!asked.iter().any(|line| line.starts_with("GET registry/blobs/")), "{asked:?}");
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.body, bytes);
}

#[tokio::test]
async fn a_small_blob_is_one_write() {
    let registry = Fixture::of(Kind::Bucket).await;
    registry.push_blob("a", b"small").await;
    let asked = registry.bucket().asked();
    let writes = asked.iter().filter(|line| line.starts_with("PUT registry/blobs/")).count();
    assert_eq!(writes, 1, "{asked:?}");
    assert!(!asked.iter().any(|line| line.contains("/uploads/") && line.starts_with("PUT")));
}

#[tokio::test]
async fn of_two_uploads_of_one_blob_one_object_stays() {
    let registry = Fixture::of(Kind::Bucket).await;
    registry.push_blob("a", b"twice").await;
    registry.push_blob("b", b"twice").await;
    assert_eq!(registry.bucket().keys("registry/blobs/").len(), 1);
    let digest = Digest::of(b"twice");
    assert_eq!(registry.get(&format!("/v2/b/blobs/{digest}")).await.body, "twice");
}

#[tokio::test]
async fn a_large_blob_by_another_algorithm_is_read_once_before_it_counts() {
    let registry = Fixture::of(Kind::Bucket).await;
    let bytes = large();
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&bytes);
    let digest = hasher.finish();
    let location = begin(&registry).await;
    patch(&registry, &location, &bytes).await;
    let other = Hasher::new(Algorithm::Sha512).finish();
    assert_eq!(put(&registry, &location, &other, b"").await.refusal().0, 400);
    assert_eq!(registry.bucket().keys("registry/blobs/"), [""; 0]);
    let location = begin(&registry).await;
    patch(&registry, &location, &bytes).await;
    assert_eq!(put(&registry, &location, &digest, b"").await.status.as_u16(), 201);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.body, bytes);
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing_in_the_bucket() {
    let registry = Fixture::of(Kind::Bucket).await;
    let (bucket, promised) = (registry.bucket(), Digest::of(b"promised"));
    for bytes in [b"other".to_vec(), large()] {
        let location = begin(&registry).await;
        let reply = put(&registry, &location, &promised, &bytes).await;
        assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
        let path = format!("/v2/a/blobs/uploads/?digest={promised}");
        let reply = registry.send(Method::POST, &path, &[], bytes).await;
        assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
    }
    assert_eq!(
        (bucket.keys("registry/blobs/"), bucket.keys("registry/uploads/")),
        (vec![], vec![])
    );
    assert_eq!(bucket.multiparts(), [""; 0]);
}

#[tokio::test]
async fn a_cancelled_upload_takes_its_parts_along() {
    let registry = Fixture::of(Kind::Bucket).await;
    let location = begin(&registry).await;
    patch(&registry, &location, &large()).await;
    assert_eq!(registry.bucket().multiparts().len(), 1);
    assert_eq!(registry.delete(&location).await.status.as_u16(), 204);
    assert_eq!(registry.bucket().multiparts(), [""; 0]);
    assert_eq!(registry.bucket().keys("registry/uploads/"), [""; 0]);
    assert_eq!(registry.get(&location).await.status.as_u16(), 404);
}

/// Its parts may be gone already, so nobody may take it over.
#[tokio::test]
async fn an_upload_that_is_being_removed_is_unknown() {
    let registry = Fixture::of(Kind::Bucket).await;
    let location = begin(&registry).await;
    let keys = registry.bucket().keys("registry/uploads/");
    let [key] = &keys[..] else { panic!("one upload: {keys:?}") };
    let state = registry.bucket().object(key).expect("the state");
    let state = String::from_utf8(state.to_vec()).expect("a line");
    let ending = state.replace(r#""turn":null"#, r#""turn":"ended""#);
    assert_ne!(ending, state);
    registry.bucket().plant(key, ending);
    let digest = Digest::of(b"late");
    assert_eq!(registry.get(&location).await.status.as_u16(), 404);
    assert_eq!(patch(&registry, &location, b"late").await.status.as_u16(), 404);
    assert_eq!(put(&registry, &location, &digest, b"late").await.status.as_u16(), 404);
    assert_eq!(registry.delete(&location).await.status.as_u16(), 404);
}

/// What the bucket refuses for a moment, or does without an answer, is done again; never twice.
#[tokio::test]
async fn a_bucket_that_is_slow_or_loses_answers_loses_nothing() {
    let registry = Fixture::of(Kind::Bucket).await;
    let bytes = &large()[..9_000_000];
    for request in ["PUT", "PUT part", "POST begin", "POST join"] {
        for how in [How::SlowDown, How::LostAnswer] {
            let key = match request {
                "PUT" => "registry/uploads/",
                _ => "registry/blobs/",
            };
            registry.bucket().fault(Fault { request, key, how: how.clone(), times: 1 });
            let bytes = [bytes, request.as_bytes(), format!("{how:?}").as_bytes()].concat();
            let digest = Digest::of(&bytes);
            let location = begin(&registry).await;
            let reply = patch(&registry, &location, &bytes[..8_500_000]).await;
            assert_eq!(reply.status.as_u16(), 202, "{request} {how:?}: {reply:?}");
            let reply = put(&registry, &location, &digest, &bytes[8_500_000..]).await;
            assert_eq!(reply.status.as_u16(), 201, "{request} {how:?}: {reply:?}");
            let path = format!("/v2/a/blobs/{digest}");
            assert!(registry.get(&path).await.body == bytes, "{request} {how:?}");
        }
    }
}

#[tokio::test]
async fn a_small_blob_whose_write_lost_its_answer_is_there_once() {
    let registry = Fixture::of(Kind::Bucket).await;
    let (request, key) = ("PUT", "registry/blobs/");
    registry.bucket().fault(Fault { request, key, how: How::LostAnswer, times: 1 });
    let location = begin(&registry).await;
    let digest = Digest::of(b"once");
    let reply = put(&registry, &location, &digest, b"once").await;
    // Either the write was repeated and found itself, or the client has to come again.
    if reply.status.as_u16() != 201 {
        assert_eq!(reply.status.as_u16(), 503, "{reply:?}");
        assert_eq!(put(&registry, &location, &digest, b"once").await.status.as_u16(), 201);
    }
    assert_eq!(registry.bucket().keys("registry/blobs/").len(), 1);
}

/// registry.md 4.7, race 8.
#[tokio::test]
async fn a_put_whose_answer_got_lost_may_be_sent_again() {
    for kind in [Kind::Disk, Kind::Bucket] {
        let registry = Fixture::of(kind).await;
        let location = begin(&registry).await;
        let digest = Digest::of(b"again");
        for _ in 0..3 {
            assert_eq!(put(&registry, &location, &digest, b"again").await.status.as_u16(), 201);
        }
        let other = Digest::of(b"something else");
        let reply = put(&registry, &location, &other, b"something else").await;
        assert_eq!(reply.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()), "{kind:?}");
        let elsewhere = location.replace("/v2/a/", "/v2/b/");
        assert_eq!(put(&registry, &elsewhere, &digest, b"again").await.refusal().0, 404);
    }
}

/// registry.md 4.7, race 7.
#[tokio::test]
async fn of_parallel_chunks_with_one_place_one_gets_in() {
    for kind in [Kind::Disk, Kind::Bucket] {
        let registry = Fixture::of(kind).await;
        let location = begin(&registry).await;
        let chunks: Vec<String> = (0..6).map(|n| format!("chunk{n}")).collect();
        let headers = [("content-range", "0-5")];
        let send = |chunk: &String| {
            registry.send(Method::PATCH, &location, &headers, chunk.clone().into_bytes())
        };
        let replies = futures_util::future::join_all(chunks.iter().map(send)).await;
        let won: Vec<usize> =
            (0..6).filter(|index| replies[*index].status.as_u16() == 202).collect();
        assert_eq!(won.len(), 1, "{replies:?}");
        assert!(replies.iter().all(|reply| matches!(reply.status.as_u16(), 202 | 416 | 409)));
        let digest = Digest::of(chunks[won[0]].as_bytes());
        assert_eq!(put(&registry, &location, &digest, b"").await.status.as_u16(), 201);
    }
}

#[tokio::test]
async fn a_blob_whose_object_is_gone_is_unknown_and_never_short() {
    let registry = Fixture::of(Kind::Bucket).await;
    let digest = registry.push_blob("a", b"precious").await;
    let path = format!("/v2/a/blobs/{digest}");
    let key = registry.bucket().keys("registry/blobs/").remove(0);
    registry.bucket().plant(&key, "short");
    assert_eq!(registry.get(&path).await.refusal(), (404, "BLOB_UNKNOWN".to_owned()));
    registry.bucket().lose(&key);
    assert_eq!(registry.get(&path).await.refusal(), (404, "BLOB_UNKNOWN".to_owned()));
}

/// Downloads of more than a few parts come in stretches that overlap.
#[tokio::test]
async fn a_very_large_blob_comes_out_in_order() {
    let registry = Fixture::of(Kind::Bucket).await;
    let bytes: Vec<u8> = (0..50_000_001_u32).map(|n| (n / 1000 % 251) as u8).collect();
    let digest = registry.push_blob("a", &bytes).await;
    let path = format!("/v2/a/blobs/{digest}");
    assert!(registry.get(&path).await.body == bytes);
    let range = [("range", "bytes=1000-45000999")];
    let reply = registry.send(Method::GET, &path, &range, "").await;
    assert_eq!(reply.status.as_u16(), 206);
    assert!(reply.body == bytes[1000..45_001_000]);
}

#[tokio::test]
async fn uploads_that_nobody_goes_on_with_expire_with_their_parts() {
    let bucket = Bucket::start();
    let mut place = bucket.options();
    let quick = UploadExpiry {
        interval: Duration::from_millis(20),
        idle_max: Duration::ZERO,
        age_max: Duration::from_secs(3600),
    };
    let registry = Fixture::with(|options, _| options.bucket = Some(place.clone())).await;
    let blob = registry.push_blob("a", b"stays").await;
    let location = begin(&registry).await;
    patch(&registry, &location, &large()).await;
    begin(&registry).await;
    let orphan = "registry/blobs/4fa2f9a29ed54c5ca3b12e3b2a1f0c9d";
    bucket.plant(orphan, "left by a replica that died");
    bucket.plant("registry/blobs/not-ours", "somebody's notes");
    assert_eq!((bucket.multiparts().len(), bucket.keys("registry/uploads/").len()), (1, 2));
    let directory = registry.directory;
    registry.registry.shutdown().await;
    place.expiry = quick;
    let state = directory.as_ref().expect("a directory").path();
    let mut options = crate::options(state);
    options.bucket = Some(place);
    let registry = Fixture::over(options).await;
    until(|| {
        bucket.multiparts().is_empty()
            && bucket.keys("registry/uploads/").is_empty()
            && bucket.object(orphan).is_none()
    })
    .await;
    assert_eq!(registry.get(&location).await.status.as_u16(), 404);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{blob}")).await.body, "stays");
    assert!(bucket.object("registry/blobs/not-ours").is_some());
}

/// The upload ends with the process; another registry over the same bucket finishes it.
#[tokio::test]
async fn an_upload_is_gone_on_with_where_the_state_says() {
    let registry = Fixture::of(Kind::Bucket).await;
    let bytes = large();
    let digest = Digest::of(&bytes);
    let gate = Gate::new();
    let held = Fault {
        request: "PUT part",
        key: "registry/blobs/",
        how: How::Held(gate.clone()),
        times: 1,
    };
    let location = begin(&registry).await;
    assert_eq!(patch(&registry, &location, &bytes[..5]).await.header("range"), "0-4");
    registry.bucket().fault(held);
    {
        let interrupted = patch(&registry, &location, &bytes[5..9_000_000]);
        tokio::select! {
            reply = interrupted => panic!("it went through a closed gate: {reply:?}"),
            () = gate.reached() => {}
        }
    }
    gate.open();
    // What came before the connection broke is kept as soon as the bucket has it.
    let reply = registry.get(&location).await;
    assert_eq!(reply.status.as_u16(), 204);
    let range = |reply: &Reply| -> usize {
        let (_, last) = reply.header("range").split_once('-').expect("a range");
        last.parse().expect("a number")
    };
    assert!(range(&reply) >= 4);
    // The next request waits for the interrupted one.
    patch(&registry, &location, b"").await;
    let came = range(&registry.get(&location).await) + 1;
    let reply = put(&registry, &location, &digest, &bytes[came..]).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    assert!(registry.get(&format!("/v2/a/blobs/{digest}")).await.body == bytes);
}

#[tokio::test]
async fn only_the_clients_that_reach_the_bucket_are_sent_there() {
    let bucket = Bucket::start();
    let over = async |clients: &str| {
        let mut place = bucket.options();
        let clients = vec![clients.parse().expect("a network")];
        let lifetime = registry_server::REDIRECT_LIFETIME;
        place.redirect = Some(registry_server::RedirectOptions { clients, lifetime });
        Fixture::with(|options, _| options.bucket = Some(place)).await
    };
    let registry = over("127.0.0.0/8").await;
    let digest = registry.push_blob("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    let range = [("range", "bytes=2-4")];
    let reply = registry.send(Method::GET, &path, &range, "").await;
    assert_eq!((reply.status.as_u16(), reply.header("cache-control")), (307, "no-store"));
    let url = reply.header("location").to_owned();
    assert!(url.starts_with(&bucket.endpoint()) && url.contains("X-Amz-Signature="), "{url}");
    assert!(!url.contains("secret"), "{url}");
    let there = registry.send(Method::GET, &url, &range, "").await;
    assert_eq!((there.status.as_u16(), &there.body[..]), (206, &b"234"[..]));
    let head = registry.head(&path).await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "10"));
    let kept = [("if-none-match", &*format!("\"{digest}\""))];
    assert_eq!(registry.send(Method::GET, &path, &kept, "").await.status.as_u16(), 304);
    let registry = over("192.0.2.0/24").await;
    registry.push_blob("a", b"0123456789").await;
    let reply = registry.send(Method::GET, &path, &range, "").await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (206, &b"234"[..]));
}
