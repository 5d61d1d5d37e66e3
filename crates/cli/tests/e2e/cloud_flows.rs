//! One whole way to a credential for each cloud and each kind of identity, over real HTTPS with the
//! clouds' own host names (cloud-credentials.md 2 to 6).

use serde_json::{Value, json};

use crate::cloud_fake::{CANARY, Clouds, Received, Reply};
use crate::machine::base64_encode;

pub(crate) const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// Made for tests; it opens nothing.
pub(crate) const KEY: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../credentials/src/cloud/test-key.pem"));

/// A refresh token whose `exp` is in the year 2100.
fn refresh_token() -> String {
    format!("e30.eyJleHAiOjQxMDI0NDQ4MDB9.{CANARY}")
}

/// Every cloud as it works.
pub(crate) fn everything(request: &Received) -> Reply {
    let token = |life: u64| {
        let token = json!({
            "access_token": format!("{CANARY}-token"),
            "expires_in": life,
            "expiration": 4_102_444_800_u64,
            "token_type": "Bearer",
        });
        Reply::new(200, token.to_string())
    };
    let keys = || {
        json!({
            "Code": "Success",
            "AccessKeyId": "AKIDEXAMPLE",
            "SecretAccessKey": format!("{CANARY}-key"),
            "Token": format!("{CANARY}-session"),
            "Expiration": "2099-01-01T00:00:00Z",
        })
        .to_string()
    };
    let path = request.path.split('?').next().unwrap_or_default();
    match (request.method.as_str(), request.host.as_str(), path) {
        ("POST", host, "/") if host.starts_with("api.ecr") => {
            assert!(request.header("authorization").starts_with("AWS4-HMAC-SHA256 "));
            let data = json!({
                "authorizationToken": base64_encode(&format!("AWS:{CANARY}-pw:x")),
                "expiresAt": 4_102_444_800.5,
            });
            Reply::new(200, json!({ "authorizationData": [data] }).to_string())
        }
        ("POST", host, "/") if host.starts_with("sts.") => Reply::new(
            200,
            format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                 <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>{CANARY}-sts</SecretAccessKey>\
                 <SessionToken>{CANARY}-session</SessionToken>\
                 <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            ),
        ),
        ("PUT", "127.0.0.1", "/latest/api/token") => Reply::new(200, format!("{CANARY}-imds")),
        ("GET", "127.0.0.1", "/latest/meta-data/iam/security-credentials/") => {
            Reply::new(200, "node-role\n")
        }
        ("GET", "127.0.0.1", "/latest/meta-data/iam/security-credentials/node-role") => {
            assert_eq!(request.header("x-aws-ec2-metadata-token"), format!("{CANARY}-imds"));
            Reply::new(200, keys())
        }
        ("GET", "127.0.0.1", "/v1/credentials") => {
            assert_eq!(request.header("authorization"), format!("{CANARY}-agent"));
            Reply::new(200, keys())
        }
        ("GET", "127.0.0.1", "/computeMetadata/v1/instance/service-accounts/default/token") => {
            assert_eq!(request.header("metadata-flavor"), "Google");
            token(3599).header("Metadata-Flavor", "Google")
        }
        ("POST", "oauth2.googleapis.com", "/token")
        | ("POST", "sts.googleapis.com", "/v1/token") => token(3599),
        ("GET", "127.0.0.1", "/metadata/identity/oauth2/token") => {
            assert_eq!(request.header("metadata"), "true");
            let token = json!({ "access_token": format!("{CANARY}-entra"), "expires_in": "3599" });
            Reply::new(200, token.to_string())
        }
        ("POST", "login.microsoftonline.com", "/tenant/oauth2/v2.0/token") => token(3599),
        ("GET", host, "/v2/") if host.ends_with(".azurecr.io") => {
            assert_eq!(request.header("authorization"), "");
            let realm = format!("Bearer realm=\"https://{host}/oauth2/token\",service=\"{host}\"");
            Reply::new(401, "").header("Www-Authenticate", &realm)
        }
        ("POST", host, "/oauth2/exchange") if host.ends_with(".azurecr.io") => {
            Reply::new(200, json!({ "refresh_token": refresh_token() }).to_string())
        }
        ("GET", "fra.ocir.io", "/20180419/docker/token") => {
            assert!(request.header("authorization").starts_with("Signature version=\"1\""));
            token(3600)
        }
        ("POST", "iam.cloud.ibm.com", "/identity/token") => token(3600),
        ("GET", "quay.io" | "quay.example.com", "/oauth2/federation/robot/token") => {
            let robot = base64_encode(&format!("team+puller:{CANARY}-jwt"));
            assert_eq!(request.header("authorization"), format!("Basic {robot}"));
            // Its end is in the year 2100.
            Reply::new(200, json!({ "token": refresh_token() }).to_string())
        }
        // The fake fails the test by the answer that it does not have.
        _ => Reply::new(404, "nobody knows"),
    }
}

/// Asks for an image's credential; its user and password, and how long it may be kept.
#[track_caller]
fn given(
    clouds: &Clouds,
    arguments: &[&str],
    variables: &[(&str, &str)],
    image: &str,
) -> (String, String, String) {
    let answer = clouds.provider(arguments, variables, image).ok();
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let host = image.split('/').next().expect("a host");
    let auth = answer["auth"].as_object().expect("an object");
    assert_eq!(auth.keys().collect::<Vec<_>>(), [host]);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&auth[host]["username"]), text(&auth[host]["password"]), text(&answer["cacheDuration"]))
}

fn image(host: &str) -> String {
    format!("{host}/team/app")
}

/// The variables by which a test is somebody at Amazon.
pub(crate) fn aws_keys() -> [(&'static str, &'static str); 2] {
    [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "c4n4ry5e4c1d-key")]
}

/// cloud-credentials.md 14.2, row 15.
#[test]
fn ecr_by_keys_of_the_environment() {
    let clouds = Clouds::start(everything);
    let (user, password, _) = given(&clouds, &["ecr"], &aws_keys(), &image(ECR));
    assert_eq!((user, password), ("AWS".to_owned(), format!("{CANARY}-pw:x")));
    let sent = clouds.received();
    assert_eq!(sent[0].host, "api.ecr.eu-west-1.amazonaws.com");
    assert_eq!(
        sent[0].header("x-amz-target"),
        "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    );
    assert_eq!((sent[0].body.as_str(), sent.len()), ("{}", 1));
}

#[test]
fn ecr_by_the_role_of_the_instance() {
    let clouds = Clouds::start(everything);
    let metadata = format!("http://{}", clouds.address);
    let variables = [
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str()),
    ];
    given(&clouds, &["ecr"], &variables, &image(ECR));
    assert_eq!(clouds.count("127.0.0.1"), 3);
    let last = clouds.received().pop().expect("a request");
    assert_eq!(last.header("x-amz-security-token"), format!("{CANARY}-session"));
}

/// cloud-credentials.md 14.2, row 25.
#[test]
fn ecr_by_pod_identity_of_eks() {
    let clouds = Clouds::start(everything);
    let agent = format!("http://{}/v1/credentials", clouds.address);
    let file = clouds.write("agent-token", &format!("{CANARY}-agent"));
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.as_str()),
    ];
    given(&clouds, &["ecr"], &variables, &image(ECR));
    assert_eq!(clouds.count("127.0.0.1"), 1);
}

/// cloud-credentials.md 14.2, row 26.
#[test]
fn ecr_by_web_identity() {
    let clouds = Clouds::start(everything);
    let file = clouds.write("token", &format!("{CANARY}-jwt"));
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pull"),
    ];
    given(&clouds, &["ecr"], &variables, &image(ECR));
    let asked = clouds.received().remove(0);
    assert_eq!(asked.host, "sts.eu-west-1.amazonaws.com");
    assert!(asked.body.contains(&format!("WebIdentityToken={CANARY}-jwt")), "{}", asked.body);
    assert_eq!(asked.header("authorization"), "");
}

#[test]
fn ecr_by_the_service_account_of_a_pod() {
    // cloud-credentials.md 14.2, row 27.
    let clouds = Clouds::start(everything);
    let annotations = r#"{"eks.amazonaws.com/ecr-role-arn":"arn:aws:iam::1:role/pod"}"#;
    let more = format!(
        r#","serviceAccountToken":"{CANARY}-pod","serviceAccountAnnotations":{annotations}"#
    );
    let request = crate::cloud_fake::request("v1", &image(ECR), &more);
    clouds.shipway(&["credential-provider", "ecr", "--require-role"], &[], &request).ok();
    let asked = clouds.received().remove(0);
    assert!(asked.body.contains("RoleSessionName=ecr-credential-provider"), "{}", asked.body);
    assert!(asked.body.contains(&format!("WebIdentityToken={CANARY}-pod")));
    let more = format!(r#","serviceAccountToken":"{CANARY}-pod""#);
    let request = crate::cloud_fake::request("v1", &image(ECR), &more);
    let refused = clouds
        .shipway(&["credential-provider", "ecr", "--require-role"], &aws_keys(), &request)
        .refused();
    assert!(refused.contains("eks.amazonaws.com/ecr-role-arn"), "{refused}");
    assert!(!refused.contains(CANARY));
}

#[test]
fn google_by_the_metadata_server() {
    let clouds = Clouds::start(everything);
    let variables = [("GCE_METADATA_HOST", clouds.address.as_str())];
    let arguments = ["google", "get-credentials", "--v=3"];
    let (user, password, kept) =
        given(&clouds, &arguments, &variables, &image("europe-docker.pkg.dev"));
    assert_eq!((user, password), ("_token".to_owned(), format!("{CANARY}-token")));
    assert_eq!(kept, "28m7s"); // cloud-credentials.md 14.2, row 30
}

/// cloud-credentials.md 14.2, row 33.
#[test]
fn google_by_the_key_of_a_service_account() {
    let clouds = Clouds::start(everything);
    let key = json!({
        "type": "service_account",
        "client_email": "puller@project.iam.gserviceaccount.com",
        "private_key": KEY,
        "private_key_id": "k1",
        "token_uri": "https://oauth2.googleapis.com/token",
    });
    let file = clouds.write("key.json", &key.to_string());
    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", file.as_str())];
    given(&clouds, &["google"], &variables, &image("gcr.io"));
    let asked = clouds.received().remove(0);
    assert!(asked.body.contains("jwt-bearer&assertion=ey"), "{}", asked.body);
}

/// cloud-credentials.md 14.2, row 42.
#[test]
fn azure_by_the_secret_of_an_application() {
    let clouds = Clouds::start(everything);
    let config = json!({
        "cloud": "AzurePublicCloud",
        "tenantId": "tenant",
        "aadClientId": "client",
        "aadClientSecret": format!("{CANARY}-secret"),
    });
    let file = clouds.write("azure.json", &config.to_string());
    let (user, password, kept) = given(&clouds, &["acr", &file], &[], &image("team.azurecr.io"));
    assert_eq!(user, "00000000-0000-0000-0000-000000000000");
    assert_eq!((password, kept), (refresh_token(), "1h0m0s".to_owned()));
    let exchange = clouds.received().pop().expect("a request");
    assert!(exchange.body.contains("service=team.azurecr.io&tenant=tenant"), "{}", exchange.body);
}

/// cloud-credentials.md 14.2, row 46.
#[test]
fn azure_by_the_managed_identity_of_the_machine() {
    let clouds = Clouds::start(everything);
    let metadata = format!("http://{}", clouds.address);
    let variables = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", metadata.as_str())];
    let (_, password, _) = given(&clouds, &["acr"], &variables, &image("team-x1.azurecr.io"));
    assert_eq!(password, refresh_token());
    let exchange = clouds.received().pop().expect("a request");
    assert!(exchange.body.contains(&format!("access_token={CANARY}-entra")), "{}", exchange.body);
}

/// The home directory of a person with an API key at Oracle.
pub(crate) fn write_oci_config(clouds: &Clouds) {
    let key = clouds.write("home/.oci/key.pem", KEY);
    let config = format!(
        "[DEFAULT]\nuser=ocid1.user\nfingerprint=aa:bb\ntenancy=ocid1.tenancy\nkey_file={key}\n"
    );
    clouds.write("home/.oci/config", &config);
}

#[test]
fn oracle_by_the_key_of_a_user() {
    let clouds = Clouds::start(everything);
    write_oci_config(&clouds);
    let variables = [("OCIR_AUTH_METHOD", "USER_PRINCIPAL")];
    let (user, password, kept) = given(&clouds, &["oci"], &variables, &image("fra.ocir.io"));
    assert_eq!((user, password), ("BEARER_TOKEN".to_owned(), format!("{CANARY}-token")));
    // Half of an hour, less what passed since.
    assert!(kept.starts_with("29m") || kept == "30m0s", "{kept}");
    let asked = clouds.received().remove(0);
    assert!(
        asked.header("authorization").contains("keyId=\"ocid1.tenancy/ocid1.user/aa:bb\""),
        "{asked:?}"
    );
}

#[test]
fn ibm_by_an_api_key() {
    // cloud-credentials.md 14.2, row 58.
    let clouds = Clouds::start(everything);
    let key = format!("{CANARY}-apikey");
    let (user, password, _) =
        given(&clouds, &["ibm"], &[("ICR_APIKEY", key.as_str())], &image("de.icr.io"));
    assert_eq!((user, password), ("iambearer".to_owned(), format!("{CANARY}-token")));
    let asked = clouds.received().remove(0);
    assert!(asked.body.contains(&format!("apikey={key}")), "{}", asked.body);
}

#[test]
fn quay_by_the_federation_of_a_robot() {
    // cloud-credentials.md 14.2, row 76.
    let clouds = Clouds::start(everything);
    let file = clouds.write("token", &format!("{CANARY}-jwt\n"));
    let variables = [("QUAY_ROBOT", "team+puller"), ("QUAY_ROBOT_TOKEN_FILE", file.as_str())];
    let (user, password, _) = given(&clouds, &["quay"], &variables, &image("quay.io"));
    assert_eq!((user, password), ("team+puller".to_owned(), refresh_token()));

    // A registry of one's own, and the robot of a pod.
    let more = format!(
        r#","serviceAccountToken":"{CANARY}-jwt","serviceAccountAnnotations":{{"shipway.dev/quay-robot":"team+puller"}}"#
    );
    let request = crate::cloud_fake::request("v1", &image("quay.example.com"), &more);
    let own = ["credential-provider", "quay", "--quay-host=quay.example.com"];
    let answer = clouds.shipway(&own, &[], &request).ok();
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["auth"]["quay.example.com"]["username"], "team+puller");
    let answer = clouds.shipway(&own[..2], &[], &request).ok();
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["auth"], json!({}));
    assert_eq!((clouds.count("quay.io"), clouds.count("quay.example.com")), (1, 1));
}
