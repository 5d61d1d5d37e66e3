//! Exchanges of ECR against a scripted world. Numbers are rows of `cloud-credentials.md` 14.2.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::world::{World, answer, answer_with, at};
use super::super::{CloudCredential, CloudError, Method, RegistryHost, SendError};
use super::{EcrOptions, EcrRequest, credential};
use crate::{RegistryAuth, Secret};

const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const API: &str = "https://api.ecr.eu-west-1.amazonaws.com/";
const STS: &str = "https://sts.eu-west-1.amazonaws.com/";
const IMDS: &str = "http://169.254.169.254/latest";
const CANARY: &str = "c4n4ry0fASecret9";

fn ask(world: &World) -> Result<Option<CloudCredential>, CloudError> {
    ask_with(world, &EcrOptions::default(), EcrRequest::default())
}

fn ask_with(
    world: &World,
    options: &EcrOptions,
    request: EcrRequest<'_>,
) -> Result<Option<CloudCredential>, CloudError> {
    credential(world, &RegistryHost::of(HOST).expect("a host"), options, request)
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

fn environment() -> World {
    World::new()
        .variable("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .variable("AWS_SECRET_ACCESS_KEY", CANARY)
}

fn token(password: &str, expires_at: &str) -> String {
    let token = STANDARD.encode(format!("AWS:{password}"));
    format!(
        r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":{expires_at},"proxyEndpoint":"https://{HOST}"}}]}}"#
    )
}

/// A private registry's API that gives a token for twelve hours.
fn with_ecr(world: World) -> World {
    world.server(Method::Post, API, answer(200, &token("pw", "1793534400.5")))
}

fn sts_answer() -> String {
    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
     <AccessKeyId>ASIAX</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
     <SessionToken>t</SessionToken><Expiration>2026-11-01T01:00:00Z</Expiration>\
     </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        .to_owned()
}

fn sts_error(code: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{CANARY}</Message>\
         </Error><RequestId>7e2</RequestId></ErrorResponse>"
    )
}

#[test]
fn a_token_is_kept_for_half_of_its_life() {
    let world = with_ecr(environment());
    let credential = given(&world); // 13
    assert_eq!(credential.host, HOST);
    assert_eq!(credential.auth, RegistryAuth::basic("AWS", Secret::new("pw")));
    assert_eq!(credential.keep_for, Duration::from_secs(6 * 3600));
    assert_eq!(credential.source, "environment");
    assert_eq!(
        world.sent_header(0, "x-amz-target").as_deref(),
        Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
    );
    let signature = world.sent_header(0, "authorization").expect("a signature");
    assert!(
        signature.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261101/eu-west-1/ecr/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature="
        ),
        "{signature}"
    );
    let text = environment().server(
        Method::Post,
        API,
        answer(200, &token("pw", "\"2026-11-01T12:00:00Z\"")),
    );
    assert_eq!(given(&text).keep_for, Duration::from_secs(6 * 3600));
}

#[test]
fn a_token_that_has_ended_is_good_for_once() {
    let world = environment().server(Method::Post, API, answer(200, &token("pw", "1431345600.0")));
    assert_eq!(given(&world).keep_for, Duration::ZERO); // 14
}

#[test]
fn a_password_may_hold_a_colon() {
    let world = environment().server(Method::Post, API, answer(200, &token("a:b", "1793534400")));
    assert_eq!(given(&world).auth, RegistryAuth::basic("AWS", Secret::new("a:b"))); // 15
}

#[test]
fn an_answer_without_a_token_is_an_error() {
    for (body, expected) in [
        (r#"{"authorizationData":[]}"#, "no authorizationData"),
        (r#"{"authorizationData":{"authorizationToken":"x"}}"#, "no authorizationData"),
        (r#"{"authorizationData":[{"authorizationToken":"Y2FuYXJ5"}]}"#, "no colon"),
        ("c4n4ry0fASecret9", "no JSON"),
    ] {
        let world = environment().server(Method::Post, API, answer(200, body));
        let error = failure(&world).to_string(); // 16, 17
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_gallery_is_asked_only_if_that_is_wanted_and_answers_with_an_object() {
    let token = STANDARD.encode("AWS:gallery");
    let body = format!(
        r#"{{"authorizationData":{{"authorizationToken":"{token}","expiresAt":1793534400}}}}"#
    );
    let world = environment().server(
        Method::Post,
        "https://api.ecr-public.us-east-1.amazonaws.com/",
        answer(200, &body),
    );
    let host = RegistryHost::of("public.ecr.aws/nginx/nginx").expect("a host");
    let mut options = EcrOptions::default();
    let none = credential(&world, &host, &options, EcrRequest::default());
    assert_eq!(none, Ok(None));
    assert!(world.sent.borrow().is_empty());
    options.public_gallery = true;
    let found = credential(&world, &host, &options, EcrRequest::default());
    let found = found.expect("no error").expect("one"); // 17
    assert_eq!(found.auth, RegistryAuth::basic("AWS", Secret::new("gallery")));

    // The list of a private registry is none of the gallery's answers.
    let list = body.replace(":{", ":[{").replace("}}", "}]}");
    let world = environment().server(
        Method::Post,
        "https://api.ecr-public.us-east-1.amazonaws.com/",
        answer(200, &list),
    );
    let refused = credential(&world, &host, &options, EcrRequest::default());
    let refused = refused.expect_err("a list").to_string(); // 17
    assert!(refused.contains("no authorizationData"), "{refused}");
}

#[test]
fn a_registry_of_somebody_else_is_not_asked_about() {
    let world = environment();
    for image in ["docker.io/library/x", "evil.com/x.dkr.ecr.us-east-1.amazonaws.com"] {
        let host = RegistryHost::of(image).expect("a host");
        let options = EcrOptions::default();
        assert_eq!(credential(&world, &host, &options, EcrRequest::default()), Ok(None)); // 7
    }
    assert!(world.sent.borrow().is_empty());
}

#[test]
fn throttling_passes() {
    let throttled = || answer(400, r#"{"__type":"com.amazonaws.ecr#ThrottlingException"}"#);
    let world = environment()
        .server(Method::Post, API, throttled())
        .server(Method::Post, API, throttled())
        .server(Method::Post, API, answer(200, &token("pw", "1793534400")));
    given(&world); // 18
    assert_eq!((world.sent.borrow().len(), world.pauses.get()), (3, 2));
}

#[test]
fn who_may_not_is_told_which_right_is_missing() {
    let world = environment().server(
        Method::Post,
        API,
        answer_with(
            400,
            &[("x-amzn-requestid", "7e1")],
            r#"{"__type":"AccessDeniedException:x","message":"c4n4ry0fASecret9"}"#,
        ),
    );
    let error = failure(&world); // 19
    assert_eq!(
        error.to_string(),
        "ecr: GetAuthorizationToken at https://api.ecr.eu-west-1.amazonaws.com: \
         status 400 AccessDeniedException (request 7e1)"
    );
    assert!(error.hint.expect("a hint").contains("ecr:GetAuthorizationToken"));
    assert_eq!(world.sent.borrow().len(), 1);
}

#[test]
fn a_wrong_clock_is_corrected_once() {
    let skewed = || {
        answer_with(
            403,
            &[("date", "Sun, 01 Nov 2026 00:10:00 GMT")],
            r#"{"__type":"InvalidSignatureException"}"#,
        )
    };
    let world = environment().server(Method::Post, API, skewed()).server(
        Method::Post,
        API,
        answer(200, &token("pw", "1793534400")),
    );
    given(&world); // 20
    assert_eq!(world.sent_header(0, "x-amz-date").as_deref(), Some("20261101T000000Z"));
    assert_eq!(world.sent_header(1, "x-amz-date").as_deref(), Some("20261101T001000Z"));

    let always = environment().server(Method::Post, API, skewed());
    assert!(failure(&always).to_string().contains("InvalidSignatureException"));
    assert_eq!(always.sent.borrow().len(), 2);
}

#[test]
fn a_configured_endpoint_does_not_stand_for_a_fips_registry() {
    let world = environment().variable("AWS_ENDPOINT_URL_ECR", "http://127.0.0.1:1");
    let host = RegistryHost::of("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com").expect("one");
    let result = credential(&world, &host, &EcrOptions::default(), EcrRequest::default());
    let error = result.expect_err("an error").to_string(); // 12
    assert!(error.contains("cannot stand for a FIPS"), "{error}");
}

fn imds(world: World) -> World {
    world.server(Method::Put, &format!("{IMDS}/api/token"), answer(200, "session"))
}

#[test]
fn a_code_of_a_server_shows_no_secret() {
    // 8: what has not the form of a code is not repeated, and a status comes before a role's name.
    let role = format!("{ROLES}node");
    let world = web_identity().server(Method::Post, STS, answer(400, &sts_error(CANARY)));
    assert!(failure(&world).to_string().contains("status 400 for arn:"));
    let code = format!(r#"{{"Code":"{CANARY}","code":"{CANARY}","Message":"{CANARY}"}}"#);
    let world = imds(World::new()).server(Method::Get, ROLES, answer(200, "node")).server(
        Method::Get,
        &role,
        answer(200, &code),
    );
    assert!(failure(&world).to_string().contains("role node: no code that is known"));
    let known = r#"{"Code":"AssumeRoleUnauthorizedAccess"}"#;
    let world = imds(World::new()).server(Method::Get, ROLES, answer(200, "node")).server(
        Method::Get,
        &role,
        answer(200, known),
    );
    assert!(failure(&world).to_string().contains("role node: AssumeRoleUnauthorizedAccess"));
    let world = imds(World::new()).server(Method::Get, ROLES, answer(400, CANARY));
    assert!(failure(&world).to_string().contains("status 400 for the name of the role"));
    for name in ["../x", "a b", "a?b", &"a".repeat(65)] {
        let world = imds(World::new()).server(Method::Get, ROLES, answer(200, name));
        assert!(failure(&world).to_string().contains("no name of a role"));
    }
    let url = "http://169.254.170.23/v1/credentials";
    let world = World::new().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", url).server(
        Method::Get,
        url,
        answer(400, &code),
    );
    assert!(failure(&world).to_string().ends_with("status 400"));
}

const ROLES: &str = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";

fn role_answer() -> String {
    format!(
        r#"{{"Code":"Success","AccessKeyId":"ASIA","SecretAccessKey":"{CANARY}","Token":"t","Expiration":"2026-11-01T06:00:00Z"}}"#
    )
}

#[test]
fn a_session_with_the_metadata_service_is_renewed_once() {
    let world = with_ecr(imds(World::new()))
        .server(Method::Put, &format!("{IMDS}/api/token"), answer(200, "session-2\n"))
        .server(Method::Get, ROLES, answer(200, "node\n"))
        .server(Method::Get, &format!("{ROLES}node"), answer(401, ""))
        .server(Method::Get, &format!("{ROLES}node"), answer(200, &role_answer()));
    let credential = given(&world); // 21
    assert_eq!(credential.source, "instance metadata");
    // The token does not outlive the credentials of the role.
    assert_eq!(credential.expires_at, Some(at("2026-11-01T06:00:00Z")));
    assert_eq!(credential.keep_for, Duration::from_secs(3 * 3600));
    let puts = world.sent_urls().iter().filter(|url| url.ends_with("/api/token")).count();
    assert_eq!(puts, 2);
    // PUT, roles, role: refused; PUT, role.
    let session = |index| world.sent_header(index, "x-aws-ec2-metadata-token");
    assert_eq!(
        (session(2).as_deref(), session(4).as_deref()),
        (Some("session"), Some("session-2"))
    );
}

#[test]
fn version_one_of_the_metadata_is_not_used() {
    let world = World::new().server(Method::Put, &format!("{IMDS}/api/token"), answer(403, ""));
    let error = failure(&world); // 22
    assert!(error.to_string().contains("status 403 for a version 2 token"), "{error}");
    assert_eq!(world.sent.borrow().len(), 1);
}

#[test]
fn a_dropped_reply_is_explained_by_the_hop_limit() {
    let world =
        World::new().server(Method::Put, &format!("{IMDS}/api/token"), Err(SendError::Timeout));
    let error = failure(&world); // 23
    assert!(error.hint.expect("a hint").contains("hop limit of 2"));
    let sent = world.sent.borrow();
    assert_eq!(sent.len(), 1);
    assert!(sent[0].timeout <= Duration::from_secs(3));
}

#[test]
fn container_credentials_come_only_from_agents() {
    for url in [
        "http://10.0.0.1/c",
        "http://169.254.170.2.evil.com/",
        "ftp://127.0.0.1/",
        "http://169.254.170.2:80@evil.com/",
    ] {
        let world = World::new().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
        let error = failure(&world).to_string(); // 24
        assert!(error.contains("plain HTTP is only for the agents"), "{error}");
        assert!(world.sent.borrow().is_empty());
    }
    // A user before the host is not shown.
    let url = format!("http://u:{CANARY}@10.0.0.1/c?{CANARY}");
    let world = World::new().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url);
    assert!(failure(&world).to_string().contains(" at http://10.0.0.1/c: plain HTTP"));
}

#[test]
fn the_token_of_pod_identity_is_read_anew_each_time() {
    let url = "http://169.254.170.23/v1/credentials";
    let world = with_ecr(
        World::new()
            .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
            .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token")
            .file("/token", "first\n"),
    )
    .server(Method::Get, url, answer(200, &role_answer()));
    assert_eq!(given(&world).source, "container credentials");
    world.write("/token", "second");
    given(&world); // 25
    assert_eq!(world.sent_header(0, "authorization").as_deref(), Some("first"));
    assert_eq!(world.sent_header(2, "authorization").as_deref(), Some("second"));
    world.write("/token", "a\nb");
    assert!(failure(&world).to_string().contains("line break"));
}

fn web_identity() -> World {
    World::new()
        .variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/irsa")
        .variable("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/puller")
        .file("/irsa", CANARY)
}

#[test]
fn a_web_identity_becomes_a_role() {
    let world = with_ecr(web_identity()).server(Method::Post, STS, answer(200, &sts_answer()));
    let credential = given(&world); // 26
    assert_eq!(credential.source, "web identity as arn:aws:iam::123456789012:role/puller");
    assert_eq!(
        world.sent_body(0),
        format!(
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&\
             RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fpuller&\
             RoleSessionName=shipway-0123456789abcdef&WebIdentityToken={CANARY}"
        )
    );
    assert_eq!(world.sent_header(1, "x-amz-security-token").as_deref(), Some("t"));

    let world =
        web_identity().server(Method::Post, STS, answer(400, &sts_error("ExpiredTokenException")));
    let error = failure(&world);
    assert!(error.to_string().contains("ExpiredTokenException"), "{error}");
    assert_eq!(error.request_id.as_deref(), Some("7e2"));
    assert_eq!(world.sent.borrow().len(), 1);

    let world = with_ecr(web_identity())
        .server(Method::Post, STS, answer(400, &sts_error("IDPCommunicationError")))
        .server(Method::Post, STS, answer(200, &sts_answer()));
    given(&world);
    assert_eq!(world.pauses.get(), 1);
}

#[test]
fn a_service_account_pulls_with_its_own_role() {
    let world = with_ecr(environment()).server(Method::Post, STS, answer(200, &sts_answer()));
    let token = Secret::new(CANARY);
    let request = EcrRequest {
        service_account_token: Some(&token),
        role: Some("arn:aws:iam::123456789012:role/app"),
    };
    let found = ask_with(&world, &EcrOptions::default(), request).expect("no error");
    let found = found.expect("a credential"); // 27
    assert_eq!(found.source, "service account token as arn:aws:iam::123456789012:role/app");
    assert!(world.sent_body(0).contains("RoleSessionName=ecr-credential-provider&"));

    let world = environment();
    let options = EcrOptions { require_role: true, ..EcrOptions::default() };
    let request = EcrRequest { role: None, ..request };
    let error = ask_with(&world, &options, request).expect_err("an error");
    assert!(error.hint.expect("a hint").contains("eks.amazonaws.com/ecr-role-arn"));
    assert!(world.sent.borrow().is_empty(), "the node's own identity is not used");
}

#[test]
fn a_region_of_the_environment_leads_to_no_other_host() {
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        for region in ["evil.com/#", "evil.com", "a@evil.com", "x?", "US-EAST-1"] {
            let world = web_identity().variable(name, region);
            let error = failure(&world).to_string();
            assert!(error.contains(name) && error.ends_with("nothing was sent"), "{error}");
            assert!(world.sent.borrow().is_empty());
        }
    }
    let profile = "[profile work]\nregion = evil.com/#\nrole_arn = arn:aws:iam::1:role/x\n\
                   web_identity_token_file = /irsa\n";
    let role = World::new()
        .variable("HOME", "/home/u")
        .variable("AWS_PROFILE", "work")
        .file("/irsa", CANARY)
        .file("/home/u/.aws/config", profile);
    let session = r#"{"accessToken":"old","expiresAt":"2027-10-31T00:00:00Z"}"#;
    let sso = World::new()
        .variable("HOME", "/home/u")
        .variable("AWS_PROFILE", "work")
        .file("/home/u/.aws/config", &SSO_CONFIG.replace("us-east-1", "evil.com/#"))
        .file(SSO_CACHE, session);
    for world in [role, sso] {
        assert!(failure(&world).to_string().ends_with("nothing was sent"));
        assert!(world.sent.borrow().is_empty());
    }
}

const SSO_CONFIG: &str = "[profile work]\nsso_session = my-sso\nsso_account_id = 123456789012\n\
                          sso_role_name = dev\n[sso-session my-sso]\nsso_region = us-east-1\n\
                          sso_start_url = https://x.awsapps.com/start\n";
const SSO_CACHE: &str = "/home/u/.aws/sso/cache/0ad374308c5a4e22f723adf10145eafad7c4031c.json";

fn sso(cache: &str) -> World {
    World::new()
        .variable("HOME", "/home/u")
        .variable("AWS_PROFILE", "work")
        .file("/home/u/.aws/config", SSO_CONFIG)
        .file(SSO_CACHE, cache)
}

#[test]
fn an_ended_session_is_renewed_or_the_user_is_told_to_log_in() {
    let cache = format!(
        r#"{{"accessToken":"old","expiresAt":"2026-10-31T00:00:00Z","refreshToken":"{CANARY}","clientId":"i","clientSecret":"s","registrationExpiresAt":"2027-01-01T00:00:00Z"}}"#
    );
    let portal = "https://portal.sso.us-east-1.amazonaws.com/federation/credentials\
                  ?role_name=dev&account_id=123456789012";
    let roles = r#"{"roleCredentials":{"accessKeyId":"ASIA","secretAccessKey":"s","sessionToken":"t","expiration":1793494800000}}"#;
    let world = with_ecr(sso(&cache))
        .server(
            Method::Post,
            "https://oidc.us-east-1.amazonaws.com/token",
            answer(200, r#"{"accessToken":"new","expiresIn":3600}"#),
        )
        .server(Method::Get, portal, answer(200, roles));
    let credential = given(&world); // 28
    assert_eq!(credential.source, "profile work");
    assert_eq!(credential.expires_at, Some(at("2026-11-01T01:00:00Z")));
    assert_eq!(world.sent_header(1, "x-amz-sso_bearer_token").as_deref(), Some("new"));
    assert_eq!(world.sent_header(0, "content-type").as_deref(), Some("application/json"));
    let sent: serde_json::Value = serde_json::from_str(&world.sent_body(0)).expect("JSON");
    assert_eq!(
        sent,
        serde_json::json!({
            "clientId": "i",
            "clientSecret": "s",
            "grantType": "refresh_token",
            "refreshToken": CANARY,
        })
    );

    let world = sso(r#"{"accessToken":"old","expiresAt":"2026-10-31T00:00:00Z"}"#);
    let error = failure(&world);
    assert_eq!(error.hint.as_deref(), Some("aws sso login --sso-session my-sso"));
    let refused = sso(&cache).server(
        Method::Post,
        "https://oidc.us-east-1.amazonaws.com/token",
        answer(400, r#"{"error":"invalid_grant"}"#),
    );
    let error = failure(&refused);
    assert_eq!(error.hint.as_deref(), Some("aws sso login --sso-session my-sso"));
}

#[test]
fn a_profile_from_before_there_were_sessions_is_logged_in_by_its_name() {
    // 28. Its cache has the name of the start URL.
    let config = "[profile work]\nsso_account_id = 123456789012\nsso_role_name = dev\n\
                  sso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n";
    let world = World::new()
        .variable("HOME", "/home/u")
        .variable("AWS_PROFILE", "work")
        .file("/home/u/.aws/config", config);
    let error = failure(&world);
    assert!(
        error.place.ends_with("/cache/3947de8b16688092197fa616c34e01335f21d256.json"),
        "{error}"
    );
    assert_eq!(error.hint.as_deref(), Some("aws sso login --profile work"));
}

fn with_profile(config: &str) -> World {
    World::new()
        .variable("AWS_PROFILE", "a")
        .variable("AWS_CONFIG_FILE", "/config")
        .variable("AWS_SHARED_CREDENTIALS_FILE", "/credentials")
        .file("/config", config)
}

#[test]
fn a_profile_that_leads_back_to_itself_is_an_error() {
    let world = with_profile(
        "[profile a]\nrole_arn=arn:1\nsource_profile=b\n\
         [profile b]\nrole_arn=arn:2\nsource_profile=a\n",
    );
    let error = failure(&world).to_string(); // 29
    assert!(error.contains("it leads back to itself: a → b → a"), "{error}");
}

#[test]
fn a_role_is_assumed_with_the_credentials_of_another_profile() {
    let world = with_ecr(with_profile(
        "[profile a]\nrole_arn=arn:1\nsource_profile=b\nexternal_id=x\nregion=us-gov-west-1\n",
    ))
    .file("/credentials", "[b]\naws_access_key_id=AKID\naws_secret_access_key=s\n")
    .server(
        Method::Post,
        "https://sts.us-gov-west-1.amazonaws.com/",
        answer(200, &sts_answer()),
    );
    assert_eq!(given(&world).source, "profile a: arn:1 by profile b");
    assert!(world.sent_body(0).contains("Action=AssumeRole&"));
    assert!(world.sent_body(0).ends_with("&ExternalId=x"));
    let signature = world.sent_header(0, "authorization").expect("a signature");
    assert!(signature.contains("Credential=AKID/20261101/us-gov-west-1/sts/"), "{signature}");
}

#[test]
fn a_profile_runs_a_program_only_if_that_is_allowed() {
    let config = "[profile a]\ncredential_process = /opt/issue --for 'a b'\n";
    let output = r#"{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"s"}"#;
    let world = with_ecr(with_profile(config)).program("/opt/issue", Ok(output));
    assert!(failure(&world).to_string().contains("running programs is not allowed"));
    let options = EcrOptions { allow_processes: true, ..EcrOptions::default() };
    let found = ask_with(&world, &options, EcrRequest::default()).expect("no error");
    assert_eq!(found.expect("a credential").source, "profile a");
}

#[test]
fn a_profile_that_is_not_there_names_the_files_that_were_read() {
    let error = failure(&with_profile("[profile b]\nregion=x\n")).to_string();
    assert!(error.contains("/config, /credentials: there is no profile \"a\""), "{error}");
}
