//! What each failure is told as, and which ones are tried again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use credentials::{RegistryAuth, Secret};
use registry_client::{Client, ClientOptions, RegistryErrorKind};

use crate::fake::{Answer, Fake, Request, answer};
use crate::images::{client, image, not_found, reference};

#[tokio::test]
async fn overload_is_waited_out() {
    for status in [429, 500, 502, 503, 504] {
        let source = image(b"layer");
        let count = AtomicUsize::new(0);
        let fake = Fake::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
            0 => answer(status).header("Retry-After", "0"),
            _ => source.serve(request),
        })
        .await;
        let reference = reference(&fake.address, "a/b:1");
        client().fetch_manifest(&reference, &[]).await.unwrap();
        assert_eq!(fake.lines().len(), 2);
    }
}

#[tokio::test]
async fn long_requests_for_patience_reach_the_caller() {
    let fake = Fake::start(|_| {
        answer(429)
            .header("Retry-After", "3600")
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#)
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[]).await.unwrap_err();
    let RegistryErrorKind::RateLimited { retry_after, .. } = error.kind() else {
        panic!("{error}")
    };
    assert_eq!(*retry_after, Some(Duration::from_secs(3600)));
    let text = error.to_string();
    assert!(text.ends_with("toomanyrequests: pull rate limit (more in 60 min)"), "{text}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn missing_image_is_not_found() {
    let fake = Fake::start(|_| not_found()).await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[]).await.unwrap_err();
    assert!(error.is_not_found());
    let expected = format!("failed to resolve reference \"{reference}\": {reference}: not found");
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn forbidden_is_denied_with_the_registrys_words() {
    let fake = Fake::start(|_| {
        answer(403).body(r#"{"errors":[{"code":"DENIED","message":"not\nyours"}]}"#)
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Denied { .. }));
    assert!(error.to_string().ends_with("403 Forbidden: denied: not yours"), "{error}");
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn closed_port_is_unreachable_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = client().fetch_manifest(&reference(&address, "a:1"), &[]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unreachable { .. }), "{error:?}");
    let text = error.to_string().to_lowercase();
    assert!(text.contains(&address) && text.contains("connection refused"), "{text}");
}

/// A registry that shows itself at `/v2/`.
fn with_version_check(request: &Request, serve: impl Fn(&Request) -> Answer) -> Answer {
    let shown = || answer(200).header("Docker-Distribution-Api-Version", "registry/2.0");
    if request.target == "/v2/" { shown() } else { serve(request) }
}

/// Skopeo and podman reach such a registry too when they need not verify it.
#[tokio::test]
async fn insecure_registry_that_hangs_up_on_tls_is_asked_in_plain_http() {
    let source = image(b"layer");
    let serve = move |request: &Request| with_version_check(request, |one| source.serve(one));
    let fake = Fake::start_closing(serve).await;
    let reference = reference(&fake.address, "a/b:1");
    let client = client();
    // Also those who begin at the same time.
    let (first, second) = tokio::join!(
        client.fetch_manifest(&reference, &[]),
        client.fetch_manifest(&reference, &[])
    );
    first.unwrap();
    second.unwrap();
    client.fetch_manifest(&reference, &[]).await.unwrap();
    assert!(fake.seen().iter().all(|request| request.in_clear), "{:?}", fake.seen());
}

/// What answers there may be anybody: a redirect to HTTPS, a page of a web server.
#[tokio::test]
async fn nothing_of_ours_goes_in_clear_to_what_does_not_show_itself_as_a_registry() {
    for status in [200, 301, 400, 404] {
        let script = move |_: &Request| answer(status).header("Location", "https://127.0.0.1:1/");
        let fake = Fake::start_closing(script).await;
        let token = RegistryAuth::RegistryToken { token: Secret::new("canary-token") };
        let headers = vec![("X-Own".to_owned(), Secret::new("canary-header"))];
        let options = ClientOptions { headers, ..ClientOptions::default() };
        let client = Client::new(options).unwrap();
        let reference = reference(&fake.address, "a/b:1");
        let error = client.fetch_manifest(&reference, &[token]).await.unwrap_err();
        assert!(matches!(error.kind(), RegistryErrorKind::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("tls handshake eof"), "{error}");
        for request in fake.seen() {
            let shown = format!("{request:?}");
            assert!(request.target == "/v2/" && !shown.contains("canary"), "{shown}");
        }
    }
}

/// A restart is no reason to send anything in clear.
#[tokio::test]
async fn registry_that_answered_in_tls_once_is_not_asked_in_plain_http() {
    let source = image(b"layer");
    let fake = Fake::start_tls_up_to(1, move |request| source.serve(request)).await;
    let reference = reference(&fake.address, "a/b:1");
    let client = client();
    client.fetch_manifest(&reference, &[]).await.unwrap();
    let error = client.fetch_manifest(&reference, &[]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unreachable { .. }), "{error:?}");
    assert!(fake.seen().iter().all(|request| !request.in_clear), "{:?}", fake.seen());
}

/// `.invalid` never resolves (RFC 6761), with or without a network.
#[tokio::test]
async fn host_that_cannot_be_found_is_named_without_the_resolvers_words() {
    let error = client().fetch_manifest(&reference("nope.invalid", "a:1"), &[]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.ends_with("cannot find host nope.invalid"), "{text}");
}

#[tokio::test]
async fn manifest_that_is_not_the_one_asked_for_is_refused() {
    let (right, wrong) = (image(b"right"), image(b"wrong"));
    let digest = *right.manifest.digest();
    let fake = Fake::start(move |_| answer(200).body(wrong.manifest.bytes())).await;
    let reference = reference(&fake.address, &format!("a/b@{digest}"));
    let error = client().fetch_manifest(&reference, &[]).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn huge_and_senseless_manifests_are_refused() {
    for body in [vec![b' '; 5 << 20], b"{}".to_vec(), b"<html>".to_vec()] {
        let fake = Fake::start(move |_| answer(200).body(body.clone())).await;
        let reference = reference(&fake.address, "a/b:1");
        let error = client().fetch_manifest(&reference, &[]).await.unwrap_err();
        assert!(matches!(error.kind(), RegistryErrorKind::Malformed { .. }), "{error}");
    }
}

#[tokio::test]
async fn head_without_headers_falls_back_to_the_manifest() {
    let source = image(b"layer");
    let expected = source.manifest.descriptor();
    let fake = Fake::start(move |request| match request.method.as_str() {
        "HEAD" => answer(200),
        _ => source.serve(request),
    })
    .await;
    let found = client().resolve(&reference(&fake.address, "a/b:1"), &[]).await.unwrap();
    assert_eq!(found.digest, expected.digest);
}

#[tokio::test]
async fn secrets_in_signed_addresses_stay_out_of_messages() {
    let other = Fake::start(|_| answer(403)).await;
    let elsewhere = format!("http://{}/signed?key=secret", other.address);
    let fake = Fake::start(move |_| answer(307).header("Location", elsewhere.clone())).await;
    let error = client().fetch_manifest(&reference(&fake.address, "a/b:1"), &[]).await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn options_that_cannot_work_are_named() {
    let mirrors = [(
        "docker.io".to_owned(),
        vec![registry_client::Mirror {
            url: "ftp://x".to_owned(),
            repository_prefix: String::new(),
            auth: None,
        }],
    )];
    let options = ClientOptions { mirrors: mirrors.into(), ..ClientOptions::default() };
    let error = Client::new(options).unwrap_err();
    assert_eq!(error.to_string(), "\"ftp://x\" is not a usable URL for a mirror");
    let options = ClientOptions {
        extra_roots_pem: vec![b"no certificate".to_vec()],
        ..ClientOptions::default()
    };
    assert!(Client::new(options).unwrap_err().to_string().contains("extra root certificate"));
}
