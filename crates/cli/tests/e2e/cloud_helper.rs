//! The binary as docker's credential helper (cloud-credentials.md 7), by pipe and by skopeo.

use std::path::Path;

use serde_json::{Value, json};

use crate::cloud_fake::{CANARY, Clouds};
use crate::cloud_flows::{ECR, aws_keys, everything, write_oci_config};
use crate::cloud_in_process::registry;

#[test]
fn each_name_of_a_helper_gives_its_clouds_credential() {
    let clouds = Clouds::start(everything);
    write_oci_config(&clouds);
    let metadata = clouds.address.clone();
    let endpoint = format!("http://{metadata}");
    let key = format!("{CANARY}-key");
    let mut variables = aws_keys().to_vec();
    variables.extend([
        ("GCE_METADATA_HOST", metadata.as_str()),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint.as_str()),
        ("ICR_APIKEY", key.as_str()),
    ]);
    for (name, server, user) in [
        ("docker-credential-ecr-login", ECR, "AWS"),
        ("docker-credential-gcr", "https://gcr.io", "_token"),
        ("docker-credential-acr-env", "team.azurecr.io", "00000000-0000-0000-0000-000000000000"),
        ("docker-credential-ocir", "https://fra.ocir.io/v2/", "BEARER_TOKEN"),
        ("docker-credential-icr", "de.icr.io", "iambearer"),
        ("docker-credential-shipway", "icr.io", "iambearer"),
    ] {
        let program = clouds.link(name);
        let answer = clouds.run(&program, &["get"], &variables, &format!("{server}\n")).ok();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((&answer["ServerURL"], &answer["Username"]), (&json!(server), &json!(user)));
        assert!(answer["Secret"].as_str().expect("a secret").contains(CANARY), "{name}");
        // Another cloud's registry is not this helper's.
        if name != "docker-credential-shipway" {
            let other = if name.ends_with("gcr") { ECR } else { "eu.gcr.io" };
            let ran = clouds.run(&program, &["get"], &variables, other);
            assert_eq!(ran.stdout, "credentials not found in native keychain\n");
            assert_eq!(ran.code, 1);
        }
    }
}

#[test]
fn the_other_actions_do_nothing_and_say_what_the_protocol_wants() {
    let clouds = Clouds::start(everything);
    let program = clouds.link("docker-credential-shipway");
    let run = |action: &str, stdin: &str| clouds.run(&program, &[action], &[], stdin);
    let credential = |server: &str, user: &str| {
        json!({ "ServerURL": server, "Username": user, "Secret": CANARY }).to_string()
    };
    assert_eq!(run("store", &credential(ECR, "AWS")).ok(), "");
    assert_eq!(run("erase", ECR).ok(), "");
    assert_eq!(run("list", "unused").ok(), "{}\n");
    assert!(run("version", "").ok().starts_with("docker-credential-shipway "));
    for (action, stdin, said) in [
        ("get", "", "no credentials server URL\n"),
        ("erase", "\n", "no credentials server URL\n"),
        ("store", &credential("", "u"), "no credentials server URL\n"),
        ("store", &credential(ECR, ""), "no credentials username\n"),
        ("get", "docker.io", "credentials not found in native keychain\n"),
        ("get", "de.icr.io\nevil", "the server URL holds a control character\n"),
    ] {
        let ran = run(action, stdin);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, said), "{action} {stdin:?}");
        assert!(!ran.stderr.contains(CANARY), "{ran:?}");
    }
    assert_eq!(clouds.received().len(), 0);
}

/// cloud-credentials.md 14.2, row 8.
#[test]
fn a_cloud_that_refuses_is_said_on_standard_output() {
    let clouds = Clouds::start(|_| {
        let body = json!({ "errorCode": "BXNIM0415E", "errorMessage": CANARY });
        crate::cloud_fake::Reply::new(400, body.to_string())
    });
    let program = clouds.link("docker-credential-icr");
    let ran = clouds.run(&program, &["get"], &[("ICR_APIKEY", CANARY)], "de.icr.io");
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("status 400 BXNIM0415E; try: "), "{ran:?}");
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(CANARY), "{ran:?}");
}

#[test]
fn skopeo_reads_and_logs_in_by_our_helper() {
    // cloud-credentials.md 13, theme 1: logging in with Amazon's own helper fails.
    let clouds = Clouds::start(|request| match request.host.as_str() {
        "de.icr.io" => registry(request, &format!("iambearer:{CANARY}-token")),
        _ => everything(request),
    });
    clouds.link("docker-credential-icr");
    let config = json!({ "credHelpers": { "de.icr.io": "icr" } });
    let file = clouds.write("auth.json", &config.to_string());
    let variables = [("REGISTRY_AUTH_FILE", file.as_str()), ("ICR_APIKEY", "key")];
    let skopeo =
        |arguments: &[&str]| clouds.run(Path::new("/usr/bin/skopeo"), arguments, &variables, "");
    let manifest = skopeo(&["inspect", "--raw", "docker://de.icr.io/team/app:1"]).ok();
    assert!(manifest.contains("schemaVersion"), "{manifest}");
    let password = format!("{CANARY}-token");
    let login = ["login", "--username", "iambearer", "--password", &password, "de.icr.io"];
    skopeo(&login).ok();
    skopeo(&["logout", "de.icr.io"]).ok();
    let kept = std::fs::read_to_string(&file).expect("a file");
    assert!(!kept.contains(CANARY), "{kept}");
}
