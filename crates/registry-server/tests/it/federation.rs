//! Tokens of issuers: logging in without a stored secret, as Kubernetes and CI systems do.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use registry_server::{
    AccessRule, AuthScheme, ClaimRule, ForeignTokens, Holder, Issuer, KeyLocation, Role,
};
use serde_json::{Value, json};

use crate::tokens::{TestClock, with_alice};
use crate::{Fixture, Reply, basic};

const URL: &str = "https://kubernetes.example";

/// An issuer that the test plays.
struct Cluster {
    encoding: EncodingKey,
    keys: PathBuf,
}

impl Cluster {
    fn new(directory: &Path) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let keys = directory.join("issuer-keys.json");
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x });
        std::fs::write(&keys, json!({ "keys": [key] }).to_string()).expect("a file");
        let encoding = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("a key");
        Self { encoding, keys }
    }

    /// The token of a service account.
    fn token(&self, namespace: &str, change: impl FnOnce(&mut Value)) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.expect("after 1970").as_secs();
        let mut claims = json!({
            "iss": URL, "aud": ["registry.example"], "exp": now + 600, "nbf": now, "iat": now,
            "sub": format!("system:serviceaccount:{namespace}:builder"),
            "kubernetes.io": { "namespace": namespace, "serviceaccount": { "name": "builder" } },
            "groups": ["dev"],
        });
        change(&mut claims);
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("k1".to_owned());
        jsonwebtoken::encode(&header, &claims, &self.encoding).expect("a token")
    }
}

async fn registry(scheme: AuthScheme) -> (Fixture, TestClock, Cluster) {
    let clock = TestClock::new();
    let mut cluster = None;
    let registry = Fixture::with(|options, directory| {
        with_alice(options, directory, &clock);
        options.scheme = scheme;
        let made = Cluster::new(directory);
        options.identity.issuers = vec![Issuer {
            name: "kubernetes".to_owned(),
            url: URL.to_owned(),
            audiences: vec!["registry.example".to_owned()],
            keys: KeyLocation::File(made.keys.clone()),
            ca_file: None,
            token_file: None,
            tokens: ForeignTokens::Identity(vec![ClaimRule {
                claims: [("/kubernetes.io/namespace".to_owned(), "ci*".to_owned())].into(),
                principal: None,
                groups: vec!["ns-{/kubernetes.io/namespace}".to_owned()],
                groups_claim: Some("groups".to_owned()),
            }]),
        }];
        let rule = |prefix: &str, holder, role| {
            let prefix = prefix.to_owned();
            AccessRule { prefix, holder, role }
        };
        options.access = vec![
            rule("team", Holder::Group("ns-ci".to_owned()), Role::Push),
            rule("dev", Holder::Group("kubernetes:dev".to_owned()), Role::Pull),
            rule("", Holder::AnyUser, Role::Admin),
        ];
        cluster = Some(made);
    })
    .await;
    (registry, clock, cluster.expect("made with the registry"))
}

async fn exchange(registry: &Fixture, token: &str, scope: &str) -> Reply {
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={token}\
         &subject_token_type=urn:ietf:params:oauth:token-type:jwt&scope={scope}"
    );
    registry.send(Method::POST, "/auth/token", &[], form).await
}

const SCOPE: &str = "repository:team/app:pull,push,delete";

#[tokio::test]
async fn a_service_account_gets_a_token_by_every_way_that_clients_have() {
    let (mut registry, _, cluster) = registry(AuthScheme::Bearer).await;
    let token = cluster.token("ci", |_| {});
    let exchanged = exchange(&registry, &token, SCOPE).await;
    assert_eq!(exchanged.status.as_u16(), 200, "{exchanged:?}");
    let exchanged = exchanged.json();
    assert_eq!(exchanged["scope"], "repository:team/app:pull,push");
    assert_eq!(
        (exchanged["token_type"].as_str(), exchanged["issued_token_type"].as_str()),
        (Some("Bearer"), Some("urn:ietf:params:oauth:token-type:access_token"))
    );
    assert!(exchanged["expires_in"].as_u64().is_some_and(|life| life <= 600), "not longer");
    // As docker login does with `-u oidc`, with `-u '<token>'`, and as containerd does.
    registry.login(basic("oidc", &token));
    let got = registry.get(&format!("/auth/token?scope={SCOPE}&offline_token=true")).await.json();
    assert!(got["refresh_token"].is_null(), "nothing that outlives the account");
    registry.login(None);
    for form in [
        format!("grant_type=refresh_token&refresh_token={token}&scope={SCOPE}"),
        format!("grant_type=password&username=oidc&password={token}&scope={SCOPE}"),
    ] {
        let reply = registry.send(Method::POST, "/auth/token", &[], form).await;
        assert_eq!(reply.json()["scope"], "repository:team/app:pull,push");
    }
    registry.login(Some(format!("Bearer {}", got["token"].as_str().expect("a token"))));
    registry.push_image("team/app", "v1", "layer").await;
    registry.login(basic("oidc", &token));
    assert_eq!(registry.get("/v2/team/app/manifests/v1").await.status.as_u16(), 200, "Basic");
    assert_eq!(registry.get("/v2/dev/x/tags/list").await.status.as_u16(), 404, "by its group");
    assert_eq!(registry.get("/v2/other/tags/list").await.status.as_u16(), 403);
    // The token itself is no token of ours.
    registry.login(Some(format!("Bearer {token}")));
    assert_eq!(registry.get("/v2/team/app/manifests/v1").await.status.as_u16(), 401);
}

// registry.md 8.1 row 9 (CVE-2025-23208): groups are those of this login, never of an earlier one.
#[tokio::test]
async fn a_login_with_fewer_groups_has_fewer_rights() {
    let (mut registry, _, cluster) = registry(AuthScheme::Bearer).await;
    let scope = "repository:dev/x:pull registry:catalog:*";
    let before = exchange(&registry, &cluster.token("ci", |_| {}), scope).await.json();
    assert_eq!(before["scope"], scope);
    let fewer = cluster.token("ci", |claims| claims["groups"] = json!([]));
    let after = exchange(&registry, &fewer, scope).await.json();
    assert_eq!(after["scope"], "registry:catalog:*");
    registry.login(basic("alice", "alice-pw"));
    let path = "/auth/token?scope=repository:dev/x:pull,push";
    let token = registry.get(path).await.json();
    registry.login(Some(format!("Bearer {}", token["token"].as_str().expect("a token"))));
    registry.push_image("dev/x", "v1", "layer").await;
    let list = async |registry: &mut Fixture, token: &Value| {
        registry.login(Some(format!("Bearer {}", token["token"].as_str().expect("a token"))));
        registry.get("/v2/_catalog").await.json()["repositories"].clone()
    };
    assert_eq!(list(&mut registry, &before).await, json!(["dev/x"]));
    assert_eq!(list(&mut registry, &after).await, json!([]));
}

#[tokio::test]
async fn tokens_that_are_not_meant_for_this_registry_are_refused() {
    let (registry, clock, cluster) = registry(AuthScheme::Bearer).await;
    for (what, token) in [
        ("audience", cluster.token("ci", |claims| claims["aud"] = json!("another"))),
        ("issuer", cluster.token("ci", |claims| claims["iss"] = json!("https://evil.example"))),
        ("namespace", cluster.token("prod", |_| {})),
        ("expired", cluster.token("ci", |claims| claims["exp"] = json!(1_000_000_000))),
        ("nonsense", "eyJ.eyJ.x".to_owned()),
        ("nothing", String::new()),
    ] {
        assert_eq!(exchange(&registry, &token, SCOPE).await.refusal().0, 401, "{what}");
        let credentials = basic("oidc", &token).expect("a header");
        let headers = [("authorization", credentials.as_str())];
        let reply = registry.send(Method::GET, "/v2/", &headers, "").await;
        assert_eq!(reply.status.as_u16(), 401, "{what}");
    }
    let form = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=x";
    let reply = registry.send(Method::POST, "/auth/token", &[], form).await;
    assert_eq!(reply.status.as_u16(), 400, "without the type of the token");
    clock.advance(10_000);
    let good = cluster.token("ci", |_| {});
    assert_eq!(exchange(&registry, &good, SCOPE).await.status.as_u16(), 401, "later");
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pushes_with_the_token_of_a_service_account() {
    for scheme in [AuthScheme::Basic, AuthScheme::Bearer] {
        let (registry, _, cluster) = registry(scheme).await;
        let directory = registry.directory.as_ref().expect("a directory").path().join("image");
        crate::skopeo::write_image(&directory);
        let token = cluster.token("ci", |_| {});
        let address = registry.registry.address();
        let copy = move |repository: &str| {
            Command::new("skopeo")
                .args(["copy", "--dest-tls-verify=false", "--dest-creds", &format!("oidc:{token}")])
                .arg(format!("dir:{}", directory.display()))
                .arg(format!("docker://{address}/{repository}:v1"))
                .output()
                .expect("skopeo of the Debian package skopeo")
        };
        let done = tokio::task::spawn_blocking(move || (copy("team/app"), copy("other/app")));
        let (pushed, refused) = done.await.expect("the checks");
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        assert!(!refused.status.success());
    }
}
