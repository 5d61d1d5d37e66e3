//! The real programs that the tests drive: Debian packages, installed when missing, never skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::tidy;

/// A program that a test starts, and the Debian package that has it.
const PEERS: &[(&str, &str)] = &[
    ("skopeo", "skopeo"),
    ("buildah", "buildah"),
    ("podman", "podman"),
    ("containerd", "containerd"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("docker-registry", "docker-registry"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
    ("htpasswd", "apache2-utils"),
    ("umoci", "umoci"),
    ("git", "git"),
    ("ssh-agent", "openssh-client"),
    ("tar", "tar"),
    ("debootstrap", "debootstrap"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("perl", "perl-base"),
    ("strace", "strace"),
];

/// Debian's kubectl is unpacked here and not installed: it must not replace the machine's own.
const DEBIAN_KUBECTL: &str = "target/peers/kubernetes-client";

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&str> = PEERS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    let kubectl = tidy::root().join(DEBIAN_KUBECTL).join("usr/bin/kubectl");
    if !missing.is_empty() || !kubectl.exists() {
        apt(&["update", "-qq"])?;
    }
    if !missing.is_empty() {
        println!("peers: installing {}", missing.join(" "));
        let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
        arguments.extend(&missing);
        apt(&arguments)?;
    }
    if !kubectl.exists() {
        unpack_debian_kubectl(&tidy::root().join(DEBIAN_KUBECTL))?;
    }
    // Without a kubectl of its own the machine tests with Debian's alone; the tests say which.
    for (program, package) in PEERS {
        ensure!(
            find_program(program).is_some(),
            "{program} is still missing after installing the Debian package {package}"
        );
    }
    Ok(())
}

fn unpack_debian_kubectl(into: &Path) -> Result<()> {
    std::fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    run(Command::new("apt-get").args(["download", "-qq", "kubernetes-client"]).current_dir(into))?;
    let package = std::fs::read_dir(into)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let Some(package) = package else { bail!("apt-get downloaded no kubernetes-client package") };
    run(Command::new("dpkg").arg("-x").arg(&package).arg(into))
}

fn apt(arguments: &[&str]) -> Result<()> {
    run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn find_program(name: &str) -> Option<PathBuf> {
    // Debian keeps some of these in sbin, which is not in every user's PATH.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}
