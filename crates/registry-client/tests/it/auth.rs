//! The handshake over the wire.

use credentials::{RegistryAuth, Secret};
use registry_client::RegistryErrorKind;

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
