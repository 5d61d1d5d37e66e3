//! Robot federation of Quay against a scripted world (cloud-credentials.md 10.2; 14.2, row 76).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::super::world::{World, answer, answer_with, at};
use super::super::{CloudCredential, CloudError, Method, RegistryHost};
use super::{PodRobot, QuayOptions, credential};
use crate::{RegistryAuth, Secret};

const TOKEN: &str = "https://quay.io/oauth2/federation/robot/token";
const CANARY: &str = "c4n4ry0fASecret9";

fn ask_for(
    world: &World,
    host: &str,
    pod: Option<PodRobot<'_>>,
) -> Result<Option<CloudCredential>, CloudError> {
    let own = RegistryHost::of("quay.example.com").expect("a host");
    let options = QuayOptions { hosts: vec![own] };
    credential(world, &RegistryHost::of(host).expect("a host"), &options, pod)
}

#[track_caller]
fn given(world: &World) -> CloudCredential {
    ask_for(world, "quay.io", None).expect("no error").expect("a credential")
}

#[track_caller]
fn failure(world: &World) -> CloudError {
    let error = ask_for(world, "quay.io", None).expect_err("a failure");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(CANARY), "{text}"); // 8
    error
}

fn robot() -> World {
    World::new()
        .variable("QUAY_ROBOT", "team+puller")
        .variable("QUAY_ROBOT_TOKEN_FILE", "/token")
        .file("/token", &format!("{CANARY}\n"))
}

/// A token that ends an hour after the time of every world, in the form of Quay's.
fn token() -> String {
    let claims = URL_SAFE_NO_PAD.encode(json!({ "exp": 1_793_494_800 }).to_string());
    json!({ "token": format!("e30.{claims}.{CANARY}") }).to_string()
}

/// cloud-credentials.md 14.2, row 76.
#[test]
fn a_token_of_an_issuer_becomes_one_of_the_robot() {
    let world = robot().server(Method::Get, TOKEN, answer(200, &token()));
    let credential = given(&world);
    let RegistryAuth::Basic { username, password, .. } = &credential.auth else { panic!() };
    assert_eq!(username, "team+puller");
    assert!(password.expose().ends_with(CANARY));
    assert_eq!(credential.expires_at, Some(at("2026-11-01T01:00:00Z")));
    assert_eq!(credential.keep_for, Duration::from_secs(1800));
    assert_eq!(credential.source, "robot federation as team+puller");
    let basic = format!("Basic {}", STANDARD.encode(format!("team+puller:{CANARY}")));
    assert_eq!(world.sent_header(0, "authorization"), Some(basic));

    // Projected tokens rotate.
    world.write("/token", "second");
    given(&world);
    let basic = format!("Basic {}", STANDARD.encode("team+puller:second"));
    assert_eq!(world.sent_header(1, "authorization"), Some(basic));

    // Their clock is half an hour ahead; a token that says nothing of its end is used once.
    let ahead = answer_with(200, &[("date", "Sun, 01 Nov 2026 00:30:00 GMT")], &token());
    let world = robot().server(Method::Get, TOKEN, ahead);
    assert_eq!(given(&world).keep_for, Duration::from_secs(900));
    let opaque = format!(r#"{{"token":"{CANARY}"}}"#);
    let world = robot().server(Method::Get, TOKEN, answer(200, &opaque));
    assert_eq!(given(&world).keep_for, Duration::ZERO);
}

/// cloud-credentials.md 14.2, row 76.
#[test]
fn a_pod_is_the_robot_of_its_service_account() {
    let own = "https://quay.example.com/oauth2/federation/robot/token";
    let world = robot().server(Method::Get, own, answer(200, &token()));
    let pods_token = Secret::new("pods-token");
    let pod = PodRobot { token: &pods_token, robot: "team+pod" };
    let found = ask_for(&world, "quay.example.com", Some(pod)).expect("no error");
    assert_eq!(found.expect("a credential").source, "service account token as team+pod");
    let basic = format!("Basic {}", STANDARD.encode("team+pod:pods-token"));
    assert_eq!(world.sent_header(0, "authorization"), Some(basic));
}

#[test]
fn who_is_no_robot_asks_nobody() {
    assert_eq!(ask_for(&World::new(), "quay.io", None), Ok(None));
    for (name, value, missing) in [
        ("QUAY_ROBOT", "team+puller", "QUAY_ROBOT_TOKEN_FILE"),
        ("QUAY_ROBOT_TOKEN_FILE", "/token", "QUAY_ROBOT"),
    ] {
        let error = failure(&World::new().variable(name, value)).to_string();
        let expected = format!("at {missing}: it is not set, though {name} is");
        assert!(error.ends_with(&expected), "{error}");
    }
    for name in ["puller", "team+", "+puller", "team+a:b", "team+a+b", "te am+a"] {
        let world = robot().variable("QUAY_ROBOT", name);
        assert!(failure(&world).to_string().contains("ORGANISATION+NAME"), "{name}");
        assert!(world.sent.borrow().is_empty());
    }
}

#[test]
fn a_robot_that_does_not_trust_the_token_is_said_so() {
    let body = format!(r#"{{"error_type":"invalid_token","error_message":"{CANARY}"}}"#);
    let world = robot().server(Method::Get, TOKEN, answer(401, &body));
    let error = failure(&world);
    assert_eq!(error.to_string(), "quay: robot token at quay.io: status 401 invalid_token");
    assert!(error.hint.expect("a hint").contains("robot team+puller must trust the issuer"));
    assert_eq!(world.sent.borrow().len(), 1);
    let world = robot().server(Method::Get, TOKEN, answer(404, "<html>"));
    assert!(failure(&world).hint.expect("a hint").contains("3.13"));
    let world = robot().server(Method::Get, TOKEN, answer(503, "")).server(
        Method::Get,
        TOKEN,
        answer(200, &token()),
    );
    given(&world);
}

#[test]
fn a_look_alike_is_not_quay() {
    for host in ["quay.io.evil.com", "evilquay.io", "a.quay.io", "cdn.quay.io", "docker.io"] {
        assert_eq!(ask_for(&robot(), host, None), Ok(None), "{host}");
    }
    assert_eq!(RegistryHost::of("quay.io:8443/a"), None);
}
