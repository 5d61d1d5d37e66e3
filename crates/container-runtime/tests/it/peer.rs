//! The same container under Debian's runc.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use container_runtime::{Root, Sandbox};

use crate::Outcome;
use crate::fixture::{Fixture, Result, same, shell};

crate::tests!(container_looks_like_the_one_of_runc);

/// Shows what a process is and what it sees.
const SHOW: &str = "grep -E '^(Umask|Uid|Gid|Groups|SigBlk|SigPnd|Cap.*|\
    NoNewPrivs|Seccomp|Threads):' /proc/self/status | tr -s '\\t' ' '; \
    awk '{print \"mount\", $5}' /proc/self/mountinfo; \
    for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a %u:%g' /dev/$d; done; \
    for l in fd stdin stdout stderr ptmx; do stat -c '%N' /dev/$l; done; \
    stat -f -c '%n %T' /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; \
    env | sort; ulimit -c; cat /proc/self/oom_score_adj; readlink /proc/self/root; pwd";

/// The fourteen of docker and containerd.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn strings(items: impl IntoIterator<Item = impl AsRef<str>>) -> serde_json::Value {
    items.into_iter().map(|item| item.as_ref().to_owned()).collect()
}

/// Runs the script under runc on the same root; its hybrid-cgroup check fails on an empty
/// version 2 tree, which is therefore hidden.
fn under_runc(fixture: &Fixture) -> Result<String> {
    let bundle = fixture.path("bundle");
    fs::create_dir(&bundle)?;
    let made = Command::new("runc").arg("spec").current_dir(&bundle).status()?;
    same(made.success(), true)?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    let set = strings(CAPABILITIES.map(|name| format!("CAP_{name}")));
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = strings(["/bin/sh", "-c", SHOW]);
    config["process"]["env"] = strings(["PATH=/bin"]);
    config["process"]["noNewPrivileges"] = false.into();
    config["process"]["rlimits"] = serde_json::Value::Array(Vec::new());
    config["process"]["capabilities"] = serde_json::json!({
        "bounding": set, "effective": set, "permitted": set,
    });
    config["root"] = serde_json::json!({ "path": fixture.lower(), "readonly": true });
    config["linux"]["maskedPaths"] = strings(Sandbox::MASKED_PATHS);
    config["linux"]["readonlyPaths"] = strings(Sandbox::READONLY_PATHS);
    config["linux"]["namespaces"]
        .as_array_mut()
        .ok_or("no namespaces")?
        .retain(|namespace| namespace["type"] != "network");
    fs::write(&path, serde_json::to_vec(&config)?)?;
    let script =
        "umount /sys/fs/cgroup/unified 2>/dev/null; exec runc --root \"$1\" run -b \"$2\" \"$3\"";
    let id = format!("peer-{}", std::process::id());
    let ran = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([fixture.path("runc"), bundle, PathBuf::from(id)])
        .output()?;
    same(String::from_utf8_lossy(&ran.stderr).as_ref(), "")?;
    Ok(String::from_utf8(ran.stdout)?)
}

/// Lines to compare: runc shows control groups that ours has only with limits, and has its
/// device nodes on `/dev` itself.
fn comparable(text: &str) -> BTreeSet<String> {
    let nodes = ["null", "zero", "full", "random", "urandom", "tty"];
    let different = |line: &str| {
        line.strip_prefix("mount ").is_some_and(|path| {
            path.starts_with("/sys/fs/cgroup")
                || nodes.iter().any(|node| path.strip_prefix("/dev/") == Some(node))
        })
    };
    text.lines().filter(|line| !different(line)).map(str::to_owned).collect()
}

fn container_looks_like_the_one_of_runc() -> Outcome {
    let fixture = Fixture::new()?;
    for name in ["proc", "dev", "sys"] {
        fs::create_dir_all(fixture.lower().join(name))?;
    }
    let theirs = comparable(&under_runc(&fixture)?);
    let mut spec = fixture.script("a", "")?;
    spec.process = shell(SHOW);
    spec.sandbox = Sandbox::new(Root::Directory(fixture.lower()));
    spec.sandbox.readonly_root = true;
    let ours = comparable(&fixture.run("a", &spec)?.output);
    let differing: Vec<_> = ours.symmetric_difference(&theirs).collect();
    same(differing, Vec::new())?;
    same(ours.len() > 40, true)
}
