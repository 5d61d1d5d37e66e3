//! Wrong input: each case says what failed, on which object, why and what to try, and ends with a
//! documented exit code.

use crate::machine::{Kubectl, Machine, PASSWORD, Ran, USER, run, shipway};

// Exit codes, as `shipway --help` documents them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const DENIED: i32 = 3;
const UNREACHABLE: i32 = 5;
const ENVIRONMENT: i32 = 6;

fn here(arguments: &[&str]) -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    run(shipway().args(arguments).env("SHIPWAY_STATE_DIR", directory.path()), "")
}

#[track_caller]
fn check(ran: &Ran, code: i32, texts: &[&str]) {
    assert_eq!(ran.code, code, "{}\n{}{}", ran.command, ran.stdout, ran.stderr);
    for text in texts {
        assert!(ran.stderr.contains(text), "{text:?} in\n{}", ran.stderr);
    }
}

#[test]
fn typo_in_a_dockerfile_names_file_line_and_the_likely_word() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "FROM scratch\nCOPPY a b\n";
    std::fs::write(directory.path().join("Dockerfile"), text).expect("a file");
    let context = directory.path().to_str().expect("UTF-8");
    check(&here(&["build", "-t", "x", context]), USAGE, &["Dockerfile:2", "COPPY", "COPY"]);
}

#[test]
fn unknown_flag_is_a_usage_error_with_a_suggestion() {
    check(&here(&["build", "--plaform=linux/amd64", "."]), USAGE, &["--plaform", "--platform"]);
}

#[test]
fn settings_that_mean_nothing_together_are_refused_before_anything_starts() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("shipway.toml");
    for (text, expected) in [
        ("[registry.tls]\nclient-required = true\n", "--tls-client-required needs --tls-client-ca"),
        ("[registry.tls]\nclient-ca = \"ca.pem\"\n", "--tls-client-ca goes with --tls-cert"),
        (
            "[[registry.access]]\nuser = \"ada\"\ngroup = \"team\"\nrole = \"pull\"\n",
            "names user ada and group team",
        ),
    ] {
        std::fs::write(&file, text).expect("a file");
        let path = file.to_str().expect("UTF-8");
        for arguments in [&["check-config", path][..], &["serve", "--config", path]] {
            let arguments: Vec<&str> = [&["registry"], arguments].concat();
            check(&here(&arguments), USAGE, &[expected]);
        }
    }
}

#[test]
fn reference_that_does_not_parse_is_named() {
    check(&here(&["pull", "a//x"]), USAGE, &["a//x", "invalid reference format"]);
    check(&here(&["pull", "Nginx"]), USAGE, &["Nginx", "must be lowercase"]);
}

#[test]
fn registry_that_is_down_is_unreachable() {
    // A port that was free a moment ago: nobody listens there.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address").port()
    };
    let image = format!("127.0.0.1:{port}/app:1");
    check(&here(&["pull", &image]), UNREACHABLE, &[&image, "refused"]);
}

#[test]
fn machine_without_root_and_user_namespaces_is_told_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    // A user without a name, without capabilities, and with no user namespace left to make.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --ambient-caps=-all \
                  --inh-caps=-all --bounding-set=-all --no-new-privs \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--user", "--keep-caps", "sh", "-ec", script, "sh", env!("CARGO_BIN_EXE_shipway")])
        .arg("up")
        .env("SHIPWAY_STATE_DIR", directory.path().join("state"));
    check(&run(&mut command, ""), ENVIRONMENT, &["root"]);
}

#[test]
fn mistakes_on_a_running_machine_are_explained() {
    let machine = Machine::new(Kubectl::Machine);
    second_up(&machine);
    wrong_credentials(&machine);
    full_disk(&machine);
    corrupted_blob(&machine);
}

fn second_up(machine: &Machine) {
    let ports = ["--api-address=127.0.0.1:0", "--registry-address=127.0.0.1:0"];
    let ran = machine.shipway(&["up", ports[0], ports[1]]);
    check(&ran, ENVIRONMENT, &["already running", "shipway status"]);
}

fn wrong_credentials(machine: &Machine) {
    let registry = machine.registry.clone();
    let login = ["login", &registry, "--username", USER, "--password-stdin"];
    let ran = machine.shipway_with_input(&login, "not-the-password");
    check(&ran, DENIED, &[&registry, "401"]);
    assert!(!ran.stderr.contains("not-the-password"), "it is not repeated: {}", ran.stderr);
    check(&machine.shipway(&["pull", &format!("{registry}/app:1")]), DENIED, &["shipway login"]);
}

/// Flips a byte of a layer on disk: it is never served as good, and the error names the blob.
fn corrupted_blob(machine: &Machine) {
    let image = format!("{}/corrupt/app:1", machine.registry);
    machine.push_busybox(&image);
    let manifest = machine.shipway(&["inspect", "--raw", &image]).ok();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let hex = digest.split_once(':').expect("algorithm and hex").1.to_owned();
    let mut find = std::process::Command::new("find");
    find.arg(machine.state_dir().join("blobs")).args(["-type", "f", "-name", &hex]);
    let found = run(&mut find, "").ok();
    let path = found.lines().next().expect("the blob is a file named by its digest").to_owned();
    let mut bytes = std::fs::read(&path).expect("the blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mode = std::fs::metadata(&path).expect("the blob").permissions();
    std::fs::remove_file(&path).expect("root may remove it");
    std::fs::write(&path, bytes).expect("root may write it");
    std::fs::set_permissions(&path, mode).expect("a mode");
    // Another machine's store, so that the bytes really come over the wire.
    let other = machine.path("other-state");
    let ran = machine.shipway(&["--state-dir", other.to_str().expect("UTF-8"), "pull", &image]);
    check(&ran, FAILED, &[&digest]);
}

fn full_disk(machine: &Machine) {
    machine.login(&machine.registry, USER, PASSWORD);
    let small = machine.path("small");
    std::fs::create_dir_all(&small).expect("a directory");
    let small = small.to_str().expect("UTF-8").to_owned();
    let image = format!("{}/full/app:1", machine.registry);
    machine.push_busybox(&image);
    machine.shell(&format!("mount -t tmpfs -o size=256k tmpfs {small}")).ok();
    let ran = machine.shipway(&["--state-dir", &format!("{small}/state"), "pull", &image]);
    machine.shell(&format!("umount {small}")).ok();
    check(&ran, ENVIRONMENT, &["no space left on device"]);
}
