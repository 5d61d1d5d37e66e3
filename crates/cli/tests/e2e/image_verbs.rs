//! login, logout, copy, pull, push, inspect, tags and manifest against Debian's docker-registry.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::machine::{DebianRegistry, Ran, run, shipway};

/// A user's home beside a registry with the user `ada`, password `pw`.
struct Desk {
    home: tempfile::TempDir,
    _registry: DebianRegistry,
    address: String,
}

impl Desk {
    fn new() -> Self {
        let registry = DebianRegistry::start("ada", "pw");
        let address = registry.address.clone();
        Self { home: tempfile::tempdir().expect("a directory"), _registry: registry, address }
    }

    fn shipway(&self, line: &str, stdin: &str) -> Ran {
        let line = line.replace("REG", &self.address);
        let mut command = shipway();
        command
            .args(line.split(' '))
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("SHIPWAY_STATE_DIR", self.home.path().join("state"))
            .env_remove("DOCKER_CONFIG");
        run(&mut command, stdin)
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.shipway(line, "").ok()).expect("JSON")
    }

    fn log_in(&self) {
        self.shipway("login -u ada --password-stdin REG", "pw\n").ok();
    }

    /// Makes a docker archive `NAME.tar` with one small layer.
    fn archive(&self, name: &str, architecture: &str) {
        let place = self.home.path().join(name);
        std::fs::create_dir_all(place.join("tree")).expect("a directory");
        std::fs::write(place.join("tree/motd"), name).expect("a file");
        tar(&place, &["-C", "tree", "-cf", "layer.tar", "motd"]);
        let sum = run(Command::new("sha256sum").arg(place.join("layer.tar")), "").ok();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/motd"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", &sum[..64])]},
        });
        let saved = json!([{
            "Config": "config.json", "RepoTags": [format!("{name}:1")], "Layers": ["layer.tar"],
        }]);
        std::fs::write(place.join("config.json"), config.to_string()).expect("a file");
        std::fs::write(place.join("manifest.json"), saved.to_string()).expect("a file");
        let archive = format!("../{name}.tar");
        tar(&place, &["-cf", &archive, "manifest.json", "config.json", "layer.tar"]);
    }
}

fn tar(place: &Path, arguments: &[&str]) {
    run(Command::new("tar").current_dir(place).args(arguments), "").ok();
}

#[test]
fn login_checks_keeps_and_forgets_a_credential() {
    let desk = Desk::new();
    let path = desk.home.path().join(".docker/config.json");
    std::fs::create_dir(desk.home.path().join(".docker")).expect("a directory");
    std::fs::write(&path, r#"{"psFormat":"x","auths":{"other":{"auth":"YTpi"}}}"#).expect("a file");

    let refused = desk.shipway("login -u ada --password-stdin REG", "wrong");
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains("401 Unauthorized"), "{}", refused.stderr);
    let unasked = desk.shipway("login REG", "");
    assert_eq!(unasked.code, 2);

    let login = desk.shipway("login -u ada --password-stdin REG", "pw\n");
    assert!(login.stderr.contains("stored unencrypted"), "{}", login.stderr);
    assert_eq!(login.ok(), "Login Succeeded\n");
    let read = || -> Value {
        serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON")
    };
    assert_eq!(read()["auths"][&desk.address]["auth"], "YWRhOnB3");
    assert_eq!(read()["auths"]["other"]["auth"], "YTpi");
    assert_eq!(read()["psFormat"], "x");
    assert!(desk.shipway("login REG", "").ok().ends_with("Login Succeeded\n"));

    let logout = desk.shipway("logout REG", "").ok();
    assert_eq!(logout, format!("Removing login credentials for {}\n", desk.address));
    assert_eq!(read()["auths"], json!({"other": {"auth": "YTpi"}}));
    assert!(desk.shipway("logout REG", "").ok().starts_with("Not logged in"));
}

#[test]
fn login_gives_the_credential_to_a_helper() {
    use std::os::unix::fs::PermissionsExt as _;
    let desk = Desk::new();
    let bin = desk.home.path().join("bin");
    std::fs::create_dir(&bin).expect("a directory");
    let helper = bin.join("docker-credential-desk");
    let script = "#!/bin/sh\ncase $1 in\nstore) cat > \"$HOME/kept\";;\nget) sed s/ServerURL/X/ \"$HOME/kept\" 2>/dev/null || { echo credentials not found; exit 1; };;\nerase) rm -f \"$HOME/kept\";;\nesac\n";
    std::fs::write(&helper, script).expect("a file");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    std::fs::create_dir(desk.home.path().join(".docker")).expect("a directory");
    let path = desk.home.path().join(".docker/config.json");
    std::fs::write(&path, r#"{"credsStore":"desk"}"#).expect("a file");
    let call = |line: &str, stdin: &str| {
        let line = line.replace("REG", &desk.address);
        let mut command = shipway();
        let search = std::env::var("PATH").unwrap_or_default();
        command
            .args(line.split(' '))
            .env("HOME", desk.home.path())
            .env("PATH", format!("{}:{search}", bin.display()))
            .env("SHIPWAY_STATE_DIR", desk.home.path().join("state"))
            .env_remove("DOCKER_CONFIG");
        run(&mut command, stdin)
    };
    call("login -u ada --password-stdin REG", "pw").ok();
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(!text.contains("YWRhOnB3") && text.contains(&desk.address), "{text}");
    let kept = std::fs::read_to_string(desk.home.path().join("kept")).expect("a file");
    assert!(kept.contains("\"Secret\":\"pw\""), "{kept}");
    // The helper's answer opens the registry.
    desk.archive("app", "amd64");
    let archive = format!("docker-archive:{}/app.tar", desk.home.path().display());
    call(&format!("copy {archive} REG/team/app:1"), "").ok();
    call("logout REG", "").ok();
    assert!(!desk.home.path().join("kept").exists());
}

#[test]
fn images_travel_between_archives_registries_layouts_and_the_store() {
    let desk = Desk::new();
    desk.log_in();
    desk.archive("app", "amd64");
    let digest = desk.shipway("copy docker-archive:app.tar REG/team/app:1", "").ok();
    let digest = digest.trim();
    let inspected = desk.json("inspect -o json REG/team/app:1");
    assert_eq!(inspected["digest"], digest);
    assert_eq!(inspected["images"][0]["platform"], "linux/amd64");
    assert_eq!(inspected["images"][0]["config"]["Cmd"], json!(["/motd"]));
    assert_eq!(desk.json("tags -o json REG/team/app")["tags"], json!(["1"]));

    assert_eq!(desk.json("pull -o json REG/team/app:1")["digest"], digest);
    let pushed = desk.shipway("push REG/team/app:1 REG/other/app:2", "").ok();
    assert!(pushed.starts_with(&format!("2: digest: {digest} size: ")), "{pushed}");
    desk.shipway("copy REG/other/app:2 oci:layout:x", "").ok();
    desk.shipway("copy oci:layout:x store:local/app:3", "").ok();
    desk.shipway("copy store:local/app:3 docker-archive:out.tar", "").ok();
    let listed = run(Command::new("tar").arg("-tf").arg(desk.home.path().join("out.tar")), "").ok();
    assert!(listed.contains("manifest.json"), "{listed}");

    desk.shipway("logout REG", "").ok();
    let refused = desk.shipway("pull REG/team/app:1", "");
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains("no basic auth credentials"), "{}", refused.stderr);
    assert!(refused.stderr.contains("try: shipway login"), "{}", refused.stderr);
}

#[test]
fn lists_are_made_annotated_pushed_and_pulled_by_platform() {
    let desk = Desk::new();
    desk.log_in();
    desk.archive("amd", "amd64");
    desk.archive("arm", "amd64");
    desk.shipway("copy docker-archive:amd.tar REG/team/app:amd", "").ok();
    let arm = desk.shipway("copy docker-archive:arm.tar REG/other/app:arm", "").ok();
    let created =
        desk.shipway("manifest create REG/team/app:all REG/team/app:amd REG/other/app:arm", "");
    assert_eq!(created.ok(), format!("Created manifest list {}/team/app:all\n", desk.address));
    let again = desk.shipway("manifest create REG/team/app:all REG/team/app:amd", "");
    assert!(again.refused().contains("--amend"));
    desk.shipway(
        "manifest annotate REG/team/app:all REG/other/app:arm --arch arm64 --variant v8",
        "",
    )
    .ok();
    let shown = desk.json("manifest inspect REG/team/app:all");
    assert_eq!(shown["manifests"].as_array().map(Vec::len), Some(2));
    assert!(desk.home.path().join(".docker/manifests").is_dir());
    desk.shipway("manifest push --purge REG/team/app:all", "").ok();
    assert_eq!(desk.shipway("manifest rm REG/team/app:all", "").code, 4);

    let pulled = desk.json("pull -o json --platform linux/arm64 REG/team/app:all");
    assert_eq!(pulled["images"][0]["digest"], arm.trim());
    let missing = desk.shipway("pull --platform linux/s390x REG/team/app:all", "");
    assert_eq!(missing.code, 4);
    assert!(missing.stderr.contains("linux/arm64"), "{}", missing.stderr);
}
