//! Exchanges of Oracle against a scripted world. Numbers are rows of `cloud-credentials.md` 14.2.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use oci_model::Digest;
use serde_json::{Value, json};

use super::super::world::{World, answer, answer_with};
use super::super::{CloudCredential, CloudError, Method, Reach, RegistryHost, Request};
use super::{OciOptions, PrincipalKind, credential, signature};
use crate::{RegistryAuth, Secret};

/// Made for these tests; they open nothing.
const KEY: &str = include_str!("../test-key.pem");
const PUBLIC_KEY: &str = include_str!("../test-key.pub.pem");
const INSTANCE: &str = include_str!("../test-instance.pem");
/// By `openssl x509 -fingerprint -sha1`.
const FINGERPRINT: &str = "37:FA:F0:5F:98:1C:EE:86:5D:55:8D:B7:BC:83:A1:71:D1:A4:D4:B4";
/// The same instance's next certificate.
const ROTATED: &str = include_str!("../test-instance-2.pem");
const ROTATED_FINGERPRINT: &str = "54:DF:4F:7A:A5:45:38:43:C7:42:BE:74:AB:EB:00:D8:07:4D:F1:3E";

const HOST: &str = "fra.ocir.io";
const TOKEN: &str = "https://fra.ocir.io/20180419/docker/token";
const CANARY: &str = "c4n4ry0fASecret9";

fn ask_with(world: &World, options: &OciOptions) -> Result<Option<CloudCredential>, CloudError> {
    credential(world, &RegistryHost::of(HOST).expect("a host"), options, None)
}

#[track_caller]
fn given(world: &World) -> CloudCredential {
    ask_with(world, &OciOptions::default()).expect("no error").expect("a credential")
}

#[track_caller]
fn failure(world: &World) -> CloudError {
    let error = ask_with(world, &OciOptions::default()).expect_err("a failure");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(CANARY) && !text.contains("PRIVATE KEY"), "{text}"); // 8
    error
}

fn registry_token() -> String {
    json!({ "token": CANARY, "access_token": CANARY, "scope": "", "expires_in": 3600 }).to_string()
}

fn user() -> World {
    World::new()
        .variable("HOME", "/home/u")
        .file(
            "/home/u/.oci/config",
            "[DEFAULT]\nuser=ocid1.user\nfingerprint=aa:bb\ntenancy=ocid1.tenancy\n\
             key_file=~/.oci/key.pem\n[other]\nuser=ocid1.other\n",
        )
        .file("/home/u/.oci/key.pem", KEY)
}

/// The fields of a signature; the signature itself is verified over `text`.
#[track_caller]
fn verified(header: &str, text: &str) -> String {
    let field = |name: &str| {
        let (_, rest) = header.split_once(&format!("{name}=\"")).expect(name);
        rest.split('"').next().expect(name).to_owned()
    };
    let signature = URL_SAFE_NO_PAD.encode(STANDARD.decode(field("signature")).expect("base64"));
    let key = DecodingKey::from_rsa_pem(PUBLIC_KEY.as_bytes()).expect("a key");
    let is_valid =
        jsonwebtoken::crypto::verify(&signature, text.as_bytes(), &key, Algorithm::RS256);
    assert!(is_valid.expect("a signature"), "{header}");
    assert_eq!(field("algorithm"), "rsa-sha256");
    field("keyId")
}

#[test]
fn the_signed_text_is_the_expected_one() {
    let request = Request::to_cloud(Method::Get, TOKEN)
        .header("date", signature::http_date(super::super::world::now()));
    let text = signature::signing_text(&request, &["date", "(request-target)", "host"]);
    assert_eq!(text.len(), 98); // 52
    assert_eq!(
        Digest::of(text.as_bytes()).encoded(),
        "08312acb1ce299ca98490e12f521c79a4d605fddcd2ce6ce7250163da4d0c86e"
    );
}

#[test]
fn a_persons_key_signs_for_a_token() {
    let world = user().server(Method::Get, TOKEN, answer(200, &registry_token()));
    let credential = given(&world);
    assert_eq!(credential.auth, RegistryAuth::basic("BEARER_TOKEN", Secret::new(CANARY)));
    assert_eq!(credential.keep_for, Duration::from_secs(3540));
    assert_eq!(credential.source, "profile DEFAULT of /home/u/.oci/config");
    let header = world.sent_header(0, "authorization").expect("a signature");
    let text = "date: Sun, 01 Nov 2026 00:00:00 GMT\n\
                (request-target): get /20180419/docker/token\nhost: fra.ocir.io";
    assert_eq!(verified(&header, text), "ocid1.tenancy/ocid1.user/aa:bb");

    let options = OciOptions { profile: Some("other".to_owned()), ..OciOptions::default() };
    let found = ask_with(&world, &options).expect("no error").expect("one");
    assert_eq!(found.source, "profile other of /home/u/.oci/config");
    let header = world.sent_header(1, "authorization").expect("a signature");
    assert_eq!(verified(&header, text), "ocid1.tenancy/ocid1.other/aa:bb");
}

const OPC: &str = "http://169.254.169.254/opc/v2";
const AUTH: &str = "https://auth.eu-frankfurt-1.oraclecloud.com/v1/x509";

/// An instance with the certificates that it has one after the other.
fn instance(certificates: &[&str]) -> World {
    let document = json!({
        "region": "fra",
        "regionInfo": {
            "realmDomainComponent": "oraclecloud.com",
            "regionIdentifier": "eu-frankfurt-1",
            "regionKey": "FRA",
        },
    });
    let world = World::new()
        .server(Method::Get, &format!("{OPC}/instance/"), answer(200, &document.to_string()))
        .server(Method::Get, &format!("{OPC}/identity/key.pem"), answer(200, KEY))
        .server(Method::Get, &format!("{OPC}/identity/intermediate.pem"), answer(200, INSTANCE));
    certificates.iter().fold(world, |world, certificate| {
        world.server(Method::Get, &format!("{OPC}/identity/cert.pem"), answer(200, certificate))
    })
}

/// The certificate in an exchange that was sent, and the key that signed it.
#[track_caller]
fn exchanged(world: &World, index: usize) -> (String, String) {
    let body: Value = serde_json::from_str(&world.sent_body(index)).expect("JSON");
    assert_eq!(body["purpose"], "DEFAULT");
    let header = world.sent_header(index, "authorization").expect("a signature");
    let text = format!(
        "date: Sun, 01 Nov 2026 00:00:00 GMT\n(request-target): post /v1/x509\n\
         content-length: {}\ncontent-type: application/json\nx-content-sha256: {}",
        world.sent_body(index).len(),
        world.sent_header(index, "x-content-sha256").expect("a hash"),
    );
    let certificate = body["certificate"].as_str().expect("a text").to_owned();
    (certificate, verified(&header, &text))
}

fn bare(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

/// Where exchanges are among the requests that were sent.
fn posted(world: &World) -> Vec<usize> {
    let urls = world.sent_urls();
    (0..urls.len()).filter(|index| urls[*index] == AUTH).collect()
}

#[test]
fn an_instance_exchanges_its_certificate_for_a_session() {
    let world = instance(&[INSTANCE])
        .server(Method::Post, AUTH, answer(200, r#"{"token":"session"}"#))
        .server(Method::Get, TOKEN, answer(200, &registry_token()));
    assert_eq!(given(&world).source, "instance principal"); // 53
    assert_eq!(world.sent_header(0, "authorization").as_deref(), Some("Bearer Oracle"));
    let key_id = format!("ocid1.tenancy.oc1..t/fed-x509/{FINGERPRINT}");
    assert_eq!(posted(&world), [4]);
    assert_eq!(exchanged(&world, 4), (bare(INSTANCE), key_id));
    let last = world.sent_header(5, "authorization").expect("a signature");
    assert!(last.contains("keyId=\"ST$session\""), "{last}");
}

#[test]
fn a_certificate_that_was_replaced_is_read_anew_once() {
    // 53: the second exchange is made with the second certificate.
    let refused = || answer(401, r#"{"code":"NotAuthenticated"}"#);
    let world = instance(&[INSTANCE, ROTATED])
        .server(Method::Post, AUTH, refused())
        .server(Method::Post, AUTH, answer(200, r#"{"token":"session"}"#))
        .server(Method::Get, TOKEN, answer(200, &registry_token()));
    given(&world);
    let [first, second] = posted(&world)[..] else { panic!("{:?}", world.sent_urls()) };
    let key_id = |fingerprint: &str| format!("ocid1.tenancy.oc1..t/fed-x509/{fingerprint}");
    assert_eq!(exchanged(&world, first), (bare(INSTANCE), key_id(FINGERPRINT)));
    assert_eq!(exchanged(&world, second), (bare(ROTATED), key_id(ROTATED_FINGERPRINT)));

    let always = instance(&[INSTANCE, ROTATED]).server(Method::Post, AUTH, refused());
    assert!(failure(&always).to_string().contains("status 401 NotAuthenticated"));
    assert_eq!(posted(&always).len(), 2);
}

#[test]
fn a_workload_is_vouched_for_by_its_cluster() {
    let inner = STANDARD.encode(r#"{"token":"ST$workload"}"#);
    let world = World::new()
        .variable("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .file("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", INSTANCE)
        .file("/var/run/secrets/kubernetes.io/serviceaccount/token", "pod")
        .server(
            Method::Post,
            "https://10.96.0.1:12250/resourcePrincipalSessionTokens",
            answer(200, &Value::from(inner).to_string()),
        )
        .server(Method::Get, TOKEN, answer(200, &registry_token()));
    let options = OciOptions { principal: Some(PrincipalKind::Workload), ..OciOptions::default() };
    let found = ask_with(&world, &options).expect("no error").expect("one"); // 54
    assert_eq!(found.source, "OKE workload identity");
    assert_eq!(world.sent_header(0, "authorization").as_deref(), Some("Bearer pod"));
    assert_eq!(world.sent.borrow()[0].authorities.as_deref(), Some(INSTANCE));
    assert_eq!(world.sent.borrow()[0].reach, Reach::Cluster);
    let header = world.sent_header(1, "authorization").expect("a signature");
    assert!(header.contains("keyId=\"ST$workload\""), "{header}");
}

#[test]
fn a_token_goes_to_the_cluster_and_nowhere_else() {
    for server in ["evil.com", "evil.com/#", "u@10.96.0.1", "10.96.0.1:1"] {
        let world = World::new().variable("KUBERNETES_SERVICE_HOST", server);
        let options =
            OciOptions { principal: Some(PrincipalKind::Workload), ..OciOptions::default() };
        let error = ask_with(&world, &options).expect_err(server).to_string();
        assert!(error.ends_with("nothing was sent"), "{error}");
    }
}

#[test]
fn a_resource_has_token_and_key_in_files_or_variables() {
    let world = World::new()
        .variable("OCI_RESOURCE_PRINCIPAL_VERSION", "2.2")
        .variable("OCI_RESOURCE_PRINCIPAL_RPST", "/rpst")
        .variable("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM", KEY)
        .file("/rpst", "first")
        .server(Method::Get, TOKEN, answer(200, &registry_token()));
    assert_eq!(given(&world).source, "resource principal");
    world.write("/rpst", "second");
    given(&world);
    let header = world.sent_header(1, "authorization").expect("a signature");
    assert!(header.contains("keyId=\"ST$second\""), "{header}");
    let old = World::new().variable("OCI_RESOURCE_PRINCIPAL_VERSION", "1.1");
    assert!(failure(&old).to_string().contains("only version 2.2"));
}

#[test]
fn a_wrong_clock_is_corrected_once() {
    let skewed = || {
        answer_with(
            401,
            &[("date", "Sun, 01 Nov 2026 00:10:00 GMT"), ("opc-request-id", "4f-1")],
            r#"{"code":"NotAuthenticated","message":"c4n4ry0fASecret9"}"#,
        )
    };
    let world = user().server(Method::Get, TOKEN, skewed()).server(
        Method::Get,
        TOKEN,
        answer(200, &registry_token()),
    );
    given(&world); // 55
    assert_eq!(world.sent_header(1, "date").as_deref(), Some("Sun, 01 Nov 2026 00:10:00 GMT"));
    let always = user().server(Method::Get, TOKEN, skewed());
    assert_eq!(
        failure(&always).to_string(),
        "ocir: registry token at fra.ocir.io: status 401 NotAuthenticated (request 4f-1)"
    );
    assert_eq!(always.sent.borrow().len(), 2);
    let body = format!(r#"{{"code":"{CANARY}","message":"{CANARY}"}}"#);
    let leaky = user().server(Method::Get, TOKEN, answer(403, &body));
    assert!(failure(&leaky).to_string().ends_with("status 403")); // 8
}

#[test]
fn every_form_of_a_registry_of_oracle_is_known_and_no_look_alike() {
    let is =
        |image: &str| RegistryHost::of(image).is_some_and(|host| super::is_registry(&host, &[]));
    for image in [
        "fra.ocir.io/ns/app@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "ap-tokyo-1.ocir.io",
        "ocir.eu-frankfurt-1.oci.oraclecloud.com/ns/app:1",
        "ocir.us-langley-1.oci.oraclegovcloud.com",
    ] {
        assert!(is(image), "{image}"); // 56
    }
    for image in [
        "foo.evilocir.io",
        "ocir.io",
        "a.b.ocir.io",
        "fra.ocir.io.evil.com",
        "ocir.eu-frankfurt-1.oci.oraclecloud.com.evil.com",
        "ocir.eu-frankfurt-1.oci.evil.com",
        "xocir.eu-frankfurt-1.oci.oraclecloud.com",
    ] {
        assert!(!is(image), "{image}");
    }
}

#[test]
fn the_variable_of_oracles_own_provider_chooses_the_principal() {
    let failed = |method: &str| {
        // No instance answers: whoever is asked shows in the error.
        let nobody = Err(super::super::SendError::Refused("nobody".to_owned()));
        let world = user()
            .variable("OCIR_AUTH_METHOD", method)
            .server(Method::Get, TOKEN, answer(404, "{}"))
            .server(Method::Get, "http://169.254.169.254/opc/v2/instance/", nobody);
        failure(&world).step
    };
    assert_eq!(failed("USER_PRINCIPAL"), "registry token");
    assert_eq!(failed("INSTANCE_PRINCIPAL"), "instance metadata");
}
