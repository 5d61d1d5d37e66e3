use http::Method;
use registry_server::{
    AccessRule, Anonymous, AuthScheme, BindError, Holder, PlainHttp, RegistryOptions,
    RegistryServer, Role, add_user,
};
use serde_json::{Value, json};

use crate::{Fixture, MANIFEST, basic, options};

/// alice may push to `team`, bob may only pull there; `public` is open to everybody.
async fn tenants(scheme: AuthScheme) -> Fixture {
    let fixture = Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        for (name, password) in [("alice", "alice-pw"), ("bob", "bob-pw")] {
            add_user(&users, name, password).expect("a user");
        }
        let rule =
            |prefix: &str, holder, role| AccessRule { prefix: prefix.to_owned(), holder, role };
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        options.scheme = scheme;
        options.access = vec![
            rule("team", Holder::User("alice".to_owned()), Role::Delete),
            rule("team", Holder::User("bob".to_owned()), Role::Pull),
            rule("bob", Holder::User("bob".to_owned()), Role::Push),
            rule("public", Holder::Everybody, Role::Pull),
            rule("public", Holder::User("alice".to_owned()), Role::Push),
        ];
    });
    fixture.await
}

#[tokio::test]
async fn the_base_says_whether_to_log_in() {
    let open = Fixture::open().await;
    for path in ["/v2/", "/v2"] {
        let reply = open.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({})));
    }
    let mut closed = Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        add_user(&users, "alice", "pw").expect("a user");
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
    })
    .await;
    let reply = closed.get("/v2/").await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(reply.header("www-authenticate"), "Basic realm=\"shipway-registry\"");
    for wrong in [basic("alice", "no"), basic("nobody", "pw"), Some("Basic !".to_owned())] {
        closed.login(wrong);
        assert_eq!(closed.get("/v2/").await.status.as_u16(), 401);
    }
    closed.login(basic("alice", "pw").map(|text| text.replace("Basic", "bAsIc")));
    assert_eq!(closed.get("/v2/").await.status.as_u16(), 200);
    assert_eq!(closed.get("/healthz").await.status.as_u16(), 200);
}

#[tokio::test]
async fn roles_hold_per_prefix() {
    let mut registry = tenants(AuthScheme::Basic).await;
    registry.login(basic("alice", "alice-pw"));
    registry.push_image("team/app", "v1", "layer").await;
    registry.push_image("public/app", "v1", "layer").await;
    let reply = registry.delete("/v2/public/app/manifests/v1").await;
    assert_eq!(reply.refusal(), (403, "DENIED".to_owned()), "push does not include delete");
    let reply = registry.get("/v2/teams/app/manifests/v1").await;
    assert_eq!(reply.refusal(), (403, "DENIED".to_owned()), "absent and forbidden look the same");

    registry.login(basic("bob", "bob-pw"));
    assert_eq!(registry.get("/v2/team/app/manifests/v1").await.status.as_u16(), 200);
    for (method, path) in [
        (Method::POST, "/v2/team/app/blobs/uploads/"),
        (Method::PUT, "/v2/team/app/manifests/v1"),
        (Method::DELETE, "/v2/team/app/manifests/v1"),
    ] {
        let reply = registry.send(method, path, &[("content-type", MANIFEST)], "{}").await;
        assert_eq!(reply.refusal(), (403, "DENIED".to_owned()), "{path}");
    }

    registry.login(None);
    assert_eq!(registry.get("/v2/public/app/manifests/v1").await.status.as_u16(), 200);
    let reply = registry.get("/v2/team/app/manifests/v1").await;
    assert_eq!(reply.refusal(), (401, "UNAUTHORIZED".to_owned()));
    assert_eq!(registry.get("/v2/absent/manifests/v1").await.status.as_u16(), 401);
}

#[tokio::test]
async fn the_catalog_shows_only_what_one_may_pull() {
    let mut registry = tenants(AuthScheme::Basic).await;
    registry.login(basic("alice", "alice-pw"));
    registry.push_image("team/app", "v1", "layer").await;
    registry.push_image("public/app", "v1", "layer").await;
    registry.login(basic("bob", "bob-pw"));
    registry.push_image("bob/app", "v1", "layer").await;
    let expected = json!(["bob/app", "public/app", "team/app"]);
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"], expected);
    registry.login(None);
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"], json!(["public/app"]));
}

// registry.md 8.1 row 11 (CVE-2026-31801): who may only create does not overwrite `latest`, neither
// with a password nor with a token, nor by the back doors of conditions and tag parameters.
#[tokio::test]
async fn who_may_only_create_moves_no_tag() {
    for scheme in [AuthScheme::Basic, AuthScheme::Bearer] {
        let mut registry = Fixture::with(|options, directory| {
            let users = directory.join("htpasswd");
            add_user(&users, "ci", "ci-pw").expect("a user");
            add_user(&users, "owner", "owner-pw").expect("a user");
            options.users = Some(users);
            options.anonymous = Anonymous::Nothing;
            options.scheme = scheme;
            let rule = |user: &str, role| AccessRule {
                prefix: "team".to_owned(),
                holder: Holder::User(user.to_owned()),
                role,
            };
            options.access = vec![rule("ci", Role::Create), rule("owner", Role::Push)];
        })
        .await;
        let login = async |registry: &mut Fixture, user: &str| {
            registry.login(basic(user, &format!("{user}-pw")));
            if scheme == AuthScheme::Bearer {
                let path = "/auth/token?scope=repository:team/app:pull,push,delete";
                let token = token(registry, path).await;
                registry.login(bearer(&token));
            }
        };
        login(&mut registry, "owner").await;
        let owned = registry.push_image("team/app", "latest", "owner's").await;
        login(&mut registry, "ci").await;
        registry.push_image("team/app", "v1", "ci's").await;
        registry.push_image("team/app", "v1", "ci's").await;
        let manifest = registry.image("team/app", "evil").await;
        let digest = oci_model::Digest::of(manifest.to_string().as_bytes());
        let path = "/v2/team/app/manifests";
        let old = format!("\"{owned}\"");
        for (target, condition) in [
            ("latest".to_owned(), None),
            ("v1".to_owned(), None),
            (format!("{digest}?tag=v2&tag=latest"), None),
            ("latest".to_owned(), Some(("if-match", "*"))),
            ("latest".to_owned(), Some(("if-match", old.as_str()))),
        ] {
            let mut headers = vec![("content-type", MANIFEST)];
            headers.extend(condition);
            let target = format!("{path}/{target}");
            let reply = registry.send(Method::PUT, &target, &headers, manifest.to_string()).await;
            let expected = if scheme == AuthScheme::Basic { 403 } else { 401 };
            assert_eq!(reply.status.as_u16(), expected, "{target}: {reply:?}");
        }
        assert_eq!(registry.get(&format!("{path}/v2")).await.status.as_u16(), 404);
        let latest = registry.head(&format!("{path}/latest")).await;
        assert_eq!(latest.header("docker-content-digest"), owned.to_string());
        assert_eq!(registry.delete(&format!("{path}/v1")).await.status.as_u16() / 100, 4);
    }
}

#[tokio::test]
async fn a_mount_needs_the_right_to_read_the_source() {
    let mut registry = tenants(AuthScheme::Basic).await;
    registry.login(basic("bob", "bob-pw"));
    let secret = registry.push_blob("bob/secret", b"secret").await;
    registry.login(basic("alice", "alice-pw"));
    for query in [format!("mount={secret}&from=bob/secret"), format!("mount={secret}")] {
        let path = format!("/v2/team/app/blobs/uploads/?{query}");
        let reply = registry.send(Method::POST, &path, &[], "").await;
        assert_eq!(reply.status.as_u16(), 202, "{query}");
    }
    let reply = registry.head(&format!("/v2/team/app/blobs/{secret}")).await;
    assert_eq!(reply.status.as_u16(), 404);
}

#[tokio::test]
async fn an_upload_belongs_to_its_user() {
    let mut registry = Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        add_user(&users, "alice", "pw").expect("a user");
        add_user(&users, "bob", "pw").expect("a user");
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
    })
    .await;
    registry.login(basic("alice", "pw"));
    let reply = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = reply.header("location").to_owned();
    registry.login(basic("bob", "pw"));
    let reply = registry.send(Method::PATCH, &location, &[], "x").await;
    assert_eq!(reply.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    registry.login(basic("alice", "pw"));
    assert_eq!(registry.send(Method::PATCH, &location, &[], "x").await.status.as_u16(), 202);
}

#[tokio::test]
async fn a_changed_user_file_counts_for_the_next_request() {
    let mut registry = tenants(AuthScheme::Basic).await;
    let users = registry.directory.as_ref().expect("a directory").path().join("htpasswd");
    registry.login(basic("alice", "alice-pw"));
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
    add_user(&users, "alice", "another").expect("a new password");
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 401);
    registry.login(basic("alice", "another"));
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
}

async fn token(registry: &Fixture, path: &str) -> Value {
    let reply = registry.get(path).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    assert_eq!(reply.header("cache-control"), "no-store");
    let token = reply.json();
    assert_eq!(token["token"], token["access_token"]);
    assert!(token["expires_in"].as_u64() >= Some(60));
    assert!(token["issued_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    token
}

fn bearer(token: &Value) -> Option<String> {
    Some(format!("Bearer {}", token["token"].as_str().expect("a token")))
}

#[tokio::test]
async fn a_challenge_leads_to_a_token_that_works() {
    let mut registry = tenants(AuthScheme::Bearer).await;
    let reply = registry.send(Method::POST, "/v2/team/app/blobs/uploads/", &[], "").await;
    let challenge = reply.header("www-authenticate").to_owned();
    let url = registry.registry.url();
    assert_eq!(
        challenge,
        format!(
            "Bearer realm=\"{url}/auth/token\",service=\"shipway-registry\",\
             scope=\"repository:team/app:pull,push\""
        )
    );
    let query =
        "/auth/token?service=shipway-registry&scope=repository:team/app:pull,push&account=alice";
    registry.login(basic("alice", "alice-pw"));
    let alice = token(&registry, query).await;
    registry.login(bearer(&alice));
    registry.push_image("team/app", "v1", "layer").await;
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
    // The same scope gives bob only what he has, and his token does not push.
    registry.login(basic("bob", "bob-pw"));
    let bob = token(&registry, query).await;
    registry.login(bearer(&bob));
    assert_eq!(registry.get("/v2/team/app/manifests/v1").await.status.as_u16(), 200);
    let reply = registry.send(Method::POST, "/v2/team/app/blobs/uploads/", &[], "").await;
    assert_eq!(reply.status.as_u16(), 401);
    assert!(reply.header("www-authenticate").ends_with("error=\"insufficient_scope\""));
    // A token for one repository is none for another.
    assert_eq!(registry.get("/v2/public/app/tags/list").await.status.as_u16(), 401);
}

#[tokio::test]
async fn anonymous_tokens_open_what_is_public() {
    let mut registry = tenants(AuthScheme::Bearer).await;
    registry.login(basic("alice", "alice-pw"));
    registry.push_image("public/app", "v1", "layer").await;
    registry.login(None);
    let anonymous = token(
        &registry,
        "/auth/token?scope=repository:public/app:pull,push%20repository:team/app:pull",
    )
    .await;
    registry.login(bearer(&anonymous));
    assert_eq!(registry.get("/v2/public/app/manifests/v1").await.status.as_u16(), 200);
    assert_eq!(registry.get("/v2/team/app/manifests/v1").await.status.as_u16(), 401);
    let reply = registry.send(Method::POST, "/v2/public/app/blobs/uploads/", &[], "").await;
    assert_eq!(reply.status.as_u16(), 401);
}

#[tokio::test]
async fn the_oauth_form_gives_tokens_for_passwords_and_refresh_tokens() {
    let mut registry = tenants(AuthScheme::Bearer).await;
    let post = async |form: String| {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        registry.send(Method::POST, "/auth/token", &headers, form).await
    };
    let scope =
        "service=shipway-registry&client_id=test&scope=repository%3Ateam%2Fapp%3Apull%2Cpush";
    let password = "grant_type=password&username=alice&password=alice-pw&access_type=offline";
    let reply = post(format!("{password}&{scope}")).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    assert_eq!(reply.json()["scope"], "repository:team/app:pull,push");
    let refresh = reply.json()["refresh_token"].as_str().expect("a refresh token").to_owned();
    let form = format!("grant_type=refresh_token&refresh_token={refresh}&{scope}");
    let renewed = post(form.clone()).await.json();
    for bad in [
        format!("grant_type=password&username=alice&password=wrong&{scope}"),
        format!("grant_type=refresh_token&refresh_token={}&{scope}", renewed["token"]),
        format!("grant_type=refresh_token&refresh_token=&{scope}"),
    ] {
        assert_eq!(post(bad).await.status.as_u16(), 401);
    }
    assert_eq!(post("grant_type=other".to_owned()).await.status.as_u16(), 400);
    assert_eq!(post("x=".repeat(40_000)).await.status.as_u16(), 413);
    let users = registry.directory.as_ref().expect("a directory").path().join("htpasswd");
    add_user(&users, "alice", "changed").expect("a new password");
    assert_eq!(post(form).await.status.as_u16(), 401, "the password is gone, so is its token");
    registry.login(Some(format!("Bearer {refresh}")));
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 401, "not an access token");
    registry.login(bearer(&renewed));
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
}

#[tokio::test]
async fn the_realm_does_not_follow_a_strange_host() {
    let registry = tenants(AuthScheme::Bearer).await;
    let port = registry.registry.address().port();
    for (host, expected) in [
        (format!("localhost:{port}"), format!("http://localhost:{port}/auth/token")),
        ("evil.example".to_owned(), format!("http://127.0.0.1:{port}/auth/token")),
        (format!("evil.example:{port}"), format!("http://127.0.0.1:{port}/auth/token")),
    ] {
        let reply = registry.send(Method::GET, "/v2/", &[("host", &host)], "").await;
        let challenge = reply.header("www-authenticate");
        assert!(challenge.contains(&format!("realm=\"{expected}\"")), "{host}: {challenge}");
    }
}

#[tokio::test]
async fn plain_http_stays_on_loopback() {
    let directory = tempfile::tempdir().expect("a directory");
    let anywhere = || RegistryOptions {
        address: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
        ..options(directory.path())
    };
    let error = RegistryServer::bind(anywhere()).await.expect_err("a refusal");
    assert!(matches!(error, BindError::PlainHttp { .. }), "{error}");
    let consent = RegistryOptions { plain_http: PlainHttp::Anywhere, ..anywhere() };
    RegistryServer::bind(consent).await.expect("a registry").shutdown().await;
}

#[tokio::test]
async fn a_second_registry_on_the_same_state_is_told_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = RegistryServer::bind(options(directory.path())).await.expect("a registry");
    let error = RegistryServer::bind(options(directory.path())).await.expect_err("a refusal");
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    first.shutdown().await;
    RegistryServer::bind(options(directory.path())).await.expect("a registry").shutdown().await;
}

#[tokio::test]
async fn https_is_served_with_a_certificate() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a pair");
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let mut options = options(directory.path());
    options.tls =
        Some(registry_server::TlsFiles { certificate: certificate.clone(), key, clients: None });
    let registry = RegistryServer::bind(options.clone()).await.expect("a registry");
    assert!(registry.url().starts_with("https://"));
    // curl is in every Debian image that builds this; it checks the certificate.
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--cacert"])
        .arg(&certificate)
        .args(["--write-out", "%{http_code} %{http_version}", &format!("{}/v2/", registry.url())])
        .output()
        .await
        .expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "{}200 2", "{}", String::from_utf8_lossy(&output.stderr));
    registry.shutdown().await;
    std::fs::write(&certificate, "nothing").expect("a file");
    let error = RegistryServer::bind(options).await.expect_err("no certificate");
    assert!(matches!(error, BindError::Tls { .. }), "{error}");
}
