use super::*;

fn rule(prefix: &str, holder: Holder, role: Role) -> AccessRule {
    AccessRule { prefix: prefix.to_owned(), holder, role }
}

fn authority(rules: Vec<AccessRule>) -> (tempfile::TempDir, Authority) {
    let directory = tempfile::tempdir().expect("a directory");
    let tokens = TokenService::open(&directory.path().join("key.pem")).expect("a key");
    (directory, Authority { users: None, rules, scheme: AuthScheme::Bearer, tokens })
}

fn alice() -> Holder {
    Holder::User("alice".to_owned())
}

#[test]
fn prefixes_end_at_path_components() {
    for (prefix, repository, expected) in [
        ("", "anything", true),
        ("team", "team", true),
        ("team", "team/app", true),
        ("team/", "team/app", true),
        ("team", "teams", false),
        ("team", "team-b/app", false),
        ("team/app", "team", false),
    ] {
        assert_eq!(covers(prefix, repository), expected, "{prefix:?} {repository:?}");
    }
}

#[test]
fn rules_add_up_and_the_rest_is_refused() {
    let (_directory, authority) = authority(vec![
        rule("team", alice(), Role::Push),
        rule("", Holder::AnyUser, Role::Pull),
        rule("public", Holder::Everybody, Role::Pull),
    ]);
    for (user, repository, role, expected) in [
        ("alice", "team/app", Role::Push, true),
        ("alice", "team/app", Role::Delete, false),
        ("alice", "other", Role::Push, false),
        ("alice", "other", Role::Pull, true),
        ("bob", "team/app", Role::Push, false),
        ("bob", "team/app", Role::Pull, true),
        ("", "team/app", Role::Pull, false),
        ("", "public/app", Role::Pull, true),
        ("", "public/app", Role::Push, false),
    ] {
        assert_eq!(authority.grants(user, repository, role), expected, "{user} {repository}");
    }
}

#[test]
fn a_token_gets_the_intersection_and_never_an_error() {
    let (_directory, authority) = authority(vec![rule("team", alice(), Role::Push)]);
    let granted = |user: &str, scope: &str| -> Vec<String> {
        let scopes = Scope::parse_all([scope].into_iter());
        authority.grant(user, &scopes).iter().map(Access::to_scope).collect()
    };
    assert_eq!(granted("alice", "repository:team/x:pull,push"), ["repository:team/x:pull,push"]);
    assert_eq!(granted("alice", "repository:team/x:*"), ["repository:team/x:pull,push"]);
    assert_eq!(granted("alice", "repository:team/x:delete,pull"), ["repository:team/x:pull"]);
    assert_eq!(
        granted("alice", "repository:other:pull registry:catalog:*"),
        ["registry:catalog:*"]
    );
    assert_eq!(granted("", "repository:team/x:pull registry:catalog:*"), [""; 0]);
    assert_eq!(granted("alice", "unknown:thing:do"), [""; 0]);
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
    assert_eq!(
        challenge(&Principal::Anonymous, Role::Push),
        (401, format!("{base},scope=\"repository:team/x:pull,push\""))
    );
    let bearer = Principal::Bearer {
        subject: "alice".to_owned(),
        access: vec![Access::repository("team/x", &["pull"])],
    };
    assert_eq!(
        challenge(&bearer, Role::Push),
        (401, format!("{base},scope=\"repository:team/x:pull,push\",error=\"insufficient_scope\""))
    );
    assert_eq!(challenge(&Principal::User("bob".to_owned()), Role::Pull), (403, String::new()));
}
