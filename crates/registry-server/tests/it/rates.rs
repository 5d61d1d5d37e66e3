//! What one address or user may take.

use http::Method;
use registry_server::{Rate, Rates};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Fixture, basic};

/// One request, and the next after an hour: nothing comes back while a test runs.
const ONCE: Option<Rate> = Some(Rate { per_second: 1, burst: 2 });

async fn limited(rates: Rates) -> Fixture {
    Fixture::with(|options, _| options.operations.rates = rates).await
}

#[tokio::test]
async fn an_address_that_asks_too_fast_is_told_when_to_come_back() {
    let registry = limited(Rates { reads_per_address: ONCE, ..Rates::default() }).await;
    let mut last = registry.get("/v2/").await;
    for _ in 0..20 {
        last = registry.get("/v2/").await;
        if last.status != 200 {
            break;
        }
    }
    assert_eq!(last.refusal(), (429, "TOOMANYREQUESTS".to_owned()));
    assert_eq!(last.header("retry-after"), "1");
    let write = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    assert_eq!(write.status.as_u16(), 202, "writes have a bucket of their own");
    assert_eq!(registry.get("/healthz").await.status.as_u16(), 200, "probes have no limit");
}

#[tokio::test]
async fn each_user_has_an_own_rate() {
    let mut registry = Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        for user in ["alice", "bob"] {
            registry_server::add_user(&users, user, "secret").expect("a user");
        }
        options.users = Some(users);
        let one = Some(Rate { per_second: 1, burst: 1 });
        options.operations.rates = Rates { writes_per_principal: one, ..Rates::default() };
    })
    .await;
    let mut statuses = Vec::new();
    // Both passwords are verified once before, since that takes a while.
    for user in ["alice", "bob"] {
        registry.login(basic(user, "secret"));
        assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
    }
    for (user, times) in [("alice", 6), ("bob", 1)] {
        registry.login(basic(user, "secret"));
        for _ in 0..times {
            let reply = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
            statuses.push(reply.status.as_u16());
        }
    }
    assert_eq!(statuses[0], 202);
    assert!(statuses[1..6].contains(&429), "{statuses:?}");
    assert_eq!(statuses[6], 202, "bob is not alice");
}

#[tokio::test]
async fn an_address_has_only_so_many_connections() {
    let rates = Rates { connections_per_address_max: Some(2), ..Rates::default() };
    let registry = limited(rates).await;
    let connect = async || {
        let mut stream =
            TcpStream::connect(registry.registry.address()).await.expect("a connection");
        let request = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n";
        let mut reply = [0; 12];
        // A connection without a place is closed, now or in the middle of the request.
        let answered =
            stream.write_all(request).await.is_ok() && stream.read_exact(&mut reply).await.is_ok();
        (stream, answered)
    };
    let (first, answered) = connect().await;
    assert!(answered);
    let (_second, answered) = connect().await;
    assert!(answered);
    assert!(!connect().await.1, "the third has no place");
    drop(first);
    // The server notices in its own time that the first went.
    while !connect().await.1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_address_has_only_so_many_requests_under_way() {
    let rates = Rates { requests_per_address_max: Some(1), ..Rates::default() };
    let registry = limited(rates).await;
    let location = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = location.header("location").to_owned();
    let mut slow = TcpStream::connect(registry.registry.address()).await.expect("a connection");
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 10\r\n\r\nfirst");
    slow.write_all(head.as_bytes()).await.expect("half a request");
    // Until the server has seen it.
    let refused = loop {
        let reply = registry.get("/v2/").await;
        if reply.status != 200 {
            break reply;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.refusal(), (429, "TOOMANYREQUESTS".to_owned()));
    slow.write_all(b"other").await.expect("the other half");
    let mut reply = [0; 12];
    slow.read_exact(&mut reply).await.expect("a reply");
    assert_eq!(&reply, b"HTTP/1.1 202");
}
