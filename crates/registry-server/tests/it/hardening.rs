//! What hostile clients send (the generic list of the security table).

use std::time::Duration;

use http::Method;
use oci_model::Digest;
use registry_server::{Limits, TlsFiles};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Fixture, MANIFEST, image_manifest};

/// Short enough that no test waits, long enough for a busy machine to send a request.
const SHORT: Duration = Duration::from_millis(300);

async fn with_limits(change: impl FnOnce(&mut Limits)) -> Fixture {
    Fixture::with(|options, _| change(&mut options.limits)).await
}

async fn connect(registry: &Fixture) -> TcpStream {
    TcpStream::connect(registry.registry.address()).await.expect("a connection")
}

/// Sends bytes and returns all that comes back until the server closes.
async fn exchange(registry: &Fixture, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut stream = connect(registry).await;
    // A server that has seen enough may close before the end.
    let _ = stream.write_all(bytes.as_ref()).await;
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        received.extend_from_slice(&buffer[..count]);
    }
    received
}

async fn exchange_text(registry: &Fixture, bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(&exchange(registry, bytes).await).into_owned()
}

#[tokio::test]
async fn heads_have_a_size() {
    let registry = Fixture::open().await;
    let head = |headers: &str| {
        format!("GET /v2/ HTTP/1.1\r\nHost: r\r\n{headers}Connection: close\r\n\r\n")
    };
    for (headers, status) in [
        (format!("X: {}\r\n", "x".repeat(30_000)), "200"),
        (format!("X: {}\r\n", "x".repeat(33_000)), "431"),
        (format!("X: {}\r\n", "x".repeat(1_000)).repeat(40), "431"),
        ("X: y\r\n".repeat(200), "431"),
    ] {
        let reply = exchange_text(&registry, head(&headers)).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{status} {reply:.300}");
    }
    // More than anything buffers: the connection ends without a word or with one.
    let giant = exchange_text(&registry, head(&format!("X: {}\r\n", "x".repeat(3_000_000)))).await;
    assert!(giant.is_empty() || giant.starts_with("HTTP/1.1 431"), "{giant:.300}");
}

#[tokio::test]
async fn targets_have_a_size() {
    let registry = Fixture::open().await;
    for (target, status) in [
        (format!("/v2/a/tags/list?last={}", "x".repeat(8_000)), "404"),
        (format!("/v2/a/tags/list?last={}", "x".repeat(9_000)), "414"),
        (format!("/v2/{}/tags/list", "a".repeat(9_000)), "414"),
        (format!("/v2/{}/tags/list", "a".repeat(70_000)), "414"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n");
        let reply = exchange_text(&registry, request).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{status} {reply:.300}");
    }
}

#[tokio::test]
async fn clients_that_do_not_finish_a_head_are_left() {
    let registry = with_limits(|limits| {
        limits.head_time_max = SHORT;
        limits.idle_max = SHORT;
        limits.body_idle_max = SHORT;
    })
    .await;
    // The head of a request in HTTP/2 whose end does not come.
    let half = [preface(), frame(1, 0, 1, &[0x82, 0x84])].concat();
    let frames = frames(&exchange(&registry, half).await);
    assert!(frames.iter().any(|(kind, ..)| *kind == 6), "asked for a sign of life: {frames:?}");
    for beginning in [
        "",
        "GET",
        "PRI * HT",
        "GET /v2/ HTTP/1.1\r\nHost: r\r\nX-Half",
        "GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\nGET /v2/ HTTP/1.1\r\nHo",
    ] {
        // It ends, although this side neither goes on nor closes.
        let reply = exchange_text(&registry, beginning).await;
        assert!(reply.matches("HTTP/1.1 200").count() <= 1, "{beginning:?} {reply}");
    }
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
}

#[tokio::test]
async fn idle_connections_have_a_time_of_their_own_until_a_head_begins() {
    const LONG: Duration = Duration::from_secs(3600);
    let request = "GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n";
    let idle_ends = with_limits(|limits| {
        limits.head_time_max = LONG;
        limits.idle_max = Duration::from_millis(5);
    })
    .await;
    let reply = exchange_text(&idle_ends, request).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");

    let heads_end = with_limits(|limits| {
        limits.head_time_max = SHORT;
        limits.idle_max = LONG;
    })
    .await;
    let mut stream = connect(&heads_end).await;
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut reply = Vec::new();
        while !reply.ends_with(b"{}") {
            reply.push(stream.read_u8().await.expect("an answer"));
        }
    }
    stream.write_all(b"GET /v2/ HT").await.expect("a beginning");
    assert_eq!(rest(&mut stream).await, b"", "the head has its own limit");
}

#[tokio::test]
async fn clients_that_do_not_finish_a_handshake_are_left() {
    let registry = Fixture::with(|options, directory| {
        options.limits.head_time_max = SHORT;
        let names = vec!["127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let files = TlsFiles {
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
            clients: None,
        };
        std::fs::write(&files.certificate, made.cert.pem()).expect("a file");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("a file");
        options.tls = Some(files);
    })
    .await;
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        assert_eq!(exchange(&registry, beginning).await, b"");
    }
}

#[tokio::test]
async fn bodies_that_stop_or_drip_are_left() {
    let registry = with_limits(|limits| {
        limits.body_idle_max = SHORT;
        limits.body_rate_min = 1_000_000;
    })
    .await;
    for target in ["/v2/a/manifests/x", "/v2/a/blobs/uploads/?digest=sha256:00"] {
        let method = if target.contains("uploads") { "POST" } else { "PUT" };
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: r\r\nContent-Type: {MANIFEST}\r\n\
             Content-Length: 100000\r\nConnection: close\r\n\r\nbeginning"
        );
        let head = head.replace("sha256:00", &Digest::of(b"never").to_string());
        let reply = exchange_text(&registry, &head).await;
        assert!(reply.starts_with("HTTP/1.1 408"), "{target} {reply}");
        // One that never stops and never gets anywhere.
        let mut stream = connect(&registry).await;
        stream.write_all(head.as_bytes()).await.expect("a head");
        let (mut reader, mut writer) = stream.split();
        let drip = async {
            let mut pace = tokio::time::interval(SHORT / 20);
            loop {
                pace.tick().await;
                if writer.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut status = [0; 12];
        tokio::select! {
            result = reader.read_exact(&mut status) => { result.expect("a reply"); }
            () = drip => {}
        }
        assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 408", "{target}");
    }
    assert_eq!(registry.get("/v2/a/tags/list").await.status.as_u16(), 404);
}

/// A request behind another one that the lengths do not agree about is never answered: the
/// connection ends (RFC 9112, section 6.3).
#[tokio::test]
async fn requests_cannot_be_smuggled_behind_ambiguous_lengths() {
    let registry = Fixture::open().await;
    let smuggled = "GET /v2/_catalog HTTP/1.1\r\nHost: r\r\n\r\n";
    let post = "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: r\r\n";
    let (length, chunked) = ("Content-Length: 45\r\n", "Transfer-Encoding: chunked\r\n");
    for headers in [[length, chunked].concat(), [chunked, length].concat()] {
        let reply =
            exchange_text(&registry, format!("{post}{headers}\r\n0\r\n\r\n{smuggled}")).await;
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply}");
        assert!(!reply.contains("repositories"), "{reply}");
    }
    for headers in [
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4, 5\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "X: a\r\n b\r\n",
        "X\r\n",
    ] {
        let reply = exchange_text(&registry, format!("{post}{headers}\r\nabcd{smuggled}")).await;
        assert_eq!(reply.matches("HTTP/1.1 400").count(), 1, "{headers:?} {reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{headers:?} {reply}");
    }
    for size in ["fffffffffffffffff", "-1", "0x5", "5;\n"] {
        let request = format!("{post}{chunked}\r\n{size}\r\nabcde\r\n0\r\n\r\n{smuggled}");
        let reply = exchange_text(&registry, request).await;
        assert!(!reply.contains("repositories"), "{size:?} {reply}");
    }
}

/// The preface and empty settings of an HTTP/2 client.
fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    let mut bytes = vec![size[1], size[2], size[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The head of a `GET /` or of a POST whose body is to come.
fn request(stream: u32, ended: bool) -> Vec<u8> {
    let method = if ended { 0x82 } else { 0x83 };
    let block = [method, 0x84, 0x86, 0x41, 1, b'r'];
    frame(1, 4 | u8::from(ended), stream, &block)
}

/// Type, stream and payload of each whole frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let size = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some((payload, behind)) = rest.split_at_checked(size) else { break };
        frames.push((head[3], stream, payload.to_vec()));
        bytes = behind;
    }
    frames
}

/// CVE-2023-44487.
#[tokio::test]
async fn a_storm_of_resets_ends_the_connection() {
    let registry = Fixture::open().await;
    let mut bytes = preface();
    for number in 0..2000_u32 {
        bytes.extend(request(number * 2 + 1, true));
        bytes.extend(frame(3, 0, number * 2 + 1, &8_u32.to_be_bytes()));
    }
    let frames = frames(&exchange(&registry, bytes).await);
    let calm = frames.iter().any(|(kind, _, payload)| *kind == 7 && payload[4..8] == [0, 0, 0, 11]);
    assert!(calm, "no GOAWAY with ENHANCE_YOUR_CALM in {} frames", frames.len());
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_connection_has_so_many_requests_at_once() {
    let registry = with_limits(|limits| {
        limits.streams_max = 3;
        limits.body_idle_max = SHORT;
    })
    .await;
    let mut bytes = preface();
    for number in 0..5 {
        bytes.extend(request(number * 2 + 1, false));
    }
    let mut stream = connect(&registry).await;
    stream.write_all(&bytes).await.expect("frames");
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    let refused = loop {
        let count = stream.read(&mut buffer).await.expect("frames");
        assert!(count > 0, "the connection ended");
        received.extend_from_slice(&buffer[..count]);
        let refused: Vec<u32> = frames(&received)
            .into_iter()
            .filter(|(kind, _, payload)| *kind == 3 && payload[..] == [0, 0, 0, 7])
            .map(|(_, stream, _)| stream)
            .collect();
        if refused.len() == 2 {
            break refused;
        }
    };
    assert_eq!(refused, [7, 9]);
    let settings = frames(&received).into_iter().find(|(kind, ..)| *kind == 4).expect("settings").2;
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 3]), "{settings:?}");
}

#[tokio::test]
async fn paths_that_try_to_leave_lead_nowhere() {
    let registry = Fixture::open().await;
    let begun = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let id = begun.header("docker-upload-uuid").to_owned();
    for (path, status) in [
        ("/v2/a/blobs/uploads/..".to_owned(), 404),
        ("/v2/a/blobs/uploads/%2e%2e%2f%2e%2e%2fmetadata.redb".to_owned(), 404),
        ("/v2/a/blobs/uploads/%00".to_owned(), 404),
        (format!("/v2/a/blobs/uploads/{id}%00"), 404),
        (format!("/v2/a/blobs/uploads/{id}%2f.."), 404),
        (format!("/v2/a/blobs/uploads/%252e%252e%252f{id}"), 404),
        (format!("/v2/b/blobs/uploads/{id}"), 404),
        ("/v2/a/blobs/sha256:..%5c..%5c".to_owned(), 400),
        ("/v2/a/blobs/sha256:%2e%2e".to_owned(), 400),
        (format!("/v2/a/blobs/{}%00", Digest::of(b"x")), 400),
        (format!("/v2/a/blobs/%20{}", Digest::of(b"x")), 400),
        ("/v2/a/manifests/..".to_owned(), 400),
        ("/v2/a/manifests/%2e%2e%2fb".to_owned(), 404),
        ("/v2/a/manifests/x%00".to_owned(), 400),
        ("/v2/a/manifests/%EF%BC%8E%EF%BC%8E".to_owned(), 400),
        ("/v2/a/manifests/%FF".to_owned(), 404),
        ("/v2/a/../b/tags/list".to_owned(), 400),
        ("/v2/a/./b/tags/list".to_owned(), 400),
        ("/v2//a/tags/list".to_owned(), 400),
        ("/v2/a%5cb/tags/list".to_owned(), 400),
        ("//v2/a/tags/list".to_owned(), 404),
        ("/v2/%2e%2e/v2/a/tags/list".to_owned(), 400),
        (format!("/v2/{}/tags/list", "a".repeat(256)), 400),
        (format!("/v2/{}/tags/list", "a".repeat(255)), 404),
        (format!("/v2/{}/tags/list", vec!["a"; 128].join("/")), 404),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n");
        let reply = exchange_text(&registry, request).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{status} {path} {reply:.300}");
    }
}

/// A blob's file that somebody swapped for a link to a file of the host.
#[tokio::test]
async fn links_in_the_store_are_not_followed() {
    let registry = Fixture::open().await;
    let digest = registry.push_blob("a", b"blob").await;
    let directory = registry.directory.as_ref().expect("a directory").path();
    let secret = directory.join("secret");
    std::fs::write(&secret, b"host").expect("a file");
    let mut files = vec![directory.join("blobs")];
    let mut found = None;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory");
            files.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if path.file_name().is_some_and(|name| *name == *digest.encoded()) {
            found = Some(path);
        }
    }
    let file = found.expect("the file of the blob");
    std::fs::remove_file(&file).expect("a removal");
    std::os::unix::fs::symlink(&secret, &file).expect("a link");
    let reply = registry.get(&format!("/v2/a/blobs/{digest}")).await;
    assert!(reply.status.as_u16() >= 400, "{reply:?}");
}

/// CVE-2017-11468: a body that is not announced ends at the limit as well.
#[tokio::test]
async fn an_endless_manifest_is_refused_at_the_limit() {
    let registry = with_limits(|limits| limits.manifest_bytes_max = 100_000).await;
    let head = format!(
        "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: r\r\nContent-Type: {MANIFEST}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    let mut stream = connect(&registry).await;
    stream.write_all(head.as_bytes()).await.expect("a head");
    let (mut reader, mut writer) = stream.split();
    let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
    let endless = async {
        // The server reads a while longer, so that its answer is seen, and then closes.
        while writer.write_all(chunk.as_bytes()).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let mut status = [0; 12];
    tokio::select! {
        result = reader.read_exact(&mut status) => { result.expect("a reply"); }
        () = endless => {}
    }
    assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 413");
}

#[tokio::test]
async fn people_are_warned_of_layers_that_nobody_serves() {
    let registry = Fixture::open().await;
    let mut manifest = registry.image("a", "layer").await;
    let plain = registry.put_manifest("a", "plain", MANIFEST, &image_manifest("layer")).await;
    assert_eq!((plain.status.as_u16(), plain.header("warning")), (201, ""));
    manifest["layers"][0] = json!({
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "digest": Digest::of(b"elsewhere"), "size": 9, "urls": ["http://127.0.0.1:1/"],
    });
    let reply = registry.put_manifest("a", "foreign", MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 201);
    assert!(
        reply.header("warning").starts_with("299 - \"a layer is non-distributable"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn refusals_look_the_same_to_a_head() {
    let registry = Fixture::open().await;
    for path in [
        "/v2/a/manifests/absent",
        "/v2/a/blobs/sha256:bad",
        "/v2/a/tags/list",
        "/v2/A/tags/list",
        "/nothing",
    ] {
        let (got, head) = (registry.get(path).await, registry.head(path).await);
        assert_eq!((head.status, head.body.len()), (got.status, 0), "{path}");
        for name in ["content-type", "content-length"] {
            assert_eq!(head.header(name), got.header(name), "{path} {name}");
        }
        assert_eq!(got.header("content-type"), "application/json");
        let errors = got.json()["errors"].as_array().expect("a list").clone();
        assert!(errors[0]["code"].is_string() && errors[0]["message"].is_string(), "{path}");
    }
}
