//! Rows K, M and L of the kubelet reference.

use super::*;
use crate::Secret;

fn entry(key: &str, user: &str) -> ConfigEntry {
    ConfigEntry { key: key.to_owned(), auth: RegistryAuth::basic(user, Secret::new("p")) }
}

fn file() -> Origin {
    Origin::File { path: "config.json".to_owned() }
}

fn users(keyring: &Keyring, image: &str) -> Vec<String> {
    keyring
        .lookup(image)
        .iter()
        .map(|candidate| candidate.auth.username().unwrap_or_default().to_owned())
        .collect()
}

#[track_caller]
fn key(written: &str, expected: Option<&str>) {
    assert_eq!(normalise_key(written).as_deref(), expected, "{written}");
}

#[test]
fn keys_lose_scheme_version_user_and_query() {
    key("https://index.docker.io/v1/", Some("index.docker.io")); // K1
    key("https://index.docker.io/v1", Some("index.docker.io/v1")); // K2
    key("https://registry.example.com/v2/", Some("registry.example.com")); // K3
    key("https://registry.example.com/v2", Some("registry.example.com/v2")); // K4
    key("registry.example.com/v2/team/", Some("registry.example.com/team/")); // K5
    key("http://registry.example.com:5000", Some("registry.example.com:5000")); // K6
    key("user:pw@registry.example.com?x=1#f", Some("registry.example.com")); // K7
    key("HTTPS://registry.example.com", Some("HTTPS://registry.example.com")); // K8
}

#[test]
fn keys_that_are_no_url_are_ignored_and_others_work() {
    let mut keyring = Keyring::new();
    let bad = ["registry.example.com:abc", "localhost:*", " registry.example.com", "reg%zz"]; // K9
    let mut entries: Vec<ConfigEntry> = bad.iter().map(|key| entry(key, "bad")).collect();
    entries.push(entry("registry.example.com", "good"));
    assert_eq!(keyring.add(entries, &file()), bad);
    assert_eq!(users(&keyring, "registry.example.com/a"), ["good"]);
    let mut keyring = Keyring::new();
    keyring.add(vec![entry("HTTPS://registry.example.com", "u")], &file()); // K8
    assert!(users(&keyring, "registry.example.com/a").is_empty());
}

#[track_caller]
fn check(key: &str, image: &str, expected: bool) {
    let mut keyring = Keyring::new();
    keyring.add(vec![entry(key, "u")], &file());
    assert_eq!(!keyring.lookup(image).is_empty(), expected, "{key} for {image}");
}

#[test]
fn paths_match_by_raw_prefix() {
    check("registry.example.com", "registry.example.com/team/app", true); // M1
    check("registry.example.com/team", "registry.example.com/team/app", true); // M2
    check("registry.example.com/team", "registry.example.com/team-b/app", true); // M3
    check("registry.example.com/team/", "registry.example.com/team/app", true); // M4
    check("registry.example.com/team/", "registry.example.com/team", false); // M5
    check("registry.example.com/team/*", "registry.example.com/team/app", false); // M6
}

#[test]
fn hosts_match_label_by_label_with_globs() {
    check("*.example.com", "registry.example.com/a", true); // M7
    check("*.example.com", "a.b.example.com/x", false); // M8
    check("*.example.com", "example.com/x", false); // M9
    check("reg*.example.com", "registry.example.com/x", true); // M10
    check("*", "localhost/app", true); // M11
    check("*", "registry.example.com/app", false); // M11
    check("127.*.*.*:5000", "127.0.0.1:5000/app", true); // M14
    check("[::1]:5000", "[::1]:5000/a", true); // M15
    check("[::1]", "[::1]/a", false); // M15
    check("Registry.example.com", "registry.example.com/a", false); // M16
}

#[test]
fn ports_must_be_equal_as_text() {
    check("registry.example.com:5000", "registry.example.com/app", false); // M12
    check("registry.example.com", "registry.example.com:443/app", false); // M13
}

#[test]
fn docker_hub_is_found_by_name_or_by_its_old_key() {
    for key in ["docker.io", "docker.io/library", "*.io"] {
        check(key, "docker.io/library/nginx", true); // M17
    }
    for key in ["*.docker.io", "registry-1.docker.io"] {
        check(key, "docker.io/library/nginx", false); // M18
    }
    check("index.docker.io", "docker.io/library/nginx", true); // M19
    check("https://index.docker.io/v1/", "docker.io/library/nginx", true); // M19
    check("https://index.docker.io/v1", "docker.io/library/nginx", false); // K2
}

#[test]
fn hub_password_goes_to_no_other_registry() {
    // M20. The kubelet leaks it where the second column says so.
    for (image, leaks) in [
        ("localhost/foo", true),
        ("REG/app", true),
        ("LOCALHOST/foo", true),
        ("registry:5000/foo", false),
        ("registry.example.com/foo", false),
        ("docker.io/team/app", false),
    ] {
        check("index.docker.io", image, image.starts_with("docker.io/"));
        let mut keyring = Keyring::new();
        keyring.add(vec![entry("https://index.docker.io/v1/", "hub")], &file());
        assert_eq!(keyring.kubelet_sends_hub_password(image), leaks, "{image}");
        let registry = image.split('/').next().unwrap_or_default();
        keyring.add(vec![entry(registry, "own")], &file());
        assert!(!keyring.kubelet_sends_hub_password(image), "{image} has a credential of its own");
    }
}

#[test]
fn order_is_reverse_byte_order_of_keys() {
    let mut keyring = Keyring::new();
    let keys = ["example.com", "example.com/a-long-prefix", "*.com/a-long-prefix-and-more"];
    keyring.add(keys.iter().map(|key| entry(key, key)).collect(), &file());
    assert_eq!(
        users(&keyring, "example.com/a-long-prefix-and-more/x"), // L1
        ["example.com/a-long-prefix", "example.com", "*.com/a-long-prefix-and-more"]
    );
}

#[test]
fn same_key_keeps_both_credentials_in_order_of_addition() {
    let mut keyring = Keyring::new();
    keyring.add(vec![entry("registry.example.com", "u1")], &file());
    keyring.add(vec![entry("https://registry.example.com", "u2")], &file());
    assert_eq!(users(&keyring, "registry.example.com/a"), ["u1", "u2"]); // L2
}

#[test]
fn more_specific_key_of_a_later_secret_comes_first() {
    let mut keyring = Keyring::new();
    keyring.add(vec![entry("registry.example.com", "a")], &file());
    keyring.add(vec![entry("registry.example.com/team", "b")], &file());
    assert_eq!(users(&keyring, "registry.example.com/team/app"), ["b", "a"]); // L3
}

#[test]
fn a_docker_io_key_hides_the_old_hub_key() {
    let mut keyring = Keyring::new();
    keyring
        .add(vec![entry("docker.io", "new"), entry("https://index.docker.io/v1/", "old")], &file());
    assert_eq!(users(&keyring, "docker.io/library/nginx"), ["new"]); // L5, M19
}

proptest::proptest! {
    #[test]
    fn arbitrary_keys_and_images_never_panic(key in ".{0,40}", image in ".{0,40}") {
        let mut keyring = Keyring::new();
        keyring.add(vec![entry(&key, "u")], &file());
        let _ = keyring.lookup(&image);
    }
}
