//! Seed 004, "Images" (with multi-architecture manifests, node search paths, AlwaysPullImages).

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::machine::{Kubectl, Machine, PASSWORD, USER};

#[test]
fn concepts_page_works_with_the_machines_kubectl() {
    tutorial(Kubectl::Machine);
}

#[test]
fn concepts_page_works_with_debians_kubectl() {
    tutorial(Kubectl::Debian);
}

fn tutorial(kubectl: Kubectl) {
    let root = tempfile::tempdir().expect("a directory");
    let root_dir = root.path().to_str().expect("UTF-8").to_owned();
    let machine = Machine::with_flags(kubectl, &["--kubelet-root-dir", &root_dir]);
    machine.login(&machine.registry, USER, PASSWORD);

    create_and_push_a_multi_architecture_list(&machine);
    verify_with_private_image_test_1(&machine, root.path());
    a_failed_pull_is_found_with_describe_and_grep(&machine);
    apply_with_kustomize(&machine);
}

fn create_and_push_a_multi_architecture_list(machine: &Machine) {
    let registry = &machine.registry;
    machine.push_busybox(&format!("{registry}/pause-amd64:1"));
    // The same files said to be for another processor: nothing in the image is run here.
    let context = machine.path("busybox-context").to_str().expect("UTF-8").to_owned();
    machine.write("busybox-context/Dockerfile.arm64", "FROM scratch\nCOPY busybox /arm64\n");
    machine
        .shipway(&[
            "build",
            "--platform=linux/arm64",
            "-f",
            &format!("{context}/Dockerfile.arm64"),
            "-t",
            &format!("{registry}/pause-arm64:1"),
            "--push",
            &context,
        ])
        .ok();
    let list = format!("{registry}/pause:1");
    let (amd64, arm64) = (format!("{registry}/pause-amd64:1"), format!("{registry}/pause-arm64:1"));
    machine.shipway(&["manifest", "create", &list, &amd64, &arm64]).ok();
    assert!(machine.home().join(".docker/manifests").is_dir(), "lists are kept where docker does");
    machine
        .shipway(&["manifest", "annotate", &list, &arm64, "--os", "linux", "--arch", "arm64"])
        .ok();
    machine.shipway(&["manifest", "push", &list]).ok();
    let json = machine.shipway(&["manifest", "inspect", &list]).ok();
    let index: Value = serde_json::from_str(&json).expect("JSON");
    let children = index["manifests"].as_array().expect("a list");
    let architectures: Vec<&str> =
        children.iter().filter_map(|child| child["platform"]["architecture"].as_str()).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
}

/// All eight places at which the node looks, each alone; the last ones are legacy files.
#[test]
fn each_of_the_eight_search_paths_gives_the_credential() {
    let root = tempfile::tempdir().expect("a directory");
    let root_dir = root.path().join("kubelet");
    let filesystem_root = root.path().join("root");
    for directory in [&root_dir, &filesystem_root] {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    let machine = Machine::with_flags(
        Kubectl::Machine,
        &[
            "--kubelet-root-dir",
            root_dir.to_str().expect("UTF-8"),
            "--credentials-root-dir",
            filesystem_root.to_str().expect("UTF-8"),
            "--node-credentials-cache",
            "0s",
        ],
    );
    machine.login(&machine.registry, USER, PASSWORD);
    let config = machine.home().join(".docker/config.json");
    let text = std::fs::read_to_string(&config).expect("the file that login wrote");
    let parsed: Value = serde_json::from_str(&text).expect("JSON");
    let legacy = parsed["auths"].to_string();
    let image = format!("{}/private:1", machine.registry);
    machine.push_busybox(&image);

    let work = machine.dir.path().to_path_buf(); // where `shipway up` was started
    let home = machine.node_home();
    let places = [
        (root_dir.join("config.json"), &text),
        (work.join("config.json"), &text),
        (home.join(".docker/config.json"), &text),
        (filesystem_root.join(".docker/config.json"), &text),
        (root_dir.join(".dockercfg"), &legacy),
        (work.join(".dockercfg"), &legacy),
        (home.join(".dockercfg"), &legacy),
        (filesystem_root.join(".dockercfg"), &legacy),
    ];
    machine.apply(&test_pod("none", &image));
    machine.wait_for_event("none", "default", "Failed", "Failed to pull image");
    for (number, (path, text)) in places.iter().enumerate() {
        write_secret_file(path, text);
        let name = format!("place-{number}");
        machine.apply(&test_pod(&name, &image));
        machine.wait(&format!("pod/{name}"), "default", "jsonpath={.status.phase}=Succeeded");
        std::fs::remove_file(path).expect("the file is there");
    }
}

fn write_secret_file(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
}

fn test_pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  restartPolicy: Never
  containers:
    - name: uses-private-image
      image: {image}
      imagePullPolicy: Always
      command: [ \"echo\", \"SUCCESS\" ]
"
    )
}

fn verify_with_private_image_test_1(machine: &Machine, root_dir: &Path) {
    let image = format!("{}/pause:1", machine.registry);
    machine.shell(&format!("cp ~/.docker/config.json {}/config.json", root_dir.display())).ok();
    let said = machine
        .shell(&format!(
            "PRIVATE_IMAGE_NAME={image}
kubectl apply -f - <<EOF
apiVersion: v1
kind: Pod
metadata:
  name: private-image-test-1
spec:
  containers:
    - name: uses-private-image
      image: $PRIVATE_IMAGE_NAME
      imagePullPolicy: Always
      command: [ \"echo\", \"SUCCESS\" ]
EOF"
        ))
        .ok();
    assert_eq!(said, "pod/private-image-test-1 created\n");
    machine.wait_for_event("private-image-test-1", "default", "Started", "");
    // The command ends at once, and the pod's default policy starts it again.
    let terminated =
        "jsonpath={.status.containerStatuses[0].lastState.terminated.reason}=Completed";
    machine.wait("pod/private-image-test-1", "default", terminated);
    let log = machine.kubectl(&["logs", "private-image-test-1"]).ok();
    assert_eq!(log, "SUCCESS\n", "the list's image for this processor ran");
}

fn a_failed_pull_is_found_with_describe_and_grep(machine: &Machine) {
    let image = format!("{}/user/privaterepo:v1", machine.registry);
    machine.apply(&test_pod("failing", &image));
    machine.wait_for_event("failing", "default", "Failed", "Failed to pull image");
    let found = machine.shell("kubectl describe pods/failing | grep 'Failed'").ok();
    assert!(found.contains(&format!("Failed to pull image \"{image}\"")), "{found}");
    assert!(found.contains("not found"), "{found}");
}

fn apply_with_kustomize(machine: &Machine) {
    let image = format!("{}/pause:1", machine.registry);
    machine
        .shell(&format!(
            "mkdir -p kustomize && cd kustomize
kubectl create namespace awesomeapps
kubectl create secret docker-registry myregistrykey -n awesomeapps \
  --docker-server={} --docker-username={USER} --docker-password={PASSWORD}
cat <<EOF > pod.yaml
apiVersion: v1
kind: Pod
metadata:
  name: foo
  namespace: awesomeapps
spec:
  containers:
    - name: foo
      image: {image}
  imagePullSecrets:
    - name: myregistrykey
EOF

cat <<EOF >> ./kustomization.yaml
resources:
- pod.yaml
EOF
kubectl apply -k .",
            machine.registry
        ))
        .ok();
    machine.wait("pod/foo", "awesomeapps", "condition=Ready");
}

/// The last use case of the page: tenants that must not use each other's images.
#[test]
fn always_pull_images_keeps_tenants_apart_on_one_node() {
    let machine = Machine::with_flags(Kubectl::Machine, &["--always-pull-images"]);
    machine.login(&machine.registry, USER, PASSWORD);
    let image = format!("{}/tenant-a/secret:1", machine.registry);
    machine.push_busybox(&image);
    for tenant in ["tenant-a", "tenant-b"] {
        machine.kubectl(&["create", "namespace", tenant]).ok();
    }
    machine
        .kubectl(&[
            "create",
            "secret",
            "docker-registry",
            "regcred",
            "-n",
            "tenant-a",
            &format!("--docker-server={}", machine.registry),
            &format!("--docker-username={USER}"),
            &format!("--docker-password={PASSWORD}"),
        ])
        .ok();
    let pod = |namespace: &str, secret: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: app
  namespace: {namespace}
spec:
  containers:
    - name: app
      image: {image}
      imagePullPolicy: IfNotPresent
{secret}"
        )
    };
    machine.apply(&pod("tenant-a", "  imagePullSecrets:\n    - name: regcred\n"));
    machine.wait("pod/app", "tenant-a", "condition=Ready");
    machine.apply(&pod("tenant-b", ""));
    let policy = machine
        .kubectl(&[
            "get",
            "pod",
            "app",
            "-n",
            "tenant-b",
            "-o",
            "jsonpath={.spec.containers[0].imagePullPolicy}",
        ])
        .ok();
    assert_eq!(policy, "Always", "the admission plugin overrules the manifest");
    machine.wait_for_waiting_reason("app", "tenant-b", "ImagePullBackOff");
    machine.wait_for_event("app", "tenant-b", "Failed", "no basic auth credentials");
}
