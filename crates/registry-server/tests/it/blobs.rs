use http::Method;
use oci_model::{Algorithm, Digest, Hasher};

use crate::{Fixture, Kind, over_both_kinds};

over_both_kinds!(
    a_pushed_blob_comes_back_with_its_headers,
    a_large_blob_streams_out_whole,
    ranges_are_served_clipped_or_refused,
    who_has_the_blob_already_gets_304,
    a_blob_is_only_in_repositories_that_got_it,
    a_deleted_blob_is_gone_at_once_and_stays_elsewhere,
    the_empty_blob_and_sha512_are_blobs_like_others,
);

async fn a_pushed_blob_comes_back_with_its_headers(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let digest = registry.push_blob("a/b", b"hello").await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let got = registry.get(&path).await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, b"hello".as_slice()));
    for (name, value) in [
        ("content-length", "5"),
        ("content-type", "application/octet-stream"),
        ("docker-content-digest", &digest.to_string()),
        ("accept-ranges", "bytes"),
        ("etag", &format!("\"{digest}\"")),
        ("docker-distribution-api-version", "registry/2.0"),
    ] {
        assert_eq!(got.header(name), value, "{name}");
    }
    let head = registry.head(&path).await;
    assert_eq!((head.status, head.body.len()), (got.status, 0));
    for name in ["content-length", "content-type", "docker-content-digest"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
}

async fn a_large_blob_streams_out_whole(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let bytes: Vec<u8> = (0..3_000_017u32).map(|n| (n % 251) as u8).collect();
    let digest = registry.push_blob("a", &bytes).await;
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.body, bytes);
}

async fn ranges_are_served_clipped_or_refused(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let bytes: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
    let digest = registry.push_blob("a", &bytes).await;
    let path = format!("/v2/a/blobs/{digest}");
    for (range, first, last) in [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2999),
        ("bytes=-500", 2500, 2999),
        ("bytes=2000-5000", 2000, 2999),
    ] {
        let reply = registry.send(Method::GET, &path, &[("range", range)], "").await;
        assert_eq!(reply.status.as_u16(), 206, "{range}");
        assert_eq!(reply.header("content-range"), format!("bytes {first}-{last}/3000"));
        assert_eq!(reply.header("content-length"), (last - first + 1).to_string());
        assert_eq!(reply.body, bytes[first..=last], "{range}");
    }
    for range in ["bytes=500-0", "bytes=5000-10000"] {
        let reply = registry.send(Method::GET, &path, &[("range", range)], "").await;
        assert_eq!(reply.refusal(), (416, "RANGE_INVALID".to_owned()));
        assert_eq!(reply.header("content-range"), "bytes */3000");
    }
}

async fn who_has_the_blob_already_gets_304(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let digest = registry.push_blob("a", b"x").await;
    let tag = format!("\"{digest}\"");
    let path = format!("/v2/a/blobs/{digest}");
    let reply = registry.send(Method::GET, &path, &[("if-none-match", &tag)], "").await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (304, 0));
    let reply = registry.send(Method::GET, &path, &[("if-none-match", "\"other\"")], "").await;
    assert_eq!(reply.status.as_u16(), 200);
}

async fn a_blob_is_only_in_repositories_that_got_it(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let digest = registry.push_blob("private/a", b"secret").await;
    let reply = registry.get(&format!("/v2/other/blobs/{digest}")).await;
    assert_eq!(reply.refusal(), (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(registry.head(&format!("/v2/other/blobs/{digest}")).await.status.as_u16(), 404);
}

async fn a_deleted_blob_is_gone_at_once_and_stays_elsewhere(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let digest = registry.push_blob("a", b"x").await;
    registry.push_blob("b", b"x").await;
    let path = format!("/v2/a/blobs/{digest}");
    assert_eq!(registry.delete(&path).await.status.as_u16(), 202);
    assert_eq!(registry.head(&path).await.status.as_u16(), 404);
    assert_eq!(registry.delete(&path).await.refusal(), (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(registry.head(&format!("/v2/b/blobs/{digest}")).await.status.as_u16(), 200);
    registry.push_blob("a", b"x").await;
    assert_eq!(registry.get(&path).await.body, "x");
}

#[tokio::test]
async fn a_blob_that_a_manifest_needs_is_not_deleted() {
    let registry = Fixture::open().await;
    let manifest = registry.push_image("a", "v1", "layer").await;
    let path = format!("/v2/a/blobs/{}", Digest::of(b"layer"));
    assert_eq!(registry.delete(&path).await.refusal(), (409, "DENIED".to_owned()));
    let reply = registry.delete(&format!("/v2/a/manifests/{manifest}")).await;
    assert_eq!(reply.status.as_u16(), 202);
    assert_eq!(registry.delete(&path).await.status.as_u16(), 202);
}

async fn the_empty_blob_and_sha512_are_blobs_like_others(kind: Kind) {
    let registry = Fixture::of(kind).await;
    let empty = registry.push_blob("a", b"").await;
    let reply = registry.get(&format!("/v2/a/blobs/{empty}")).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-length")), (200, "0"));
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"long");
    let digest = hasher.finish();
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(registry.send(Method::POST, &path, &[], "long").await.status.as_u16(), 201);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.body, "long");
}

/// Blobs go from the file to the socket past the HTTP library: nothing may get out of step.
#[tokio::test(flavor = "multi_thread")]
async fn requests_sent_together_get_their_own_bytes() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let registry = Fixture::open().await;
    let large: Vec<u8> = (0..5_000_011u32).map(|n| (n % 241) as u8).collect();
    let small = b"small blob".to_vec();
    let (large_digest, small_digest) =
        (registry.push_blob("a", &large).await, registry.push_blob("a", &small).await);
    let targets = [
        (format!("blobs/{large_digest}"), "0-", large.clone()),
        ("tags/list".to_owned(), "", Vec::new()),
        (format!("blobs/{small_digest}"), "0-", small.clone()),
        (format!("blobs/{large_digest}"), "3000000-4999999", large[3_000_000..5_000_000].to_vec()),
        (format!("blobs/{small_digest}"), "6-", small[6..].to_vec()),
    ];
    let mut requests = String::new();
    for (target, range, _) in &targets {
        requests.push_str(&format!("GET /v2/a/{target} HTTP/1.1\r\nHost: r\r\n"));
        if !range.is_empty() {
            requests.push_str(&format!("Range: bytes={range}\r\n"));
        }
        requests.push_str("\r\n");
    }
    let address = registry.registry.address();
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    stream.write_all(requests.as_bytes()).await.expect("requests");
    let mut received = Vec::new();
    let mut buffer = vec![0; 7001];
    for (target, _, expected) in targets {
        let head_end = loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let count = stream.read(&mut buffer).await.expect("bytes");
            assert!(count > 0, "{target}: the connection ended");
            received.extend_from_slice(&buffer[..count]);
        };
        let head = String::from_utf8_lossy(&received[..head_end]).to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .expect("a length");
        received.drain(..head_end);
        while received.len() < length {
            let count = stream.read(&mut buffer).await.expect("bytes");
            assert!(count > 0, "{target}: the connection ended");
            received.extend_from_slice(&buffer[..count]);
        }
        let body: Vec<u8> = received.drain(..length).collect();
        if !expected.is_empty() {
            assert!(body == expected, "{target}: other bytes");
        }
    }
}
