use std::sync::Arc;

use http::header;
use oci_model::Repository;

use super::policy::Policy;
use super::scope::{Access, Grant};
use super::token::TokenService;
use super::*;
use crate::{ClientCertificates, RegistryOptions, RegistryServer, ReloadError, TlsFiles};

fn rule(prefix: &str, holder: Holder, role: Role) -> AccessRule {
    AccessRule { prefix: prefix.to_owned(), holder, role }
}

fn authority(rules: Vec<AccessRule>) -> (tempfile::TempDir, Authority) {
    let directory = tempfile::tempdir().expect("a directory");
    let now = std::time::SystemTime::now();
    let tokens = TokenService::open(directory.path(), TokenOptions::default(), now);
    let tokens = tokens.expect("keys");
    let policy = Policy { rules, ..Policy::default() };
    (directory, Authority::of_policy(policy, tokens))
}

fn alice() -> Holder {
    Holder::User("alice".to_owned())
}

#[test]
fn a_token_gets_the_intersection_and_never_an_error() {
    let (_directory, authority) = authority(vec![
        rule("team", alice(), Role::Push),
        rule("", Holder::User("root".to_owned()), Role::Admin),
    ]);
    let granted = |user: &str, scope: &str| {
        let scopes = Scope::parse_all([scope].into_iter());
        authority.grant(&Identity::named(user), &scopes).to_scopes()
    };
    for (user, scope, expected) in [
        ("alice", "repository:team/x:pull,push", "repository:team/x:pull,push"),
        ("alice", "repository:team/x:*", "repository:team/x:pull,push"),
        ("alice", "repository:team/x:delete,pull", "repository:team/x:pull"),
        ("alice", "repository:other:pull registry:catalog:*", "registry:catalog:*"),
        ("alice", "registry:admin:*", ""),
        ("root", "registry:admin:*", "registry:admin:*"),
        ("", "repository:team/x:pull registry:catalog:*", ""),
        ("alice", "unknown:thing:do", ""),
    ] {
        assert_eq!(granted(user, scope), expected, "{user} {scope}");
    }
}

#[test]
fn a_name_that_no_repository_has_is_not_granted() {
    let (_directory, authority) = authority(vec![rule("", Holder::Everybody, Role::Admin)]);
    let long = "x".repeat(100_000);
    for (name, expected) in [
        ("team/x", "repository:team/x:pull"),
        (long.as_str(), ""),
        ("Team/X", ""),
        ("team/../x", ""),
        ("localhost:5000/x", ""),
    ] {
        let scope = format!("repository:{name}:pull");
        let access =
            authority.grant(&Identity::default(), &Scope::parse_all([scope.as_str()].into_iter()));
        assert_eq!(access.to_scopes(), expected);
    }
}

fn fixture_options(directory: &std::path::Path) -> RegistryOptions {
    let store = blob_store::BlobStore::open(directory.join("blobs")).expect("a store");
    RegistryOptions::new(directory.join("registry"), store)
}

#[test]
fn everybody_administers_only_what_knows_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = fixture_options(directory.path());
    let everybody = |change: &dyn Fn(&mut RegistryOptions)| {
        let mut options = options.clone();
        change(&mut options);
        let authority = Authority::open(&options, None).expect("an authority");
        authority.role(&Identity::default(), "team/x")
    };
    let robots = directory.path().join("robots.json");
    let rights = vec![RobotRight { prefix: "team".to_owned(), role: Role::Push }];
    let now = std::time::SystemTime::now();
    let name = "ci".to_owned();
    let robot = Robot { name, description: None, created: now, expires: None, rights };
    add_robot(&robots, &robot).expect("a robot");
    let keys = directory.path().join("jwks.json");
    std::fs::write(&keys, KEYS).expect("keys");
    let file = || directory.path().join("unread.pem");
    assert_eq!(everybody(&|_| {}), Some(Role::Admin));
    assert_eq!(everybody(&|options| options.identity.robots = Some(robots.clone())), PUSH);
    assert_eq!(everybody(&|options| options.access = vec![rule("a", alice(), Role::Pull)]), PUSH);
    let issuer = || Issuer {
        name: "ci".to_owned(),
        url: "https://ci.example".to_owned(),
        audiences: vec!["registry".to_owned()],
        keys: KeyLocation::File(keys.clone()),
        ca_file: None,
        token_file: None,
        tokens: ForeignTokens::Access,
    };
    assert_eq!(everybody(&|options| options.identity.issuers = vec![issuer()]), PUSH);
    let clients = || Some(ClientCertificates { authorities: file(), required: false });
    let tls = || TlsFiles { certificate: file(), key: file(), clients: clients() };
    assert_eq!(everybody(&|options| options.tls = Some(tls())), PUSH);
}

const PUSH: Option<Role> = Some(Role::Push);

/// The public key of RFC 8037, appendix A.2.
const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","use":"sig","alg":"EdDSA",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

#[tokio::test]
async fn a_reload_never_forgets_everybody() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = fixture_options(directory.path());
    let mut closed = open.clone();
    closed.access = vec![rule("team", alice(), Role::Push)];
    let running = RegistryServer::bind(open.clone()).await.expect("a registry");
    running.reload(open.clone()).await.expect("nothing new");
    running.reload(closed.clone()).await.expect("rules");
    let error = running.reload(open).await.expect_err("everybody would administer");
    assert!(matches!(error, ReloadError::NobodyLeft), "{error}");
    running.reload(closed).await.expect("the rules still count");
    running.shutdown().await;
}

#[test]
fn who_can_get_further_with_other_credentials_gets_a_challenge() {
    let (_directory, authority) = authority(vec![rule("team", alice(), Role::Push)]);
    let team = Repository::new("team/x").expect("a name");
    let challenge = |principal: &Principal, role| {
        let refusal =
            authority.authorize(principal, &team, role, "http://r").expect_err("a refusal");
        let response = refusal.into_response();
        let challenge = response.headers().get(header::WWW_AUTHENTICATE);
        let challenge = challenge.map(|value| value.to_str().expect("text").to_owned());
        (response.status().as_u16(), challenge.unwrap_or_default())
    };
    let base = "Bearer realm=\"http://r/auth/token\",service=\"shipway-registry\"";
    for role in [Role::Create, Role::Push] {
        assert_eq!(
            challenge(&Principal::Anonymous, role),
            (401, format!("{base},scope=\"repository:team/x:pull,push\""))
        );
    }
    let bearer = Principal::Bearer {
        identity: Identity::named("alice"),
        access: Arc::new(Access {
            grants: vec![Grant::repository("team/x", vec!["pull".to_owned()])],
            ..Access::default()
        }),
    };
    assert_eq!(
        challenge(&bearer, Role::Push),
        (401, format!("{base},scope=\"repository:team/x:pull,push\",error=\"insufficient_scope\""))
    );
    let bob = Principal::Known(Identity::named("bob"));
    assert_eq!(challenge(&bob, Role::Pull), (403, String::new()));
    let refusal = authority.authorize_administration(&bob, "http://r").expect_err("a refusal");
    assert_eq!(refusal.status().as_u16(), 403);
}
