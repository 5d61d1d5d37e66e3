//! The rows R1 to R37 of the kubelet reference (inputs run against the real Go library).

use super::*;

const D64: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Checks `input` against `registry|repository|tag|digest algorithm`, empty where absent.
#[track_caller]
fn check(input: &str, expected: &str) {
    let actual = match input.parse::<Reference>() {
        Ok(reference) => {
            assert_eq!(
                reference.to_string().parse(),
                Ok(reference.clone()),
                "canonical round trip"
            );
            assert_eq!(reference.familiar().parse(), Ok(reference.clone()), "familiar round trip");
            format!(
                "{}|{}|{}|{}",
                reference.registry(),
                reference.repository(),
                reference.tag().map_or("", Tag::as_str),
                reference.digest().map_or("", |digest| digest.algorithm().name()),
            )
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(actual, expected, "{input:?}");
}

fn refuse(inputs: &[&str], expected: &str) {
    for input in inputs {
        check(input, expected);
    }
}

#[test]
fn official_names_get_registry_and_library() {
    check("nginx", "docker.io|library/nginx||"); // R1
    check("nginx:1.25", "docker.io|library/nginx|1.25|"); // R2
    check("nginx:latest", "docker.io|library/nginx|latest|"); // R3
    check("nginx:LATEST", "docker.io|library/nginx|LATEST|"); // R4
    check("team/app", "docker.io|team/app||"); // R5
    check("index.docker.io/team/app:v1", "docker.io|team/app|v1|"); // R6
}

#[test]
fn first_component_is_a_registry_only_if_it_looks_like_one() {
    check("localhost/app", "localhost|app||"); // R7
    check("localhost", "docker.io|library/localhost||"); // R8
    check("registry/app", "docker.io|registry/app||"); // R9
    check("registry:5000/app", "registry:5000|app||"); // R10
    check("registry.example.com", "docker.io|library/registry.example.com||"); // R11
    check("registry.example.com:5000", "docker.io|library/registry.example.com|5000|"); // R12
    check("registry.example.com:99999/app", "registry.example.com:99999|app||"); // R13
    check("REG/app", "REG|app||"); // R14
    check("[::1]:5000/app:v2", "[::1]:5000|app|v2|"); // R15
}

#[test]
fn tags_and_digests_may_come_together() {
    check(&format!("nginx@sha256:{D64}"), "docker.io|library/nginx||sha256"); // R16
    check(&format!("nginx:1.25@sha256:{D64}"), "docker.io|library/nginx|1.25|sha256"); // R17
    check(&format!("nginx:latest@sha256:{D64}"), "docker.io|library/nginx|latest|sha256"); // R18
    check(&format!("sha256:{D64}"), &format!("docker.io|library/sha256|{D64}|")); // R19
    check(&format!("docker.io/{D64}"), &format!("docker.io|library/{D64}||")); // R20
    check(&format!("nginx@sha512:{D64}{D64}"), "docker.io|library/nginx||sha512");
    let asked = format!("nginx:1.25@sha256:{D64}").parse().map(|r: Reference| r.manifest_key());
    assert_eq!(asked, Ok(format!("sha256:{D64}")), "registries are asked for the digest"); // R17
}

#[test]
fn separators_and_odd_hosts_follow_the_grammar() {
    check("foo__bar", "docker.io|library/foo__bar||"); // R21
    check("foo--bar", "docker.io|library/foo--bar||"); // R21
    check("a.b", "docker.io|library/a.b||"); // R21
    check("my_registry.example.com/app", "|my_registry.example.com/app||"); // R22
    check("docker.io/docker.io/nginx", "docker.io|docker.io/nginx||"); // R23
}

#[test]
fn longest_names_and_tags_are_accepted_and_one_more_is_not() {
    let tag = "t".repeat(128);
    check(&format!("nginx:{tag}"), &format!("docker.io|library/nginx|{tag}|")); // R24
    let hub = "a".repeat(247);
    check(&hub, &format!("docker.io|library/{hub}||")); // R24
    let own = "a".repeat(255);
    check(&format!("registry.example.com/{own}"), &format!("registry.example.com|{own}||")); // R24
    check(&format!("nginx:{tag}t"), "invalid reference format"); // R25
    let too_long = "repository name must not be more than 255 characters";
    check(&format!("{hub}a"), too_long); // R26
    check(&format!("registry.example.com/{own}a"), too_long); // R26
}

#[test]
fn upper_case_is_refused_with_the_name() {
    let text = |name: &str| {
        format!("invalid reference format: repository name ({name}) must be lowercase")
    };
    check("Nginx", &text("library/Nginx")); // R27
    check("team/App", &text("team/App")); // R27
    check("FAILED_IMAGE", &text("library/FAILED_IMAGE")); // R27
}

/// kubelet-images.md 1.2: no prefix where the host-like part is at fault.
#[test]
fn upper_case_that_makes_no_host_is_refused_without_the_name() {
    check("My_Registry.example.com/app", "repository name must be lowercase");
    check("My_Registry.example.com/app:V1", "repository name must be lowercase");
    check("My_Registry.example.com/App", {
        "invalid reference format: repository name (App) must be lowercase"
    });
    check("My_Registry.example.com//app", "invalid reference format");
    check("My_Registry.example.com:5000/app", "invalid reference format");
}

#[test]
fn texts_outside_the_grammar_are_refused() {
    let invalid = "invalid reference format";
    refuse(&["", " nginx", "nginx ", "my image"], invalid); // R28
    refuse(&["http://h/a", "https://registry.example.com/a"], invalid); // R29
    refuse(&["nginx:", "nginx:-bad", "nginx:.bad", "nginx:a+b", "foo:bar:baz"], invalid); // R30
    refuse(&["a//b", "/nginx", "nginx/", "foo/bar:5000/baz", "reg:/app"], invalid); // R31
    refuse(&["foo___bar", "foo..bar", "foo.-bar", "-foo", "foo_"], invalid); // R32
    refuse(&["::1/app", "[fe80::1%25eth0]/app"], invalid); // R33
    refuse(&["nginx@sha256:abc", &format!("nginx@sha256:{D64}:tag")], invalid); // R34
}

#[test]
fn digests_are_checked_after_the_grammar() {
    check(&format!("nginx@md5:{}", &D64[..32]), "unsupported digest algorithm"); // R35
    check(&format!("nginx:1@SHA256:{D64}"), "invalid checksum digest format");
    check(&format!("nginx@sha256:{}", &D64[1..]), "invalid checksum digest length"); // R36
    check(&format!("nginx@sha256:{}", D64.to_uppercase()), "invalid checksum digest format"); // R36
}

#[test]
fn image_identifiers_are_no_names() {
    check(
        D64,
        &format!("invalid repository name ({D64}), cannot specify 64-byte hexadecimal strings"),
    ); // R37
}

#[test]
fn familiar_form_is_what_people_type() {
    let familiar = |text: &str| text.parse::<Reference>().map(|reference| reference.familiar());
    assert_eq!(familiar("docker.io/library/nginx:1"), Ok("nginx:1".to_owned()));
    assert_eq!(familiar("docker.io/team/app"), Ok("team/app".to_owned()));
    assert_eq!(familiar("127.0.0.1:5000/app"), Ok("127.0.0.1:5000/app".to_owned()));
    assert_eq!(familiar("docker.io/docker.io/nginx"), Ok("docker.io/docker.io/nginx".to_owned()));
}

#[test]
fn default_tag_is_added_only_where_nothing_names_the_image() {
    let tagged = |text: &str| text.parse::<Reference>().map(|r| r.with_default_tag().to_string());
    assert_eq!(tagged("nginx"), Ok("docker.io/library/nginx:latest".to_owned()));
    assert_eq!(tagged("nginx:1"), Ok("docker.io/library/nginx:1".to_owned()));
    assert_eq!(
        tagged(&format!("nginx@sha256:{D64}")),
        Ok(format!("docker.io/library/nginx@sha256:{D64}"))
    );
}

proptest::proptest! {
    #[test]
    fn parser_never_panics_and_accepted_texts_round_trip(text in "[a-zA-Z0-9./:@_\\-\\[\\] %]{0,80}") {
        if let Ok(reference) = text.parse::<Reference>() {
            proptest::prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
            proptest::prop_assert_eq!(reference.familiar().parse(), Ok(reference));
        }
    }
}
