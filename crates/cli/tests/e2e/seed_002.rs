//! Seed 002, "Pull an image from a private registry", command by command.

use serde_json::Value;

use crate::machine::{Kubectl, Machine, PASSWORD, USER, base64_decode};

#[test]
fn private_registry_tutorial_works_with_the_machines_kubectl() {
    tutorial(Kubectl::Machine);
}

#[test]
fn private_registry_tutorial_works_with_debians_kubectl() {
    tutorial(Kubectl::Debian);
}

fn tutorial(kubectl: Kubectl) {
    let machine = Machine::new(kubectl);
    let registry = machine.registry.clone();
    let image = format!("{registry}/janedoe/app:v1");

    log_in_and_look_at_the_file(&machine);
    machine.push_busybox(&image);
    create_secret_from_the_file(&machine);
    create_secret_on_the_command_line(&machine);
    inspect_the_secret(&machine);
    run_a_pod_with_the_secret(&machine, &image);
    run_a_pod_whose_secret_is_missing(&machine, &image);
    documented_mistakes_have_the_documented_texts(&machine);
}

fn log_in_and_look_at_the_file(machine: &Machine) {
    let said = machine.login(&machine.registry, USER, PASSWORD);
    assert!(said.contains("Login Succeeded"), "{said}");
    let file = machine.shell("cat ~/.docker/config.json").ok();
    let config: Value = serde_json::from_str(&file).expect("JSON");
    let auth = config["auths"][&machine.registry]["auth"].as_str().expect("an entry");
    assert_eq!(base64_decode(auth), format!("{USER}:{PASSWORD}"));
}

fn create_secret_from_the_file(machine: &Machine) {
    let said = machine
        .shell(
            "kubectl create secret generic regcred \
             --from-file=.dockerconfigjson=$HOME/.docker/config.json \
             --type=kubernetes.io/dockerconfigjson",
        )
        .ok();
    assert_eq!(said, "secret/regcred created\n");
    machine.kubectl(&["delete", "secret", "regcred"]).ok();
}

fn create_secret_on_the_command_line(machine: &Machine) {
    let said = machine
        .shell(&format!(
            "kubectl create secret docker-registry regcred --docker-server={} \
             --docker-username={USER} --docker-password={PASSWORD} \
             --docker-email=jdoe@example.com",
            machine.registry
        ))
        .ok();
    assert_eq!(said, "secret/regcred created\n");
}

fn inspect_the_secret(machine: &Machine) {
    let yaml = machine.kubectl(&["get", "secret", "regcred", "--output=yaml"]).ok();
    for line in ["apiVersion: v1", "kind: Secret", "type: kubernetes.io/dockerconfigjson"] {
        assert!(yaml.lines().any(|found| found == line), "{line} in\n{yaml}");
    }
    let json = machine
        .shell(
            r#"kubectl get secret regcred --output="jsonpath={.data.\.dockerconfigjson}" | base64 --decode"#,
        )
        .ok();
    let config: Value = serde_json::from_str(&json).expect("JSON");
    let entry = &config["auths"][&machine.registry];
    assert_eq!(entry["username"], USER);
    assert_eq!(entry["email"], "jdoe@example.com");
    let auth = entry["auth"].as_str().expect("an auth value");
    assert_eq!(base64_decode(auth), format!("{USER}:{PASSWORD}"));
}

fn pod(name: &str, image: &str, secret: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  containers:
  - name: private-reg-container
    image: {image}
  imagePullSecrets:
  - name: {secret}
"
    )
}

fn run_a_pod_with_the_secret(machine: &Machine, image: &str) {
    machine.write("my-private-reg-pod.yaml", &pod("private-reg", image, "regcred"));
    let said = machine
        .shell("kubectl apply -f my-private-reg-pod.yaml && kubectl get pod private-reg")
        .ok();
    assert!(said.contains("pod/private-reg created"), "{said}");
    machine.wait("pod/private-reg", "default", "condition=Ready");
    let said = machine.kubectl(&["get", "pod", "private-reg"]).ok();
    assert!(said.contains("1/1     Running"), "{said}");
}

fn run_a_pod_whose_secret_is_missing(machine: &Machine, image: &str) {
    // Another tag, so that the image on the node does not serve it.
    let image = image.replace(":v1", ":v2");
    machine.push_busybox(&image);
    machine.apply(&pod("no-secret", &image, "does-not-exist"));
    machine.wait_for_event(
        "no-secret",
        "default",
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (does-not-exist); attempting to pull the image may not succeed.",
    );
    machine.wait_for_waiting_reason("no-secret", "default", "ImagePullBackOff");
    let described = machine.kubectl(&["describe", "pod", "no-secret"]).ok();
    for text in ["FailedToRetrieveImagePullSecret", "ImagePullBackOff", "Failed to pull image"] {
        assert!(described.contains(text), "{text} in\n{described}");
    }
}

fn documented_mistakes_have_the_documented_texts(machine: &Machine) {
    let empty = machine.write("empty.yaml", "");
    let said = machine.kubectl(&["create", "-f", &empty]).refused();
    assert!(said.contains("error: no objects passed to create"), "{said}");

    machine.kubectl(&["create", "namespace", "awesomeapps"]).ok();
    // The tutorial's own value: base64 of a sentence, not of a config file.
    let secret = "apiVersion: v1
kind: Secret
metadata:
  name: myregistrykey
  namespace: awesomeapps
data:
  .dockerconfigjson: UmVhbGx5IHJlYWxseSByZWVlZWVlZWVlZWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGx5eXl5eXl5eXl5eXl5eXl5eXl5eSBsbGxsbGxsbGxsbGxsbG9vb29vb29vb29vb29vb29vb29vb29vb29vb25ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubmdnZ2dnZ2dnZ2dnZ2dnZ2dnZ2cgYXV0aCBrZXlzCg==
type: kubernetes.io/dockerconfigjson
";
    let said = machine.kubectl_with_input(&["create", "-f", "-"], secret).refused();
    assert!(
        said.contains(
            "The Secret \"myregistrykey\" is invalid: data[.dockerconfigjson]: Invalid value"
        ),
        "{said}"
    );
}
