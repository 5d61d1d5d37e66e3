//! Each mistake of the kubelet reference that nobody is told about, and what is said of it.

use super::*;

const HUNTER: &str = "aHVudGVyOmh1bnRlcjI="; // hunter:hunter2

fn secret(kind: &str, key: &str, text: &str) -> PullSecret {
    PullSecret {
        namespace: "tom".to_owned(),
        name: "regcred".to_owned(),
        uid: String::new(),
        kind: kind.to_owned(),
        data: BTreeMap::from([(key.to_owned(), text.as_bytes().to_vec())]),
    }
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code.name()).collect()
}

/// The findings of a pull secret with `text`, in words; no secret is ever among them.
fn of_text(text: &str, image: Option<&str>) -> Vec<Finding> {
    let secret = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", text);
    let findings = lint(Input::Secret(&secret), image);
    for finding in &findings {
        let shown = format!("{finding} {finding:?} {}", finding.fix);
        for canary in ["hunter2", HUNTER, "aHVudGVy"] {
            assert!(!shown.contains(canary), "{shown}");
        }
        assert_eq!(finding.object, "secret tom/regcred");
    }
    findings
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(codes(&of_text(text, None)), expected, "{text}");
}

#[track_caller]
fn entry(entry: &str, expected: &[&str]) {
    check(&format!(r#"{{"auths":{{"r.example":{entry}}}}}"#), expected);
}

#[track_caller]
fn key(key: &str, expected: &[&str]) {
    check(&format!(r#"{{"auths":{{"{key}":{{"auth":"{HUNTER}"}}}}}}"#), expected);
}

#[track_caller]
fn for_image(key: &str, image: &str, expected: &[&str]) {
    let text = format!(r#"{{"auths":{{"{key}":{{"auth":"{HUNTER}"}}}}}}"#);
    assert_eq!(codes(&of_text(&text, Some(image))), expected, "{key} for {image}");
}

#[test]
fn good_entries_have_no_findings() {
    for key in ["r.example", "https://r.example/v2/", "*.example.com", "10.0.0.1:5000"] {
        self::key(key, &[]);
    }
    for hub in ["https://index.docker.io/v1/", "docker.io", "index.docker.io"] {
        key(hub, &[]);
    }
    entry(r#"{"username":"hunter","password":"hunter2","email":"a@b"}"#, &[]);
}

#[test]
fn texts_that_are_no_config_are_told_apart() {
    let double = base64_of(r#"{"auths":{"r.example":{"auth":"aHVudGVyOmh1bnRlcjI="}}}"#);
    check(&double, &["double-base64"]);
    check("{\"auths\":", &["not-json"]);
    check("[]", &["wrong-shape"]);
    check(r#"{"auths":[]}"#, &["wrong-shape"]);
    check("{}", &["no-entries"]);
    check("\u{feff}{}", &["byte-order-mark", "no-entries"]);
    check(r#"{"credsStore":"desktop"}"#, &["helpers-only"]);
    check(r#"{"auths":{},"credHelpers":{"gcr.io":"gcr"}}"#, &["helpers-only"]);
    check(r#"{"r.example":{"auth":"aHVudGVyOmh1bnRlcjI="}}"#, &["legacy-text-in-config-json"]);
}

#[test]
fn config_json_in_a_dockercfg_secret_is_found() {
    // kubelet-images.md 15.5, L16.
    let text = r#"{"auths":{"r.example":{"auth":"aHVudGVyOmh1bnRlcjI="}}}"#;
    let secret = secret("kubernetes.io/dockercfg", ".dockercfg", text);
    assert_eq!(codes(&lint(Input::Secret(&secret), None)), ["config-json-text-in-dockercfg"]);
}

#[test]
fn types_and_keys_that_the_kubelet_ignores_are_found() {
    let good = r#"{"auths":{"r.example":{"auth":"aHVudGVyOmh1bnRlcjI="}}}"#;
    let found = |kind: &str, key: &str, text: &str| {
        codes(&lint(Input::Secret(&secret(kind, key, text)), None))
    };
    // kubelet-images.md 15.5, L11.
    assert_eq!(found("Opaque", ".dockerconfigjson", good), ["wrong-secret-type"]);
    assert_eq!(found("", "password", "hunter2"), ["wrong-secret-type"]);
    let typed = "kubernetes.io/dockerconfigjson";
    assert_eq!(found(typed, "config.json", good), ["missing-data-key"]);
    assert_eq!(found(typed, ".dockerconfigjson", ""), ["missing-data-key"]);
}

#[test]
fn malformed_auth_is_named_with_its_byte() {
    // kubelet-images.md 15.2, A7 to A11.
    let bad = |code: &'static str| [code, "lookup-fails"];
    let sorted = |auth: &str, code: &'static str| {
        let mut expected = bad(code);
        expected.sort_by_key(|name| Code::ALL.iter().position(|code| code.name() == *name));
        entry(&format!(r#"{{"auth":"{auth}"}}"#), &expected);
    };
    for auth in ["pants", "Zm9vOmJhcg===", "Zm9vOmJhcg== ", " Zm9vOmJhcg==", "Zm9v_mJhcg=="] {
        sorted(auth, "auth-not-base64");
    }
    sorted("hunter:hunter2", "auth-not-base64");
    sorted("dXNlcg==", "auth-without-colon");
    sorted(&base64_of(HUNTER), "auth-double-base64");
    let findings = of_text(r#"{"auths":{"r.example":{"auth":"Zm9v_mJhcg=="}}}"#, None);
    assert_eq!(
        findings[1].text,
        "\"auth\" of \"r.example\" is not base64 at byte 4: it is of the URL-safe alphabet, which \
         the kubelet refuses"
    );
    entry(r#"{"auth":5}"#, &["lookup-fails", "wrong-value-type"]);
}

#[test]
fn entries_that_hold_something_else_than_meant_are_found() {
    let with_newline = base64_of("hunter:hunter2\n");
    for newline in [with_newline.as_str(), "Zm9vOmJhcgo="] {
        entry(&format!(r#"{{"auth":"{newline}"}}"#), &["auth-trailing-newline"]); // A5
    }
    entry(r#"{"username":"hunter ","password":"hunter2"}"#, &["auth-trailing-newline"]);
    let both = format!(r#"{{"auth":"{HUNTER}","password":"other"}}"#); // A13
    entry(&both, &["auth-overrides-fields"]);
    entry("{}", &["empty-entry"]); // A14
    entry(r#"{"username":"hunter"}"#, &["empty-password"]);
    entry(r#"{"password":"hunter2"}"#, &["empty-user-name"]);
    entry(r#"{"identitytoken":"hunter2"}"#, &["identity-token-ignored"]);
    entry(r#"{"registrytoken":"hunter2"}"#, &["registry-token-ignored"]);
    let beside = r#"{"auths":{"r.example":{}},"credsStore":"desktop"}"#;
    check(beside, &["empty-entry", "helpers-ignored"]);
}

#[test]
fn keys_that_do_not_mean_what_they_say_are_found() {
    // kubelet-images.md 15.3, K2 to K9, and 15.4, M3 to M18.
    key("https://index.docker.io/v1", &["key-version-without-slash"]);
    key("https://r.example/v2", &["key-version-without-slash"]);
    key("r.example/v2/team/", &["key-trailing-slash"]);
    key("r.example/team", &["key-raw-prefix"]);
    key("r.example/team/*", &["key-path-glob"]);
    key("r.example/team/app:1", &["key-tag"]);
    key("r.example/Team", &["key-path-in-capitals", "key-raw-prefix"]);
    key("u:hunter2@r.example", &["key-user-info"]);
    key("r.example?password=hunter2", &["key-query"]);
    key("HTTPS://r.example", &["key-scheme-in-capitals"]);
    key("R.example", &["key-host-in-capitals"]);
    for ignored in ["r.example:abc", "localhost:*", " r.example", "reg%zz"] {
        key(ignored, &["key-ignored"]);
    }
    key("r.example:443", &["key-default-port"]);
    key("[::1]", &["key-address-without-port"]);
    key("*", &["key-host-without-dot"]);
    key("registry", &["key-host-without-dot"]);
    // R7 and R14: images can name these hosts.
    key("localhost", &[]);
    key("REG", &["key-host-in-capitals"]);
    let text = format!(r#"{{"auths":{{"REG":{{"auth":"{HUNTER}"}}}}}}"#);
    assert_eq!(
        of_text(&text, None)[0].text,
        "hosts are compared as they are written: \"REG\" is for images that are written REG/… with \
         the same capitals"
    );
    for hub in ["registry-1.docker.io", "hub.docker.com", "*.docker.io"] {
        key(hub, &["key-hub-spelling"]);
    }
    key("https://index.docker.io/v1/refresh-token", &["key-desktop-token", "key-raw-prefix"]);
}

#[test]
fn keys_that_mean_the_same_are_found() {
    let entries = |keys: &[&str]| {
        let entries: Vec<String> =
            keys.iter().map(|key| format!(r#""{key}":{{"auth":"{HUNTER}"}}"#)).collect();
        format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
    };
    check(&entries(&["r.example", "https://r.example/v2/"]), &["keys-collide"]);
    // kubelet-images.md 15.5, L5.
    check(&entries(&["docker.io", "https://index.docker.io/v1/"]), &["hub-key-hidden"]);
}

#[test]
fn one_bad_entry_is_said_to_break_the_others() {
    // kubelet-images.md 15.5, L12.
    let text = format!(
        r#"{{"auths":{{"a.example":{{"auth":"pants"}},"b.example":{{"auth":"{HUNTER}"}}}}}}"#
    );
    let findings = of_text(&text, None);
    assert_eq!(codes(&findings), ["lookup-fails", "auth-not-base64"]);
    assert_eq!(
        findings[0].text,
        "1 of 2 entries cannot be read (\"a.example\"), and so the kubelet uses none of them, nor \
         any other pull secret of the pod"
    );
    let good = r#"{"auths":{"r.example":{"auth":"aHVudGVyOmh1bnRlcjI="}}}"#;
    let typed = |text: &str| secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", text);
    let together = [typed(good), typed(&text), typed(good)];
    assert_eq!(
        codes(&lint_together(&together)),
        ["secret-breaks-others", "key-in-several-secrets"]
    );
}

#[test]
fn entries_that_miss_an_image_say_why() {
    for_image("r.example", "r.example:5000/app", &["port-differs"]); // M12, M13
    for_image("r.example:5000", "r.example/app", &["port-differs"]);
    for_image("r.example/team/", "r.example/team", &["key-trailing-slash", "path-differs"]); // M5
    for_image("*.example.com", "a.b.example.com/x", &["wildcard-labels"]); // M8
    for_image("*.example.com", "example.com/x", &["wildcard-labels"]); // M9
    let beside = ["key-raw-prefix", "matched-by-raw-prefix"]; // M3
    for_image("r.example/team", "r.example/team-b/app", &beside);
    for_image("r.example/team", "r.example/team/app", &["key-raw-prefix"]);
    for_image("other.example", "r.example/app", &[]);
}

#[test]
fn empty_file_is_said_to_hide_the_next() {
    // kubelet-images.md 15.5, L13.
    let input = Input::File { path: "/c.json", kind: NodeFileKind::ConfigJson, bytes: b"{}" };
    let findings = lint(input, None);
    assert_eq!(
        findings[0].to_string(),
        "file /c.json: it has no entries, and as the first readable file it hides all that come \
         after it (no-entries)"
    );
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

proptest::proptest! {
    #[test]
    fn arbitrary_texts_never_panic(text in ".{0,120}", image in ".{0,40}") {
        of_text(&text, Some(&image));
        let quoted = Value::from(text).to_string();
        of_text(&format!(r#"{{"auths":{{{quoted}:{{"auth":{quoted}}}}}}}"#), Some(&image));
    }
}
