//! Names that a registry's own DNS lets lead to this machine, in a network of the test's own.

use std::process::Command;

use oci_model::Digest;
use registry_client::{Client, ClientOptions, Progress, RegistryError, RegistryErrorKind};

use crate::fake::{Answer, Fake, Request, answer};
use crate::images::reference;

/// Set for the process that runs in that network.
const INSIDE: &str = "SHIPWAY_TEST_NAMES";

/// An address of another machine, as far as anybody can tell.
const ELSEWHERE: &str = "203.0.113.1";

/// `evil.example` is a name of two addresses, as whoever owns it may write them.
const HOSTS: &str = "\
127.0.0.1 localhost
127.0.0.1 registry.lan
203.0.113.1 evil.example
127.0.0.1 evil.example
127.0.0.1 inside.example
";

/// Runs a test of this file again where names are as above and nobody else is.
fn run_inside(test: &str) {
    let place = tempfile::tempdir().unwrap();
    let hosts = place.path().join("hosts");
    std::fs::write(&hosts, HOSTS).unwrap();
    let script = "ip link set lo up && ip address add \"$1/32\" dev lo &&
        mount --bind \"$2\" /etc/hosts && exec \"$3\" --exact \"$4\" --nocapture";
    let ran = Command::new("unshare")
        .args(["-rmn", "sh", "-c", script, "sh", ELSEWHERE])
        .arg(&hosts)
        .arg(std::env::current_exe().unwrap())
        .arg(format!("names::{test}"))
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn port(fake: &Fake) -> &str {
    fake.address.rsplit(':').next().unwrap()
}

/// Opens uploads, lists tags and has blobs, all at `place`.
fn leading_to(place: String) -> impl Fn(&Request) -> Answer + Send + Sync {
    move |request| match (request.method.as_str(), request.target.contains("/tags/")) {
        ("POST", _) => answer(202).header("Location", &place),
        (_, true) => answer(200)
            .header("Link", format!("<{place}>; rel=\"next\""))
            .body(r#"{"name":"a/b","tags":["1"]}"#),
        _ => answer(307).header("Location", &place),
    }
}

/// The registry's answers to an upload, a list and a fetch.
async fn outcomes(registry: &str) -> [Result<(), RegistryError>; 3] {
    let client = Client::new(ClientOptions {
        plain_http_registries: vec![registry.to_owned()],
        retries_max: 0,
        ..ClientOptions::default()
    });
    let client = client.unwrap();
    let name = reference(registry, "a/b:1");
    let remote = client.remote(&name, None);
    let mut upload = remote.begin_upload(&Progress::none()).await.unwrap();
    let written = upload.write(b"bytes").await;
    let finished = upload.finish(&Digest::of(b"bytes")).await;
    let listed = client.tags(&name, &[]).await;
    let head = remote.head_blob(&Digest::of(b"bytes")).await;
    [written.and(finished), listed.map(|_| ()), head.map(|_| ())]
}

/// cloud-credentials.md 12.3: that one of a registry's addresses is this machine's is the word of
/// who owns the registry's name.
#[tokio::test]
async fn a_registry_elsewhere_does_not_lead_here_because_its_name_does() {
    if !is_inside() {
        return run_inside("a_registry_elsewhere_does_not_lead_here_because_its_name_does");
    }
    let inner = Fake::start(|_| answer(200)).await;
    let place = format!("http://localhost:{}/inner", port(&inner));
    let evil = Fake::start_at(ELSEWHERE, leading_to(place)).await;
    for outcome in outcomes(&format!("evil.example:{}", port(&evil))).await {
        let error = outcome.unwrap_err();
        assert!(error.to_string().ends_with("it is this machine"), "{error}");
    }
    assert_eq!(inner.lines(), Vec::<String>::new());
}

/// cloud-credentials.md 14.2, row 70, and 12.3: a refusal, not an outage.
#[tokio::test]
async fn a_name_that_leads_here_is_refused_by_that_reason() {
    if !is_inside() {
        return run_inside("a_name_that_leads_here_is_refused_by_that_reason");
    }
    let inner = Fake::start(|_| answer(200)).await;
    let place = format!("http://inside.example:{}/inner", port(&inner));
    let evil = Fake::start_at(ELSEWHERE, leading_to(place)).await;
    for outcome in outcomes(&format!("evil.example:{}", port(&evil))).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind(), RegistryErrorKind::Malformed { .. }), "{error}");
        let reason = "inside.example has no address that a registry may lead to";
        assert!(error.to_string().ends_with(reason), "{error}");
    }
    assert_eq!(inner.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_here_leads_here_whatever_its_name_is() {
    if !is_inside() {
        return run_inside("a_registry_here_leads_here_whatever_its_name_is");
    }
    let storage = Fake::start(|request| match request.method.as_str() {
        "PATCH" => {
            let host = request.header("host").unwrap();
            answer(202).header("Location", format!("http://{host}/inner/2?state=x"))
        }
        "PUT" => answer(201),
        _ => answer(200).body(r#"{"name":"a/b","tags":["2"]}"#),
    })
    .await;
    let place = format!("http://localhost:{}/inner", port(&storage));
    let registry = Fake::start(leading_to(place)).await;
    for outcome in outcomes(&format!("registry.lan:{}", port(&registry))).await {
        outcome.unwrap();
    }
    let digest = Digest::of(b"bytes");
    let expected = [
        "PATCH /inner".to_owned(),
        format!("PUT /inner/2?state=x&digest={digest}"),
        "GET /inner".to_owned(),
        "HEAD /inner".to_owned(),
    ];
    assert_eq!(storage.lines(), expected);
}
