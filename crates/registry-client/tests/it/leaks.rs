//! What is ours goes to the registry, encrypted, and to nobody else.

use credentials::cloud::{Method, Reach, Request as CloudRequest};
use credentials::{RegistryAuth, Secret};
use registry_client::{Client, ClientOptions, CloudHttp, Progress, Proxy};

use crate::fake::{Fake, answer};
use crate::images::{client, image, reference};

/// `ada:pw`
const ADA: &str = "Basic YWRhOnB3";

fn ada() -> RegistryAuth {
    RegistryAuth::basic("ada", Secret::new("pw"))
}

/// A registry behind a proxy that ends TLS and does not tell it so: all that it writes begins
/// with `http://`.
async fn registry_that_thinks_it_is_plain() -> Fake {
    Fake::start_tls(|request| {
        let host = request.header("host").unwrap();
        if request.header("authorization") != Some(ADA) {
            return answer(401).header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        let session = format!("http://{host}/v2/a/b/blobs/uploads/1");
        match request.method.as_str() {
            "HEAD" => answer(404),
            "POST" | "PATCH" => answer(202).header("Location", session),
            "PUT" => answer(201),
            _ if request.target.contains("last=1") => answer(200).body(r#"{"tags":["2"]}"#),
            _ => answer(200)
                .header("Link", format!("<http://{host}/v2/a/b/tags/list?last=1>; rel=\"next\""))
                .body(r#"{"tags":["1"]}"#),
        }
    })
    .await
}

#[tokio::test]
async fn plain_location_of_an_https_registry_is_taken_as_https() {
    let fake = registry_that_thinks_it_is_plain().await;
    let remote = client().remote(&reference(&fake.address, "a/b:1"), Some(&ada()));
    let mut upload = remote.begin_upload(&Progress::none()).await.unwrap();
    upload.write(b"bytes").await.unwrap();
    upload.finish(&oci_model::Digest::of(b"bytes")).await.unwrap();
    assert!(fake.lines().iter().any(|line| line.starts_with("PUT ")), "{:?}", fake.lines());
    assert!(fake.seen().iter().all(|request| !request.in_clear));
}

#[tokio::test]
async fn plain_link_of_an_https_registry_is_taken_as_https() {
    let fake = registry_that_thinks_it_is_plain().await;
    let tags = client().tags(&reference(&fake.address, "a/b:1"), &[ada()]).await.unwrap();
    assert_eq!(tags, ["1", "2"]);
    assert!(fake.seen().iter().all(|request| !request.in_clear));
}

#[tokio::test]
async fn https_registry_does_not_lead_an_upload_to_plain_http_elsewhere() {
    let other = Fake::start(|_| answer(202)).await;
    let elsewhere = format!("http://{}/upload", other.address);
    let fake = Fake::start_tls(move |_| answer(202).header("Location", elsewhere.clone())).await;
    let remote = client().remote(&reference(&fake.address, "a/b:1"), None);
    let mut upload = remote.begin_upload(&Progress::none()).await.unwrap();
    upload.write(b"bytes").await.unwrap();
    let error = upload.finish(&oci_model::Digest::of(b"bytes")).await.unwrap_err().to_string();
    assert!(error.contains("led from HTTPS to plain HTTP"), "{error}");
    assert_eq!(other.seen().len(), 0);
}

/// cloud-credentials.md 12.3: also where the challenge comes from a page that a plain `Link`
/// named.
#[tokio::test]
async fn https_registry_does_not_name_a_plain_token_service() {
    let fake = Fake::start_tls(|request| {
        let host = request.header("host").unwrap();
        if request.target.ends_with("/tags/list") {
            return answer(200)
                .header("Link", format!("<http://{host}/v2/a/b/tags/list?last=1>; rel=\"next\""))
                .body(r#"{"tags":["1"]}"#);
        }
        answer(401).header("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\""))
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let error = client().fetch_manifest(&reference, &[ada()]).await.unwrap_err().to_string();
    assert!(error.contains("not HTTPS, though the registry is"), "{error}");
    let error = client().tags(&reference, &[ada()]).await.unwrap_err().to_string();
    assert!(error.contains("not HTTPS, though the registry is"), "{error}");
    for request in fake.seen() {
        assert!(!request.in_clear, "{}", request.target);
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn login_tells_no_password_to_whom_the_registry_leads() {
    for scheme in ["Basic", "Bearer"] {
        let other = Fake::start(move |request| {
            let host = request.header("host").unwrap();
            let challenge = format!("{scheme} realm=\"http://{host}/token\"");
            if request.target.starts_with("/token") {
                return answer(200).body(r#"{"token":"T","refresh_token":"R"}"#);
            }
            answer(401).header("WWW-Authenticate", challenge)
        })
        .await;
        let elsewhere = format!("http://{}/v2/", other.address);
        let fake = Fake::start(move |_| answer(307).header("Location", elsewhere.clone())).await;
        client().login(&fake.address, &ada()).await.unwrap_err();
        let seen = other.seen();
        assert!(!seen.is_empty());
        for request in seen {
            assert_eq!(request.target, "/v2/", "{scheme}");
            assert_eq!(request.header("authorization"), None);
        }
    }
}

fn behind(proxy: &Fake) -> ClientOptions {
    let url = Some(format!("http://{}", proxy.address));
    let proxy = Proxy { http: url.clone(), https: url, no_proxy: String::new() };
    ClientOptions { proxy: Some(proxy), retries_max: 0, ..ClientOptions::default() }
}

#[tokio::test]
async fn registries_on_this_machine_are_not_asked_through_a_proxy() {
    let proxy = Fake::start(|_| answer(502)).await;
    let source = image(b"layer");
    let fake = Fake::start(move |request| source.serve(request)).await;
    let client = Client::new(behind(&proxy)).unwrap();
    let port = fake.address.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "127.0.0.2", "localhost", "[::1]"] {
        // Nothing listens at the others: what counts is who is asked.
        let reference = reference(&format!("{host}:{port}"), "a/b:1");
        let _ = client.fetch_manifest(&reference, &[]).await;
    }
    assert!(fake.lines().len() >= 2, "{:?}", fake.lines());
    assert_eq!(proxy.lines(), Vec::<String>::new());
    let outside = reference("registry.test", "a/b:1");
    client.fetch_manifest(&outside, &[]).await.unwrap_err();
    assert!(!proxy.seen().is_empty(), "the proxy is used at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn clouds_on_this_machine_are_not_asked_through_a_proxy() {
    let proxy = Fake::start(|_| answer(502)).await;
    let fake = Fake::start(|_| answer(200).body("{}")).await;
    let cloud = CloudHttp::new(behind(&proxy), tokio::runtime::Handle::current());
    let port = fake.address.rsplit(':').next().unwrap().to_owned();
    let urls = ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{port}/"));
    let statuses = tokio::task::spawn_blocking(move || {
        urls.map(|url| {
            let request = CloudRequest {
                method: Method::Get,
                url,
                headers: Vec::new(),
                body: Secret::new(""),
                reach: Reach::Cloud,
                timeout: std::time::Duration::from_secs(10),
                authorities: None,
            };
            cloud.send(&request).map(|answer| answer.status).map_err(|error| error.to_string())
        })
    });
    assert_eq!(statuses.await.unwrap(), [Ok(200), Ok(200)]);
    assert_eq!(proxy.seen().len(), 0);
}

/// cloud-credentials.md 12.3.
#[tokio::test]
async fn headers_go_to_no_token_service_of_another_domain() {
    let token_service = Fake::start(|_| answer(200).body(r#"{"token":"T"}"#)).await;
    let port = token_service.address.rsplit(':').next().unwrap().to_owned();
    let served = image(b"layer");
    let registry = Fake::start(move |request| match request.header("authorization") {
        Some("Bearer T") => served.serve(request),
        _ => {
            let realm = format!("Bearer realm=\"http://attacker.test:{port}/token\"");
            answer(401).header("WWW-Authenticate", realm)
        }
    })
    .await;
    // Names resolve by a proxy here, which is the token service itself.
    let headers = vec![("X-Meta".to_owned(), Secret::new("canary"))];
    let client = Client::new(ClientOptions { headers, ..behind(&token_service) }).unwrap();
    for auths in [Vec::new(), vec![ada()]] {
        let reference = reference(&registry.address, "a/b:1");
        client.fetch_manifest(&reference, &auths).await.unwrap();
    }
    let asked = token_service.seen();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|request| request.header("x-meta").is_none()));
    assert!(registry.seen().iter().all(|request| request.header("x-meta") == Some("canary")));
}

/// cloud-credentials.md 12.3.
#[tokio::test]
async fn nothing_is_asked_at_a_metadata_service_that_a_registry_redirects_to() {
    for place in ["http://169.254.169.254/latest", "http://[::ffff:169.254.169.254]/latest"] {
        let fake = Fake::start(move |_| answer(307).header("Location", place)).await;
        let reference = reference(&fake.address, "a/b:1");
        let error = client().fetch_manifest(&reference, &[]).await.unwrap_err().to_string();
        assert!(error.ends_with("a registry must not lead to this address"), "{error}");
    }
}

/// cloud-credentials.md 12.3, for the addresses that uploads and lists go on at.
#[tokio::test]
async fn nothing_is_sent_to_a_metadata_service_that_a_registry_names() {
    for place in ["http://169.254.169.254/upload", "http://[::ffff:169.254.169.254]/upload"] {
        let fake = Fake::start(move |request| match request.method.as_str() {
            "POST" => answer(202).header("Location", place),
            _ => answer(200)
                .header("Link", format!("<{place}>; rel=\"next\""))
                .body(r#"{"name":"a/b","tags":["1"]}"#),
        })
        .await;
        let remote = client().remote(&reference(&fake.address, "a/b:1"), None);
        let mut upload = remote.begin_upload(&Progress::none()).await.unwrap();
        let written = upload.write(b"bytes").await;
        let finished = upload.finish(&oci_model::Digest::of(b"bytes")).await;
        let error = written.and(finished).unwrap_err().to_string();
        assert!(error.ends_with("a registry must not lead to this address"), "{error}");
        let tags = client().tags(&reference(&fake.address, "a/b:1"), &[]).await;
        let error = tags.unwrap_err().to_string();
        assert!(error.ends_with("a registry must not lead to this address"), "{error}");
    }
}

/// cloud-credentials.md 12.3: the connection is to the proxy, which says nothing of the registry.
#[tokio::test]
async fn a_proxy_on_this_machine_lets_no_registry_lead_there() {
    let inner = Fake::start(|_| answer(200)).await;
    let place = format!("http://{}/inner", inner.address);
    let proxy = Fake::start(move |_| answer(202).header("Location", &place)).await;
    let plain_http_registries = vec!["registry.test".to_owned()];
    let client = Client::new(ClientOptions { plain_http_registries, ..behind(&proxy) }).unwrap();
    let remote = client.remote(&reference("registry.test", "a/b:1"), None);
    let upload = remote.begin_upload(&Progress::none()).await.unwrap();
    let error = upload.finish(&oci_model::Digest::of(b"")).await.unwrap_err().to_string();
    assert!(error.ends_with("it is this machine"), "{error}");
    assert_eq!(proxy.seen().len(), 1);
    assert_eq!(inner.lines(), Vec::<String>::new());
}
