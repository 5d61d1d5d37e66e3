use std::path::Path;

use http::Method;
use oci_model::MANIFEST_BYTES_MAX;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Fixture, MANIFEST, options};

#[tokio::test]
async fn manifests_of_almost_four_megabytes_work_and_larger_ones_do_not() {
    let registry = Fixture::open().await;
    let mut manifest = registry.image("a", "layer").await;
    let annotations: serde_json::Map<_, _> =
        (0..390).map(|n| (format!("note{n}"), json!("x".repeat(10_000)))).collect();
    manifest["annotations"] = annotations.into();
    let reply = registry.put_manifest("a", "large", MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 201);
    assert_eq!(registry.get("/v2/a/manifests/large").await.body, manifest.to_string());
    let huge = vec![b' '; MANIFEST_BYTES_MAX + 1];
    let headers = [("content-type", MANIFEST)];
    let reply = registry.send(Method::PUT, "/v2/a/manifests/huge", &headers, huge).await;
    assert_eq!(reply.refusal(), (413, "SIZE_INVALID".to_owned()));
}

/// Sends raw bytes and returns what comes back until the server closes or the head is complete.
async fn raw(registry: &Fixture, request: &str) -> String {
    let mut stream = TcpStream::connect(registry.registry.address()).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    while !reply.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => reply.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn an_announced_giant_is_refused_before_it_is_sent() {
    let registry = Fixture::open().await;
    let head = format!(
        "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: r\r\nContent-Type: {MANIFEST}\r\n\
         Content-Length: 5000000000\r\nExpect: 100-continue\r\n\r\n"
    );
    // The body never comes: the refusal must not wait for all of it.
    let mut stream = TcpStream::connect(registry.registry.address()).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("a request");
    stream.shutdown().await.expect("the end");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("a reply");
    assert!(reply.contains("HTTP/1.1 413"), "{reply}");
}

#[tokio::test]
async fn ambiguous_lengths_are_refused() {
    let registry = Fixture::open().await;
    for head in [
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: r\r\nContent-Length: 4\r\n\
         Content-Length: 5\r\n\r\nabcde",
        "GET /v2/ HTTP/1.1\r\nHost: r\r\nX: a\0b\r\n\r\n",
    ] {
        let reply = raw(&registry, head).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{head:?} {reply:?}");
    }
}

#[tokio::test]
async fn paths_that_try_to_leave_are_names_that_do_not_parse() {
    let registry = Fixture::open().await;
    for path in [
        "/v2/../../etc/passwd/tags/list",
        "/v2/%2e%2e%2f%2e%2e%2fetc/tags/list",
        "/v2/a%00/tags/list",
        "/v2/a%5c..%5cb/tags/list",
        "/v2/%252e%252e/tags/list",
    ] {
        let reply = raw(&registry, &format!("GET {path} HTTP/1.1\r\nHost: r\r\n\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{path} {reply:?}");
    }
    let long = format!("GET /v2/{}/tags/list HTTP/1.1\r\nHost: r\r\n\r\n", "a".repeat(10_000));
    assert!(raw(&registry, &long).await.starts_with("HTTP/1.1 414"));
}

#[tokio::test]
async fn methods_that_a_path_lacks_are_refused() {
    let registry = Fixture::open().await;
    for (method, path) in [
        (Method::POST, "/v2/"),
        (Method::PUT, "/v2/a/tags/list"),
        (Method::POST, "/v2/a/manifests/x"),
        (Method::PATCH, "/v2/a/blobs/uploads/"),
        (Method::DELETE, "/v2/_catalog"),
    ] {
        let reply = registry.send(method, path, &[], "").await;
        assert_eq!(reply.refusal(), (405, "UNSUPPORTED".to_owned()), "{path}");
    }
    assert_eq!(registry.get("/nothing").await.status.as_u16(), 404);
}

/// A small file system that goes when the test ends.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .status()
            .expect("the mount program");
        assert!(mounted.success(), "this test needs the right to mount a tmpfs");
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_leaves_the_rest_intact() {
    let disk = SmallDisk::mount("8m");
    let registry = Fixture::over(options(disk.path())).await;
    registry.push_image("a", "v1", "layer").await;
    let giant = vec![7; 12 << 20];
    let digest = oci_model::Digest::of(&giant);
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    let reply = registry.send(Method::POST, &path, &[], giant.clone()).await;
    assert_eq!(reply.refusal(), (507, "UNKNOWN".to_owned()));
    let location = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = location.header("location").to_owned();
    let reply = registry.send(Method::PATCH, &location, &[], giant).await;
    assert_eq!(reply.refusal(), (507, "UNKNOWN".to_owned()));
    assert_eq!(registry.head(&format!("/v2/a/blobs/{digest}")).await.status.as_u16(), 404);
    assert_eq!(registry.get("/v2/a/manifests/v1").await.status.as_u16(), 200);
    registry.push_image("a", "v2", "there is room again").await;
    registry.registry.shutdown().await;
}

#[tokio::test]
async fn what_came_of_a_body_that_breaks_off_stays() {
    let registry = Fixture::open().await;
    let location = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = location.header("location").to_owned();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 100\r\n\r\nfirst ");
    let mut stream = TcpStream::connect(registry.registry.address()).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("a request");
    stream.shutdown().await.expect("the end");
    let mut reply = String::new();
    // The server may close without a reply: nobody is left to read it.
    let _ = stream.read_to_string(&mut reply).await;
    let digest = oci_model::Digest::of(b"first second");
    let path = format!("{location}?digest={digest}");
    let headers = [("content-range", "6-11")];
    let reply = registry.send(Method::PUT, &path, &headers, "second").await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
}
