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

#[test]
fn a_rotated_secret_may_use_and_is_recorded_anew() {
    let image = pulled_with(UsedCredential::Secret(secret("a", "s1", "1", "h")));
    let rotated = secret("a", "s1", "1", "h2");
    assert_eq!(verdict(&image, &with_secrets(std::slice::from_ref(&rotated))), recorded(rotated)); // V3
}

#[test]
fn another_secret_may_use_only_with_the_same_credential() {
    let image = pulled_with(UsedCredential::Secret(secret("a", "s1", "1", "h")));
    let other = secret("a", "s1", "2", "other");
    assert_eq!(verdict(&image, &with_secrets(&[other])), Verdict::MustPull); // V4
    let copy = secret("b", "s1", "9", "h");
    assert_eq!(verdict(&image, &with_secrets(std::slice::from_ref(&copy))), recorded(copy)); // V5
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

#[test]
fn allow_list_matches_whole_components() {
    let list = Allowlist::new(&["registry.example.com/base/*".to_owned()]).expect("a valid list");
    let policy = VerificationPolicy::NeverVerifyAllowlistedImages(list);
    let ask =
        |image: &str| must_pull(&policy, image, &Provenance::Preloaded, &PodCredentials::default());
    assert_eq!(ask("registry.example.com/base/os:1"), Verdict::Usable); // V13
    assert_eq!(ask("registry.example.com/basement/x"), Verdict::MustPull); // V13
}

#[test]
fn bad_patterns_are_refused_with_their_reason() {
    let refuse = |pattern: &str, expected: &str| match Allowlist::new(&[pattern.to_owned()]) {
        Ok(_) => panic!("{pattern:?} was accepted"),
        Err(error) => assert!(error.to_string().starts_with(expected), "{pattern:?}: {error}"),
    };
    refuse("a:1", "neither tag nor digest is accepted in an image reference"); // V14
    refuse(" a", "leading/trailing spaces are not allowed"); // V14
    refuse("", "the supplied pattern is too short"); // V14
    refuse("*", "not a valid wildcard pattern"); // V14
    refuse("a/*b", "not a valid wildcard pattern"); // V14
    refuse("/*", "at least registry hostname is required"); // V14
    refuse("registry.example.com/", "failed to parse as an image name: invalid reference format"); // V14
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
