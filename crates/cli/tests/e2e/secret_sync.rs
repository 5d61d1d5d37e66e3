//! `shipway secret sync`: one source of credentials, pods of many namespaces.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machine::{Kubectl, Machine, PASSWORD, USER, shipway};

/// Longest wait for a line.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn credentials_reach_pods_are_rotated_and_leave_nothing_behind() {
    let machine = Machine::new(Kubectl::Machine);
    machine.login(&machine.registry, USER, PASSWORD);
    let image = format!("{}/team/app:1", machine.registry);
    machine.push_busybox(&image);
    for namespace in ["red", "green", "blue", "taken", "vault"] {
        machine.kubectl(&["create", "namespace", namespace]).ok();
    }
    once(&machine, &image);
    what_others_made_stays(&machine);
    another_secret_is_the_source(&machine);
    watching(&machine, &image);
    removal(&machine);
}

fn sync(machine: &Machine, more: &[&str]) -> crate::machine::Ran {
    machine.shipway(&[&["secret", "sync", "regcred"], more].concat())
}

fn run_pod(machine: &Machine, namespace: &str, name: &str, image: &str) {
    machine.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  restartPolicy: Never
  containers:
    - {{name: c, image: \"{image}\", imagePullPolicy: Always, command: [\"true\"]}}
"
    ));
    machine.wait(&format!("pod/{name}"), namespace, "jsonpath={.status.phase}=Succeeded");
}

fn secrets_of(machine: &Machine, namespace: &str) -> String {
    let path = "jsonpath={.imagePullSecrets[*].name}";
    machine.kubectl(&["get", "sa", "default", "-n", namespace, "-o", path]).ok()
}

fn once(machine: &Machine, image: &str) {
    let wanted = ["--namespace", "red,green,blue", "--service-account", "default"];
    let preview = sync(machine, &[&wanted[..], &["--dry-run"]].concat()).ok();
    assert!(preview.contains("secret/regcred created in red (dry run)\n"), "{preview}");
    assert_eq!(machine.kubectl(&["get", "secret", "-n", "red", "-o", "name"]).ok(), "");
    let said = sync(machine, &wanted).ok();
    assert_eq!(
        said,
        "secret/regcred created in blue\nserviceaccount/default in blue uses regcred\n\
         secret/regcred created in green\nserviceaccount/default in green uses regcred\n\
         secret/regcred created in red\nserviceaccount/default in red uses regcred\n"
    );
    assert_eq!(sync(machine, &wanted).ok(), "", "nothing is left to do");
    for namespace in ["red", "green", "blue"] {
        run_pod(machine, namespace, "first", image);
    }
    // The password is another one from now on, at the registry and in the source.
    let second = "second-password-of-this-test";
    machine.add_user(USER, second);
    machine.login(&machine.registry, USER, second);
    let said = sync(machine, &wanted).ok();
    assert_eq!(
        said,
        "secret/regcred updated in blue\nsecret/regcred updated in green\n\
         secret/regcred updated in red\n"
    );
    for namespace in ["red", "green", "blue"] {
        run_pod(machine, namespace, "second", image);
    }
}

fn what_others_made_stays(machine: &Machine) {
    let literal = "--from-literal=a=b";
    machine.kubectl(&["create", "secret", "generic", "regcred", "-n", "taken", literal]).ok();
    let refused =
        sync(machine, &["--namespace", "taken", "--service-account", "default"]).refused();
    assert!(
        refused.contains("secret taken/regcred was not made by this sync and is left alone"),
        "{refused}"
    );
    assert_eq!(secrets_of(machine, "taken"), "", "its name is not given to accounts either");
}

fn another_secret_is_the_source(machine: &Machine) {
    let registry = machine.registry.as_str();
    machine
        .shell(&format!(
            "kubectl create secret docker-registry master -n vault --docker-server={registry} \
             --docker-username=robot --docker-password=of-the-vault"
        ))
        .ok();
    let from = ["secret", "sync", "vaulted", "--from-secret", "vault/master", "-n", "red"];
    assert_eq!(machine.shipway(&from).ok(), "secret/vaulted created in red\n");
    let content = "jsonpath={.data.\\.dockerconfigjson}";
    let content = machine.kubectl(&["get", "secret", "vaulted", "-n", "red", "-o", content]).ok();
    let config: Value =
        serde_json::from_str(&crate::machine::base64_decode(&content)).expect("JSON");
    assert_eq!(config["auths"][registry]["username"], "robot");
    let other = [&from[..], &["--registry", "elsewhere.example"]].concat();
    let refused = machine.shipway(&other).refused();
    assert!(refused.contains("the source has no credential for elsewhere.example"), "{refused}");
    let said = machine.shipway(&["secret", "sync", "vaulted", "--remove", "-A"]).ok();
    assert_eq!(said, "secret/vaulted deleted in red\n");
    machine.kubectl(&["get", "secret", "master", "-n", "vault"]).ok();
}

/// A sync that watches, and what it says.
struct Watching {
    child: Child,
    lines: Receiver<Value>,
}

impl Watching {
    fn start(machine: &Machine) -> Self {
        let mut child = shipway()
            .args(["secret", "sync", "regcred", "--watch", "-o", "json"])
            .args(["--namespace-selector", "pull=yes", "--service-account", "default"])
            .env("KUBECONFIG", machine.kubeconfig())
            .env("HOME", machine.home())
            .env_remove("DOCKER_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("shipway starts");
        let output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let object = serde_json::from_str(&line).expect("a JSON line");
                if sender.send(object).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with these values.
    #[track_caller]
    fn until(&self, wanted: &[(&str, &str)]) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) =
            self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if wanted.iter().all(|(key, value)| line[*key] == *value) {
                return;
            }
            seen.push(line.to_string());
        }
        panic!("no line {wanted:?}; seen\n{}", seen.join("\n"));
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn watching(machine: &Machine, image: &str) {
    for namespace in ["red", "green", "blue"] {
        machine.kubectl(&["label", "namespace", namespace, "pull=yes"]).ok();
    }
    let watching = Watching::start(machine);
    watching.until(&[("event", "settled")]);
    // A namespace comes, with an account a moment later.
    machine.kubectl(&["create", "namespace", "new"]).ok();
    machine.kubectl(&["label", "namespace", "new", "pull=yes"]).ok();
    watching.until(&[("action", "add"), ("namespace", "new"), ("serviceAccount", "default")]);
    run_pod(machine, "new", "first", image);
    // What is changed by hand is put back, and the hand's other changes stay.
    machine.kubectl(&["delete", "secret", "regcred", "-n", "red"]).ok();
    watching.until(&[("action", "create"), ("namespace", "red")]);
    let own = r#"{"imagePullSecrets":[{"name":"own"}]}"#;
    machine.kubectl(&["patch", "sa", "default", "-n", "green", "-p", own]).ok();
    watching.until(&[("action", "add"), ("namespace", "green")]);
    assert_eq!(secrets_of(machine, "green"), "own regcred");
    // The source changes.
    let third = "third-password-of-this-test";
    machine.add_user(USER, third);
    machine.login(&machine.registry, USER, third);
    watching.until(&[("action", "update"), ("namespace", "red")]);
    run_pod(machine, "red", "third", image);
    // A namespace that is not chosen any more loses what was made for it.
    machine.kubectl(&["label", "namespace", "blue", "pull-"]).ok();
    watching.until(&[("action", "delete"), ("namespace", "blue")]);
    assert_eq!(secrets_of(machine, "blue"), "");
}

fn removal(machine: &Machine) {
    // What chooses nothing removes nothing, and what is not there is named.
    for (flags, reason) in [
        (&[][..], "no namespace is chosen"),
        (&["--exclude-namespace", "red"][..], "no namespace is chosen"),
        (&["-n", ""][..], "--namespace"),
        (&["-A", "--service-account", "default"][..], "cannot be used with"),
        (&["-n", "typo"][..], "namespace typo does not exist"),
    ] {
        let refused = sync(machine, &[&["--remove"][..], flags].concat()).refused();
        assert!(refused.contains(reason), "{flags:?}: {refused}");
    }
    let said = sync(machine, &["--remove", "-A"]).ok();
    for namespace in ["red", "green", "new"] {
        assert!(said.contains(&format!("secret/regcred deleted in {namespace}\n")), "{said}");
    }
    let left = ["get", "secrets", "-A", "-l", "shipway.dev/secret-sync", "-o", "name"];
    assert_eq!(machine.kubectl(&left).ok(), "");
    let accounts = machine.kubectl(&["get", "sa", "-A", "-o", "yaml"]).ok();
    assert!(!accounts.contains("regcred") && !accounts.contains("secret-sync"), "{accounts}");
    assert_eq!(secrets_of(machine, "green"), "own", "the list of others stays");
    let kept = ["get", "secret", "regcred", "-n", "taken", "-o", "jsonpath={.type}"];
    assert_eq!(machine.kubectl(&kept).ok(), "Opaque");
}
