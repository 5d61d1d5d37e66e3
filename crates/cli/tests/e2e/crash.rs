//! kill -9 of `shipway up` in the middle of builds, pushes and pod starts.

use std::process::Command;

use crate::machine::{Kubectl, Machine, PASSWORD, USER, run};

/// How often the daemon is killed.
const KILLS: usize = 50;

#[test]
fn killed_machine_loses_nothing_that_was_acknowledged() {
    let mut machine = Machine::new(Kubectl::Machine);
    let registry = machine.registry.clone();
    machine.login(&registry, USER, PASSWORD);
    let base = format!("{registry}/base:1");
    machine.push_busybox(&base);
    machine
        .kubectl(&[
            "create",
            "secret",
            "docker-registry",
            "regcred",
            &format!("--docker-server={registry}"),
            &format!("--docker-username={USER}"),
            &format!("--docker-password={PASSWORD}"),
        ])
        .ok();
    machine.apply(&long_running_pod("survivor", &base));
    machine.wait("pod/survivor", "default", "condition=Ready");
    let container = container_identity(&machine, "survivor");

    let mut acknowledged = Acknowledged::default();
    for round in 0..KILLS {
        kill_in_the_middle(&machine, &base, round, &mut acknowledged);
        machine.up(&registry);
    }
    assert_eq!(machine.registry, registry, "the address stays");
    assert!(!acknowledged.objects.is_empty(), "some writes came through between the kills");
    assert!(!acknowledged.pushes.is_empty(), "some pushes came through between the kills");

    machine.wait("pod/survivor", "default", "condition=Ready");
    assert_eq!(container_identity(&machine, "survivor"), container, "it was never restarted");
    for name in &acknowledged.objects {
        machine.kubectl(&["get", "configmap", name]).ok();
    }
    for image in &acknowledged.pushes {
        machine.shipway(&["pull", image]).ok();
    }
    for name in &acknowledged.pods {
        machine.wait(&format!("pod/{name}"), "default", "condition=Ready");
    }
    every_visible_blob_is_what_its_name_says(&machine);
}

/// What a client was told had been done.
#[derive(Default)]
struct Acknowledged {
    objects: Vec<String>,
    pushes: Vec<String>,
    pods: Vec<String>,
}

/// Starts a build with a push, an API write and sometimes a pod at once; kills the daemon when the
/// build ends, when the write ends, or at once, by turns; notes what was acknowledged.
fn kill_in_the_middle(machine: &Machine, base: &str, round: usize, done: &mut Acknowledged) {
    let image = format!("{}/crash/app:{round}", machine.registry);
    let context = format!("context-{round}");
    let dockerfile = format!("FROM {base}\nRUN head -c 300000 /dev/urandom > /data-{round}\n");
    machine.write(&format!("{context}/Dockerfile"), &dockerfile);
    let pod = long_running_pod(&format!("pod-{round}"), base);
    machine.write(&format!("{context}/pod.yaml"), &pod);
    let make_pod = if round.is_multiple_of(10) {
        format!("kubectl apply -f {context}/pod.yaml && echo made > {context}/pod")
    } else {
        "true".to_owned()
    };
    let wait = ["wait %1", "wait %2", "true"][round % 3];
    machine
        .shell(&format!(
            "set +e
             exec 2>{context}/log >&2
             (shipway build -t {image} --push {context} && echo pushed > {context}/pushed) &
             (kubectl create configmap object-{round} --from-literal=a=b && echo made > {context}/made) &
             ({make_pod}) &
             {wait}
             kill -9 {}
             wait
             exit 0",
            machine.pid()
        ))
        .ok();
    let exists = |name: &str| machine.path(&context).join(name).exists();
    if exists("pushed") {
        done.pushes.push(image);
    }
    if exists("made") {
        done.objects.push(format!("object-{round}"));
    }
    if exists("pod") {
        done.pods.push(format!("pod-{round}"));
    }
}

fn long_running_pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{{name: regcred}}]
  containers:
    - name: main
      image: {image}
      command: [\"sleep\", \"3600\"]
"
    )
}

fn container_identity(machine: &Machine, pod: &str) -> String {
    machine
        .kubectl(&[
            "get",
            "pod",
            pod,
            "-o",
            "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}",
        ])
        .ok()
}

fn every_visible_blob_is_what_its_name_says(machine: &Machine) {
    let mut find = Command::new("find");
    find.arg(machine.state_dir().join("blobs")).args([
        "-regextype",
        "posix-extended",
        "-type",
        "f",
        "-regex",
        ".*/sha256/.*[0-9a-f]{64}",
        "-exec",
        "sha256sum",
        "{}",
        "+",
    ]);
    let list = run(&mut find, "").ok();
    let mut count = 0;
    for line in list.lines() {
        let (sum, path) = line.split_once("  ").expect("sha256sum's format");
        assert!(path.ends_with(sum), "{path} has the digest {sum}");
        count += 1;
    }
    assert!(count > 0, "the store has blobs");
}
