//! Exchanges of Azure against a scripted world. Numbers are rows of `cloud-credentials.md` 14.2.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::super::world::{Answer, World, answer, answer_with};
use super::super::{CloudCredential, CloudError, Method, Reach, RegistryHost};
use super::{AzureOptions, AzureRequest, ServiceAccount, credential};
use crate::{RegistryAuth, Secret};

/// Made for these tests; they open nothing.
const KEY: &str = include_str!("../test-key.pem");
const PUBLIC_KEY: &str = include_str!("../test-key.pub.pem");
const CERTIFICATE: &str = include_str!("../test-certificate.pem");
/// By `openssl dgst -sha256` of the certificate in DER.
const THUMBPRINT: &str = "LqrEMG5_ia7ZyoPDN12jWB_wzd_51Z_sNr0VtEG1EmE";

const HOST: &str = "myregistry.azurecr.io";
const CHALLENGE: &str = "https://myregistry.azurecr.io/v2/";
const EXCHANGE: &str = "https://myregistry.azurecr.io/oauth2/exchange";
const ENTRA: &str = "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token";
const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01\
                    &resource=https%3A%2F%2Fcontainerregistry.azure.net";
const CANARY: &str = "c4n4ry0fASecret9";

fn ask_with(
    world: &World,
    options: &AzureOptions,
    request: AzureRequest<'_>,
) -> Result<Option<CloudCredential>, CloudError> {
    credential(world, &RegistryHost::of(HOST).expect("a host"), options, request)
}

fn ask(world: &World) -> Result<Option<CloudCredential>, CloudError> {
    ask_with(world, &AzureOptions::default(), AzureRequest::default())
}

#[track_caller]
fn given(world: &World) -> CloudCredential {
    ask(world).expect("no error").expect("a credential")
}

#[track_caller]
fn failure(world: &World) -> CloudError {
    let error = ask(world).expect_err("a failure");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(CANARY), "{text}"); // 8
    error
}

fn jwt(exp: u64) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.sig", part(json!({"alg":"RS256"})), part(json!({ "exp": exp })))
}

/// Three hours after the time of every world.
const IN_THREE_HOURS: u64 = 1_793_502_000;

fn with_registry(world: World) -> World {
    let challenge = "Bearer realm=\"https://myregistry.azurecr.io/oauth2/token\",\
                     service=\"myregistry.azurecr.io\"";
    let refresh = json!({ "refresh_token": jwt(IN_THREE_HOURS) }).to_string();
    world
        .server(Method::Get, CHALLENGE, answer_with(401, &[("www-authenticate", challenge)], ""))
        .server(Method::Post, EXCHANGE, answer(200, &refresh))
}

fn entra_token() -> Answer {
    answer(200, &json!({ "access_token": CANARY, "expires_in": 3599 }).to_string())
}

fn entra_error(code: u64) -> Answer {
    let body = json!({
        "error": "invalid_client",
        "error_description": format!("AADSTS{code}: c4n4ry0fASecret9"),
        "error_codes": [code],
        "correlation_id": "c0-1",
    });
    answer(401, &body.to_string())
}

fn imds_token() -> Answer {
    answer(200, r#"{"access_token":"machine","expires_in":"86399","expires_on":"1793577600"}"#)
}

fn environment() -> World {
    World::new().variable("AZURE_TENANT_ID", "tenant-1").variable("AZURE_CLIENT_ID", "client-1")
}

#[test]
fn an_entra_token_becomes_a_refresh_token_of_the_registry() {
    let world = with_registry(environment().variable("AZURE_CLIENT_SECRET", CANARY)).server(
        Method::Post,
        ENTRA,
        entra_token(),
    );
    let credential = given(&world); // 42
    assert_eq!(
        credential.auth,
        RegistryAuth::basic(
            "00000000-0000-0000-0000-000000000000",
            Secret::new(jwt(IN_THREE_HOURS))
        )
    );
    assert_eq!((credential.host.as_str(), credential.keep_for), (HOST, Duration::from_secs(3600)));
    assert_eq!(
        world.sent_body(0),
        format!(
            "client_id=client-1&scope=https%3A%2F%2Fcontainerregistry.azure.net%2F.default&\
             grant_type=client_credentials&client_secret={CANARY}"
        )
    );
    assert_eq!(
        world.sent_body(2),
        format!(
            "grant_type=access_token&service=myregistry.azurecr.io&tenant=tenant-1&\
             access_token={CANARY}"
        )
    );
}

#[test]
fn a_registry_that_sends_clients_elsewhere_gets_no_token() {
    for challenge in [
        "Bearer realm=\"https://evil.com/oauth2/token\",service=\"myregistry.azurecr.io\"",
        "Bearer realm=\"https://myregistry.azurecr.io/oauth2/token\",service=\"evil.com\"",
        "Basic realm=\"x\"",
        "Bearer realm=",
        "",
    ] {
        let world = environment()
            .variable("AZURE_CLIENT_SECRET", CANARY)
            .server(Method::Post, ENTRA, entra_token())
            .server(
                Method::Get,
                CHALLENGE,
                answer_with(401, &[("www-authenticate", challenge)], ""),
            );
        let error = failure(&world).to_string(); // 43
        assert!(error.contains("nothing was sent"), "{error}");
        assert_eq!(world.sent.borrow().len(), 2, "{challenge}");
    }
}

/// cloud-credentials.md 14.2, row 42.
#[test]
fn a_challenge_whose_last_value_has_no_quotes_is_understood() {
    // cloud-credentials.md 4.4: Azure's own provider panics.
    for challenge in [
        "Bearer realm=\"https://myregistry.azurecr.io/oauth2/token\",service=myregistry.azurecr.io",
        "Bearer realm=https://myregistry.azurecr.io/oauth2/token,service=myregistry.azurecr.io",
        "Bearer service=\"myregistry.azurecr.io\", realm=https://myregistry.azurecr.io/oauth2/token",
    ] {
        let refresh = json!({ "refresh_token": jwt(IN_THREE_HOURS) }).to_string();
        let world = environment()
            .variable("AZURE_CLIENT_SECRET", CANARY)
            .server(Method::Post, ENTRA, entra_token())
            .server(
                Method::Get,
                CHALLENGE,
                answer_with(401, &[("www-authenticate", challenge)], ""),
            )
            .server(Method::Post, EXCHANGE, answer(200, &refresh));
        assert_eq!(given(&world).keep_for, Duration::from_secs(3600), "{challenge}");
    }
}

#[test]
fn every_form_of_a_registry_of_azure_is_known_and_no_look_alike() {
    let is = |host: &str| RegistryHost::of(host).is_some_and(|host| super::is_registry(&host, &[]));
    for host in [
        "myregistry.azurecr.io",
        "myregistry-a1b2c3.azurecr.io",
        "myregistry.eastus.geo.azurecr.io",
        "myregistry.azurecr.cn",
        "myregistry.azurecr.us",
        "MyRegistry.azurecr.de/app:1",
    ] {
        assert!(is(host), "{host}"); // 44
    }
    for host in [
        "myregistry.eastus.data.azurecr.io",
        "evilazurecr.io/x",
        "evil-azurecr.io",
        "evil.com/foo.azurecr.io/bar",
        "x.azurecr.io.evil.com",
        "azurecr.io",
        "a.b.azurecr.io",
        "a-b-c.azurecr.io",
        "-a.azurecr.io",
        "a_b.azurecr.io",
    ] {
        assert!(!is(host), "{host}"); // 45
    }
    let own = ["azurecr.mycloud.example".to_owned()];
    let host = RegistryHost::of("team.azurecr.mycloud.example").expect("a host");
    assert!(super::is_registry(&host, &own));
}

#[test]
fn a_machine_has_an_identity_of_its_own() {
    let world = with_registry(World::new()).server(Method::Get, IMDS, imds_token());
    assert_eq!(given(&world).source, "managed identity of the instance"); // 46
    assert_eq!(world.sent_header(0, "metadata").as_deref(), Some("true"));

    let world = with_registry(World::new()).server(Method::Get, IMDS, answer(410, "")).server(
        Method::Get,
        IMDS,
        imds_token(),
    );
    given(&world);
    assert_eq!(world.pauses.get(), 1);

    let body =
        r#"{"error":"invalid_request","error_description":"Multiple user assigned identities"}"#;
    let world = World::new().server(Method::Get, IMDS, answer(400, body));
    let error = failure(&world);
    assert!(error.hint.expect("a hint").contains("userAssignedIdentityID"));
    assert_eq!(world.sent.borrow().len(), 1);
}

#[test]
fn a_federated_token_is_read_anew_and_a_new_federation_waited_for() {
    let world =
        environment().variable("AZURE_FEDERATED_TOKEN_FILE", "/token").file("/token", "first");
    let world = with_registry(world).server(Method::Post, ENTRA, entra_token());
    given(&world);
    world.write("/token", "second");
    given(&world); // 47
    assert!(world.sent_body(0).ends_with("client_assertion=first"));
    assert!(world.sent_body(3).ends_with("client_assertion=second"));

    let federated =
        || environment().variable("AZURE_FEDERATED_TOKEN_FILE", "/token").file("/token", CANARY);
    let world = federated().server(Method::Post, ENTRA, entra_error(700_024));
    let error = failure(&world);
    assert!(error.hint.as_ref().expect("a hint").contains("the clock is off"));
    assert_eq!(error.request_id.as_deref(), Some("c0-1"));
    assert_eq!(world.sent.borrow().len(), 1);

    let world = with_registry(federated())
        .server(Method::Post, ENTRA, entra_error(70021))
        .server(Method::Post, ENTRA, entra_error(70021))
        .server(Method::Post, ENTRA, entra_token());
    given(&world);
    assert_eq!(world.pauses.get(), 2);
}

#[test]
fn a_certificate_signs_an_assertion() {
    let world = environment()
        .variable("AZURE_CLIENT_CERTIFICATE_PATH", "/app.pem")
        .file("/app.pem", &format!("{KEY}{CERTIFICATE}"));
    let world = with_registry(world).server(Method::Post, ENTRA, entra_token());
    given(&world);
    let body = world.sent_body(0);
    let (_, assertion) = body.rsplit_once('=').expect("an assertion");
    let key = DecodingKey::from_rsa_pem(PUBLIC_KEY.as_bytes()).expect("a key");
    let mut validation = Validation::new(Algorithm::PS256);
    validation.set_audience(&[ENTRA]);
    validation.validate_exp = false;
    let decoded = jsonwebtoken::decode::<Value>(assertion, &key, &validation);
    let decoded = decoded.expect("a valid signature"); // 48
    assert_eq!(decoded.header.x5t_s256.as_deref(), Some(THUMBPRINT));
    assert_eq!(decoded.claims["iss"], "client-1");
    assert_eq!(decoded.claims["sub"], "client-1");
    assert_eq!(decoded.claims["exp"], 1_793_491_200 + 600);
}

const ARC: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token?api-version=2020-06-01\
                   &resource=https%3A%2F%2Fcontainerregistry.azure.net";

fn arc(path: &str) -> World {
    let challenge = format!("Basic realm={path}");
    World::new().file("/opt/azcmagent/bin/himds", "").server(
        Method::Get,
        ARC,
        answer_with(401, &[("www-authenticate", &challenge)], ""),
    )
}

#[test]
fn arc_may_name_only_its_own_keys() {
    let key = "/var/opt/azcmagent/tokens/a.key";
    let world = with_registry(arc(key).file(key, CANARY)).server(Method::Get, ARC, imds_token());
    assert_eq!(given(&world).source, "managed identity of Azure Arc"); // 49
    assert_eq!(world.sent_header(1, "authorization"), Some(format!("Basic {CANARY}")));

    for path in [
        "/etc/shadow",
        "/var/opt/azcmagent/tokens/../../../../etc/shadow.key",
        "/var/opt/azcmagent/tokens/sub/a.key",
        "/var/opt/azcmagent/tokens/a.txt",
        "a.key",
    ] {
        let world = arc(path).file(path, CANARY);
        let error = failure(&world).to_string();
        assert!(error.contains("none of its keys"), "{path}: {error}");
        assert_eq!(world.sent.borrow().len(), 1);
    }
    let linked = arc(key).link(key, CANARY);
    assert!(failure(&linked).to_string().contains("cannot be read"));
    let large = arc(key).file(key, &"x".repeat(4097));
    assert!(failure(&large).to_string().contains("cannot be read"));
}

#[test]
fn the_environment_shows_which_service_hands_out_tokens() {
    // 50.
    let resource = "resource=https%3A%2F%2Fcontainerregistry.azure.net";
    let app = "http://127.0.0.1:41741/token";
    let variables =
        || World::new().variable("IDENTITY_ENDPOINT", app).variable("IDENTITY_HEADER", "h");
    let url = format!("{app}?api-version=2019-08-01&{resource}");
    let world = with_registry(variables()).server(Method::Get, &url, imds_token());
    assert_eq!(given(&world).source, "managed identity of App Service");
    assert_eq!(world.sent_header(0, "x-identity-header").as_deref(), Some("h"));

    let url = format!("{app}?api-version=2019-07-01-preview&{resource}");
    let world = with_registry(variables().variable("IDENTITY_SERVER_THUMBPRINT", "AB12")).server(
        Method::Get,
        &url,
        imds_token(),
    );
    assert_eq!(given(&world).source, "managed identity of Service Fabric");
    assert_eq!(world.sent_header(0, "secret").as_deref(), Some("h"));
    assert_eq!(world.sent.borrow()[0].reach, Reach::Pinned { sha1: "AB12".to_owned() });

    let msi = "http://127.0.0.1:4000/msi";
    let url = format!("{msi}?api-version=2017-09-01&{resource}&clientid=c");
    let world = World::new()
        .variable("MSI_ENDPOINT", msi)
        .variable("MSI_SECRET", "s")
        .variable("AZURE_CLIENT_ID", "c");
    let world = with_registry(world).server(Method::Get, &url, imds_token());
    assert_eq!(given(&world).source, "managed identity of Azure ML");
    assert_eq!(world.sent_header(0, "secret").as_deref(), Some("s"));

    let world = with_registry(World::new().variable("MSI_ENDPOINT", msi)).server(
        Method::Post,
        msi,
        imds_token(),
    );
    assert_eq!(given(&world).source, "managed identity of Cloud Shell");
    assert_eq!(world.sent_body(0), "resource=https%3A%2F%2Fcontainerregistry.azure.net");
    assert_eq!(world.sent_header(0, "metadata").as_deref(), Some("true"));
}

#[test]
fn of_several_services_the_first_in_azures_order_is_asked() {
    // 50: each is preceded by those before it, whatever else the environment shows.
    let (app, msi) = ("http://127.0.0.1:41741/token", "http://127.0.0.1:4000/msi");
    let imds = ("IMDS_ENDPOINT", "http://127.0.0.1:40342");
    let identity = ("IDENTITY_ENDPOINT", app);
    let header = ("IDENTITY_HEADER", "h");
    let thumbprint = ("IDENTITY_SERVER_THUMBPRINT", "AB12");
    let (msi_endpoint, msi_secret) = (("MSI_ENDPOINT", msi), ("MSI_SECRET", "s"));
    let of_app = |version: &str| {
        format!("{app}?api-version={version}&resource=https%3A%2F%2Fcontainerregistry.azure.net")
    };
    let of_msi =
        format!("{msi}?api-version=2017-09-01&resource=https%3A%2F%2Fcontainerregistry.azure.net");
    let all = [identity, header, thumbprint, imds, msi_endpoint, msi_secret];
    for (variables, method, url, source) in [
        (&all[..], Method::Get, of_app("2019-07-01-preview"), "Service Fabric"),
        (
            &[identity, header, imds, msi_endpoint, msi_secret][..],
            Method::Get,
            of_app("2019-08-01"),
            "App Service",
        ),
        (&[msi_endpoint, msi_secret, header, thumbprint][..], Method::Get, of_msi, "Azure ML"),
        (&[msi_endpoint, imds][..], Method::Post, msi.to_owned(), "Cloud Shell"),
        (&[identity, imds][..], Method::Get, of_app("2020-06-01"), "Azure Arc"),
        (&[imds, header][..], Method::Get, ARC.to_owned(), "Azure Arc"),
    ] {
        let world = World::new().file("/opt/azcmagent/bin/himds", "");
        let world =
            variables.iter().fold(world, |world, (name, value)| world.variable(name, value));
        let world = with_registry(world).server(method, &url, imds_token());
        assert_eq!(given(&world).source, format!("managed identity of {source}"));
        assert_eq!(world.sent_urls()[0], url);
    }
    // Nothing of it and no agent of Arc: the instance's own service.
    let world = with_registry(World::new().variable(header.0, header.1)).server(
        Method::Get,
        IMDS,
        imds_token(),
    );
    assert_eq!(given(&world).source, "managed identity of the instance");
}

#[test]
fn the_file_of_the_cloud_provider_names_the_identity() {
    let options = AzureOptions {
        config_file: Some("/etc/kubernetes/azure.json".into()),
        ..AzureOptions::default()
    };
    let with_config = |config: Value| {
        with_registry(environment()).file("/etc/kubernetes/azure.json", &config.to_string())
    };
    let ask = |world: &World| {
        ask_with(world, &options, AzureRequest::default()).expect("no error").expect("one").source
    };
    let resource = "/subscriptions/s/resourcegroups/g/providers/x/userAssignedIdentities/i";
    let url = format!(
        "{IMDS}&msi_res_id=%2Fsubscriptions%2Fs%2Fresourcegroups%2Fg%2Fproviders%2Fx%2F\
         userAssignedIdentities%2Fi"
    );
    let config = json!({ "useManagedIdentityExtension": true, "userAssignedIdentityID": resource });
    let world = with_config(config).server(Method::Get, &url, imds_token());
    assert_eq!(ask(&world), "managed identity of the instance");

    let config = json!({
        "cloud": "AzureChinaCloud",
        "tenantId": "tenant-2",
        "aadClientId": "client-2",
        "aadClientSecret": CANARY,
    });
    let url = "https://login.chinacloudapi.cn/tenant-2/oauth2/v2.0/token";
    let world = with_config(config).server(Method::Post, url, entra_token());
    assert_eq!(ask(&world), "client-2 of /etc/kubernetes/azure.json");
}

#[test]
fn a_pod_pulls_with_its_own_identity() {
    let token = Secret::new("pod-token");
    let account = ServiceAccount { token: &token, client_id: "client-3", tenant_id: "tenant-1" };
    let request = AzureRequest { service_account: Some(account) };
    let world = with_registry(environment().variable("AZURE_CLIENT_SECRET", CANARY)).server(
        Method::Post,
        ENTRA,
        entra_token(),
    );
    let found = ask_with(&world, &AzureOptions::default(), request).expect("no error");
    assert_eq!(found.expect("one").source, "service account token as client-3");
    assert!(world.sent_body(0).contains("client_id=client-3&"));
    assert!(world.sent_body(0).ends_with("client_assertion=pod-token"));
}

#[test]
fn who_may_not_pull_is_told_which_role_is_missing() {
    let world = environment()
        .variable("AZURE_CLIENT_SECRET", CANARY)
        .server(Method::Post, ENTRA, entra_token())
        .server(
            Method::Get,
            CHALLENGE,
            answer_with(
                401,
                &[(
                    "www-authenticate",
                    "Bearer realm=\"https://myregistry.azurecr.io/oauth2/token\",service=\"myregistry.azurecr.io\"",
                )],
                "",
            ),
        )
        .server(
            Method::Post,
            EXCHANGE,
            answer(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"c4n4ry0fASecret9"}]}"#),
        );
    let error = failure(&world);
    assert!(error.to_string().contains("status 401 UNAUTHORIZED"), "{error}");
    assert!(error.hint.expect("a hint").contains("AcrPull"));
}
