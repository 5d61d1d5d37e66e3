//! Exchanges of IBM against a scripted world. Numbers are rows of `cloud-credentials.md` 14.2.

use std::time::Duration;

use serde_json::json;

use super::super::world::{World, answer};
use super::super::{CloudCredential, CloudError, Method, RegistryHost};
use super::{IbmOptions, credential};
use crate::{RegistryAuth, Secret};

const IAM: &str = "https://iam.cloud.ibm.com/identity/token";
const CANARY: &str = "c4n4ry0fASecret9";

fn ask_for(world: &World, host: &str) -> Result<Option<CloudCredential>, CloudError> {
    credential(world, &RegistryHost::of(host).expect("a host"), &IbmOptions::default(), None)
}

#[track_caller]
fn given(world: &World) -> CloudCredential {
    ask_for(world, "de.icr.io").expect("no error").expect("a credential")
}

#[track_caller]
fn failure(world: &World) -> CloudError {
    let error = ask_for(world, "de.icr.io").expect_err("a failure");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(CANARY), "{text}"); // 8
    error
}

/// A token that ends an hour after the time of every world.
fn token() -> String {
    json!({
        "access_token": "access",
        "refresh_token": "not_supported",
        "token_type": "Bearer",
        "expires_in": 3600,
        "expiration": 1_793_494_800,
    })
    .to_string()
}

#[test]
fn an_api_key_becomes_an_access_token() {
    let world = World::new().variable("IBMCLOUD_API_KEY", CANARY).server(
        Method::Post,
        IAM,
        answer(200, &token()),
    );
    let credential = given(&world); // 58
    assert_eq!(credential.auth, RegistryAuth::basic("iambearer", Secret::new("access")));
    assert_eq!(credential.keep_for, Duration::from_secs(2880));
    assert_eq!(credential.source, "API key of IBMCLOUD_API_KEY");
    assert_eq!(
        world.sent_body(0),
        format!(
            "grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey={CANARY}&\
             response_type=cloud_iam"
        )
    );
    assert_eq!(world.sent_header(0, "accept").as_deref(), Some("application/json"));
}

#[test]
fn a_pods_token_becomes_a_trusted_profile() {
    let world = World::new()
        .variable("ICR_IAM_PROFILE_ID", "Profile-1")
        .file("/var/run/secrets/tokens/sa-token", "pod\n")
        .server(Method::Post, IAM, answer(200, &token()));
    assert_eq!(given(&world).source, "trusted profile by /var/run/secrets/tokens/sa-token"); // 58
    assert_eq!(
        world.sent_body(0),
        "grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Acr-token&cr_token=pod&\
         profile_id=Profile-1"
    );
    let nameless = World::new().file("/var/run/secrets/tokens/sa-token", "pod");
    assert!(failure(&nameless).hint.expect("a hint").contains("ICR_IAM_PROFILE_ID"));
}

#[test]
fn an_instance_has_a_trusted_profile() {
    let base = "http://169.254.169.254/instance_identity/v1";
    let put = format!("{base}/token?version=2022-03-01");
    let post = format!("{base}/iam_token?version=2022-03-01");
    let granted = r#"{"access_token":"access","expires_at":"2026-11-01T01:00:00Z"}"#;
    let world = World::new()
        .server(Method::Put, &put, answer(200, r#"{"access_token":"session"}"#))
        .server(Method::Post, &post, answer(200, granted));
    assert_eq!(given(&world).keep_for, Duration::from_secs(2880)); // 58
    assert_eq!(world.sent_header(0, "metadata-flavor").as_deref(), Some("ibm"));
    assert_eq!(world.sent_body(0), r#"{"expires_in":300}"#);
    assert_eq!(world.sent_header(1, "authorization").as_deref(), Some("Bearer session"));
    assert_eq!(world.sent_body(1), "{}");

    let world = World::new()
        .variable("ICR_IAM_PROFILE_CRN", "crn:v1:x")
        .server(Method::Put, &put, answer(200, r#"{"access_token":"session"}"#))
        .server(Method::Post, &post, answer(200, granted));
    given(&world);
    assert_eq!(world.sent_body(1), r#"{"trusted_profile":{"crn":"crn:v1:x"}}"#);
}

#[test]
fn an_unknown_key_is_not_tried_again() {
    let body = r#"{"errorCode":"BXNIM0415E","errorMessage":"c4n4ry0fASecret9","context":{"requestId":"4f-1"}}"#;
    let world =
        World::new().variable("ICR_APIKEY", CANARY).server(Method::Post, IAM, answer(400, body));
    let error = failure(&world); // 59
    assert_eq!(
        error.to_string(),
        "icr: IAM token at https://iam.cloud.ibm.com: status 400 BXNIM0415E (request 4f-1)"
    );
    assert!(error.hint.expect("a hint").contains("API key is not known"));
    assert_eq!(world.sent.borrow().len(), 1);
}

#[test]
fn a_private_registry_goes_with_the_private_iam() {
    let world = World::new().variable("ICR_APIKEY", CANARY).server(
        Method::Post,
        "https://private.iam.cloud.ibm.com/identity/token",
        answer(200, &token()),
    );
    assert!(ask_for(&world, "private.de.icr.io").expect("no error").is_some());
    let world = World::new()
        .variable("ICR_APIKEY", CANARY)
        .variable("ICR_AUTH_URL", "https://iam.evil.com");
    assert!(failure(&world).to_string().contains("nothing was sent there"));
}

#[test]
fn a_look_alike_is_not_ibms_and_entitled_software_is_not_asked_for() {
    let is = |host: &str| {
        RegistryHost::of(host).is_some_and(|host| super::is_registry(&host, &["kr".to_owned()]))
    };
    for host in
        ["icr.io", "us.icr.io", "jp2.icr.io", "private.icr.io", "private.us.icr.io", "kr.icr.io"]
    {
        assert!(is(host), "{host}");
    }
    for host in [
        "cp.icr.io",
        "xicr.io",
        "evil.icr.io",
        "icr.io.evil.com",
        "us.us.icr.io",
        "privateicr.io",
        "a.private.us.icr.io",
    ] {
        assert!(!is(host), "{host}");
    }
}

#[test]
fn a_machine_elsewhere_does_not_wait_again_for_a_metadata_service() {
    // cloud-credentials.md 13, theme 8.
    let url = "http://169.254.169.254/instance_identity/v1/token?version=2022-03-01";
    let nobody = Err(super::super::SendError::Timeout);
    let world = World::new().server(Method::Put, url, nobody);
    let error = failure(&world);
    assert!(error.hint.expect("a hint").contains("ICR_APIKEY"));
    assert_eq!(world.sent.borrow().len(), 1);
}
