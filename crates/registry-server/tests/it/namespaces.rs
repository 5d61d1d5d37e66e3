//! Namespaces in the administration API.

use registry_server::{
    AccessRule, Anonymous, AuthScheme, Holder, ImmutableTags, Namespace, RetentionRule, Role,
    add_user,
};
use serde_json::{Value, json};

use crate::{Fixture, basic};

/// alice administers `team`, root everything, bob only pushes to `team`.
pub(crate) async fn tenants(scheme: AuthScheme, namespaces: Vec<Namespace>) -> Fixture {
    Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        for name in ["alice", "bob", "root"] {
            add_user(&users, name, &format!("{name}-pw")).expect("a user");
        }
        let rule = |prefix: &str, user: &str, role| AccessRule {
            prefix: prefix.to_owned(),
            holder: Holder::User(user.to_owned()),
            role,
        };
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        options.scheme = scheme;
        options.access = vec![
            rule("team", "alice", Role::Admin),
            rule("team", "bob", Role::Push),
            rule("", "root", Role::Admin),
        ];
        options.namespaces = namespaces;
    })
    .await
}

fn two() -> Vec<Namespace> {
    let mut team = Namespace::new("team");
    team.quota = Some("1KiB".parse().expect("a size"));
    team.immutable_tags = vec![ImmutableTags::new("v*".parse().expect("a pattern"))];
    team.retention = vec![RetentionRule { keep_last: Some(3), ..RetentionRule::new() }];
    vec![team, Namespace::new("other")]
}

fn prefixes(document: &Value) -> Vec<&str> {
    let list = document["namespaces"].as_array().expect("a list");
    list.iter().map(|namespace| namespace["prefix"].as_str().expect("a prefix")).collect()
}

// registry.md 8.1 rows 17, 22: policies of other tenants are not there.
#[tokio::test]
async fn one_sees_the_policies_of_what_one_administers() {
    let mut registry = tenants(AuthScheme::Basic, two()).await;
    let path = "/v2/_shipway/namespaces";
    assert_eq!(registry.get(path).await.refusal(), (401, "UNAUTHORIZED".to_owned()));
    registry.login(basic("bob", "bob-pw"));
    assert_eq!(registry.get(path).await.refusal(), (403, "DENIED".to_owned()));
    registry.login(basic("alice", "alice-pw"));
    let document = registry.get(path).await.json();
    assert_eq!(prefixes(&document), ["team"]);
    let team = &document["namespaces"][0];
    assert_eq!(team["quota"], "1KiB");
    assert_eq!(team["retention"][0]["keep-last"], 3);
    assert_eq!(team["immutable-tags"][0]["tags"], "v*");
    registry.login(basic("root", "root-pw"));
    assert_eq!(prefixes(&registry.get(path).await.json()), ["other", "team"]);
    assert_eq!(registry.delete(path).await.refusal(), (405, "UNSUPPORTED".to_owned()));
    let reply = registry.get("/v2/_shipway/nothing").await;
    assert_eq!(reply.refusal(), (404, "UNSUPPORTED".to_owned()));
}

#[tokio::test]
async fn a_token_for_administration_is_asked_for_and_given_to_administrators() {
    let mut registry = tenants(AuthScheme::Bearer, two()).await;
    let reply = registry.get("/v2/_shipway/namespaces").await;
    let challenge = reply.header("www-authenticate");
    assert!(challenge.ends_with(",scope=\"registry:admin:*\""), "{challenge}");
    for (user, status) in [("alice", 200), ("bob", 401)] {
        registry.login(basic(user, &format!("{user}-pw")));
        let query = "/auth/token?service=shipway-registry&scope=registry:admin:*";
        let token = registry.get(query).await.json()["token"].as_str().map(str::to_owned);
        registry.login(token.map(|token| format!("Bearer {token}")));
        let reply = registry.get("/v2/_shipway/namespaces").await;
        assert_eq!(reply.status.as_u16(), status, "{user}");
    }
    registry.login(basic("alice", "alice-pw"));
    let query = "/auth/token?service=shipway-registry&scope=repository:team/a:delete";
    let token = registry.get(query).await.json()["token"].as_str().map(str::to_owned);
    registry.login(token.map(|token| format!("Bearer {token}")));
    let reply = registry.get("/v2/_shipway/namespaces").await;
    assert_eq!(reply.status.as_u16(), 401, "a token for a repository is for nothing else");
}

#[tokio::test]
async fn the_extension_can_be_discovered() {
    let registry = Fixture::open().await;
    let document = registry.get("/v2/_oci/ext/discover").await.json();
    let extension = &document["extensions"][0];
    assert_eq!(extension["name"], "_shipway");
    let endpoints = extension["endpoints"].as_array().expect("a list");
    assert!(endpoints.contains(&json!("_shipway/namespaces")), "{extension}");
}
