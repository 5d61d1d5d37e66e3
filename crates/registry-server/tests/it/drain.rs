//! Going down in order.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Fixture;

const FOREVER: Duration = Duration::from_secs(3600);

/// Long enough to be noticed if it were waited for, not so long that a failure hangs.
const NEVER_REACHED: Duration = Duration::from_secs(120);

async fn status(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.ok()?;
    reply.split(' ').nth(1).map(str::to_owned)
}

#[tokio::test]
async fn a_draining_registry_says_so_and_goes_on_serving() {
    let registry = Fixture::with(|options, _| options.operations.drain_notice = FOREVER).await;
    let address = registry.registry.address();
    assert_eq!(status(address, "/readyz").await.as_deref(), Some("200"));
    let Fixture { registry: running, directory, .. } = registry;
    let draining = tokio::spawn(running.drain());
    while status(address, "/readyz").await.as_deref() != Some("503") {
        tokio::task::yield_now().await;
    }
    assert_eq!(status(address, "/v2/").await.as_deref(), Some("200"));
    assert_eq!(status(address, "/healthz").await.as_deref(), Some("200"), "no reason to kill it");
    draining.abort();
    drop(directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_under_way_ends_well_while_the_registry_goes_down() {
    let registry = Fixture::with(|options, _| {
        options.drain_max = Duration::ZERO;
        options.operations.uploads_drain_max = NEVER_REACHED;
    })
    .await;
    let digest = oci_model::Digest::of(b"first other");
    let address = registry.registry.address();
    let mut upload = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: r\r\n\
         Content-Length: 11\r\nExpect: 100-continue\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).await.expect("a head");
    // The server asks for the body: the request is under way.
    let mut asked = [0; 25];
    upload.read_exact(&mut asked).await.expect("100 Continue");
    upload.write_all(b"first ").await.expect("half a body");
    let Fixture { registry: running, directory, .. } = registry;
    let down = tokio::spawn(running.shutdown());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    upload.write_all(b"other").await.expect("the other half");
    let mut reply = String::new();
    upload.read_to_string(&mut reply).await.expect("a reply");
    assert!(reply.starts_with("HTTP/1.1 201"), "{reply}");
    down.await.expect("an end");
    drop(directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_cut_off_and_goes_on_after_the_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut options = crate::options(directory.path());
    options.drain_max = Duration::ZERO;
    options.operations.uploads_drain_max = Duration::ZERO;
    let registry = Fixture::over(options.clone()).await;
    let location = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = location.header("location").to_owned();
    registry.send(Method::PATCH, &location, &[], "first ").await;
    let mut stuck = TcpStream::connect(registry.registry.address()).await.expect("a connection");
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\n\
         Expect: 100-continue\r\n\r\n"
    );
    stuck.write_all(head.as_bytes()).await.expect("a head");
    let mut asked = [0; 25];
    stuck.read_exact(&mut asked).await.expect("100 Continue");
    registry.registry.shutdown().await;
    let registry = Fixture::over(options).await;
    let digest = oci_model::Digest::of(b"first other");
    let path = format!("{location}?digest={digest}");
    let reply = registry.send(Method::PUT, &path, &[("content-range", "6-10")], "other").await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
}
