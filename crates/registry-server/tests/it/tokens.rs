//! The token service: keys that replicas share and change, refresh tokens, and what clocks do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use oci_model::Digest;
use registry_server::{
    Anonymous, AuthScheme, Clock, RefreshBinding, RegistryOptions, TokenAlgorithm, add_user,
    remove_user,
};
use serde_json::Value;

use crate::{Fixture, basic};

/// A clock that tests move.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let (start, passed) = (SystemTime::now(), Arc::clone(&self.0));
        Clock::new(move || start + Duration::from_secs(passed.load(Ordering::SeqCst)))
    }
}

/// A registry with the user alice, whose clients are asked for tokens.
pub(crate) fn with_alice(options: &mut RegistryOptions, directory: &Path, clock: &TestClock) {
    let users = directory.join("htpasswd");
    add_user(&users, "alice", "alice-pw").expect("a user");
    options.users = Some(users);
    options.anonymous = Anonymous::Nothing;
    options.scheme = AuthScheme::Bearer;
    options.identity.clock = clock.clock();
}

async fn registry(change: impl FnOnce(&mut RegistryOptions, &Path)) -> (Fixture, TestClock) {
    let clock = TestClock::new();
    let registry = Fixture::with(|options, directory| {
        with_alice(options, directory, &clock);
        change(options, directory);
    });
    (registry.await, clock)
}

const PUSH: &str = "/auth/token?service=shipway-registry&scope=repository:team/app:pull,push";
const PULL: &str = "/auth/token?service=shipway-registry&scope=repository:team/app:pull";

/// Gets a token for alice and uses it from now on.
async fn login(registry: &mut Fixture, path: &str) -> Value {
    registry.login(basic("alice", "alice-pw"));
    let reply = registry.get(path).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    let token = reply.json();
    registry.login(Some(format!("Bearer {}", token["token"].as_str().expect("a token"))));
    token
}

async fn post(registry: &Fixture, form: &str) -> crate::Reply {
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    registry.send(Method::POST, "/auth/token", &headers, form.to_owned()).await
}

#[tokio::test]
async fn tokens_that_read_live_five_minutes_and_others_fifteen() {
    let (mut registry, clock) = registry(|_, _| {}).await;
    assert_eq!(login(&mut registry, PULL).await["expires_in"], 300);
    assert_eq!(registry.get("/v2/team/app/tags/list").await.status.as_u16(), 404);
    clock.advance(300 + 60);
    assert_eq!(registry.get("/v2/team/app/tags/list").await.status.as_u16(), 404, "leeway");
    clock.advance(1);
    let reply = registry.get("/v2/team/app/tags/list").await;
    assert_eq!(reply.status.as_u16(), 401);
    assert!(reply.header("www-authenticate").ends_with("error=\"invalid_token\""), "{reply:?}");
    assert_eq!(login(&mut registry, PUSH).await["expires_in"], 900);

    let (mut bounded, _) = self::registry(|options, _| {
        options.identity.tokens.push_life = Duration::from_secs(86_400);
        options.identity.tokens.pull_life = Duration::from_secs(1);
    })
    .await;
    assert_eq!(login(&mut bounded, PUSH).await["expires_in"], 3600, "an hour is the most");
    assert_eq!(login(&mut bounded, PULL).await["expires_in"], 60, "clients take less for that");
}

// registry.md 3.5: a push that takes longer than its token.
#[tokio::test]
async fn a_token_that_expires_in_the_middle_of_an_upload_costs_no_bytes() {
    let (mut registry, clock) = registry(|_, _| {}).await;
    let token = login(&mut registry, PUSH).await;
    let reply = registry.send(Method::POST, "/v2/team/app/blobs/uploads/", &[], "").await;
    let location = reply.header("location").to_owned();

    // The body goes on after the token has died.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let stream = body_of(receiver);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{}{location}", registry.registry.url()))
        .header(header::AUTHORIZATION, format!("Bearer {}", token["token"].as_str().expect("it")))
        .body(StreamBody::new(stream))
        .expect("a request");
    let patch = tokio::spawn(async move { client.request(request).await });
    // More than the sockets hold between them: once all is sent some was read, and the head was
    // judged before that.
    let piece = Bytes::from(vec![b'x'; 1024 * 1024]);
    for _ in 0..24 {
        sender.send(piece.clone()).await.expect("sent");
    }
    clock.advance(3600);
    sender.send(piece.clone()).await.expect("sent");
    drop(sender);
    let reply = patch.await.expect("no panic").expect("a response");
    assert_eq!(reply.status().as_u16(), 202, "judged when it began");

    let digest = Digest::of(&piece.repeat(25));
    let close = format!("{location}?digest={digest}");
    let reply = registry.send(Method::PUT, &close, &[], "").await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    login(&mut registry, PUSH).await;
    let reply = registry.send(Method::PUT, &close, &[], "").await;
    assert_eq!(reply.status.as_u16(), 201, "the refusal left the upload as it was: {reply:?}");
    let reply = registry.head(&format!("/v2/team/app/blobs/{digest}")).await;
    assert_eq!(reply.status.as_u16(), 200);
}

fn body_of(
    receiver: tokio::sync::mpsc::Receiver<Bytes>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send + 'static
{
    futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|bytes| (Ok(Frame::data(bytes)), receiver))
    })
    .boxed()
}

#[tokio::test]
async fn tokens_of_one_replica_count_at_another_and_keys_change_with_overlap() {
    let shared = tempfile::tempdir().expect("a directory");
    let keys = shared.path().join("keys");
    let change = |options: &mut RegistryOptions, _: &Path| {
        options.identity.token_keys = Some(keys.clone());
    };
    let (mut one, clock) = registry(change).await;
    let (mut two, other_clock) = registry(change).await;
    let stranger = registry(|_, _| {}).await.0;
    let published = async |registry: &Fixture| -> Vec<String> {
        let reply = registry.get("/auth/jwks.json").await;
        assert_eq!(reply.status.as_u16(), 200);
        let set = reply.json();
        let keys = set["keys"].as_array().expect("keys").iter();
        keys.map(|key| {
            assert_eq!((key["kty"].as_str(), key["d"].is_null()), (Some("OKP"), true));
            key["kid"].as_str().expect("an id").to_owned()
        })
        .collect()
    };
    login(&mut one, PULL).await;
    two.login(one.credentials.clone());
    assert_eq!(two.get("/v2/").await.status.as_u16(), 200);
    let first = published(&one).await;
    assert_eq!(published(&two).await, first);

    // A month later the first replica makes a key; the second accepts what it signs.
    let month = 30 * 24 * 3600;
    clock.advance(month);
    other_clock.advance(month);
    login(&mut one, PULL).await;
    clock.advance(61);
    other_clock.advance(61);
    let token = login(&mut one, PULL).await;
    assert_eq!(published(&one).await.len(), 2);
    two.login(one.credentials.clone());
    assert_eq!(two.get("/v2/").await.status.as_u16(), 200);
    let kid = jsonwebtoken::decode_header(token["token"].as_str().expect("a token"));
    assert_ne!(kid.expect("a header").kid.as_ref(), first.first());
    let mut stranger = stranger;
    stranger.login(one.credentials.clone());
    assert_eq!(stranger.get("/v2/").await.status.as_u16(), 401, "a registry with other keys");
}

#[tokio::test]
async fn es256_is_an_option() {
    let (mut registry, _) =
        registry(|options, _| options.identity.tokens.algorithm = TokenAlgorithm::Es256).await;
    login(&mut registry, PUSH).await;
    registry.push_image("team/app", "v1", "layer").await;
    assert_eq!(registry.get("/auth/jwks.json").await.json()["keys"][0]["crv"], "P-256");
}

#[tokio::test]
async fn a_token_for_many_repositories_stays_short() {
    let (mut registry, _) = registry(|_, _| {}).await;
    let name = |n: usize| format!("team/{}/{n}", "x".repeat(100));
    let scopes: Vec<_> = (0..100).map(|n| format!("scope=repository:{}:pull", name(n))).collect();
    // As forms, since no request target is that long.
    let scope = scopes.join(" ").replace("scope=", "");
    let form = format!("grant_type=password&username=alice&password=alice-pw&scope={scope}");
    let token = post(&registry, &form).await.json();
    let token = token["access_token"].as_str().expect("a token");
    assert!(token.len() <= 4096, "{} bytes", token.len());
    registry.login(Some(format!("Bearer {token}")));
    for (n, expected) in [(0, 404), (63, 404), (64, 401)] {
        let reply = registry.get(&format!("/v2/{}/tags/list", name(n))).await;
        assert_eq!(reply.status.as_u16(), expected, "{n}: 64 scopes count");
    }
}

#[tokio::test]
async fn refresh_tokens_work_at_every_replica_until_the_password_changes() {
    let shared = tempfile::tempdir().expect("a directory");
    let keys = shared.path().join("keys");
    let users = shared.path().join("htpasswd");
    add_user(&users, "alice", "alice-pw").expect("a user");
    let change = |options: &mut RegistryOptions, _: &Path| {
        options.identity.token_keys = Some(keys.clone());
        options.users = Some(users.clone());
    };
    let (mut one, _) = registry(change).await;
    let (two, clock) = registry(change).await;
    // As docker login does it.
    one.login(basic("alice", "alice-pw"));
    let reply = one.get(&format!("{PUSH}&offline_token=true&client_id=docker")).await.json();
    let refresh = reply["refresh_token"].as_str().expect("a refresh token").to_owned();
    let form = format!(
        "grant_type=refresh_token&refresh_token={refresh}&client_id=containerd-client\
         &service=shipway-registry&scope=repository:team/app:pull,push"
    );
    let renewed = post(&two, &form).await;
    assert_eq!(renewed.status.as_u16(), 200, "{renewed:?}");
    assert_eq!(renewed.json()["scope"], "repository:team/app:pull,push");
    // The password that it came with is not needed; its change ends it everywhere.
    add_user(&users, "alice", "another").expect("a new password");
    assert_eq!(post(&two, &form).await.status.as_u16(), 401);
    add_user(&users, "alice", "alice-pw").expect("the old password, with a new salt");
    assert_eq!(post(&two, &form).await.status.as_u16(), 401);

    let reply = one.get(&format!("{PUSH}&offline_token=true")).await.json();
    let refresh = reply["refresh_token"].as_str().expect("a refresh token").to_owned();
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    assert_eq!(post(&two, &form).await.status.as_u16(), 200);
    let other_service = format!("{form}&service=another-registry");
    assert_eq!(post(&two, &other_service).await.status.as_u16(), 400);
    clock.advance(91 * 24 * 3600);
    assert_eq!(post(&two, &form).await.status.as_u16(), 401, "after its ninety days");
    assert!(remove_user(&users, "alice").expect("the file"));
    assert_eq!(post(&one, &form).await.status.as_u16(), 401, "without its user");
}

#[tokio::test]
async fn refresh_tokens_can_be_bound_to_their_client() {
    let (registry, _) =
        registry(|options, _| options.identity.refresh = RefreshBinding::Client).await;
    let password = "grant_type=password&username=alice&password=alice-pw&access_type=offline";
    let reply = post(&registry, &format!("{password}&client_id=docker")).await.json();
    let refresh = reply["refresh_token"].as_str().expect("a refresh token").to_owned();
    for (client, expected) in [("docker", 200), ("other", 401), ("", 401)] {
        let form = format!("grant_type=refresh_token&refresh_token={refresh}&client_id={client}");
        assert_eq!(post(&registry, &form).await.status.as_u16(), expected, "{client}");
    }
}

// registry.md 8.1 row 10 (CVE-2025-48374) in small: what the token service is given and gives does
// not come back in a refusal.
#[tokio::test]
async fn refusals_repeat_no_secret() {
    let (registry, _) = registry(|_, _| {}).await;
    for form in [
        "grant_type=password&username=alice&password=hush-hush",
        "grant_type=refresh_token&refresh_token=hush-hush",
        "grant_type=hush&password=hush-hush",
        "service=x&password=hush-hush",
    ] {
        let reply = post(&registry, form).await;
        assert!(reply.status.is_client_error());
        assert!(!String::from_utf8_lossy(&reply.body).contains("hush-hush"), "{reply:?}");
    }
}
