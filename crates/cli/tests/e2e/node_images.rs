//! Images of the node: pulled before a pod needs them, pinned, collected, removed.

use serde_json::Value;

use crate::machine::{Kubectl, Machine};

/// Any use of the disk is too much, at every moment.
const GREEDY: &[&str] = &[
    "--registry-anonymous=push",
    "--image-gc-high-threshold=1",
    "--image-gc-low-threshold=0",
    "--minimum-image-ttl-duration=0s",
    "--image-gc-period=1s",
];

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: '{image}', imagePullPolicy: IfNotPresent}}\n"
    )
}

fn pod_that_ends(name: &str, image: &str) -> String {
    let command = "command: [/bin/busybox, 'true'], imagePullPolicy";
    pod(name, image).replace("imagePullPolicy", command) + "  restartPolicy: Never\n"
}

fn tags(machine: &Machine) -> Vec<String> {
    let list = machine.shipway(&["node", "images", "-o", "json"]).ok();
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let images = list.as_array().expect("a list").iter();
    let tags = images.flat_map(|image| image["tags"].as_array().cloned().unwrap_or_default());
    tags.filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
}

/// kubelet-images.md 10 and row G4, with kubectl.
#[test]
fn full_disk_costs_unused_images_and_no_others() {
    let machine = Machine::with_flags(Kubectl::Machine, GREEDY);
    let image = |name: &str| format!("{}/team/{name}:1", machine.registry);
    let build = machine.path("builder");
    let build = build.to_str().expect("UTF-8");
    let context = machine.path("context");
    std::fs::create_dir_all(&context).expect("a directory");
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static is installed");
    for name in ["used", "exited", "pinned", "unused"] {
        let dockerfile = format!(
            "FROM scratch\nLABEL name={name}\nCOPY busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\",\"sleep\",\"3600\"]\n"
        );
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
        let context = context.to_str().expect("UTF-8");
        // In a state directory of its own: what is built on the node is never collected.
        let arguments =
            ["--state-dir", build, "build", "-q", "-t", &image(name), "--push", context];
        machine.shipway(&arguments).ok();
    }
    machine.apply(&pod("used", &image("used")));
    machine.wait("pod/used", "default", "condition=Ready");
    machine.apply(&pod_that_ends("exited", &image("exited")));
    machine.wait("pod/exited", "default", "jsonpath={.status.phase}=Succeeded");
    machine.shipway(&["node", "pull", "--pin", &image("pinned")]).ok();
    machine.shipway(&["node", "pull", &image("unused")]).ok();
    machine.shell(
        "until kubectl get events -o jsonpath='{.items[*].reason}' | grep -q FreeDiskSpaceFailed; do :; done",
    )
    .ok();
    machine.shell("while shipway node images | grep -q team/unused; do :; done").ok();
    let left = tags(&machine);
    for name in ["used", "exited", "pinned"] {
        assert!(left.contains(&image(name)), "{name}: {left:?}");
    }
    for name in ["used", "exited"] {
        let refused = machine.shipway(&["node", "rm", &image(name)]);
        assert!(refused.refused().contains(&format!("is in use by default/{name}")));
    }

    machine.apply(&pod("pinned", &image("pinned")));
    machine.apply(&pod("again", &image("unused")));
    for name in ["pinned", "again"] {
        machine.wait(&format!("pod/{name}"), "default", "condition=Ready");
    }
    let events = ["get", "events", "-o", "jsonpath={range .items[*]}{.message}{'\\n'}{end}"];
    let events = machine.kubectl(&events).ok();
    let present = format!("Container image \"{}\" already present on machine", image("pinned"));
    assert!(events.contains(&present), "{events}");
    assert!(events.contains(&format!("Successfully pulled image \"{}\"", image("unused"))));
}
