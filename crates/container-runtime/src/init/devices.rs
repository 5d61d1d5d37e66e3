//! `/dev` of a container.
//!
//! Nodes are bind mounts of the host's, on a tmpfs that no node works on: with CAP_MKNOD in the
//! default set a container could else make a node for the host's disk, and not every machine
//! has a control group that would forbid its use.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::inside::{self, Inside, Kind};
use super::mounts;
use crate::wire::Failure;

/// Nodes every container has.
const STANDARD: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links every container has.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Names below `/dev` that a privileged container gets of its own instead of the host's.
const OWN: [&str; 5] = ["pts", "shm", "mqueue", "console", "ptmx"];

/// Directories below `/dev` searched for nodes, nested this deep at most.
const DEPTH_MAX: usize = 4;

/// What is taken from the host, opened before its mounts are left.
pub(super) enum HostDevices {
    /// Detached mounts of the standard nodes.
    Standard(Vec<(&'static str, OwnedFd)>),
    /// Every node, to be made anew.
    All(Vec<Node>),
}

pub(super) struct Node {
    path: PathBuf,
    file_type: FileType,
    mode: u32,
    device: u64,
}

impl HostDevices {
    pub(super) fn open(privileged: bool) -> Result<Self, Failure> {
        if privileged {
            let mut nodes = Vec::new();
            collect(Path::new("/dev"), Path::new(""), 0, &mut nodes);
            return Ok(Self::All(nodes));
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mut nodes = Vec::new();
        for name in STANDARD {
            match open_tree(CWD, format!("/dev/{name}"), flags) {
                Ok(fd) => nodes.push((name, fd)),
                // A minimal host may lack some; programs look for them before use.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(Failure::setup(format!("device {name}"), error)),
            }
        }
        Ok(Self::Standard(nodes))
    }
}

/// Unreadable or vanishing entries are skipped: a host adds and removes devices at any time.
fn collect(dir: &Path, below: &Path, depth: usize, nodes: &mut Vec<Node>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let path = below.join(&name);
        if depth == 0 && OWN.iter().any(|own| name == *own) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        let file_type = metadata.file_type();
        if file_type.is_dir() && depth < DEPTH_MAX {
            collect(&entry.path(), &path, depth + 1, nodes);
        } else if file_type.is_char_device() || file_type.is_block_device() {
            nodes.push(Node {
                path,
                file_type: FileType::from_raw_mode(metadata.mode()),
                mode: metadata.mode() & 0o7777,
                device: metadata.rdev(),
            });
        }
    }
}

/// Mounts `/dev` and fills it.
pub(super) fn mount(host: &HostDevices, inside: &mut Inside<'_>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::setup("mount /dev", error);
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    if let HostDevices::Standard(_) = host {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    let options = [("mode", "755".to_owned()), ("size", (64 << 20).to_string())];
    let dev = mounts::new_detached("tmpfs", &options, attributes).map_err(|e| failed(e.into()))?;
    mounts::place(inside, Path::new("/dev"), Kind::Directory, &dev).map_err(failed)?;
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name).map_err(|e| failed(e.into()))?;
    }
    match host {
        HostDevices::Standard(nodes) => {
            for (name, node) in nodes {
                mounts::place(inside, &Path::new("/dev").join(name), Kind::File, node)
                    .map_err(failed)?;
            }
        }
        HostDevices::All(nodes) => {
            for node in nodes {
                make(&dev, node).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn make(dev: &OwnedFd, node: &Node) -> std::io::Result<()> {
    let mut dir = PathBuf::new();
    for component in node.path.parent().into_iter().flat_map(Path::components) {
        dir.push(component);
        match rustix::fs::mkdirat(dev, &dir, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mode = Mode::from_raw_mode(node.mode);
    Ok(rustix::fs::mknodat(dev, &node.path, node.file_type, mode, node.device)?)
}

/// Makes `/dev/console` exist, which the terminal will be mounted on.
pub(super) fn console_mount_point(mut inside: Inside<'_>) -> Result<(), Failure> {
    inside
        .ensure(Path::new("/dev/console"), Kind::File)
        .map(drop)
        .map_err(|error| Failure::setup("create /dev/console", error))
}

/// Mounts a terminal of the container's own `/dev/pts` on `/dev/console`.
pub(super) fn mount_console(terminal: &Path) -> rustix::io::Result<()> {
    if !inside::exists_at(CWD, "/dev/console") {
        return Ok(());
    }
    rustix::mount::mount_bind(terminal, "/dev/console")
}
