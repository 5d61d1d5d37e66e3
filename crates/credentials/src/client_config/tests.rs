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
        Ok(Lookup::Ask { request, otherwise }) => format!(
            "{} {} {}{}",
            request.program,
            request.action.argument(),
            request.stdin.expose(),
            if otherwise.is_some() { " or the file" } else { "" }
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

#[test]
fn docker_hub_has_many_names_and_one_key() {
    let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"Zm9vOmJhcg=="}}}"#;
    for server in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        check(text, server, "library/nginx", "foo:bar");
    }
    let text = r#"{"auths":{"docker.io":{"auth":"Zm9vOmJhcg=="}}}"#;
    check(text, "docker.io", "library/nginx", "foo:bar");
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

#[test]
fn tokens_beat_passwords() {
    let text = r#"{"auths":{"r.example":{"auth":"Zm9vOmJhcg==","identitytoken":"t"}}}"#;
    check(text, "r.example", "a", "identity t");
    let text = r#"{"auths":{"r.example":{"registrytoken":"t"}}}"#;
    check(text, "r.example", "a", "registry t");
}

#[test]
fn helpers_are_asked_by_server_then_in_general() {
    let text = r#"{"credsStore":"desktop","credHelpers":{"gcr.io":"gcr"},
                   "auths":{"r.example":{"auth":"Zm9vOmJhcg=="},"gcr.io":{}}}"#;
    check(text, "gcr.io", "a", "docker-credential-gcr get gcr.io");
    check(text, "r.example", "a", "docker-credential-desktop get r.example or the file");
    check(text, "docker.io", "a/b", "docker-credential-desktop get https://index.docker.io/v1/");
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
