//! The handshake over the wire.

use credentials::{RegistryAuth, Secret};
use registry_client::{Client, ClientOptions, Proxy, RegistryErrorKind};

use crate::fake::{Answer, Fake, Request, answer};
use crate::images::{client, image, reference};

fn user(name: &str, password: &str) -> RegistryAuth {
    RegistryAuth::basic(name, Secret::new(password))
}

/// `ada:pw`
const ADA: &str = "Basic YWRhOnB3";

async fn basic_registry() -> Fake {
    let image = image(b"layer");
    Fake::start(move |request| match request.header("authorization") {
        Some(ADA) => image.serve(request),
        _ => answer(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await
}

#[tokio::test]
async fn missing_credential_is_told_in_containerds_words() {
    let fake = basic_registry().await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "failed to resolve reference \"{reference}\": pull access denied, repository does \
             not exist or may require authorization: authorization failed: no basic auth \
             credentials"
        )
    );
}

/// kubelet-images.md 11 and 15.2, A14: a kubelet hands the entry `{}` to its runtime, which asks
/// as nobody with it. Seen with kubelet 1.36.1.
#[tokio::test]
async fn credential_of_nobody_is_not_sent() {
    let open_to_nobody_only = Fake::start(|request| match request.header("authorization") {
        None => image(b"layer").serve(request),
        Some(_) => answer(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let closed = basic_registry().await;
    for auth in [user("", ""), user("", "pw"), user("ada", "")] {
        let open = reference(&open_to_nobody_only.address, "a/b:1");
        client().fetch_manifest(&open, std::slice::from_ref(&auth)).await.expect("a public image");
        let private = reference(&closed.address, "a/b:1");
        let error = client().fetch_manifest(&private, &[auth]).await.unwrap_err().to_string();
        assert!(error.ends_with("no basic auth credentials"), "{error}");
    }
}

#[tokio::test]
async fn refused_credential_is_told_with_the_status() {
    let fake = basic_registry().await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[user("ada", "no")]).await.unwrap_err();
    let expected = format!(
        "failed to resolve reference \"{reference}\": unexpected status from GET request to \
         http://{}/v2/a/b/manifests/1: 401 Unauthorized",
        fake.address
    );
    assert_eq!(error.to_string(), expected);
    let error = client().resolve(&reference, &[user("ada", "no")]).await.unwrap_err();
    assert_eq!(error.to_string(), expected.replace("GET", "HEAD"));
}

#[tokio::test]
async fn credentials_are_tried_in_turn_and_kept_for_the_next_request() {
    let fake = basic_registry().await;
    let reference = reference(&fake.address, "a/b:1");
    let client = client();
    let auths = [user("bob", "no"), user("ada", "pw")];
    client.fetch_manifest(&reference, &auths).await.unwrap();
    client.fetch_manifest(&reference, &auths[1..]).await.unwrap();
    let sent: Vec<_> = fake
        .seen()
        .iter()
        .map(|request| request.header("authorization").map(str::to_owned))
        .collect();
    let bob = Some("Basic Ym9iOm5v".to_owned());
    assert_eq!(sent, [None, bob, None, Some(ADA.to_owned()), Some(ADA.to_owned())]);
}

#[tokio::test]
async fn password_is_checked_by_ping() {
    let fake = basic_registry().await;
    let client = client();
    let error = client.ping(&fake.address, Some(&user("ada", "no"))).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }));
}

/// A registry with a token service under the same address.
async fn token_registry(check: fn(&Request) -> Answer) -> Fake {
    let image = image(b"layer");
    Fake::start(move |request| {
        if request.target.starts_with("/token") {
            return check(request);
        }
        if request.header("authorization") == Some("Bearer T") {
            return image.serve(request);
        }
        let host = request.header("host").unwrap();
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:a/b:pull\""
        );
        answer(401).header("WWW-Authenticate", challenge)
    })
    .await
}

#[tokio::test]
async fn anonymous_token_is_fetched_once_per_right() {
    let fake = token_registry(|_| answer(200).body(r#"{"token":"T","expires_in":300}"#)).await;
    let reference = reference(&fake.address, "a/b:1");
    let client = client();
    client.fetch_manifest(&reference, &[]).await.unwrap();
    client.fetch_manifest(&reference, &[]).await.unwrap();
    assert_eq!(
        fake.lines(),
        [
            "GET /v2/a/b/manifests/1",
            "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull&client_id=shipway",
            "GET /v2/a/b/manifests/1",
            "GET /v2/a/b/manifests/1",
        ]
    );
}

#[tokio::test]
async fn password_goes_to_the_token_service_and_not_to_the_registry() {
    let fake = token_registry(|request| match request.header("authorization") {
        Some(ADA) => answer(200).body(r#"{"access_token":"T"}"#),
        _ => answer(401),
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    client().fetch_manifest(&reference, &[user("ada", "pw")]).await.unwrap();
    let basics: Vec<_> = fake
        .seen()
        .into_iter()
        .filter(|request| request.header("authorization") == Some(ADA))
        .map(|request| request.target)
        .collect();
    assert_eq!(basics.len(), 1);
    assert!(basics[0].starts_with("/token?") && basics[0].contains("account=ada"), "{basics:?}");
}

/// cloud-credentials.md 14.2, row 65.
#[tokio::test]
async fn identity_token_is_exchanged_by_post() {
    let fake = token_registry(|request| {
        let form = String::from_utf8(request.body.clone()).unwrap();
        let right = request.method == "POST"
            && form.contains("grant_type=refresh_token")
            && form.contains("refresh_token=R")
            && form.contains("scope=repository%3Aa%2Fb%3Apull");
        if right { answer(200).body(r#"{"access_token":"T"}"#) } else { answer(400) }
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let auth = RegistryAuth::IdentityToken { token: Secret::new("R") };
    client().fetch_manifest(&reference, &[auth]).await.unwrap();
}

/// cloud-credentials.md 14.2, row 66.
#[tokio::test]
async fn registry_token_is_sent_as_it_is() {
    let fake = token_registry(|_| answer(500)).await;
    let reference = reference(&fake.address, "a/b:1");
    let auth = RegistryAuth::RegistryToken { token: Secret::new("T") };
    client().fetch_manifest(&reference, &[auth]).await.unwrap();
    assert_eq!(fake.lines(), ["GET /v2/a/b/manifests/1"]);
    let wrong = RegistryAuth::RegistryToken { token: Secret::new("X") };
    let error = client().fetch_manifest(&reference, &[wrong]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn refusal_of_the_token_service_names_it() {
    let fake = token_registry(|_| answer(401)).await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[user("ada", "no")]).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("failed to authorize: failed to fetch token: unexpected status from GET request to http://")
            && text.ends_with("/token: 401 Unauthorized"),
        "{text}"
    );
}

#[tokio::test]
async fn useless_token_does_not_loop() {
    let fake = token_registry(|_| answer(200).body(r#"{"token":"OTHER"}"#)).await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }));
    assert_eq!(fake.lines().len(), 3);
}

#[tokio::test]
async fn redirect_to_another_host_carries_no_credential() {
    let layer = image(b"layer");
    let other = Fake::start(move |_| answer(200).body("layer")).await;
    let elsewhere = format!("http://{}/signed?key=secret", other.address);
    let fake = Fake::start(move |request| match request.header("authorization") {
        Some(ADA)
            if request.target.contains("/blobs/")
                && request.target.contains(&layer.layer.to_string()) =>
        {
            answer(307).header("Location", elsewhere.clone())
        }
        Some(ADA) => layer.serve(request),
        _ => answer(401).header("WWW-Authenticate", "Basic realm=r"),
    })
    .await;
    let (_place, store) = crate::images::store();
    let reference = reference(&fake.address, "a/b:1");
    let options = crate::transfer::pull_options();
    let progress = registry_client::Progress::none();
    client().pull(&reference, &[user("ada", "pw")], &store, &options, &progress).await.unwrap();
    let seen = other.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
}

/// A client that retries nothing, with options of the test.
fn client_with(options: ClientOptions) -> Client {
    Client::new(ClientOptions { retries_max: 0, ..options }).unwrap()
}

fn identity(token: &str) -> RegistryAuth {
    RegistryAuth::IdentityToken { token: Secret::new(token) }
}

/// Everything that a fake saw, as text: requests, headers and bodies.
fn transcript(fake: &Fake) -> String {
    fake.seen()
        .iter()
        .map(|request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            format!("{} {} {:?} {body}\n", request.method, request.target, request.headers)
        })
        .collect()
}

/// cloud-credentials.md 14.2, row 65.
#[tokio::test]
async fn identity_token_is_never_sent_as_a_password() {
    for status in [400, 401, 404, 405] {
        let fake = Fake::start(move |request| {
            if request.target.starts_with("/token") {
                return answer(status);
            }
            let host = request.header("host").unwrap();
            let realm = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            answer(401).header("WWW-Authenticate", realm)
        })
        .await;
        let reference = reference(&fake.address, "a/b:1");
        let error = client().fetch_manifest(&reference, &[identity("canary")]).await.unwrap_err();
        assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }), "{error}");
        assert!(error.to_string().ends_with("log in again"), "{error}");
        assert!(!error.to_string().contains("canary"));
        let asked: Vec<_> =
            fake.lines().into_iter().filter(|line| line.contains("/token")).collect();
        assert_eq!(asked, ["POST /token"], "status {status}");
        assert!(fake.seen().iter().all(|request| request.header("authorization").is_none()));
    }
}

/// cloud-credentials.md 14.2, row 70: what a registry must not make us ask is not asked, with or
/// without a credential.
#[tokio::test]
async fn hostile_realms_are_refused_before_anything_is_sent() {
    let other = Fake::start(|_| answer(200).body(r#"{"token":"T"}"#)).await;
    let port = other.address.rsplit(':').next().unwrap().to_owned();
    // The reason tells that it was refused, and not tried in vain.
    let forbidden = "a registry must not lead to this address";
    let realms = [
        ("https://169.254.169.254/token".to_owned(), forbidden),
        ("https://[::ffff:169.254.169.254]/token".to_owned(), forbidden),
        ("https://2852039166/token".to_owned(), forbidden),
        (format!("http://ada:pw@127.0.0.1:{port}/token"), "its address holds a user"),
        (format!("http://127.0.0.1:{port}/token#fragment"), "its address has a fragment"),
    ];
    for (realm, reason) in realms {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let fake = Fake::start(move |_| answer(401).header("WWW-Authenticate", challenge.clone()));
        let fake = fake.await;
        let reference = reference(&fake.address, "a/b:1");
        for auths in [&[][..], &[user("ada", "canary")]] {
            let client = client_with(ClientOptions::default());
            let error = client.fetch_manifest(&reference, auths).await.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
        assert!(!transcript(&fake).contains("authorization"));
    }
    assert_eq!(other.seen().len(), 0);
}

/// cloud-credentials.md 14.2, row 71: a token service of another domain gives tokens to anybody,
/// and gets no credential.
#[tokio::test]
async fn token_service_of_another_domain_is_asked_without_credential() {
    let token_service = Fake::start(|request| match request.header("authorization") {
        None => answer(200).body(r#"{"token":"ANONYMOUS"}"#),
        Some(_) => answer(500),
    })
    .await;
    let port = token_service.address.rsplit(':').next().unwrap().to_owned();
    let served = image(b"layer");
    let registry = Fake::start(move |request| match request.header("authorization") {
        // Everybody may read one repository, and nobody the other.
        Some("Bearer ANONYMOUS") if request.target.contains("/public/") => served.serve(request),
        Some("Bearer ANONYMOUS") => answer(403),
        _ => {
            let realm = format!("Bearer realm=\"http://attacker.test:{port}/token\"");
            answer(401).header("WWW-Authenticate", realm)
        }
    })
    .await;
    // Names resolve by a proxy here, which is the token service itself.
    let proxy = Proxy {
        http: Some(format!("http://{}", token_service.address)),
        https: None,
        no_proxy: "127.0.0.1".to_owned(),
    };
    let client = client_with(ClientOptions { proxy: Some(proxy), ..ClientOptions::default() });
    let auths = [user("ada", "canary")];
    let public = reference(&registry.address, "public/app:1");
    client.fetch_manifest(&public, &auths).await.unwrap();
    let private = reference(&registry.address, "private/app:1");
    let error = client.fetch_manifest(&private, &auths).await.unwrap_err();
    assert!(error.advice().is_some_and(|text| text.contains("--token-service")));
    let error = error.to_string();
    let reason = "credentials withheld from token service attacker.test, which is of another \
                  domain than registry 127.0.0.1";
    assert!(error.contains(reason), "{error}");
    for fake in [&token_service, &registry] {
        assert!(!transcript(fake).contains("Y2FuYXJ5"), "{}", transcript(fake));
        assert!(!transcript(fake).contains("Basic"), "{}", transcript(fake));
    }
}

/// cloud-credentials.md 14.2, row 72.
#[tokio::test]
async fn redirect_to_another_host_and_back_carries_no_credential() {
    let layer = image(b"layer");
    let digest = layer.layer.to_string();
    let home = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let back = home.clone();
    let other = Fake::start(move |_| {
        let home = back.get().cloned().unwrap_or_default();
        answer(307).header("Location", format!("http://{home}/signed"))
    })
    .await;
    let elsewhere = format!("http://{}/blob", other.address);
    let fake = Fake::start(move |request| match request.header("authorization") {
        _ if request.target == "/signed" => answer(200).body("layer"),
        Some(ADA) if request.target.contains(&digest) => {
            answer(307).header("Location", elsewhere.clone())
        }
        Some(ADA) => layer.serve(request),
        _ => answer(401).header("WWW-Authenticate", "Basic realm=r"),
    })
    .await;
    home.set(fake.address.clone()).unwrap();
    let (_place, store) = crate::images::store();
    let reference = reference(&fake.address, "a/b:1");
    let options = crate::transfer::pull_options();
    let progress = registry_client::Progress::none();
    let headers = vec![("X-Meta".to_owned(), Secret::new("canary"))];
    let client = client_with(ClientOptions { headers, ..ClientOptions::default() });
    client.pull(&reference, &[user("ada", "pw")], &store, &options, &progress).await.unwrap();
    let strangers = other.seen();
    let back: Vec<_> = fake.seen().into_iter().filter(|r| r.target == "/signed").collect();
    assert_eq!((strangers.len(), back.len()), (1, 1));
    for request in strangers.iter().chain(&back) {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("x-meta"), None);
        assert_eq!(request.header("referer"), None);
    }
    // docker's HttpHeaders go to the registry on each request.
    let at_home = fake.seen().into_iter().filter(|r| r.target != "/signed");
    assert!(at_home.into_iter().all(|request| request.header("x-meta") == Some("canary")));
}

#[tokio::test]
async fn redirects_without_end_are_not_followed() {
    let fake = Fake::start(|_| answer(307).header("Location", "/again")).await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[]).await.unwrap_err().to_string();
    assert!(error.ends_with("too many redirects"), "{error}");
    assert_eq!(fake.seen().len(), 5);
}

#[tokio::test]
async fn token_service_is_not_followed_elsewhere() {
    let other = Fake::start(|_| answer(200).body(r#"{"token":"T"}"#)).await;
    let elsewhere = format!("http://{}/token", other.address);
    let fake = Fake::start(move |request| {
        if request.target.starts_with("/token") {
            return answer(307).header("Location", elsewhere.clone());
        }
        let host = request.header("host").unwrap();
        answer(401).header("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\""))
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    assert!(client().fetch_manifest(&reference, &[user("ada", "pw")]).await.is_err());
    assert_eq!(other.seen().len(), 0);
}

/// cloud-credentials.md 14.2, row 73.
#[tokio::test]
async fn access_token_alone_is_enough_and_is_kept_for_a_minute() {
    let fake = token_registry(|_| {
        answer(200)
            .header("Date", "Sat, 21 Nov 2026 14:00:00 GMT")
            .body(r#"{"access_token":"T","issued_at":"2027-01-01T00:00:00Z"}"#)
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let client = client();
    for _ in 0..3 {
        client.fetch_manifest(&reference, &[]).await.unwrap();
    }
    assert_eq!(fake.lines().iter().filter(|line| line.contains("/token")).count(), 1);
}

/// cloud-credentials.md 14.2, row 74.
#[tokio::test]
async fn tokens_of_one_credential_do_not_serve_another() {
    let served = image(b"layer");
    let fake = Fake::start(move |request| {
        if request.target.starts_with("/token") {
            return match request.header("authorization") {
                Some(ADA) => answer(200).body(r#"{"token":"OF-ADA","expires_in":300}"#),
                Some(_) => answer(200).body(r#"{"token":"OF-BOB","expires_in":300}"#),
                None => answer(200).body(r#"{"token":"OF-NOBODY","expires_in":300}"#),
            };
        }
        if request.header("authorization") == Some("Bearer OF-ADA") {
            return served.serve(request);
        }
        let host = request.header("host").unwrap();
        answer(401).header("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\""))
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let client = client();
    client.fetch_manifest(&reference, &[user("ada", "pw")]).await.unwrap();
    for others in [vec![user("bob", "pw")], vec![user("ada", "other")], Vec::new()] {
        assert!(client.fetch_manifest(&reference, &others).await.is_err());
    }
    client.fetch_manifest(&reference, &[user("ada", "pw")]).await.unwrap();
}

/// cloud-credentials.md 14.2, row 75.
#[tokio::test]
async fn exhausted_allowance_is_told_and_not_asked_again() {
    let fake = Fake::start(|_| {
        answer(429)
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "0;w=21600")
            .header("docker-ratelimit-source", "192.0.2.7")
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"limit reached"}]}"#)
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let error = Client::new(ClientOptions::default()).unwrap();
    let error = error.fetch_manifest(&reference, &[]).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error.kind(), RegistryErrorKind::RateLimited { .. }));
    let told = "429 Too Many Requests: toomanyrequests: limit reached (0 of 100 requests left per \
                6 h, counted for 192.0.2.7)";
    assert!(text.ends_with(told), "{text}");
    assert_eq!(fake.seen().len(), 1);
}

/// cloud-credentials.md 14.2, row 75: with the time that the registry gives.
#[tokio::test]
async fn time_until_the_next_allowance_is_told() {
    let fake = Fake::start(|_| answer(429).header("Retry-After", "2500")).await;
    let reference = reference(&fake.address, "a/b:1");
    let text = client().fetch_manifest(&reference, &[]).await.unwrap_err().to_string();
    assert!(text.ends_with("429 Too Many Requests (more in 42 min)"), "{text}");
}

/// cloud-credentials.md 14.2, row 76: GitLab's tokens live for five minutes, and a push may take
/// longer.
#[tokio::test]
async fn token_that_expires_during_a_push_is_fetched_again() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let issued = std::sync::Arc::new(AtomicU32::new(0));
    let (uses, counter) = (AtomicU32::new(0), issued.clone());
    let fake = Fake::start(move |request| {
        if request.target.starts_with("/jwt/auth") {
            assert_eq!(request.header("authorization"), Some("Basic cm9ib3QkYSticDpwdw=="));
            uses.store(0, Ordering::SeqCst);
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            return answer(200).body(format!(r#"{{"token":"T{number}","expires_in":900}}"#));
        }
        let current = format!("Bearer T{}", counter.load(Ordering::SeqCst));
        let is_current = request.header("authorization") == Some(current.as_str());
        // Each token opens three requests, whatever its service said.
        if !is_current || 3 <= uses.fetch_add(1, Ordering::SeqCst) {
            let host = request.header("host").unwrap();
            let challenge = format!("Bearer realm=\"http://{host}/jwt/auth\",service=\"s\"");
            return answer(401).header("WWW-Authenticate", challenge);
        }
        match request.method.as_str() {
            "HEAD" => answer(404),
            "POST" => answer(202).header("Location", "/v2/a/b/blobs/uploads/1"),
            "PATCH" => answer(202).header("Location", "/v2/a/b/blobs/uploads/1"),
            _ => answer(201),
        }
    })
    .await;
    let robot = user("robot$a+bp", "pw");
    let remote = client().remote(&reference(&fake.address, "a/b:1"), Some(&robot));
    let mut upload = remote.begin_upload(&registry_client::Progress::none()).await.unwrap();
    let bytes = vec![7u8; 40 * 1024 * 1024];
    upload.write(&bytes).await.unwrap();
    upload.finish(&oci_model::Digest::of(&bytes)).await.unwrap();
    assert!(2 <= issued.load(Ordering::SeqCst), "{:?}", fake.lines());
}

#[tokio::test]
async fn login_keeps_the_identity_token_that_the_service_gives() {
    let fake = Fake::start(|request| {
        if request.target.starts_with("/token") {
            let asked = request.target.contains("offline_token=true");
            let is_ada = request.header("authorization") == Some(ADA);
            return match (is_ada, asked) {
                (true, true) => answer(200).body(r#"{"token":"T","refresh_token":"R"}"#),
                (true, false) => answer(200).body(r#"{"token":"T"}"#),
                (false, _) => answer(401),
            };
        }
        if request.header("authorization") == Some("Bearer T") {
            return answer(200);
        }
        let host = request.header("host").unwrap();
        answer(401).header("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\""))
    })
    .await;
    let kept = client().login(&fake.address, &user("ada", "pw")).await.unwrap();
    assert_eq!(kept, identity("R"));
    let error = client().login(&fake.address, &user("ada", "no")).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }));
}

#[tokio::test]
async fn login_without_token_service_keeps_the_password() {
    let fake = Fake::start(|request| match request.header("authorization") {
        Some(ADA) => answer(200),
        _ => answer(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    })
    .await;
    let kept = client().login(&fake.address, &user("ada", "pw")).await.unwrap();
    assert_eq!(kept, user("ada", "pw"));
    let error = client().login(&fake.address, &user("ada", "no")).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }));
}
