use http::Method;
use oci_model::{Algorithm, Digest};

use super::{ALGORITHMS, REPO1, REPO2, Suite, digest_of, in_every_way, with_query};
use crate::Reply;

/// Smallest chunk of the suite, in bytes.
const CHUNK: usize = 1024;

in_every_way!(
    blobs_are_pushed_in_every_way_and_go_again,
    chunks_come_in_order_or_not_at_all,
    blobs_are_mounted,
    cancelled_uploads_are_gone,
    parts_of_blobs_are_ranges,
    wrong_digests_are_refused_in_every_flavour,
);

fn bytes(seed: usize, size: usize) -> Vec<u8> {
    (0..size).map(|n| u8::try_from((n * 31 + seed * 7 + n / 251) % 256).unwrap_or(0)).collect()
}

/// What holds for a blob after a push: it is there, in whole, and goes when it is deleted.
async fn settle(suite: &Suite, reply: &Reply, digest: &Digest, expected: &[u8]) {
    let path = format!("/v2/{REPO1}/blobs/{digest}");
    assert_eq!((reply.status.as_u16(), reply.header("location")), (201, &*path), "{reply:?}");
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    let got = suite.get(&path).await;
    assert!(got.status.as_u16() == 200 && got.body == expected, "{digest}: {}", got.status);
    let head = suite.head(&path).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    for (name, value) in [
        ("content-length", expected.len().to_string()),
        ("docker-content-digest", digest.to_string()),
        ("content-type", "application/octet-stream".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
        ("etag", format!("\"{digest}\"")),
    ] {
        assert_eq!((got.header(name), head.header(name)), (&*value, &*value), "{name}");
    }
    assert_eq!(got.header("content-encoding"), "");
    assert_eq!(suite.delete(&path).await.status.as_u16(), 202);
    let head = suite.head(&path).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (404, 0));
}

/// Section 1.1, end-2, end-4a to end-6, end-10; section 2.3, group 3.
async fn blobs_are_pushed_in_every_way_and_go_again(suite: &Suite) {
    for algorithm in ALGORITHMS {
        let missing = digest_of(algorithm, b"missing");
        let reply = suite.get(&format!("/v2/{REPO1}/blobs/{missing}")).await;
        assert_eq!(reply.refusal(), (404, "BLOB_UNKNOWN".to_owned()));
        for (seed, blob) in
            [bytes(1, 3 * CHUNK), Vec::new(), b"{}".to_vec()].into_iter().enumerate()
        {
            let digest = digest_of(algorithm, &blob);
            let name = format!("{algorithm} {seed}");
            let closing = format!("digest={digest}");
            let post = format!("/v2/{REPO1}/blobs/uploads/?{closing}");
            let reply = suite.send(Method::POST, &post, &[], blob.clone()).await;
            settle(suite, &reply, &digest, &blob).await;

            for query in ["".to_owned(), format!("?digest-algorithm={algorithm}")] {
                let location = suite.begin(REPO1, &query).await;
                let path = with_query(&location, &closing);
                let reply = suite.send(Method::PUT, &path, &[], blob.clone()).await;
                settle(suite, &reply, &digest, &blob).await;
            }

            let location = suite.begin(REPO1, "").await;
            let reply = suite.stream(Method::PATCH, &location, &blob).await;
            assert_eq!(reply.status.as_u16(), 202, "{name}");
            let last = blob.len().saturating_sub(1);
            assert_eq!(reply.header("range"), format!("0-{last}"), "{name}");
            let path = with_query(reply.header("location"), &closing);
            let reply = suite.send(Method::PUT, &path, &[], "").await;
            settle(suite, &reply, &digest, &blob).await;

            if blob.is_empty() {
                continue;
            }
            let location = suite.begin(REPO1, "").await;
            let headers = [("content-range", &*format!("0-{last}"))];
            let reply = suite.send(Method::PATCH, &location, &headers, blob.clone()).await;
            assert_eq!(reply.status.as_u16(), 202, "{name}");
            let path = with_query(reply.header("location"), &closing);
            let reply = suite.send(Method::PUT, &path, &[], "").await;
            settle(suite, &reply, &digest, &blob).await;
        }
    }
    let reply = suite
        .send(Method::POST, &format!("/v2/{REPO1}/blobs/uploads/?digest-algorithm=md5"), &[], "")
        .await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
}

/// Sends `blob[range]` as a chunk of its place.
async fn chunk(
    suite: &Suite,
    method: Method,
    path: &str,
    blob: &[u8],
    range: std::ops::Range<usize>,
) -> Reply {
    let content_range = format!("{}-{}", range.start, range.end - 1);
    suite.send(method, path, &[("content-range", &content_range)], blob[range].to_vec()).await
}

/// Section 1.4: chunked, order, closing PUT; end-5, end-6, end-13.
async fn chunks_come_in_order_or_not_at_all(suite: &Suite) {
    for algorithm in ALGORITHMS {
        let blob = bytes(2, 3 * CHUNK);
        let digest = digest_of(algorithm, &blob);
        let closing = format!("digest={digest}");
        for last_in_put in [false, true] {
            for out_of_order in [false, true] {
                let mut location = suite.begin(REPO1, "").await;
                if out_of_order {
                    let early =
                        chunk(suite, Method::PATCH, &location, &blob, CHUNK..2 * CHUNK).await;
                    assert_eq!(early.refusal(), (416, "RANGE_INVALID".to_owned()));
                    let status = suite.get(early.header("location")).await;
                    assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-0"));
                }
                let reply = chunk(suite, Method::PATCH, &location, &blob, 0..CHUNK).await;
                assert_eq!((reply.status.as_u16(), reply.header("range")), (202, "0-1023"));
                reply.header("location").clone_into(&mut location);
                if out_of_order {
                    for method in [Method::PATCH, Method::PUT] {
                        let path = with_query(&location, &closing);
                        let early = chunk(suite, method, &path, &blob, 2 * CHUNK..3 * CHUNK).await;
                        assert_eq!(early.refusal(), (416, "RANGE_INVALID".to_owned()));
                        assert_eq!(early.header("range"), "0-1023");
                        let again = chunk(suite, Method::PATCH, &location, &blob, 0..CHUNK).await;
                        assert_eq!(again.status.as_u16(), 416);
                        let status = suite.get(&location).await;
                        assert_eq!(status.status.as_u16(), 204);
                        assert_eq!(status.header("range"), "0-1023");
                        status.header("location").clone_into(&mut location);
                    }
                }
                let reply = chunk(suite, Method::PATCH, &location, &blob, CHUNK..2 * CHUNK).await;
                assert_eq!((reply.status.as_u16(), reply.header("range")), (202, "0-2047"));
                reply.header("location").clone_into(&mut location);
                let reply = if last_in_put {
                    let path = with_query(&location, &closing);
                    chunk(suite, Method::PUT, &path, &blob, 2 * CHUNK..3 * CHUNK).await
                } else {
                    let reply =
                        chunk(suite, Method::PATCH, &location, &blob, 2 * CHUNK..3 * CHUNK).await;
                    assert_eq!((reply.status.as_u16(), reply.header("range")), (202, "0-3071"));
                    let path = with_query(reply.header("location"), &closing);
                    suite.send(Method::PUT, &path, &[], "").await
                };
                settle(suite, &reply, &digest, &blob).await;
                // The upload is over.
                let path = with_query(&location, &closing);
                let again = suite.send(Method::PUT, &path, &[], "").await;
                assert_eq!(again.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
            }
        }
    }
}

/// Section 1.4: a chunk whose length nobody said beforehand is checked at its end.
#[tokio::test]
async fn chunks_of_unsaid_length_end_where_their_range_ends() {
    let suite = Suite::open(super::Reach::Plain).await;
    let location = suite.begin(REPO1, "").await;
    let send = async |range: &str, body: &'static [u8]| {
        let payload = super::Payload { body: http_body_util::Full::new(body.into()), sized: false };
        suite.exchange(Method::PATCH, &location, &[("content-range", range)], None, payload).await
    };
    let short = send("0-9", b"abcd").await;
    assert_eq!(short.refusal(), (400, "SIZE_INVALID".to_owned()));
    assert_eq!((short.header("range"), short.header("location")), ("0-3", &*location));
    let status = suite.get(&location).await;
    assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-3"));
    let rest = send("4-9", b"efghij").await;
    assert_eq!((rest.status.as_u16(), rest.header("range")), (202, "0-9"));
    assert!(location.ends_with(rest.header("docker-upload-uuid")));
    let digest = Digest::of(b"abcdefghij");
    let path = with_query(&location, &format!("digest={digest}"));
    assert_eq!(suite.send(Method::PUT, &path, &[], "").await.status.as_u16(), 201);
    suite.close().await;
}

/// Section 1.1, end-11; section 1.4, "Mount".
async fn blobs_are_mounted(suite: &Suite) {
    for algorithm in ALGORITHMS {
        for anonymous in [false, true] {
            let blob = bytes(3 + usize::from(anonymous), CHUNK);
            let digest = digest_of(algorithm, &blob);
            suite.push_blob(REPO2, &digest, &blob).await;
            let mut path = format!("/v2/{REPO1}/blobs/uploads/?mount={digest}");
            if !anonymous {
                path.push_str(&format!("&from={REPO2}"));
            }
            let reply = suite.send(Method::POST, &path, &[], "").await;
            settle(suite, &reply, &digest, &blob).await;
            let elsewhere = suite.head(&format!("/v2/{REPO2}/blobs/{digest}")).await;
            assert_eq!(elsewhere.status.as_u16(), 200, "the source keeps it");
        }
        let missing = digest_of(algorithm, b"nobody has this");
        for from in ["", "&from=conformance/repo2", "&from=never/seen", "&from=NOT!A!NAME"] {
            let query = format!("?mount={missing}{from}");
            let location = suite.begin(REPO1, &query).await;
            let path = with_query(&location, &format!("digest={missing}"));
            let reply = suite.send(Method::PUT, &path, &[], "nobody has this").await;
            settle(suite, &reply, &missing, b"nobody has this").await;
        }
    }
}

/// Section 1.1, end-14.
async fn cancelled_uploads_are_gone(suite: &Suite) {
    let location = suite.begin(REPO1, "").await;
    let reply = suite.send(Method::PATCH, &location, &[], "some").await;
    assert_eq!(reply.status.as_u16(), 202);
    assert_eq!(suite.delete(&location).await.status.as_u16(), 204);
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let reply = suite.send(method, &location, &[], "").await;
        assert_eq!(reply.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    }
    let elsewhere = suite.begin(REPO1, "").await.replace(REPO1, REPO2);
    assert_eq!(suite.get(&elsewhere).await.status.as_u16(), 404, "an upload has one repository");
}

/// Section 1.8; section 2.3, "Ranges".
async fn parts_of_blobs_are_ranges(suite: &Suite) {
    let blob = bytes(5, 4000);
    for algorithm in ALGORITHMS {
        let digest = digest_of(algorithm, &blob);
        suite.push_blob(REPO1, &digest, &blob).await;
        let path = format!("/v2/{REPO1}/blobs/{digest}");
        let ask = async |range: &str| {
            suite.send(Method::GET, &path, &[("range", &format!("bytes={range}"))], "").await
        };
        for (range, first, last) in [
            ("500-1499", 500, 1499),
            ("500-", 500, 3999),
            ("-500", 3500, 3999),
            ("2000-5000", 2000, 3999),
            ("9000-,7-8", 7, 8),
        ] {
            let reply = ask(range).await;
            assert_eq!(reply.status.as_u16(), 206, "{range}");
            assert_eq!(reply.header("content-range"), format!("bytes {first}-{last}/4000"));
            assert_eq!(reply.header("content-length"), (last - first + 1).to_string());
            assert!(reply.body == blob[first..=last], "{range}");
        }
        for range in ["500-0", "5000-10000", "-0", "4000-", "5000-,6000-7000"] {
            let reply = ask(range).await;
            assert_eq!(reply.refusal(), (416, "RANGE_INVALID".to_owned()), "{range}");
            assert_eq!(reply.header("content-range"), "bytes */4000");
        }
        let parts = [(3000, 3009), (0, 99), (3990, 3999)];
        let reply = ask("3000-3009, 0-99, -10").await;
        assert_eq!(reply.status.as_u16(), 206);
        assert_eq!(reply.header("content-length"), reply.body.len().to_string());
        assert_eq!(multipart(&reply), parts.map(|(first, last)| part(&blob, first, last)));
        let overlapping = ask("0-3999,0-3999").await;
        assert!(overlapping.status.as_u16() == 200 && overlapping.body == blob);

        // A HEAD has no ranges, and a part of another blob is of no use.
        let head = suite.send(Method::HEAD, &path, &[("range", "bytes=0-1")], "").await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "4000"));
        for (condition, status) in [(format!("\"{digest}\""), 206), ("\"other\"".to_owned(), 200)] {
            let headers = [("range", "bytes=0-1"), ("if-range", &condition)];
            let reply = suite.send(Method::GET, &path, &headers, "").await;
            assert_eq!(reply.status.as_u16(), status, "{condition}");
        }
        // What the client could decode does not matter: digests are of the bytes as they are.
        let headers = [("accept-encoding", "zstd,gzip,deflate")];
        let reply = suite.send(Method::GET, &path, &headers, "").await;
        assert!(reply.header("content-encoding").is_empty() && reply.body == blob);
    }
}

fn part(blob: &[u8], first: usize, last: usize) -> (String, Vec<u8>) {
    (format!("bytes {first}-{last}/{}", blob.len()), blob[first..=last].to_vec())
}

/// Content range and bytes of each part of a `multipart/byteranges` answer.
fn multipart(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let content_type = reply.header("content-type");
    let boundary =
        content_type.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    let find = |bytes: &[u8], what: &str| {
        bytes.windows(what.len()).position(|window| window == what.as_bytes())
    };
    let mut parts = Vec::new();
    let delimiter = format!("--{boundary}");
    let mut rest = reply.body.strip_prefix(delimiter.as_bytes()).expect("a first part");
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head_end = find(part, "\r\n\r\n").expect("the end of a head");
        let head = String::from_utf8_lossy(&part[..head_end]).into_owned();
        let range = head.split("Content-Range: ").nth(1).expect("a range").to_owned();
        let body = &part[head_end + 4..];
        let end = find(body, &format!("\r\n{delimiter}")).expect("the end of a part");
        parts.push((range, body[..end].to_vec()));
        rest = &body[end + 2 + delimiter.len()..];
    }
    assert_eq!(rest, b"--\r\n");
    parts
}

/// Section 2.3, "bad digest" in five flavours; security row 34.
async fn wrong_digests_are_refused_in_every_flavour(suite: &Suite) {
    let invalid = || (400, "DIGEST_INVALID".to_owned());
    for algorithm in ALGORITHMS {
        let promised = digest_of(algorithm, b"promised");
        let upper = promised.to_string().to_uppercase();
        let short = format!("{algorithm}:{}", &promised.encoded()[1..]);
        let encoded = promised.encoded().to_uppercase();
        let upper_hex = format!("{algorithm}:{encoded}");
        for digest in [
            promised.to_string(),
            upper,
            upper_hex,
            short,
            format!("{algorithm}:"),
            format!("{algorithm}:baddigeststring"),
            "blake3:00".to_owned(),
            "sha256:..%2f..%2fetc".to_owned(),
            String::new(),
        ] {
            let closing = format!("digest={digest}");
            let post = format!("/v2/{REPO1}/blobs/uploads/?{closing}");
            let reply = suite.send(Method::POST, &post, &[], "delivered").await;
            assert_eq!(reply.refusal(), invalid(), "POST {digest}");
            let location = suite.begin(REPO1, "").await;
            let path = with_query(&location, &closing);
            let reply = suite.send(Method::PUT, &path, &[], "delivered").await;
            assert_eq!(reply.refusal(), invalid(), "PUT {digest}");
            for streamed in [true, false] {
                let location = suite.begin(REPO1, "").await;
                let reply = if streamed {
                    suite.stream(Method::PATCH, &location, b"delivered").await
                } else {
                    chunk(suite, Method::PATCH, &location, b"delivered", 0..9).await
                };
                let path = with_query(reply.header("location"), &closing);
                let reply = suite.send(Method::PUT, &path, &[], "").await;
                assert_eq!(reply.refusal(), invalid(), "streamed {streamed} {digest}");
            }
            let location = suite.begin(REPO1, "").await;
            let reply = chunk(suite, Method::PATCH, &location, b"delivered", 0..4).await;
            let path = with_query(reply.header("location"), &closing);
            let reply = chunk(suite, Method::PUT, &path, b"delivered", 4..9).await;
            assert_eq!(reply.refusal(), invalid(), "last chunk {digest}");
        }
        for digest in [promised, digest_of(algorithm, b"delivered")] {
            let path = format!("/v2/{REPO1}/blobs/{digest}");
            assert_eq!(suite.head(&path).await.status.as_u16(), 404, "nothing became visible");
        }
        let location = suite.begin(REPO1, "").await;
        let reply = suite.send(Method::PUT, &location, &[], "delivered").await;
        assert_eq!(reply.refusal(), invalid(), "no digest at all");
    }
    assert_eq!(Algorithm::Sha512.length(), 64);
}

/// Section 3.1: the challenge of a mount asks for the source as well.
#[tokio::test]
async fn the_challenge_of_a_mount_names_its_source() {
    let suite = Suite::open(super::Reach::Bearer).await;
    let payload = super::Payload { body: http_body_util::Full::default(), sized: true };
    let mount = format!("mount={}&from={REPO2}", Digest::of(b"x"));
    let path = format!("/v2/{REPO1}/blobs/uploads/?{mount}");
    let reply = suite.exchange(Method::POST, &path, &[], None, payload).await;
    assert_eq!(reply.status.as_u16(), 401);
    let scope = format!("scope=\"repository:{REPO1}:pull,push repository:{REPO2}:pull\"");
    assert!(reply.header("www-authenticate").contains(&scope), "{reply:?}");
    suite.close().await;
}
