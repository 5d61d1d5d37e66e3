//! What a pull-through cache asks, and what registries that mean harm get from it.

use std::time::Duration;

use credentials::{RegistryAuth, Secret};
use oci_model::{Digest, Reference};
use registry_client::{Client, ClientOptions, Guard, ManifestBody, RegistryErrorKind, Remote};

use crate::fake::{Fake, answer};
use crate::images::reference;

fn guarded(fake: &Fake, hosts: &[&str]) -> (Remote, Reference) {
    let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
    let options =
        ClientOptions { guard: Some(Guard { hosts }), retries_max: 0, ..ClientOptions::default() };
    let reference = reference(&fake.address, "a/b:1");
    let auth = RegistryAuth::basic("ada", Secret::new("pw"));
    (Client::new(options).unwrap().remote(&reference, Some(&auth)), reference)
}

fn malformed(error: &registry_client::RegistryError) -> bool {
    matches!(error.kind(), RegistryErrorKind::Malformed { .. })
}

// Security row 5 (CVE-2026-33540): the realm of a malicious upstream.
#[tokio::test]
async fn a_foreign_realm_gets_neither_credentials_nor_a_request() {
    let thief = Fake::start(|_| answer(200).body(r#"{"token":"t"}"#)).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"r\"", thief.address);
    let registry = Fake::start(move |_| answer(401).header("WWW-Authenticate", &realm)).await;
    let (remote, _) = guarded(&registry, &[]);
    let error = remote.head_manifest("1").await.unwrap_err();
    assert!(malformed(&error), "{error}");
    assert!(thief.seen().is_empty());
    // The same place once it is configured.
    let (remote, _) = guarded(&registry, &[&thief.address]);
    assert!(remote.head_manifest("1").await.is_err());
    assert_eq!(thief.seen().len(), 1);
}

// Security rows 27 and 33: redirects into the network of the cache.
#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let inner = Fake::start(|_| answer(200).body("secret")).await;
    let location = format!("http://{}/metadata", inner.address);
    let registry = Fake::start(move |_| answer(307).header("Location", &location)).await;
    let (remote, _) = guarded(&registry, &[]);
    let digest = Digest::of(b"x");
    let error = remote.open_blob(&digest, 0).await.unwrap_err();
    assert!(malformed(&error), "{error}");
    assert!(remote.head_manifest("1").await.is_err());
    assert!(inner.seen().is_empty());
}

#[tokio::test]
async fn a_configured_storage_host_gets_the_redirect_without_credentials() {
    let storage = Fake::start(|_| answer(200).body("bytes")).await;
    let location = format!("http://{}/object", storage.address);
    let registry = Fake::start(move |request| match request.header("authorization") {
        None => answer(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) => answer(307).header("Location", &location),
    })
    .await;
    let (remote, _) = guarded(&registry, &[&storage.address]);
    let mut blob = remote.open_blob(&Digest::of(b"bytes"), 0).await.unwrap();
    assert_eq!(blob.next().await.unwrap().unwrap().as_ref(), b"bytes");
    assert_eq!(storage.seen()[0].header("authorization"), None);
}

// Security row 27: whoever a registry redirects to may challenge us as it likes.
#[tokio::test]
async fn a_challenge_from_where_a_redirect_led_is_not_answered() {
    let thief = Fake::start(|request| match request.header("authorization") {
        None => answer(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) => answer(200),
    })
    .await;
    let location = format!("http://{}/object", thief.address);
    let registry = Fake::start(move |_| answer(307).header("Location", &location)).await;
    let (remote, _) = guarded(&registry, &[&thief.address]);
    assert!(remote.open_blob(&Digest::of(b"x"), 0).await.is_err());
    assert!(thief.seen().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn manifests_are_asked_for_with_what_is_known_and_what_is_left_is_seen() {
    let registry = Fake::start(|request| {
        let found = match (request.method.as_str(), request.header("if-none-match")) {
            ("GET", Some(_)) => answer(304),
            _ => answer(200)
                .header("Docker-Content-Digest", Digest::of(b"{}").to_string())
                .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                .body("{}"),
        };
        found.header("RateLimit-Remaining", "9;w=60").header("RateLimit-Limit", "10;w=60")
    })
    .await;
    let (remote, _) = guarded(&registry, &[]);
    let head = remote.head_manifest("1").await.unwrap();
    assert_eq!(head.value.digest, Some(Digest::of(b"{}")));
    assert_eq!(head.value.size, Some(2));
    let limit = head.rate_limit.unwrap();
    assert_eq!((limit.remaining, limit.limit), (9, Some(10)));
    assert_eq!(limit.window, Some(Duration::from_secs(60)));
    let known = Digest::of(b"{}");
    let same = remote.get_manifest("1", Some(&known)).await.unwrap();
    assert_eq!(same.value, ManifestBody::Same);
    assert_eq!(registry.seen()[1].header("if-none-match"), Some(&*format!("\"{known}\"")));
    let whole = remote.get_manifest("1", None).await.unwrap();
    assert!(matches!(whole.value, ManifestBody::Whole { bytes, .. } if bytes == b"{}"));
    assert_eq!(registry.lines()[0], "HEAD /v2/a/b/manifests/1");
}

#[tokio::test]
async fn a_rate_limit_is_told_at_once_with_the_wait() {
    let registry = Fake::start(|_| answer(429).header("X-Retry-After", "77")).await;
    let (remote, _) = guarded(&registry, &[]);
    let error = remote.get_manifest("1", None).await.unwrap_err();
    let RegistryErrorKind::RateLimited { retry_after, .. } = error.kind() else {
        panic!("{error}")
    };
    assert_eq!(*retry_after, Some(Duration::from_secs(77)));
    assert_eq!(registry.seen().len(), 1, "no retries of its own");
}

#[tokio::test]
async fn blobs_go_on_where_they_broke_off() {
    let registry = Fake::start(|request| match request.header("range") {
        None => answer(200).header("Content-Length", "10").body("01234").cut(5),
        Some("bytes=5-") => answer(206).header("Content-Range", "bytes 5-9/10").body("56789"),
        Some("bytes=6-") => answer(200).body("0123456789"),
        Some(_) => answer(206).header("Content-Range", "bytes 1-9/10").body("123456789"),
    })
    .await;
    let (remote, _) = guarded(&registry, &[]);
    let digest = Digest::of(b"0123456789");
    let mut blob = remote.open_blob(&digest, 0).await.unwrap();
    assert_eq!(blob.size, Some(10));
    assert_eq!(blob.next().await.unwrap().unwrap().as_ref(), b"01234");
    assert!(blob.next().await.is_err(), "it broke off");
    let mut blob = remote.open_blob(&digest, 5).await.unwrap();
    assert_eq!((blob.from, blob.size), (5, Some(10)));
    assert_eq!(blob.next().await.unwrap().unwrap().as_ref(), b"56789");
    assert!(blob.next().await.unwrap().is_none());
    let blob = remote.open_blob(&digest, 6).await.unwrap();
    assert_eq!((blob.from, blob.size), (0, Some(10)), "it does not resume");
    assert!(malformed(&remote.open_blob(&digest, 7).await.unwrap_err()), "another part");
}

#[tokio::test]
async fn tags_come_in_pages_and_links_are_not_followed() {
    let registry = Fake::start(|_| {
        answer(200)
            .header("Link", "<http://127.0.0.1:1/steal>; rel=\"next\"")
            .body(r#"{"name":"a/b","tags":["x","y"]}"#)
    })
    .await;
    let (remote, _) = guarded(&registry, &[]);
    let page = remote.tags_page(2, Some("w z")).await.unwrap();
    assert_eq!((page.tags, page.more), (vec!["x".to_owned(), "y".to_owned()], true));
    assert_eq!(registry.lines(), ["GET /v2/a/b/tags/list?n=2&last=w+z"]);
}
