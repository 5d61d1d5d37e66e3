//! Every kind of identity at every cloud, failing at each of its requests in every way: the error
//! shows no secret, neither of an answer nor of what was sent (cloud-credentials.md 12.1 and 14.2,
//! row 8).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::world::{Answer, World, answer, answer_with};
use super::{CloudOptions, CloudProvider, Method, PodIdentity, RegistryHost, SendError, google};
use crate::Secret;

/// In every secret and in every field of every answer. It could be a word of a code, if it had
/// fewer digits.
const CANARY: &str = "c4n4ry0fASecret9";

const KEY: &str = include_str!("test-key.pem");
const CERTIFICATE: &str = include_str!("test-instance.pem");

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const ECR_API: &str = "https://api.ecr.eu-west-1.amazonaws.com/";
const STS: &str = "https://sts.eu-west-1.amazonaws.com/";
const ACR: &str = "team.azurecr.io";
const OCIR_TOKEN: &str = "https://fra.ocir.io/20180419/docker/token";
const IAM: &str = "https://iam.cloud.ibm.com/identity/token";

/// Somebody at a cloud, where everything works.
struct Somebody {
    name: &'static str,
    provider: CloudProvider,
    host: &'static str,
    /// Whether a pod asks.
    is_pod: bool,
    /// How many requests lead to the credential.
    requests: usize,
    world: fn() -> World,
}

const fn machine(
    provider: CloudProvider,
    host: &'static str,
    name: &'static str,
    requests: usize,
    world: fn() -> World,
) -> Somebody {
    Somebody { name, provider, host, is_pod: false, requests, world }
}

/// Everybody; what each does is the world's to say.
const EVERYBODY: [Somebody; 22] = [
    machine(CloudProvider::Ecr, ECR, "keys of the environment", 1, aws_keys),
    machine(CloudProvider::Ecr, ECR, "web identity", 2, aws_web_identity),
    machine(CloudProvider::Ecr, ECR, "instance metadata", 4, aws_instance),
    machine(CloudProvider::Ecr, ECR, "pod identity", 2, aws_pod_identity),
    machine(CloudProvider::Ecr, ECR, "single sign-on", 3, aws_single_sign_on),
    machine(CloudProvider::Ecr, ECR, "role by another profile", 2, aws_role),
    machine(CloudProvider::Google, "gcr.io", "metadata server", 1, google_metadata),
    machine(CloudProvider::Google, "gcr.io", "service account", 1, google_account),
    machine(CloudProvider::Google, "gcr.io", "user", 1, google_user),
    machine(CloudProvider::Google, "gcr.io", "federation", 3, google_federation),
    Somebody {
        is_pod: true,
        ..machine(CloudProvider::Google, "gcr.io", "service account of a pod", 1, google_pod)
    },
    machine(CloudProvider::Acr, ACR, "secret of an application", 3, azure_application),
    machine(CloudProvider::Acr, ACR, "managed identity", 3, azure_instance),
    machine(CloudProvider::Acr, ACR, "Arc", 4, azure_arc),
    machine(CloudProvider::Oci, "fra.ocir.io", "user", 1, oracle_user),
    machine(CloudProvider::Oci, "fra.ocir.io", "instance", 6, oracle_instance),
    Somebody {
        is_pod: true,
        ..machine(CloudProvider::Oci, "fra.ocir.io", "workload of OKE", 2, oracle_workload)
    },
    machine(CloudProvider::Ibm, "de.icr.io", "API key", 1, ibm_key),
    Somebody { is_pod: true, ..machine(CloudProvider::Ibm, "de.icr.io", "pod", 1, ibm_pod) },
    machine(CloudProvider::Ibm, "de.icr.io", "VPC instance", 2, ibm_instance),
    machine(CloudProvider::Quay, "quay.io", "robot", 1, quay_robot),
    Somebody { is_pod: true, ..machine(CloudProvider::Quay, "quay.io", "pod", 1, quay_pod) },
];

fn good(body: &Value) -> Answer {
    answer_with(200, &[("metadata-flavor", "Google")], &body.to_string())
}

/// The token of an OAuth server, which most are.
fn token() -> Answer {
    good(&json!({
        "access_token": CANARY,
        "expires_in": 3600,
        "expiration": 1_793_494_800,
        "token_type": "Bearer",
    }))
}

fn with_ecr(world: World) -> World {
    let token = STANDARD.encode(format!("AWS:{CANARY}"));
    let data = json!({ "authorizationToken": token, "expiresAt": 1_793_534_400 });
    world.server(Method::Post, ECR_API, good(&json!({ "authorizationData": [data] })))
}

fn aws_keys() -> World {
    with_ecr(World::new())
        .variable("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .variable("AWS_SECRET_ACCESS_KEY", CANARY)
        .variable("AWS_SESSION_TOKEN", CANARY)
}

fn role_of_sts() -> Answer {
    let credentials = format!(
        "<R><Credentials><AccessKeyId>ASIA</AccessKeyId>\
         <SecretAccessKey>{CANARY}</SecretAccessKey><SessionToken>{CANARY}</SessionToken>\
         <Expiration>2026-11-01T01:00:00Z</Expiration></Credentials></R>"
    );
    answer(200, &credentials)
}

fn aws_web_identity() -> World {
    with_ecr(World::new())
        .variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/irsa")
        .variable("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/puller")
        .file("/irsa", CANARY)
        .server(Method::Post, STS, role_of_sts())
}

fn aws_document() -> Answer {
    good(&json!({
        "Code": "Success",
        "AccessKeyId": "ASIA",
        "SecretAccessKey": CANARY,
        "Token": CANARY,
        "Expiration": "2026-11-01T06:00:00Z",
    }))
}

fn aws_instance() -> World {
    let base = "http://169.254.169.254/latest";
    let roles = format!("{base}/meta-data/iam/security-credentials/");
    with_ecr(World::new())
        .server(Method::Put, &format!("{base}/api/token"), answer(200, CANARY))
        .server(Method::Get, &roles, answer(200, "node"))
        .server(Method::Get, &format!("{roles}node"), aws_document())
}

fn aws_pod_identity() -> World {
    let url = "http://169.254.170.23/v1/credentials";
    with_ecr(World::new())
        .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{url}?{CANARY}"))
        .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", CANARY)
        .server(Method::Get, &format!("{url}?{CANARY}"), aws_document())
}

fn aws_single_sign_on() -> World {
    let config = "[profile work]\nsso_session = my-sso\nsso_account_id = 123456789012\n\
                  sso_role_name = dev\n[sso-session my-sso]\nsso_region = us-east-1\n";
    let cache = json!({
        "accessToken": CANARY,
        "expiresAt": "2026-10-31T00:00:00Z",
        "refreshToken": CANARY,
        "clientId": CANARY,
        "clientSecret": CANARY,
    });
    let file = "/home/u/.aws/sso/cache/0ad374308c5a4e22f723adf10145eafad7c4031c.json";
    let portal = "https://portal.sso.us-east-1.amazonaws.com/federation/credentials\
                  ?role_name=dev&account_id=123456789012";
    let role = json!({
        "accessKeyId": "ASIA",
        "secretAccessKey": CANARY,
        "sessionToken": CANARY,
        "expiration": 1_793_494_800_000_u64,
    });
    with_ecr(World::new())
        .variable("HOME", "/home/u")
        .variable("AWS_PROFILE", "work")
        .file("/home/u/.aws/config", config)
        .file(file, &cache.to_string())
        .server(
            Method::Post,
            "https://oidc.us-east-1.amazonaws.com/token",
            good(&json!({ "accessToken": CANARY })),
        )
        .server(Method::Get, portal, good(&json!({ "roleCredentials": role })))
}

fn aws_role() -> World {
    let config = "[profile a]\nrole_arn=arn:1\nsource_profile=b\n";
    let keys = format!("[b]\naws_access_key_id=AKID\naws_secret_access_key={CANARY}\n");
    with_ecr(World::new())
        .variable("AWS_PROFILE", "a")
        .variable("AWS_CONFIG_FILE", "/config")
        .variable("AWS_SHARED_CREDENTIALS_FILE", "/credentials")
        .file("/config", config)
        .file("/credentials", &keys)
        .server(Method::Post, STS, role_of_sts())
}

fn google_metadata() -> World {
    let url = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token\
               ?scopes=https://www.googleapis.com/auth/devstorage.read_only";
    World::new().file("/sys/class/dmi/id/product_name", "Google Compute Engine\n").server(
        Method::Get,
        url,
        token(),
    )
}

fn with_google_file(file: &Value) -> World {
    World::new()
        .variable("GOOGLE_APPLICATION_CREDENTIALS", "/adc.json")
        .file("/adc.json", &file.to_string())
        .server(Method::Post, "https://oauth2.googleapis.com/token", token())
        .server(Method::Post, "https://sts.googleapis.com/v1/token", token())
}

fn google_account() -> World {
    with_google_file(&json!({
        "type": "service_account",
        "client_email": "puller@p.iam.gserviceaccount.com",
        "private_key": KEY,
        "private_key_id": CANARY,
    }))
}

fn google_user() -> World {
    with_google_file(&json!({
        "type": "authorized_user",
        "client_id": CANARY,
        "client_secret": CANARY,
        "refresh_token": CANARY,
    }))
}

fn google_federation() -> World {
    let source = format!("https://issuer.example/token?{CANARY}");
    let acting = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p:\
                  generateAccessToken";
    with_google_file(&json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/pool",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "client_id": CANARY,
        "client_secret": CANARY,
        "credential_source": { "url": source, "headers": { "x-secret": CANARY } },
        "service_account_impersonation_url": acting,
    }))
    .server(Method::Get, &source, answer(200, CANARY))
    .server(
        Method::Post,
        acting,
        good(&json!({ "accessToken": CANARY, "expireTime": "2026-11-01T00:30:00Z" })),
    )
}

fn google_pod() -> World {
    World::new().server(Method::Post, "https://sts.googleapis.com/v1/token", token())
}

fn with_acr(world: World) -> World {
    let challenge = format!("Bearer realm=\"https://{ACR}/oauth2/token\",service=\"{ACR}\"");
    let refresh = json!({ "refresh_token": format!("e30.eyJleHAiOjQxMDI0NDQ4MDB9.{CANARY}") });
    world
        .server(
            Method::Get,
            &format!("https://{ACR}/v2/"),
            answer_with(401, &[("www-authenticate", &challenge)], ""),
        )
        .server(Method::Post, &format!("https://{ACR}/oauth2/exchange"), good(&refresh))
}

fn azure_application() -> World {
    with_acr(World::new())
        .variable("AZURE_TENANT_ID", "tenant")
        .variable("AZURE_CLIENT_ID", "client")
        .variable("AZURE_CLIENT_SECRET", CANARY)
        .server(Method::Post, "https://login.microsoftonline.com/tenant/oauth2/v2.0/token", token())
}

const AZURE_RESOURCE: &str = "resource=https%3A%2F%2Fcontainerregistry.azure.net";

fn azure_instance() -> World {
    let base = "http://169.254.169.254/metadata/identity/oauth2/token";
    let url = format!("{base}?api-version=2018-02-01&{AZURE_RESOURCE}");
    with_acr(World::new()).server(Method::Get, &url, token())
}

fn azure_arc() -> World {
    let base = "http://127.0.0.1:40342/metadata/identity/oauth2/token";
    let url = format!("{base}?api-version=2020-06-01&{AZURE_RESOURCE}");
    let key = "/var/opt/azcmagent/tokens/a.key";
    let challenge = format!("Basic realm={key}");
    with_acr(World::new())
        .file("/opt/azcmagent/bin/himds", "")
        .file(key, CANARY)
        .server(Method::Get, &url, answer_with(401, &[("www-authenticate", &challenge)], ""))
        .server(Method::Get, &url, token())
}

fn with_ocir(world: World) -> World {
    world.server(
        Method::Get,
        OCIR_TOKEN,
        good(&json!({ "token": CANARY, "access_token": CANARY, "expires_in": 3600 })),
    )
}

fn oracle_user() -> World {
    let config = "[DEFAULT]\nuser=u\nfingerprint=aa:bb\ntenancy=t\nkey_file=/key.pem\n\
                  security_token_file=/session\n";
    with_ocir(World::new())
        .variable("HOME", "/home/u")
        .file("/home/u/.oci/config", config)
        .file("/key.pem", KEY)
        .file("/session", CANARY)
}

fn oracle_instance() -> World {
    let opc = "http://169.254.169.254/opc/v2";
    let document = json!({ "regionInfo": {
        "realmDomainComponent": "oraclecloud.com",
        "regionIdentifier": "eu-frankfurt-1",
    } });
    with_ocir(World::new())
        .server(Method::Get, &format!("{opc}/instance/"), good(&document))
        .server(Method::Get, &format!("{opc}/identity/cert.pem"), answer(200, CERTIFICATE))
        .server(Method::Get, &format!("{opc}/identity/key.pem"), answer(200, KEY))
        .server(Method::Get, &format!("{opc}/identity/intermediate.pem"), answer(200, CERTIFICATE))
        .server(
            Method::Post,
            "https://auth.eu-frankfurt-1.oraclecloud.com/v1/x509",
            good(&json!({ "token": CANARY })),
        )
}

fn oracle_workload() -> World {
    let inner = STANDARD.encode(json!({ "token": format!("ST${CANARY}") }).to_string());
    with_ocir(World::new())
        .variable("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .file("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", CERTIFICATE)
        .server(
            Method::Post,
            "https://10.96.0.1:12250/resourcePrincipalSessionTokens",
            good(&Value::from(inner)),
        )
}

fn ibm_key() -> World {
    World::new().variable("ICR_APIKEY", CANARY).server(Method::Post, IAM, token())
}

fn ibm_pod() -> World {
    World::new().variable("ICR_IAM_PROFILE_ID", "Profile-1").server(Method::Post, IAM, token())
}

fn ibm_instance() -> World {
    let base = "http://169.254.169.254/instance_identity/v1";
    World::new().server(Method::Put, &format!("{base}/token?version=2022-03-01"), token()).server(
        Method::Post,
        &format!("{base}/iam_token?version=2022-03-01"),
        token(),
    )
}

fn quay_pod() -> World {
    let url = "https://quay.io/oauth2/federation/robot/token";
    World::new().server(Method::Get, url, good(&json!({ "token": CANARY })))
}

fn quay_robot() -> World {
    quay_pod()
        .variable("QUAY_ROBOT", "team+puller")
        .variable("QUAY_ROBOT_TOKEN_FILE", "/token")
        .file("/token", CANARY)
}

/// Every way to fail that has room for a text, with the canary in all of it.
fn faults() -> Vec<Answer> {
    let leaky = json!({
        "error": CANARY,
        "error_subtype": CANARY,
        "error_description": CANARY,
        "correlation_id": CANARY,
        "trace_id": CANARY,
        "code": CANARY,
        "Code": CANARY,
        "message": CANARY,
        "Message": CANARY,
        "errorCode": CANARY,
        "errorMessage": CANARY,
        "error_type": CANARY,
        "context": { "requestId": CANARY },
        "__type": format!("x#{CANARY}:y"),
        "errors": [{ "code": CANARY, "message": CANARY }],
    });
    let mut google = leaky.clone();
    google["error"] = json!({ "status": CANARY, "message": CANARY, "code": 403 });
    let xml = format!(
        "<ErrorResponse><Error><Type>{CANARY}</Type><Code>{CANARY}</Code>\
         <Message>{CANARY}</Message></Error><RequestId>{CANARY}</RequestId></ErrorResponse>"
    );
    let challenge = format!("Bearer realm=\"https://{CANARY}.example/\",service=\"{CANARY}\"");
    let elsewhere = format!("https://evil.example/?{CANARY}");
    let headers = [
        ("metadata-flavor", "Google"),
        ("x-amzn-requestid", CANARY),
        ("x-amzn-errortype", CANARY),
        ("opc-request-id", CANARY),
        ("x-ms-correlation-request-id", CANARY),
        ("www-authenticate", &*challenge),
        ("location", &*elsewhere),
        ("retry-after", CANARY),
        ("date", CANARY),
    ];
    let of = |status, body: &str| answer_with(status, &headers, body);
    vec![
        of(400, &leaky.to_string()),
        of(401, &leaky.to_string()),
        of(403, &google.to_string()),
        of(403, &xml),
        of(503, &leaky.to_string()),
        of(302, CANARY),
        // No JSON, JSON that ends too early, and JSON without what is looked for.
        of(200, CANARY),
        of(200, &format!("{{\"access_token\":\"{CANARY}")),
        of(200, &leaky.to_string()),
        Err(SendError::Timeout),
    ]
}

/// Whether the canary is in a text, as it is or in base64, wherever in the encoded bytes it was.
fn shows_canary(text: &str) -> bool {
    let encoded = (0..3).map(|before| {
        let encoded = STANDARD.encode([&vec![0; before][..], CANARY.as_bytes()].concat());
        // The first and the last characters depend on what stands beside it.
        let whole = (before + CANARY.len()) / 3 * 4;
        encoded[(before * 8).div_ceil(6)..whole].to_owned()
    });
    text.contains("PRIVATE KEY")
        || text.contains(CANARY)
        || encoded.into_iter().any(|one| text.contains(&one))
}

#[test]
fn the_canary_is_seen_in_base64_too() {
    for before in ["", "a", "ab", "abc"] {
        assert!(shows_canary(&STANDARD.encode(format!("{before}{CANARY}:z"))), "{before}");
    }
    assert!(!shows_canary("status 401"));
}

/// cloud-credentials.md 14.2, row 8.
#[test]
fn no_failure_of_any_request_shows_a_secret() {
    let annotations = [
        (google::ServiceAccountFlow::ANNOTATION.to_owned(), "true".to_owned()),
        ("shipway.dev/quay-robot".to_owned(), "team+pod".to_owned()),
    ];
    let (pods_token, annotations) = (Secret::new(CANARY), BTreeMap::from(annotations));
    let mut options = CloudOptions::all();
    options.google.service_accounts = Some(google::ServiceAccountFlow {
        project_id: "p".to_owned(),
        identity_provider: "https://cluster.example".to_owned(),
    });
    for somebody in EVERYBODY {
        let pod = PodIdentity { token: &pods_token, annotations: &annotations };
        let pod = somebody.is_pod.then_some(pod);
        let host = RegistryHost::of(somebody.host).expect("a host");
        let ask = |world: &World| options.exchange(world, somebody.provider, &host, pod);
        let name = format!("{}, {}", somebody.provider, somebody.name);
        let world = (somebody.world)();
        let credential = ask(&world).expect(&name).expect(&name);
        assert!(!shows_canary(&format!("{credential:?}")), "{name}");
        assert_eq!(world.sent.borrow().len(), somebody.requests, "{name}");
        for number in 0..somebody.requests {
            for fault in faults() {
                let status = fault.as_ref().map_or(0, |answer| answer.status);
                let place = format!("{name}: request {number}, status {status}");
                let world = (somebody.world)().fails_from(number, fault);
                let error = ask(&world).expect_err(&place);
                let text = format!("{error} {error:?}");
                assert!(!shows_canary(&text), "{place}: {text}");
            }
        }
    }
}
