//! Seed 000, "Images": the four pull-policy rules, the nodes' addresses, the node's config file,
//! images that are already there.

use serde_json::Value;

use crate::machine::{Kubectl, Machine, PASSWORD, USER};

#[test]
fn images_tutorial_works_with_the_machines_kubectl() {
    tutorial(Kubectl::Machine);
}

#[test]
fn images_tutorial_works_with_debians_kubectl() {
    tutorial(Kubectl::Debian);
}

fn tutorial(kubectl: Kubectl) {
    let root = tempfile::tempdir().expect("a directory");
    let root_dir = root.path().to_str().expect("UTF-8").to_owned();
    let machine = Machine::with_flags(kubectl, &["--kubelet-root-dir", &root_dir]);
    let registry = machine.registry.clone();
    machine.login(&registry, USER, PASSWORD);
    for tag in ["latest", "v1", "v2", "v3"] {
        machine.push_busybox(&format!("{registry}/app:{tag}"));
    }

    list_the_nodes_as_documented(&machine);
    put_the_config_file_on_the_node(&machine, &root_dir);
    defaults_follow_the_tag(&machine);
    always_asks_the_registry_each_time(&machine);
    if_not_present_reuses_the_image(&machine);
    never_does_not_ask(&machine);
}

fn list_the_nodes_as_documented(machine: &Machine) {
    let names = machine
        .shell("nodes=$(kubectl get nodes -o jsonpath='{range.items[*].metadata}{.name} {end}'); echo $nodes")
        .ok();
    assert_eq!(names.split_whitespace().count(), 1, "{names}");
    let addresses = machine
        .shell(r#"nodes=$(kubectl get nodes -o jsonpath='{range .items[*].status.addresses[?(@.type=="ExternalIP")]}{.address} {end}'); echo $nodes"#)
        .ok();
    assert_eq!(addresses.split_whitespace().count(), 1, "{addresses}");
    let table = machine.kubectl(&["get", "nodes"]).ok();
    assert!(table.contains("Ready"), "{table}");
    let described = machine.kubectl(&["describe", "nodes"]).ok();
    assert!(described.contains("pods share the network"), "the node says it\n{described}");
}

/// The machine is its own node, so the tutorial's `scp` is a copy.
fn put_the_config_file_on_the_node(machine: &Machine, root_dir: &str) {
    machine.shell(&format!("cp ~/.docker/config.json {root_dir}/config.json")).ok();
}

fn pod(name: &str, image: &str, policy: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: {image}
      command: [\"echo\", \"SUCCESS\"]
{policy}"
    )
}

fn run_to_the_end(machine: &Machine, name: &str, image: &str, policy: &str) {
    let policy = match policy {
        "" => String::new(),
        policy => format!("      imagePullPolicy: {policy}\n"),
    };
    machine.apply(&pod(name, image, &policy));
    machine.wait(&format!("pod/{name}"), "default", "jsonpath={.status.phase}=Succeeded");
    assert_eq!(machine.kubectl(&["logs", name]).ok(), "SUCCESS\n");
}

fn messages(machine: &Machine, pod: &str) -> Vec<String> {
    let selector = format!("involvedObject.name={pod}");
    let json =
        machine.kubectl(&["get", "events", "--field-selector", &selector, "-o", "json"]).ok();
    let list: Value = serde_json::from_str(&json).expect("JSON");
    let items = list["items"].as_array().expect("a list").iter();
    items.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
}

fn defaults_follow_the_tag(machine: &Machine) {
    let registry = &machine.registry;
    for (name, image, expected) in [
        ("rule-latest", format!("{registry}/app:latest"), "Always"),
        ("rule-untagged", format!("{registry}/app"), "Always"),
        ("rule-tagged", format!("{registry}/app:v1"), "IfNotPresent"),
    ] {
        machine.apply(&pod(name, &image, ""));
        let policy = machine
            .kubectl(&["get", "pod", name, "-o", "jsonpath={.spec.containers[0].imagePullPolicy}"])
            .ok();
        assert_eq!(policy, expected, "{image}");
    }
}

fn always_asks_the_registry_each_time(machine: &Machine) {
    let image = format!("{}/app:v2", machine.registry);
    for name in ["always-1", "always-2"] {
        run_to_the_end(machine, name, &image, "Always");
        let messages = messages(machine, name);
        assert!(messages.contains(&format!("Pulling image \"{image}\"")), "{messages:?}");
        let pulled = messages.iter().find(|text| text.starts_with("Successfully pulled image"));
        let pulled = pulled.expect("a Pulled event");
        assert!(pulled.contains(" including waiting). Image size: "), "{pulled}");
    }
}

fn if_not_present_reuses_the_image(machine: &Machine) {
    let image = format!("{}/app:v3", machine.registry);
    run_to_the_end(machine, "present-1", &image, "IfNotPresent");
    assert!(messages(machine, "present-1").contains(&format!("Pulling image \"{image}\"")));
    run_to_the_end(machine, "present-2", &image, "IfNotPresent");
    let messages = messages(machine, "present-2");
    assert!(!messages.iter().any(|text| text.starts_with("Pulling")), "{messages:?}");
    assert!(
        messages.contains(&format!(
            "Container image \"{image}\" already present on machine and can be accessed by the pod"
        )),
        "{messages:?}"
    );
}

fn never_does_not_ask(machine: &Machine) {
    let image = format!("{}/app:v3", machine.registry);
    run_to_the_end(machine, "never-present", &image, "Never");
    let absent = format!("{}/app:absent", machine.registry);
    machine.apply(&pod("never-absent", &absent, "      imagePullPolicy: Never\n"));
    machine.wait_for_waiting_reason("never-absent", "default", "ErrImageNeverPull");
    let text = format!("Container image \"{absent}\" is not present with pull policy of Never");
    machine.wait_for_event("never-absent", "default", "ErrImageNeverPull", &text);
    machine.wait_for_event("never-absent", "default", "Failed", "Error: ErrImageNeverPull");
}
