//! Seed 001, "How to use a private registry": namespace `tom`, both secret types, two registries
//! in one pod, the service account.

use crate::machine::{DebianRegistry, Kubectl, Machine, PASSWORD, USER, base64_encode};

#[test]
fn namespace_tutorial_works_with_the_machines_kubectl() {
    tutorial(Kubectl::Machine);
}

#[test]
fn namespace_tutorial_works_with_debians_kubectl() {
    tutorial(Kubectl::Debian);
}

const CAPTAIN: &str = "captain";
const CAPTAIN_PASSWORD: &str = "Captain888";

fn tutorial(kubectl: Kubectl) {
    let machine = Machine::new(kubectl);
    let second = DebianRegistry::start(CAPTAIN, CAPTAIN_PASSWORD);
    machine.login(&machine.registry, USER, PASSWORD);
    machine.login(&second.address, CAPTAIN, CAPTAIN_PASSWORD);
    let ours = format!("{}/captain/nginx:v1", machine.registry);
    let theirs = format!("{}/captain/nginx:v1", second.address);
    machine.push_busybox(&ours);
    machine.push_busybox(&theirs);
    let said = machine.kubectl(&["create", "namespace", "tom"]).ok();
    assert_eq!(said, "namespace/tom created\n");

    secrets_from_yaml(&machine, &second.address);
    one_pod_with_images_of_both_registries(&machine, &ours, &theirs);
    service_account_makes_the_field_unneeded(&machine, &ours, &theirs);
}

fn secrets_from_yaml(machine: &Machine, second: &str) {
    let auth = base64_encode(&format!("{USER}:{PASSWORD}"));
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, machine.registry);
    let auth = base64_encode(&format!("{CAPTAIN}:{CAPTAIN_PASSWORD}"));
    let legacy = format!(
        r#"{{"{second}":{{"username":"{CAPTAIN}","password":"{CAPTAIN_PASSWORD}","email":" ","auth":"{auth}"}}}}"#
    );
    let secret = |name: &str, key: &str, value: &str, kind: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: tom\ndata:\n  {key}: {}\ntype: {kind}\n",
            base64_encode(value)
        )
    };
    let yaml = secret("configjson", ".dockerconfigjson", &config, "kubernetes.io/dockerconfigjson")
        + "---\n"
        + &secret("dockercfg", ".dockercfg", &legacy, "kubernetes.io/dockercfg");
    let said = machine.kubectl_with_input(&["create", "-f", "-"], &yaml).ok();
    assert_eq!(said, "secret/configjson created\nsecret/dockercfg created\n");
    let table = machine.kubectl(&["get", "secrets", "-n", "tom"]).ok();
    assert!(table.contains("kubernetes.io/dockercfg"), "{table}");
}

fn pod(name: &str, ours: &str, theirs: &str, secrets: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: tom
spec:
  containers:
    - name: foo
      image: {ours}
      imagePullPolicy: Always
    - name: bar
      image: {theirs}
      imagePullPolicy: Always
{secrets}"
    )
}

fn one_pod_with_images_of_both_registries(machine: &Machine, ours: &str, theirs: &str) {
    let secrets = "  imagePullSecrets:\n    - name: configjson\n    - name: dockercfg\n";
    machine.apply(&pod("foo", ours, theirs, secrets));
    machine.wait("pod/foo", "tom", "condition=Ready");

    // With only one of the two secrets, only one of the two images can be pulled.
    let secrets = "  imagePullSecrets:\n    - name: configjson\n";
    machine.apply(&pod("half", ours, theirs, secrets));
    machine.wait_for_event("half", "tom", "Failed", &format!("Failed to pull image \"{theirs}\""));
}

fn service_account_makes_the_field_unneeded(machine: &Machine, ours: &str, theirs: &str) {
    // Edited: an editor that appends the list.
    let editor = machine.write(
        "edit.sh",
        "#!/bin/sh\nprintf 'imagePullSecrets:\\n- name: configjson\\n' >> \"$1\"\n",
    );
    let said = machine
        .shell(&format!(
            "chmod +x {editor}; EDITOR={editor} kubectl edit serviceaccount default -n tom"
        ))
        .ok();
    assert!(said.contains("serviceaccount/default edited"), "{said}");
    let names = |machine: &Machine| {
        machine
            .kubectl(&[
                "get",
                "serviceaccount",
                "default",
                "-n",
                "tom",
                "-o",
                "jsonpath={.imagePullSecrets[*].name}",
            ])
            .ok()
    };
    assert_eq!(names(machine), "configjson");

    // Patched: the list is replaced, as it has no merge key.
    let patch = r#"{"imagePullSecrets": [{"name": "configjson"}, {"name": "dockercfg"}]}"#;
    let said =
        machine.kubectl(&["patch", "serviceaccount", "default", "-n", "tom", "-p", patch]).ok();
    assert!(said.contains("serviceaccount/default patched"), "{said}");
    assert_eq!(names(machine), "configjson dockercfg");

    machine.apply(&pod("without-field", ours, theirs, ""));
    let inherited = machine
        .kubectl(&[
            "get",
            "pod",
            "without-field",
            "-n",
            "tom",
            "-o",
            "jsonpath={.spec.imagePullSecrets[*].name}",
        ])
        .ok();
    assert_eq!(inherited, "configjson dockercfg");
    machine.wait("pod/without-field", "tom", "condition=Ready");
}
