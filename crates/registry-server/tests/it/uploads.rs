use http::Method;
use oci_model::{Algorithm, Digest, Hasher};

use crate::{Fixture, Kind, Reply, options, over_both_kinds};

over_both_kinds!(
    post_then_put_takes_the_whole_blob,
    a_stream_of_any_length_goes_to_the_end,
    chunks_out_of_order_are_refused_and_the_upload_goes_on,
    wrong_or_missing_digests_never_become_visible,
    a_cancelled_or_invented_upload_is_unknown,
    an_upload_belongs_to_its_repository,
    the_algorithm_may_be_named_at_the_start,
    blobs_are_mounted_from_named_and_unnamed_repositories,
);

async fn begin(registry: &Fixture, query: &str) -> (String, Reply) {
    let path = format!("/v2/a/blobs/uploads/{query}");
    let reply = registry.send(Method::POST, &path, &[], "").await;
    assert_eq!(reply.status.as_u16(), 202, "{reply:?}");
    (reply.header("location").to_owned(), reply)
}

fn closing(location: &str, digest: &Digest) -> String {
    format!("{location}?digest={digest}")
}

async fn post_then_put_takes_the_whole_blob(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let (location, reply) = begin(&registry, "").await;
    assert_eq!(reply.header("range"), "0-0");
    assert!(location.ends_with(reply.header("docker-upload-uuid")));
    let digest = Digest::of(b"whole");
    let reply = registry.send(Method::PUT, &closing(&location, &digest), &[], "whole").await;
    assert_eq!(reply.status.as_u16(), 201);
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    assert_eq!(reply.header("location"), format!("/v2/a/blobs/{digest}"));
    assert_eq!(registry.get(reply.header("location")).await.body, "whole");
}

async fn a_stream_of_any_length_goes_to_the_end(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let (location, _) = begin(&registry, "").await;
    let bytes: Vec<u8> = (0..2_000_003u32).map(|n| (n % 253) as u8).collect();
    let reply = registry.send(Method::PATCH, &location, &[], bytes.clone()).await;
    assert_eq!((reply.status.as_u16(), reply.header("range")), (202, "0-2000002"));
    let digest = Digest::of(&bytes);
    let reply = registry.send(Method::PUT, &closing(&location, &digest), &[], "").await;
    assert_eq!(reply.status.as_u16(), 201);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.body, bytes);
}

async fn chunks_out_of_order_are_refused_and_the_upload_goes_on(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let (location, _) = begin(&registry, "").await;
    let chunk = |range: &'static str, body: &'static str| {
        let location = location.clone();
        let registry = &registry;
        async move { registry.send(Method::PATCH, &location, &[("content-range", range)], body).await }
    };
    assert_eq!(chunk("0-3", "abcd").await.status.as_u16(), 202);
    for (range, body) in [("8-11", "ijkl"), ("0-3", "abcd"), ("bytes 4-7/12", "efgh"), ("x", "e")] {
        let reply = chunk(range, body).await;
        assert_eq!(reply.refusal(), (416, "RANGE_INVALID".to_owned()), "{range}");
        assert_eq!((reply.header("range"), reply.header("location")), ("0-3", &*location));
    }
    assert_eq!(chunk("4-9", "efgh").await.refusal(), (400, "SIZE_INVALID".to_owned()));
    let status = registry.get(&location).await;
    assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-3"));
    assert_eq!(chunk("4-7", "efgh").await.header("range"), "0-7");
    let digest = Digest::of(b"abcdefghijkl");
    let path = closing(&location, &digest);
    let reply = registry.send(Method::PUT, &path, &[("content-range", "4-7")], "ijkl").await;
    assert_eq!(reply.status.as_u16(), 416);
    let reply = registry.send(Method::PUT, &path, &[("content-range", "8-11")], "ijkl").await;
    assert_eq!(reply.status.as_u16(), 201);
}

async fn wrong_or_missing_digests_never_become_visible(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let promised = Digest::of(b"promised");
    let (location, _) = begin(&registry, "").await;
    let reply = registry.send(Method::PUT, &location, &[], "x").await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
    for digest in ["sha256:short", "md5:0", "nonsense", &promised.to_string().to_uppercase()] {
        let path = format!("{location}?digest={digest}");
        let reply = registry.send(Method::PUT, &path, &[], "x").await;
        assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()), "{digest}");
        let path = format!("/v2/a/blobs/uploads/?digest={digest}");
        let reply = registry.send(Method::POST, &path, &[], "x").await;
        assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()), "{digest}");
    }
    let reply = registry.send(Method::PUT, &closing(&location, &promised), &[], "other").await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
    let path = format!("/v2/a/blobs/uploads/?digest={promised}");
    let reply = registry.send(Method::POST, &path, &[], "other").await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
    for digest in [promised, Digest::of(b"other")] {
        assert_eq!(registry.head(&format!("/v2/a/blobs/{digest}")).await.status.as_u16(), 404);
    }
}

async fn a_cancelled_or_invented_upload_is_unknown(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let (location, _) = begin(&registry, "").await;
    assert_eq!(registry.delete(&location).await.status.as_u16(), 204);
    let unknown = (404, "BLOB_UPLOAD_UNKNOWN".to_owned());
    for path in [
        location.as_str(),
        "/v2/a/blobs/uploads/format",
        "/v2/a/blobs/uploads/4fa2f9a2-9ed5-4c5c-a3b1-2e3b2a1f0c9d",
    ] {
        assert_eq!(registry.get(path).await.refusal(), unknown, "{path}");
        assert_eq!(registry.delete(path).await.refusal(), unknown, "{path}");
        let reply = registry.send(Method::PATCH, path, &[], "x").await;
        assert_eq!(reply.refusal(), unknown, "{path}");
    }
}

async fn an_upload_belongs_to_its_repository(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let (location, _) = begin(&registry, "").await;
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    let unknown = (404, "BLOB_UPLOAD_UNKNOWN".to_owned());
    assert_eq!(registry.get(&elsewhere).await.refusal(), unknown);
    let reply = registry.send(Method::PATCH, &elsewhere, &[], "x").await;
    assert_eq!(reply.refusal(), unknown);
}

async fn the_algorithm_may_be_named_at_the_start(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let (location, _) = begin(&registry, "?digest-algorithm=sha512").await;
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"long");
    let digest = hasher.finish();
    registry.send(Method::PATCH, &location, &[], "lo").await;
    let reply = registry.send(Method::PUT, &closing(&location, &digest), &[], "ng").await;
    assert_eq!(reply.status.as_u16(), 201);
    let path = "/v2/a/blobs/uploads/?digest-algorithm=md5";
    let reply = registry.send(Method::POST, path, &[], "").await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
}

async fn blobs_are_mounted_from_named_and_unnamed_repositories(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let digest = registry.push_blob("source", b"shared").await;
    for (target, query) in
        [("named", format!("mount={digest}&from=source")), ("unnamed", format!("mount={digest}"))]
    {
        let path = format!("/v2/{target}/blobs/uploads/?{query}");
        let reply = registry.send(Method::POST, &path, &[], "").await;
        assert_eq!(reply.status.as_u16(), 201, "{target}");
        assert_eq!(reply.header("location"), format!("/v2/{target}/blobs/{digest}"));
        assert_eq!(registry.get(reply.header("location")).await.body, "shared");
    }
    let missing = Digest::of(b"nowhere");
    for query in [
        format!("mount={missing}&from=source"),
        format!("mount={missing}"),
        format!("mount={digest}&from=absent"),
        format!("mount={digest}&from=../x"),
    ] {
        let (location, _) = begin(&registry, &format!("?{query}")).await;
        let reply =
            registry.send(Method::PUT, &closing(&location, &Digest::of(b"")), &[], "").await;
        assert_eq!(reply.status.as_u16(), 201, "the client goes on with an upload");
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = Fixture::over(options(directory.path())).await;
    let (location, _) = begin(&registry, "").await;
    registry.send(Method::PATCH, &location, &[], "one ").await;
    registry.registry.shutdown().await;
    let registry = Fixture::over(options(directory.path())).await;
    assert_eq!(registry.get(&location).await.header("range"), "0-3");
    let digest = Digest::of(b"one two");
    let reply = registry.send(Method::PUT, &closing(&location, &digest), &[], "two").await;
    assert_eq!(reply.status.as_u16(), 201);
}
