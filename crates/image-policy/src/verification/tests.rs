//! Rows V1 to V15 and H3 of the kubelet reference.

use super::*;

const IMAGE: &str = "registry.example.com/team/app:1.0";

fn secret(namespace: &str, name: &str, uid: &str, hash: &str) -> SecretCoordinates {
    SecretCoordinates {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        credential_hash: hash.to_owned(),
    }
}

fn account(namespace: &str, uid: &str) -> AccountCoordinates {
    AccountCoordinates {
        namespace: namespace.to_owned(),
        name: "sa".to_owned(),
        uid: uid.to_owned(),
    }
}

fn pulled_with(used: UsedCredential) -> Provenance {
    let mut record = PulledRecord::new("sha256:x".to_owned(), String::new());
    record.note(IMAGE, used, "2026-01-01T00:00:00Z".to_owned());
    Provenance::Pulled(record)
}

fn with_secrets(secrets: &[SecretCoordinates]) -> PodCredentials {
    PodCredentials { secrets: secrets.to_vec(), account: None }
}

fn verdict(provenance: &Provenance, pod: &PodCredentials) -> Verdict {
    must_pull(&VerificationPolicy::default(), IMAGE, provenance, pod)
}

fn recorded(used: SecretCoordinates) -> Verdict {
    Verdict::UsableAfterRecording(UsedCredential::Secret(used))
}

#[test]
fn the_secret_that_pulled_may_use() {
    let s1 = secret("a", "s1", "1", "h");
    let image = pulled_with(UsedCredential::Secret(s1.clone()));
    assert_eq!(verdict(&image, &with_secrets(&[s1])), Verdict::Usable); // V1
    assert_eq!(verdict(&image, &PodCredentials::default()), Verdict::MustPull); // V2
}

/// The secrets on the record after a pod with `shown` used an image that `s1` had pulled.
fn secrets_after_use(s1: &SecretCoordinates, shown: &SecretCoordinates) -> Vec<SecretCoordinates> {
    let provenance = pulled_with(UsedCredential::Secret(s1.clone()));
    let used = match verdict(&provenance, &with_secrets(std::slice::from_ref(shown))) {
        Verdict::UsableAfterRecording(used) => used,
        other => panic!("{other:?}"),
    };
    let Provenance::Pulled(mut record) = provenance else { panic!("{provenance:?}") };
    record.note(IMAGE, used, "2026-01-02T00:00:00Z".to_owned());
    assert_eq!(record.last_updated_time, "2026-01-02T00:00:00Z");
    assert_eq!(Vec::from_iter(record.credential_mapping.keys()), ["registry.example.com/team/app"]);
    record.credential_mapping.into_values().flat_map(|known| known.kubernetes_secrets).collect()
}

#[test]
fn a_rotated_secret_may_use_and_is_recorded_anew() {
    let s1 = secret("a", "s1", "1", "h");
    let rotated = secret("a", "s1", "1", "h2");
    assert_eq!(secrets_after_use(&s1, &rotated), [rotated]); // V3
}

#[test]
fn another_secret_may_use_only_with_the_same_credential() {
    let s1 = secret("a", "s1", "1", "h");
    let image = pulled_with(UsedCredential::Secret(s1.clone()));
    let other = secret("a", "s1", "2", "other");
    assert_eq!(verdict(&image, &with_secrets(&[other])), Verdict::MustPull); // V4
    let copy = secret("b", "s1", "9", "h");
    assert_eq!(secrets_after_use(&s1, &copy), [s1, copy]); // V5
}

#[test]
fn records_count_per_image_name() {
    let mut record = PulledRecord::new("sha256:x".to_owned(), String::new());
    record.note("registry.example.com/other", UsedCredential::Node, String::new());
    assert_eq!(verdict(&Provenance::Pulled(record), &PodCredentials::default()), Verdict::MustPull); // V6
    let empty = PulledRecord::new("sha256:x".to_owned(), String::new());
    let pod = with_secrets(&[secret("a", "s1", "1", "h")]);
    assert_eq!(verdict(&Provenance::Pulled(empty), &pod), Verdict::MustPull); // V7, V15
}

#[test]
fn policies_differ_on_images_that_nobody_pulled() {
    let pod = PodCredentials::default();
    let ask = |policy: &VerificationPolicy, provenance: &Provenance| {
        must_pull(policy, IMAGE, provenance, &pod)
    };
    let preloaded = VerificationPolicy::NeverVerifyPreloadedImages;
    assert_eq!(ask(&preloaded, &Provenance::Preloaded), Verdict::Usable); // V8
    assert_eq!(ask(&VerificationPolicy::AlwaysVerify, &Provenance::Preloaded), Verdict::MustPull); // V8
    assert_eq!(ask(&preloaded, &Provenance::IntentOnly), Verdict::MustPull); // V9
    assert_eq!(ask(&VerificationPolicy::NeverVerify, &Provenance::IntentOnly), Verdict::Usable); // V9
}

#[test]
fn images_opened_by_the_node_are_for_every_pod() {
    let image = pulled_with(UsedCredential::Node);
    assert_eq!(verdict(&image, &PodCredentials::default()), Verdict::Usable); // V10
}

#[test]
fn an_unknown_hash_counts_only_by_coordinates() {
    let image = pulled_with(UsedCredential::Secret(secret("a", "s1", "1", "")));
    let other = secret("b", "s2", "2", "");
    assert_eq!(verdict(&image, &with_secrets(&[other])), Verdict::MustPull); // V11
    let same = secret("a", "s1", "1", "h");
    assert_eq!(verdict(&image, &with_secrets(std::slice::from_ref(&same))), recorded(same)); // V11
}

#[test]
fn service_accounts_count_by_all_coordinates() {
    let image = pulled_with(UsedCredential::Account(account("a", "1")));
    let ask = |account: AccountCoordinates| {
        verdict(&image, &PodCredentials { secrets: Vec::new(), account: Some(account) })
    };
    assert_eq!(ask(account("a", "1")), Verdict::Usable); // V12
    assert_eq!(ask(account("a", "2")), Verdict::MustPull); // V12
    assert_eq!(ask(account("b", "1")), Verdict::MustPull); // V12
}

/// Whether a list of this one pattern lets a pod without credentials use a preloaded image.
fn allows(pattern: &str, image: &str) -> bool {
    let list = Allowlist::new(&[pattern.to_owned()]).expect("a valid list");
    let policy = VerificationPolicy::NeverVerifyAllowlistedImages(list);
    match must_pull(&policy, image, &Provenance::Preloaded, &PodCredentials::default()) {
        Verdict::Usable => true,
        Verdict::MustPull => false,
        other @ Verdict::UsableAfterRecording(_) => panic!("{other:?}"),
    }
}

#[test]
fn allow_list_matches_whole_components() {
    for (pattern, image, expected) in [
        ("registry.example.com/base/*", "registry.example.com/base/os:1", true), // V13
        ("registry.example.com/base/*", "registry.example.com/basement/x", false), // V13
        ("registry.example.com/base/*", "registry.example.com/base", false),
        ("registry.example.com/base/os", "registry.example.com/base/os:1", true),
        ("registry.example.com/base/os", "registry.example.com/base/os/more", false),
        ("registry.example.com/*", "registry.example.com/a/b/c", true),
        ("registry.example.com/*", "registry.example.com:5000/a", false),
    ] {
        assert_eq!(allows(pattern, image), expected, "{pattern} {image}");
    }
}

/// V13: a short name means one image, in the list as in the pod.
#[test]
fn allow_list_reads_short_names_as_pods_do() {
    for (pattern, image, expected) in [
        ("ubuntu", "ubuntu", true),
        ("ubuntu", "docker.io/library/ubuntu:1", true),
        ("docker.io/library/ubuntu", "ubuntu:1", true),
        ("ubuntu", "registry.example.com/ubuntu", false),
        ("ubuntu", "docker.io/team/ubuntu", false),
        ("team/*", "team/a", true),
        ("team/*", "docker.io/team/a:1", true),
        ("team/*", "teams/a", false),
        ("team/*", "team.example/a", false),
        ("index.docker.io/team/*", "team/a", true),
        (
            "index.docker.io/team/a",
            "team/a@sha256:2b1903504aba33bb6158bf1aa76cb588f05cd150de5047f1cfed339bc621d92b",
            true,
        ),
        ("docker.io/*", "ubuntu", true),
        ("docker.io/*", "team/a", true),
        ("index.docker.io/*", "team/a", true),
        ("docker.io/*", "registry.example.com/a", false),
        ("docker.io/library/*", "ubuntu", true),
        ("library/*", "ubuntu", true),
        ("library/*", "team/a", false),
        ("localhost:5000/*", "localhost:5000/a", true),
        ("[::1]:5000/*", "[::1]:5000/a", true),
    ] {
        assert_eq!(allows(pattern, image), expected, "{pattern} {image}");
    }
}

#[test]
fn bad_patterns_are_refused_with_their_reason() {
    let wildcard = "not a valid wildcard pattern, only patterns ending with '/*' are allowed";
    for (pattern, expected) in [
        ("a:1", "neither tag nor digest is accepted in an image reference: a:1"), // V14
        (" a", "leading/trailing spaces are not allowed:  a"),                    // V14
        ("", "the supplied pattern is too short: "),                              // V14
        ("*", &format!("{wildcard}: *")),                                         // V14
        ("a/*b", &format!("{wildcard}: a/*b")),                                   // V14
        ("a*", &format!("{wildcard}: a*")),
        ("a/*/*", &format!("{wildcard}: a/*/*")),
        ("/*", "at least registry hostname is required"), // V14
        ("registry.example.com/", "failed to parse as an image name: invalid reference format"), // V14
        ("registry.example.com//*", "failed to parse as an image name: invalid reference format"),
        (
            "team/App/*",
            "failed to parse as an image name: invalid reference format: repository name (team/App) must be lowercase",
        ),
    ] {
        let error = Allowlist::new(&[pattern.to_owned()]).expect_err(pattern);
        assert_eq!(error.to_string(), expected, "{pattern:?}");
    }
}

#[test]
fn a_full_record_no_longer_grants_by_coordinates() {
    let mut record = PulledRecord::new("sha256:x".to_owned(), String::new());
    for n in 0..MAPPINGS_MAX {
        let secret = secret("a", &format!("s{n}"), "1", &format!("h{n}"));
        record.note(IMAGE, UsedCredential::Secret(secret), String::new());
    }
    let image = Provenance::Pulled(record);
    assert_eq!(verdict(&image, &with_secrets(&[secret("a", "s0", "1", "new")])), Verdict::MustPull);
    assert_eq!(verdict(&image, &with_secrets(&[secret("b", "x", "9", "h0")])), Verdict::Usable);
}

#[test]
fn node_access_is_sticky() {
    let mut record = PulledRecord::new("sha256:x".to_owned(), String::new());
    record.note(IMAGE, UsedCredential::Secret(secret("a", "s", "1", "h")), String::new());
    record.note(IMAGE, UsedCredential::Node, String::new());
    record.note(IMAGE, UsedCredential::Secret(secret("a", "s", "1", "h")), String::new());
    let known = &record.credential_mapping["registry.example.com/team/app"];
    assert!(known.node_pods_accessible && known.kubernetes_secrets.is_empty());
}

#[test]
fn record_files_are_named_as_the_kubelet_names_them() {
    assert_eq!(
        record_file_name("nginx:1.25"),
        "sha256-251ad31786bae2bdf8f9435a21b808b3ddba91ac4bf8d995c416368ed5881c7a"
    ); // H3
    assert_eq!(
        record_file_name("docker.io/testing/test:latest"),
        "sha256-aef2af226629a35d5f3ef0fdbb29fdbebf038d0acd8850590e8c48e1e283aa56"
    );
}

#[test]
fn record_is_the_kubelets_json() {
    let mut record = PulledRecord::new("sha256:x".to_owned(), "2026-01-01T00:00:00Z".to_owned());
    record.note("nginx", UsedCredential::Node, "2026-01-01T00:00:00Z".to_owned());
    assert_eq!(
        serde_json::to_string(&record).expect("plain data"),
        r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2026-01-01T00:00:00Z","imageRef":"sha256:x","credentialMapping":{"docker.io/library/nginx":{"nodePodsAccessible":true}}}"#
    );
}
