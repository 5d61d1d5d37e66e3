//! The clients that people have: skopeo, buildah and podman push to and pull from our registry.

use std::process::Command;

use crate::machine::{Kubectl, Machine, PASSWORD, USER, run};

#[test]
fn skopeo_buildah_and_podman_push_and_pull() {
    let machine = Machine::new(Kubectl::Machine);
    machine.login(&machine.registry, USER, PASSWORD);
    let source = format!("{}/clients/base:1", machine.registry);
    machine.push_busybox(&source);
    let auth = machine.home().join(".docker/config.json");
    let auth = auth.to_str().expect("UTF-8");
    let storage = machine.path("containers");
    let storage = storage.to_str().expect("UTF-8");
    let (root, runroot) = (format!("--root={storage}/root"), format!("--runroot={storage}/run"));
    let call = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        if program != "skopeo" {
            command.args([root.as_str(), runroot.as_str(), "--storage-driver=vfs"]);
        }
        run(command.args(arguments).env("HOME", machine.home()), "")
    };
    let target = |name: &str| format!("docker://{}/clients/{name}:1", machine.registry);

    let from = format!("docker://{source}");
    let skopeo = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--authfile", auth];
    call("skopeo", &[&skopeo[..], &[&from, &target("skopeo")]].concat()).ok();
    for program in ["buildah", "podman"] {
        let flags = ["--tls-verify=false", "--authfile", auth];
        call(program, &[&["pull"], &flags[..], &[&source]].concat()).ok();
        call(program, &[&["push"], &flags[..], &[&source, &target(program)]].concat()).ok();
    }
    for name in ["skopeo", "buildah", "podman"] {
        let image = format!("{}/clients/{name}:1", machine.registry);
        machine.shipway(&["pull", &image]).ok();
    }
    let refused = call("skopeo", &["inspect", "--tls-verify=false", "--no-creds", &from]).refused();
    assert!(refused.contains("unauthorized") || refused.contains("401"), "{refused}");
}
