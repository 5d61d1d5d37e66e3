//! Exchanges of Google against a scripted world. Numbers are rows of `cloud-credentials.md` 14.2.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::super::world::{World, answer, answer_with};
use super::super::{CloudCredential, CloudError, Method, Reach, RegistryHost};
use super::{GoogleOptions, ServiceAccountFlow, credential, service_account_credential};
use crate::{RegistryAuth, Secret};

/// Made for these tests; it opens nothing.
const KEY: &str = include_str!("../test-key.pem");
const PUBLIC_KEY: &str = include_str!("../test-key.pub.pem");

const HOST: &str = "europe-docker.pkg.dev";
const OAUTH: &str = "https://oauth2.googleapis.com/token";
const STS: &str = "https://sts.googleapis.com/v1/token";
const METADATA: &str = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/\
                        default/token?scopes=https://www.googleapis.com/auth/devstorage.read_only";
const CANARY: &str = "c4n4ry0fASecret9";

fn ask_with(world: &World, options: &GoogleOptions) -> Result<Option<CloudCredential>, CloudError> {
    credential(world, &RegistryHost::of(HOST).expect("a host"), options)
}

#[track_caller]
fn given(world: &World) -> CloudCredential {
    ask_with(world, &GoogleOptions::default()).expect("no error").expect("a credential")
}

#[track_caller]
fn failure(world: &World) -> CloudError {
    let error = ask_with(world, &GoogleOptions::default()).expect_err("a failure");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(CANARY), "{text}"); // 8
    error
}

fn on_google() -> World {
    World::new().file("/sys/class/dmi/id/product_name", "Google Compute Engine\n")
}

fn token(life: u64) -> String {
    json!({ "access_token": CANARY, "expires_in": life, "token_type": "Bearer" }).to_string()
}

fn from_metadata(status: u16, body: &str) -> super::super::world::Answer {
    answer_with(status, &[("metadata-flavor", "Google")], body)
}

fn with_file(file: &Value) -> World {
    World::new()
        .variable("GOOGLE_APPLICATION_CREDENTIALS", "/adc.json")
        .file("/adc.json", &file.to_string())
}

fn fields(body: &str) -> Vec<(&str, &str)> {
    body.split('&').filter_map(|field| field.split_once('=')).collect()
}

#[test]
fn a_token_of_the_metadata_server_is_renewed_long_before_its_end() {
    for (life, kept) in [(3599, 1687), (20, 0)] {
        let world = on_google().server(Method::Get, METADATA, from_metadata(200, &token(life)));
        let credential = given(&world); // 30
        assert_eq!(credential.keep_for, Duration::from_secs(kept));
        assert_eq!(credential.auth, RegistryAuth::basic("_token", Secret::new(CANARY)));
        assert_eq!(
            (credential.host.as_str(), credential.source.as_str()),
            (HOST, "metadata server")
        );
        assert_eq!(world.sent_header(0, "metadata-flavor").as_deref(), Some("Google"));
    }
}

#[test]
fn something_else_on_the_address_of_the_metadata_server_is_not_believed() {
    let world = on_google().server(Method::Get, METADATA, answer(200, &token(3599)));
    let error = failure(&world).to_string(); // 31
    assert!(error.contains("not from a metadata server of Google"), "{error}");
}

#[test]
fn a_busy_metadata_server_is_asked_again() {
    let busy = || from_metadata(503, "");
    let world = on_google()
        .server(Method::Get, METADATA, busy())
        .server(Method::Get, METADATA, busy())
        .server(Method::Get, METADATA, busy())
        .server(Method::Get, METADATA, from_metadata(200, &token(3599)));
    given(&world); // 32
    assert_eq!(world.sent.borrow().len(), 4);
}

#[test]
fn elsewhere_the_network_is_not_searched_for_a_metadata_server() {
    let world = World::new().file("/sys/class/dmi/id/product_name", "Standard PC\n");
    let error = failure(&world);
    assert!(error.to_string().contains("this is no machine of Google's"), "{error}");
    assert!(world.sent.borrow().is_empty());
}

#[test]
fn a_service_account_signs_an_assertion() {
    let file = json!({
        "type": "service_account",
        "client_email": "puller@p.iam.gserviceaccount.com",
        "private_key": KEY,
        "private_key_id": "key-1",
        "token_uri": OAUTH,
    });
    let world = with_file(&file).server(Method::Post, OAUTH, answer(200, &token(3599)));
    assert_eq!(given(&world).source, "service_account of /adc.json");
    let body = world.sent_body(0);
    let fields = fields(&body);
    assert_eq!(fields[0].1, "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer");
    let key = DecodingKey::from_rsa_pem(PUBLIC_KEY.as_bytes()).expect("a key");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[OAUTH]);
    validation.validate_exp = false;
    let decoded = jsonwebtoken::decode::<Value>(fields[1].1, &key, &validation);
    let decoded = decoded.expect("a valid signature"); // 33
    assert_eq!(decoded.header.kid.as_deref(), Some("key-1"));
    assert_eq!(
        decoded.claims,
        json!({
            "iss": "puller@p.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/devstorage.read_only",
            "aud": OAUTH,
            "iat": 1_793_491_200,
            "exp": 1_793_494_800,
        })
    );
}

#[test]
fn a_login_that_has_to_be_renewed_by_hand_is_not_tried_again() {
    let file = json!({
        "type": "authorized_user",
        "client_id": "i",
        "client_secret": CANARY,
        "refresh_token": CANARY,
    });
    let body = r#"{"error":"invalid_grant","error_subtype":"invalid_rapt","error_description":"c4n4ry0fASecret9"}"#;
    let world = with_file(&file).server(Method::Post, OAUTH, answer(400, body));
    let error = failure(&world); // 34
    assert_eq!(error.hint.as_deref(), Some("gcloud auth application-default login"));
    assert_eq!(world.sent.borrow().len(), 1);
    let world = with_file(&file).server(Method::Post, OAUTH, answer(200, &token(3599)));
    given(&world);
    assert_eq!(
        world.sent_body(0),
        format!(
            "grant_type=refresh_token&client_id=i&client_secret={CANARY}&refresh_token={CANARY}"
        )
    );
}

fn external(source: &Value) -> Value {
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/pool",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": STS,
        "credential_source": source,
    })
}

#[test]
fn an_identity_of_another_system_is_exchanged() {
    let source = json!({
        "file": "/subject",
        "format": { "type": "json", "subject_token_field_name": "id_token" },
    });
    let world = with_file(&external(&source)).file("/subject", r#"{"id_token":"subject"}"#).server(
        Method::Post,
        STS,
        answer(200, &token(3599)),
    );
    given(&world); // 35
    assert_eq!(
        world.sent_body(0),
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&\
         audience=%2F%2Fiam.googleapis.com%2Fprojects%2F1%2Fpool&\
         scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_only&\
         requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&\
         subject_token=subject&\
         subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"
    );
}

/// cloud-credentials.md 14.2, row 37.
#[test]
fn a_metadata_service_as_a_source_needs_consent() {
    // cloud-credentials.md 3.3 and 12.3: the file may come from anybody.
    let of = |url: &str| {
        let source = json!({ "url": url, "headers": { "Metadata": "True" } });
        with_file(&external(&source)).server(Method::Post, STS, answer(200, &token(3599)))
    };
    let metadata = "http://169.254.169.254/identity";
    let allowing = GoogleOptions { allow_metadata_sources: true, ..GoogleOptions::default() };
    let world = of(metadata);
    let error = failure(&world);
    assert!(error.to_string().contains("its source is an address without TLS"), "{error}");
    assert!(error.hint.expect("a hint").contains("--allow-metadata-sources"));
    assert!(world.sent.borrow().is_empty());

    let world = of(metadata).server(Method::Get, metadata, answer(200, "subject\n"));
    assert!(ask_with(&world, &allowing).expect("no error").is_some());
    assert_eq!(world.sent.borrow()[0].reach, Reach::Metadata);
    assert_eq!(world.sent_header(0, "metadata").as_deref(), Some("True"));
    assert!(world.sent_body(1).contains("subject_token=subject&"));

    // Consent to metadata services is none to the rest of a network.
    for url in ["http://10.0.0.1/identity", "http://169.254.169.254.evil.com/", "http://evil.com/"]
    {
        for options in [&GoogleOptions::default(), &allowing] {
            let world = of(url);
            let error = ask_with(&world, options).expect_err(url).to_string();
            assert!(error.contains("its source is an address without TLS"), "{error}");
            assert!(world.sent.borrow().is_empty(), "{url}");
        }
    }
}

#[test]
fn a_program_as_a_source_needs_consent() {
    let source = json!({ "executable": { "command": "/opt/issue --x", "timeout_millis": 5000 } });
    let output = r#"{"version":1,"success":true,"id_token":"subject"}"#;
    let world = with_file(&external(&source)).program("/opt/issue", Ok(output)).server(
        Method::Post,
        STS,
        answer(200, &token(3599)),
    );
    let error = failure(&world); // 36
    assert!(error.hint.expect("a hint").contains("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1"));
    let world = world.variable("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1");
    given(&world);
    assert!(world.sent_body(0).contains("subject_token=subject&"));
}

#[test]
fn secrets_go_only_to_google_or_a_configured_universe() {
    for url in [
        "https://sts.evil.com/v1/token",
        "https://sts.googleapis.com.evil.com/v1/token",
        "https://evilgoogleapis.com/v1/token",
        "https://sts.googleapis.com@evil.com/v1/token",
        "http://sts.googleapis.com/v1/token",
        "https://sts.my-universe.goog/v1/token",
    ] {
        let mut file = external(&json!({ "file": "/subject" }));
        file["token_url"] = url.into();
        let world = with_file(&file).file("/subject", CANARY);
        let error = failure(&world).to_string(); // 37
        assert!(error.contains("is not Google's"), "{url}: {error}");
        assert!(world.sent.borrow().is_empty());
    }
    // A user before the host is not shown.
    for (url, shown) in [
        ("https://u:c4n4ry0fASecret9@evil.com/", "evil.com"),
        ("https://u:c4n4ry0fASecret9/@evil.com", "…"),
    ] {
        let mut file = external(&json!({ "file": "/subject" }));
        file["token_url"] = url.into();
        let error = failure(&with_file(&file).file("/subject", CANARY)).to_string();
        assert!(error.ends_with(&format!(": {shown} is not Google's")), "{error}");
    }
    let url = "https://sts.my-universe.goog/v1/token";
    let mut file = external(&json!({ "file": "/subject" }));
    file["token_url"] = url.into();
    let world = with_file(&file).file("/subject", "subject").server(
        Method::Post,
        url,
        answer(200, &token(3599)),
    );
    let options = GoogleOptions {
        universe_domain: Some("my-universe.goog".to_owned()),
        ..GoogleOptions::default()
    };
    assert!(ask_with(&world, &options).expect("no error").is_some());
}

#[test]
fn a_subject_of_aws_is_a_signed_question() {
    let url = "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15";
    let source = json!({ "environment_id": "aws1", "regional_cred_verification_url": url });
    let world = with_file(&external(&source))
        .variable("AWS_REGION", "us-east-2")
        .variable("AWS_ACCESS_KEY_ID", "AKID")
        .variable("AWS_SECRET_ACCESS_KEY", CANARY)
        .server(Method::Post, STS, answer(200, &token(3599)));
    given(&world);
    let body = world.sent_body(0);
    let subject = fields(&body).into_iter().find(|(name, _)| *name == "subject_token");
    let twice_encoded = subject.expect("a subject").1;
    for part in ["GetCallerIdentity", "x-goog-cloud-target-resource", "Credential%253DAKID"] {
        assert!(twice_encoded.contains(part), "{part} {twice_encoded}");
    }
    assert!(!body.contains(CANARY));

    for (url, region) in [
        ("https://sts.{region}.amazonaws.com.evil.com/?Action=GetCallerIdentity", "us-east-2"),
        ("https://sts.{region}.amazonaws.com@evil.com/", "us-east-2"),
        ("https://sts.{region}.amazonaws.com", "evil.com/#"),
    ] {
        let source = json!({ "environment_id": "aws1", "regional_cred_verification_url": url });
        let world = with_file(&external(&source))
            .variable("AWS_REGION", region)
            .variable("AWS_ACCESS_KEY_ID", "AKID")
            .variable("AWS_SECRET_ACCESS_KEY", CANARY);
        failure(&world);
        assert!(world.sent.borrow().is_empty(), "{url}");
    }
}

#[test]
fn an_impersonated_account_is_known_by_its_expire_time() {
    let url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p:generateAccessToken";
    let file = json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url": url,
        "source_credentials": {
            "type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r",
        },
    });
    let reply = r#"{"accessToken":"acting","expireTime":"2026-11-01T00:30:00Z"}"#;
    let world = with_file(&file).server(Method::Post, OAUTH, answer(200, &token(3599))).server(
        Method::Post,
        url,
        answer(200, reply),
    );
    let credential = given(&world); // 38
    assert_eq!(credential.keep_for, Duration::from_secs((1800 - 225) / 2));
    assert_eq!(world.sent_header(1, "authorization"), Some(format!("Bearer {CANARY}")));
    assert!(world.sent_body(1).contains(r#""lifetime":"3600s""#));

    // cloud-credentials.md 11, skew: their clock is ten minutes ahead.
    let ahead = answer_with(200, &[("date", "Sun, 01 Nov 2026 00:10:00 GMT")], reply);
    let world = with_file(&file).server(Method::Post, OAUTH, answer(200, &token(3599))).server(
        Method::Post,
        url,
        ahead,
    );
    assert_eq!(given(&world).keep_for, Duration::from_secs((1200 - 225) / 2));
}

#[test]
fn a_pod_pulls_by_itself_or_not_at_all() {
    let flow = ServiceAccountFlow {
        project_id: "p".to_owned(),
        identity_provider: "https://container.googleapis.com/v1/projects/p/c".to_owned(),
    };
    let host = RegistryHost::of(HOST).expect("a host");
    let world = on_google().server(Method::Post, STS, answer(200, &token(3599)));
    let token_of_pod = Secret::new("pod-token");
    let found = service_account_credential(&world, &host, &flow, &token_of_pod);
    assert_eq!(found.expect("no error").expect("one").source, "service account token");
    let body: Value = serde_json::from_str(&world.sent_body(0)).expect("JSON"); // 39
    assert_eq!(
        body,
        json!({
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "audience": "identitynamespace:p.svc.id.goog:https://container.googleapis.com/v1/projects/p/c",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token": "pod-token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        })
    );
    let refused =
        on_google().server(Method::Post, STS, answer(400, r#"{"error":"invalid_target"}"#));
    let error = service_account_credential(&refused, &host, &flow, &token_of_pod);
    assert!(error.expect_err("an error").to_string().contains("invalid_target"));
    assert_eq!(refused.sent.borrow().len(), 1, "the node's identity is not tried");
}

#[test]
fn a_look_alike_is_not_googles() {
    let is = |host: &str| RegistryHost::of(host).is_some_and(|host| super::is_registry(&host));
    for host in [
        "gcr.io",
        "eu.gcr.io",
        "marketplace.gcr.io",
        "europe-west1-docker.pkg.dev",
        "docker.europe-west1.rep.pkg.dev",
        "container.cloud.google.com",
    ] {
        assert!(is(host), "{host}");
    }
    for host in [
        "fakegcr.io",
        "gcr.io.evil.com",
        "gcr.io.attacker.com",
        "evilpkg.dev",
        "pkg.dev",
        "us-docker.pkg.dev.evil.com",
        "a.b.gcr.io",
        "x.europe-docker.pkg.dev",
        "evil.europe-west1.rep.pkg.dev",
        "us-python.pkg.dev",
    ] {
        assert!(!is(host), "{host}"); // 40
    }
}
