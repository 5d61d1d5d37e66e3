use std::sync::Arc;

use http::header;
use oci_model::Repository;

use super::policy::Policy;
use super::scope::{Access, Grant};
use super::token::TokenService;
use super::*;

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
