//! What docker's own client does with its config file.

use super::*;

fn config(text: &str) -> ClientConfig {
    ClientConfig::parse(text.as_bytes()).expect("a config of the test")
}

#[track_caller]
fn check(text: &str, server: &str, repository: &str, expected: &str) {
    let actual = match config(text).lookup(server, repository) {
        Ok(Lookup::Found(RegistryAuth::Basic { username, password, .. })) => {
            format!("{username}:{}", password.expose())
        }
        Ok(Lookup::Found(RegistryAuth::IdentityToken { token })) => {
            format!("identity {}", token.expose())
        }
        Ok(Lookup::Found(RegistryAuth::RegistryToken { token })) => {
            format!("registry {}", token.expose())
        }
        Ok(Lookup::Ask { request, shadowed }) => format!(
            "{} {} {}{}",
            request.program,
            request.action.argument(),
            request.stdin.expose(),
            shadowed.map(|key| format!(", not {key}")).unwrap_or_default()
        ),
        Ok(Lookup::Absent) => "absent".to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(actual, expected);
}

#[test]
fn entry_is_found_under_every_spelling_of_its_registry() {
    for key in [
        "registry.example.com:5000",
        "https://registry.example.com:5000",
        "http://registry.example.com:5000/v2/",
        "https://registry.example.com:5000/v1/",
    ] {
        let text = format!(r#"{{"auths":{{"{key}":{{"auth":"Zm9vOmJhcg=="}}}}}}"#);
        check(&text, "registry.example.com:5000", "team/app", "foo:bar");
        check(&text, "registry.example.com", "team/app", "absent");
    }
}

/// cloud-credentials.md 14.2, row 64.
#[test]
fn docker_hub_has_many_names_and_one_credential() {
    let keys = [
        "docker.io",
        "index.docker.io",
        "registry-1.docker.io",
        "https://index.docker.io/v1/",
        "https://registry-1.docker.io/v2/",
    ];
    for key in keys {
        let text = format!(r#"{{"auths":{{"{key}":{{"auth":"Zm9vOmJhcg=="}}}}}}"#);
        for server in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            check(&text, server, "library/nginx", "foo:bar");
        }
        check(&text, "localhost", "library/nginx", "absent");
    }
}

#[test]
fn entry_for_a_path_beats_the_entry_for_the_registry() {
    let text = r#"{"auths":{
        "quay.example":{"username":"all","password":"p"},
        "quay.example/team":{"username":"team","password":"p"}}}"#;
    check(text, "quay.example", "team/app", "team:p");
    check(text, "quay.example", "team-b/app", "all:p");
    check(text, "quay.example", "other", "all:p");
}

/// cloud-credentials.md 14.2, row 67.
#[test]
fn paths_match_by_component_and_the_longest_wins() {
    let text = r#"{"auths":{
        "quay.io/org":{"username":"org","password":"p"},
        "quay.io/org/app":{"username":"app","password":"p"}}}"#;
    check(text, "quay.io", "org/app", "app:p");
    check(text, "quay.io", "org/other", "org:p");
    check(text, "quay.io", "org", "org:p");
    check(text, "quay.io", "organic/x", "absent");
    check(text, "quay.io", "org-b/app", "absent");
}

/// cloud-credentials.md 14.2, rows 65 and 66: which token counts.
#[test]
fn tokens_beat_passwords_and_registry_tokens_beat_all() {
    let text = r#"{"auths":{"r.example":{"auth":"Zm9vOmJhcg==","identitytoken":"t"}}}"#;
    check(text, "r.example", "a", "identity t");
    let text = r#"{"auths":{"r.example":{"registrytoken":"t"}}}"#;
    check(text, "r.example", "a", "registry t");
    let text = r#"{"auths":{"r.example":{"registrytoken":"t","identitytoken":"i"}}}"#;
    check(text, "r.example", "a", "registry t");
}

/// cloud-credentials.md 14.2, row 62.
#[test]
fn own_helper_beats_general_helper_beats_file() {
    let text = r#"{"credsStore":"desktop","credHelpers":{"gcr.io":"gcr","plain.example":""},
                   "auths":{"r.example":{"auth":"Zm9vOmJhcg=="},"gcr.io":{},
                            "https://index.docker.io/v1/":{"identitytoken":"t"},
                            "plain.example":{"auth":"Zm9vOmJhcg=="},
                            "t.example":{"registrytoken":"t"}}}"#;
    check(text, "gcr.io", "a", "docker-credential-gcr get gcr.io");
    let hub = "docker-credential-desktop get https://index.docker.io/v1/, not \
               https://index.docker.io/v1/";
    check(text, "docker.io", "a/b", hub);
    let shadowed = "docker-credential-desktop get r.example, not r.example";
    check(text, "r.example", "a", shadowed);
    check(text, "other.example", "a", "docker-credential-desktop get other.example");
    check(text, "plain.example", "a", "foo:bar");
    check(text, "t.example", "a", "registry t");
}

/// cloud-credentials.md 14.2, row 61.
#[test]
fn helper_names_that_choose_another_program_are_refused() {
    let text = r#"{"credHelpers":{"r.example":"../../tmp/evil"}}"#;
    let refused = r#""../../tmp/evil" is not the name of a credential helper"#;
    check(text, "r.example", "a", refused);
}

/// cloud-credentials.md 14.2, row 63.
#[test]
fn auth_is_read_as_docker_and_others_write_it() {
    let entry = |auth: &str| format!(r#"{{"auths":{{"r.example":{{"auth":"{auth}"}}}}}}"#);
    check(&entry("Zm9vOmJhcg"), "r.example", "a", "foo:bar"); // no padding
    check(&entry("Zm9vOmJhcgAA"), "r.example", "a", "foo:bar"); // two NUL behind it
    check(&entry("Zm9vOmJhcjpiYXo="), "r.example", "a", "foo:bar:baz");
    check(&entry("Zm9vOmI_fg"), "r.example", "a", "foo:b?~"); // URL-safe
    check(&entry("OmJhcg=="), "r.example", "a", r#"entry "r.example": auth has no user name"#);
    // What Harbor calls its robots (row 76).
    check(&entry("cm9ib3QkYStiOnA="), "r.example", "a", "robot$a+b:p");
}

#[test]
fn environment_holds_auth_entries_only() {
    let read = |text: &str| {
        ClientConfig::parse_environment(text.as_bytes())
            .map(|config| config.servers())
            .map_err(|error| error.to_string())
    };
    let good = r#"{"auths":{"r.example":{"auth":"Zm9vOmJhcg=="}}}"#;
    assert_eq!(read(good), Ok(vec!["r.example".to_owned()]));
    let refused = |what: &str| Err(format!("{what:?} is not allowed there, only auths with auth"));
    assert_eq!(read(r#"{"credsStore":"desktop"}"#), refused("credsStore"));
    assert_eq!(read(r#"{"auths":{"r":{"auth":"eA==","email":"e"}}}"#), refused("email"));
    assert_eq!(read(r#"{"auths":{"r.example":{}}}"#), refused("r.example"));
    assert!(read(&format!("{good}{good}")).is_err());
}

#[test]
fn headers_are_dockers_but_for_the_user_agent() {
    let config = config(r#"{"HttpHeaders":{"X-Meta":"v","User-Agent":"u","n":1}}"#);
    let headers = config.http_headers();
    let named: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(named, [("X-Meta", "v")]);
}

#[test]
fn dockercfg_is_a_bare_map_of_entries() {
    let text = br#"{"r.example":{"auth":"Zm9vOmJhcg=="}}"#;
    let config = ClientConfig::parse_dockercfg(text).expect("it parses");
    assert_eq!(config.servers(), ["r.example"]);
}

#[test]
fn malformed_entry_is_named_and_others_work() {
    let text = r#"{"auths":{"bad.example":{"auth":"pants"},"r.example":{"auth":"Zm9vOmJhcg=="}}}"#;
    check(text, "bad.example", "a", r#"entry "bad.example": illegal base64 data at input byte 4"#);
    check(text, "r.example", "a", "foo:bar");
}

#[test]
fn login_keeps_unknown_fields_and_logout_removes_every_spelling() {
    let mut config = config(
        r#"{"psFormat":"x","auths":{"https://r.example/v2/":{"auth":"YTpi"},"r.example/team":{}}}"#,
    );
    config.set("r.example", &RegistryAuth::basic("foo", Secret::new("bar")));
    let text = config.to_text();
    assert!(text.expose().contains("\"psFormat\": \"x\""), "{}", text.expose());
    assert!(text.expose().contains("\"auth\": \"Zm9vOmJhcg==\""), "{}", text.expose());
    assert!(config.remove("r.example"));
    assert_eq!(config.servers(), ["r.example/team"]);
    assert!(!config.remove("r.example"));
}

#[test]
fn password_of_a_helpers_server_is_not_written() {
    let mut config = config(r#"{"credsStore":"desktop"}"#);
    config.set("r.example", &RegistryAuth::basic("foo", Secret::new("bar")));
    assert!(!config.to_text().expose().contains("Zm9v"), "only the empty entry is written");
    assert_eq!(config.servers(), ["r.example"]);
}

#[test]
fn empty_file_is_an_empty_config_and_other_json_is_refused() {
    assert_eq!(config(" \n").servers(), Vec::<String>::new());
    assert!(ClientConfig::parse(b"[]").is_err());
    assert!(ClientConfig::parse(b"{").is_err());
}

proptest::proptest! {
    #[test]
    fn arbitrary_files_never_panic(text in ".{0,120}") {
        if let Ok(config) = ClientConfig::parse(text.as_bytes()) {
            let _ = config.lookup("r.example", "a/b");
        }
    }
}
