//! Those who are told what happens.

use std::time::Duration;

use http::Method;
use registry_server::{AccessRule, Anonymous, EventFormat, Holder, Receiver, Role};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::{Fixture, basic, options};

/// Somebody to be told.
struct Sink {
    listener: TcpListener,
}

/// What came, head and body.
struct Told {
    head: String,
    body: String,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value)
    }
}

impl Sink {
    async fn open() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a port") }
    }

    fn receiver(&self) -> Receiver {
        let address = self.listener.local_addr().expect("an address");
        let mut receiver = Receiver::new("sink", format!("http://{address}/hook?x=1"));
        receiver.allowed_networks = vec!["127.0.0.0/8".parse().expect("a network")];
        receiver.pause_min = Duration::from_millis(1);
        receiver
    }

    /// Takes one request and answers it.
    async fn answer(&self, status: &str) -> Told {
        let (stream, _) = self.listener.accept().await.expect("a connection");
        let mut stream = BufReader::new(stream);
        let mut told = Told { head: String::new(), body: String::new() };
        while !told.head.ends_with("\r\n\r\n") {
            stream.read_line(&mut told.head).await.expect("a head");
        }
        let length = told.header("content-length").parse().expect("a length");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        told.body = String::from_utf8(body).expect("text");
        let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(reply.as_bytes()).await.expect("a reply");
        told
    }
}

#[tokio::test]
async fn every_change_is_told_in_order_signed_and_again_after_a_failure() {
    let sink = Sink::open().await;
    let registry = Fixture::with(|options, directory| {
        let secret = directory.join("secret");
        std::fs::write(&secret, "key\n").expect("a secret");
        let mut receiver = sink.receiver();
        receiver.secret_file = Some(secret);
        receiver.repositories = vec!["team".to_owned()];
        options.operations.receivers = vec![receiver];
    })
    .await;
    registry.push_image("other", "v1", "not for this receiver").await;
    let first = registry.push_image("team/app", "v1", "one").await;
    let second = registry.push_image("team/app", "v1", "two").await;
    registry.delete("/v2/team/app/manifests/v1").await;
    let failed = sink.answer("500 Internal Server Error").await;
    let again = sink.answer("204 No Content").await;
    assert_eq!(failed.body, again.body);
    assert!(again.head.starts_with("POST /hook?x=1 HTTP/1.1"), "{}", again.head);
    assert!(again.header("content-type").starts_with("application/cloudevents+json"));
    assert!(again.header("x-shipway-signature").starts_with("sha256="));
    let told = [again, sink.answer("200 OK").await, sink.answer("200 OK").await];
    let events = told.map(|told| told.json());
    assert_eq!(events[0]["data"]["digest"], first.to_string());
    assert_eq!(events[1]["data"]["digest"], second.to_string());
    assert_eq!(events[1]["data"]["old_digest"], first.to_string());
    assert_eq!(events[2]["type"], "dev.shipway.registry.tag.deleted");
    assert_eq!(events[2]["subject"], "team/app:v1");
}

#[tokio::test]
async fn what_was_not_told_is_told_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let sink = Sink::open().await;
    let mut options = options(directory.path());
    options.operations.receivers = vec![Receiver {
        format: EventFormat::Distribution,
        timeout: Duration::from_secs(30),
        ..sink.receiver()
    }];
    let registry = Fixture::over(options.clone()).await;
    let digest = registry.push_image("a", "v1", "layer").await;
    // It refuses and refuses while the registry goes down.
    sink.answer("503 Service Unavailable").await;
    let down = tokio::spawn(registry.registry.shutdown());
    while !down.is_finished() {
        tokio::select! {
            _ = sink.answer("503 Service Unavailable") => {}
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    let _registry = Fixture::over(options).await;
    let told = sink.answer("200 OK").await.json();
    assert_eq!(told["events"][0]["target"]["digest"], digest.to_string());
    assert_eq!(told["events"][0]["action"], "push");
}

async fn administered(receiver: Receiver) -> Fixture {
    let mut registry = Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        registry_server::add_user(&users, "root", "secret").expect("a user");
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        let prefix = String::new();
        let holder = Holder::User("root".to_owned());
        options.access = vec![AccessRule { prefix, holder, role: Role::Admin }];
        options.operations.receivers = vec![receiver];
        options.operations.address = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    registry.login(basic("root", "secret"));
    registry
}

/// The status of the only receiver, once it has put something aside that is not tried again.
async fn put_aside(registry: &Fixture) -> Value {
    loop {
        let status = registry.get("/v2/_shipway/notifications").await.json();
        let receiver = status["receivers"][0].clone();
        if receiver["undeliverable"][0]["again"] == false {
            return receiver;
        }
        tokio::task::yield_now().await;
    }
}

/// Row 14 (CVE-2020-13788): a URL does not lead into the network of the registry.
#[tokio::test]
async fn private_addresses_and_redirects_are_not_followed() {
    let sink = Sink::open().await;
    let receiver = Receiver {
        allowed_networks: Vec::new(),
        attempts_max: 1,
        url: sink.receiver().url.replace("127.0.0.1", "localhost"),
        ..sink.receiver()
    };
    let registry = administered(receiver).await;
    registry.push_image("a", "v1", "layer").await;
    let status = put_aside(&registry).await;
    let reason = status["undeliverable"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("not public"), "{reason}");

    let sink = Sink::open().await;
    let registry = administered(Receiver { attempts_max: 1, ..sink.receiver() }).await;
    registry.push_image("a", "v1", "layer").await;
    sink.answer("302 Found\r\nLocation: http://127.0.0.1:1/").await;
    let status = put_aside(&registry).await;
    let reason = status["undeliverable"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("302"), "{reason}");
}

#[tokio::test]
async fn what_was_put_aside_is_sent_again_on_request_and_does_not_stop_the_rest() {
    let sink = Sink::open().await;
    let registry = administered(sink.receiver()).await;
    let poisoned = registry.push_image("a", "v1", "one").await;
    registry.push_image("a", "v2", "two").await;
    sink.answer("422 Unprocessable Content").await;
    let next = sink.answer("200 OK").await.json();
    assert_eq!(next["subject"], "a:v2");
    let status = put_aside(&registry).await;
    let sequence = status["undeliverable"][0]["sequence"].as_u64().expect("a number");
    let missing = "/v2/_shipway/notifications/replay?receiver=nobody";
    assert_eq!(registry.send(Method::POST, missing, &[], "").await.status.as_u16(), 404);
    let path = format!("/v2/_shipway/notifications/replay?receiver=sink&sequence={sequence}");
    assert_eq!(registry.send(Method::POST, &path, &[], "").await.status.as_u16(), 200);
    let again = sink.answer("200 OK").await.json();
    assert_eq!(again["data"]["digest"], poisoned.to_string());
    loop {
        let status = registry.get("/v2/_shipway/notifications").await.json();
        if status["receivers"][0]["undeliverable"] == serde_json::json!([]) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let page = crate::metrics::page(&registry).await;
    for (outcome, count) in [("taken", 2), ("failed", 1), ("given_up", 1)] {
        let labels = format!("{{receiver=\"sink\",outcome=\"{outcome}\"}}");
        let line = format!("registry_notifications_total{labels} {count}");
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}
