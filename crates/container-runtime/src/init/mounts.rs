//! The mounts of a container below its root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::inside::{self, Inside, Kind, Missing};
use super::root::{MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY, RootMount, Stub};
use super::{devices, layers, namespaces};
use crate::cgroup::CgroupView;
use crate::syscall::{self, MountChange};
use crate::wire::{
    Failure, Mount, MountSource, Namespace, Network, Propagation, Sandbox, UserNamespace,
};

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// One mount to make, its source open where it has one.
pub(super) struct Planned {
    target: PathBuf,
    what: What,
}

enum What {
    /// A file system of the kernel.
    New(NewFs),
    /// A detached copy of host mounts.
    Clone { tree: OwnedFd, change: MountChange },
    /// The union of directories, mounted when no mount can reach the host any more.
    Layers { lowers: Vec<PathBuf>, beneath: Option<PathBuf> },
    /// `/dev` with its nodes and links.
    Dev(devices::HostDevices),
    /// The control groups of the container at `/sys/fs/cgroup`.
    Cgroups(CgroupView),
}

struct NewFs {
    fs: &'static str,
    options: Vec<(&'static str, String)>,
    attributes: MountAttrFlags,
    /// What is bound instead where the kernel refuses the mount in a user namespace.
    fallback: Option<OwnedFd>,
}

/// Lists the mounts of a sandbox in the order they must be made, and opens their sources.
pub(super) fn plan(
    sandbox: &Sandbox,
    cgroup: Option<&CgroupView>,
) -> Result<Vec<Planned>, Failure> {
    let mut plan = standard(sandbox)?;
    if let Some(view) = cgroup {
        let target = PathBuf::from("/sys/fs/cgroup");
        plan.push(Planned { target, what: What::Cgroups(view.clone()) });
    }
    for device in &sandbox.devices {
        let tree = clone_tree(&device.host)?;
        let what = What::Clone { tree, change: MountChange::default() };
        plan.push(Planned { target: device.target.clone(), what });
    }
    for mount in &sandbox.mounts {
        let planned = requested(sandbox, mount)?;
        plan.retain(|other| !same_target(&other.target, &mount.target));
        plan.push(planned);
    }
    // Stable: of two mounts at the same depth the one listed first is made first.
    plan.sort_by_key(|planned| planned.target.components().count());
    Ok(plan)
}

/// The mount points of a plan that lie in the root itself, not on another mount.
pub(super) fn stubs(plan: &[Planned]) -> Vec<Stub> {
    let mut stubs: Vec<Stub> = Vec::new();
    for planned in plan {
        let covered = stubs
            .iter()
            .any(|stub| stub.kind == Kind::Directory && planned.target.starts_with(&stub.path));
        let kind = match &planned.what {
            What::Clone { tree, .. } => inside::kind_of(tree),
            // Whether it is a file is only known once it is mounted.
            What::Layers { beneath: Some(_), .. } => continue,
            What::New(_) | What::Dev(_) | What::Cgroups(_) | What::Layers { .. } => {
                Ok(Kind::Directory)
            }
        };
        if let (false, Ok(kind)) = (covered, kind) {
            stubs.push(Stub { path: planned.target.clone(), kind });
        }
    }
    stubs
}

fn same_target(a: &Path, b: &Path) -> bool {
    a.components().eq(b.components())
}

fn standard(sandbox: &Sandbox) -> Result<Vec<Planned>, Failure> {
    let own_users = sandbox.namespaces.user != UserNamespace::Host;
    let mut pts = vec![
        ("newinstance", String::new()),
        ("ptmxmode", "0666".to_owned()),
        ("mode", "0620".to_owned()),
    ];
    if sandbox.namespaces.user != UserNamespace::CallerAsRoot {
        pts.push(("gid", "5".to_owned()));
    }
    let shm = vec![("mode", "1777".to_owned()), ("size", (64 << 20).to_string())];
    let new = |target: &str, fs, options, attributes| Planned {
        target: target.into(),
        what: What::New(NewFs { fs, options, attributes, fallback: None }),
    };
    let dev = devices::HostDevices::open(sandbox.privileged)?;
    // The processes a shared PID namespace shows may not be a user namespace's to look at.
    let shared = own_users && sandbox.namespaces.pid != Namespace::New;
    let fallback = if shared { Some(clone_tree(Path::new("/proc"))?) } else { None };
    let attributes = NOSUID | NODEV | NOEXEC;
    let proc = NewFs { fs: "proc", options: Vec::new(), attributes, fallback };
    let mut plan = vec![
        Planned { target: "/proc".into(), what: What::New(proc) },
        Planned { target: "/dev".into(), what: What::Dev(dev) },
        new("/dev/pts", "devpts", pts, NOSUID | NOEXEC),
        sys(sandbox, own_users)?,
    ];
    if sandbox.namespaces.ipc == Namespace::Host {
        for target in ["/dev/shm", "/dev/mqueue"] {
            plan.extend(host_tree(target, MountChange::default()));
        }
    } else {
        plan.push(new("/dev/shm", "tmpfs", shm, NOSUID | NODEV | NOEXEC));
        plan.push(new("/dev/mqueue", "mqueue", Vec::new(), NOSUID | NODEV | NOEXEC));
    }
    Ok(plan)
}

/// A new `/sys` belongs to a network namespace: in a user namespace it can only be mounted for
/// one of its own.
fn sys(sandbox: &Sandbox, own_users: bool) -> Result<Planned, Failure> {
    let target = PathBuf::from("/sys");
    let mut attributes = NOSUID | NODEV | NOEXEC;
    let mut change = MountChange { recursive: true, ..MountChange::default() };
    if !sandbox.privileged {
        attributes |= RDONLY;
        change.set = MOUNT_ATTR_RDONLY;
    }
    if own_users && sandbox.namespaces.network != Network::None {
        let what = What::Clone { tree: clone_tree(&target)?, change };
        return Ok(Planned { target, what });
    }
    let fallback = if own_users { Some(clone_tree(&target)?) } else { None };
    let what = What::New(NewFs { fs: "sysfs", options: Vec::new(), attributes, fallback });
    Ok(Planned { target, what })
}

/// A mount of the host, if it has it.
fn host_tree(path: &str, change: MountChange) -> Option<Planned> {
    let tree = clone_tree(path.as_ref()).ok()?;
    Some(Planned { target: path.into(), what: What::Clone { tree, change } })
}

pub(super) fn clone_tree(path: &Path) -> Result<OwnedFd, Failure> {
    open_tree(CWD, path, clone_flags())
        .map_err(|error| Failure::setup(format!("bind {}", path.display()), error))
}

fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE
}

pub(super) fn clone_of(fd: impl AsFd) -> rustix::io::Result<OwnedFd> {
    open_tree(fd, "", clone_flags() | OpenTreeFlags::AT_EMPTY_PATH)
}

fn requested(sandbox: &Sandbox, mount: &Mount) -> Result<Planned, Failure> {
    let target = mount.target.clone();
    match &mount.source {
        MountSource::Tmpfs { bytes_max, mode } => {
            let mut options = vec![("mode", format!("{mode:o}"))];
            options.extend(bytes_max.map(|bytes| ("size", bytes.to_string())));
            let readonly = if mount.readonly { RDONLY } else { MountAttrFlags::empty() };
            let attributes = NOSUID | NODEV | readonly;
            let new = NewFs { fs: "tmpfs", options, attributes, fallback: None };
            Ok(Planned { target, what: What::New(new) })
        }
        MountSource::Bind { path, beneath } => {
            let tree = match beneath {
                None => clone_tree(path)?,
                Some(below) => {
                    let opened = inside::open_beneath(path, below, Missing::Create);
                    opened.and_then(clone_of).map_err(|error| {
                        let shown = format!("bind {} of {}", below.display(), path.display());
                        Failure::setup(shown, beneath_error(error))
                    })?
                }
            };
            let mut change = MountChange { recursive: true, ..MountChange::default() };
            if mount.readonly {
                change.set |= MOUNT_ATTR_RDONLY;
            }
            if !sandbox.privileged {
                change.set |= MOUNT_ATTR_NODEV;
            }
            change.propagation = match mount.propagation {
                Propagation::Private => libc::MS_PRIVATE,
                Propagation::Slave => libc::MS_SLAVE,
                Propagation::Shared => libc::MS_SHARED,
            };
            Ok(Planned { target, what: What::Clone { tree, change } })
        }
        MountSource::Layers { lowers, beneath } => {
            let what = What::Layers { lowers: lowers.clone(), beneath: beneath.clone() };
            Ok(Planned { target, what })
        }
    }
}

pub(super) fn beneath_error(error: Errno) -> String {
    match error {
        Errno::XDEV => "the path leads out of the volume".to_owned(),
        error => error.to_string(),
    }
}

/// Makes the mounts.
pub(super) fn perform(
    sandbox: &Sandbox,
    plan: &mut Vec<Planned>,
    mut inside: Inside<'_>,
) -> Result<(), Failure> {
    for planned in plan.drain(..) {
        let target = &planned.target;
        let failed = |error: String| Failure::setup(format!("mount {}", target.display()), error);
        match planned.what {
            What::New(new) => {
                let tree = new_fs(&new)?;
                place(&mut inside, target, Kind::Directory, &tree)
                    .map_err(|error| failed(error.to_string()))?;
            }
            What::Clone { tree, change } => {
                let kind = inside::kind_of(&tree).map_err(|error| failed(error.to_string()))?;
                syscall::mount_setattr(&tree, change).map_err(|error| failed(error.to_string()))?;
                place(&mut inside, target, kind, &tree)
                    .map_err(|error| failed(error.to_string()))?;
            }
            What::Layers { lowers, beneath } => {
                let tree =
                    layers::mount(sandbox, &lowers, beneath.as_deref()).map_err(|error| {
                        let target = target.display().to_string();
                        Failure::Layers { target, message: error.to_string() }
                    })?;
                let kind = inside::kind_of(&tree).map_err(|error| failed(error.to_string()))?;
                place(&mut inside, target, kind, &tree)
                    .map_err(|error| failed(error.to_string()))?;
            }
            What::Dev(host) => devices::mount(&host, &mut inside)?,
            What::Cgroups(view) => cgroups(&view, &mut inside)?,
        }
    }
    Ok(())
}

/// Attaches a detached mount at a path inside the root.
pub(super) fn place(
    inside: &mut Inside<'_>,
    target: &Path,
    kind: Kind,
    tree: &OwnedFd,
) -> std::io::Result<()> {
    let at = inside.ensure(target, kind)?;
    Ok(place_at(tree, &at)?)
}

pub(super) fn place_at(tree: &OwnedFd, at: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", at, "", flags)
}

fn new_fs(new: &NewFs) -> Result<OwnedFd, Failure> {
    match (new_detached(new.fs, &new.options, new.attributes), &new.fallback) {
        (Ok(tree), _) => Ok(tree),
        (Err(Errno::PERM), None) if new.fs == "proc" => {
            Err(Failure::FreshProcRefused { message: Errno::PERM.to_string() })
        }
        (Err(Errno::PERM), Some(fallback)) => {
            let attributes = u64::from(new.attributes.bits()) & MOUNT_ATTR_RDONLY;
            let change = MountChange { set: attributes, recursive: true, ..MountChange::default() };
            let tree = clone_of(fallback)
                .map_err(|error| Failure::setup(format!("bind instead of {}", new.fs), error))?;
            syscall::mount_setattr(&tree, change)
                .map_err(|error| Failure::setup(format!("bind instead of {}", new.fs), error))?;
            Ok(tree)
        }
        (Err(error), _) => Err(Failure::setup(format!("file system {}", new.fs), error)),
    }
}

/// A new file system that is attached nowhere yet.
pub(super) fn new_detached(
    fs: &str,
    options: &[(&str, String)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", fs)?;
    for (key, value) in options {
        match value.as_str() {
            "" => fsconfig_set_flag(&context, *key)?,
            value => fsconfig_set_string(&context, *key, value)?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Shows the container its own control groups, read-only, where language runtimes look for
/// their limits.
fn cgroups(view: &CgroupView, inside: &mut Inside<'_>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::setup("mount /sys/fs/cgroup", error);
    let target = Path::new("/sys/fs/cgroup");
    match view {
        CgroupView::Unified => {
            namespaces::unshare_cgroup().map_err(failed)?;
            let attributes = NOSUID | NODEV | NOEXEC | RDONLY;
            let tree = new_detached("cgroup2", &[], attributes).map_err(|e| failed(e.into()))?;
            place(inside, target, Kind::Directory, &tree).map_err(failed)
        }
        CgroupView::Hierarchies(hierarchies) => {
            let options = [("mode", "755".to_owned())];
            let tree = new_detached("tmpfs", &options, NOSUID | NODEV | NOEXEC)
                .map_err(|e| failed(e.into()))?;
            place(inside, target, Kind::Directory, &tree).map_err(failed)?;
            for (name, dir) in hierarchies {
                let group = clone_tree(dir)?;
                let readonly = MountChange { set: MOUNT_ATTR_RDONLY, ..MountChange::default() };
                syscall::mount_setattr(&group, readonly).map_err(failed)?;
                place(inside, &target.join(name), Kind::Directory, &group).map_err(failed)?;
            }
            let readonly = MountChange { set: MOUNT_ATTR_RDONLY, ..MountChange::default() };
            syscall::mount_setattr(&tree, readonly).map_err(failed)
        }
    }
}

/// Hides the masked paths and protects the read-only ones; what does not exist is skipped.
pub(super) fn restrict(sandbox: &Sandbox, root: &RootMount) -> Result<(), Failure> {
    for path in &sandbox.masked_paths {
        mask(root, path)
            .map_err(|error| Failure::setup(format!("mask {}", path.display()), error))?;
    }
    for path in &sandbox.readonly_paths {
        protect(root, path)
            .map_err(|error| Failure::setup(format!("protect {}", path.display()), error))?;
    }
    Ok(())
}

fn mask(root: &RootMount, path: &Path) -> std::io::Result<()> {
    let at = match inside::open_path(&root.fd, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = match inside::kind_of(&at)? {
        Kind::Directory => {
            new_detached("tmpfs", &[("size", "0".to_owned())], NOSUID | NODEV | NOEXEC | RDONLY)?
        }
        Kind::File => {
            let null = inside::open_path(&root.fd, Path::new("/dev/null"))?;
            clone_of(null)?
        }
    };
    Ok(place_at(&tree, &at)?)
}

fn protect(root: &RootMount, path: &Path) -> std::io::Result<()> {
    let at = match inside::open_path(&root.fd, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = clone_of(&at)?;
    let readonly =
        MountChange { set: MOUNT_ATTR_RDONLY, recursive: true, ..MountChange::default() };
    syscall::mount_setattr(&tree, readonly)?;
    Ok(place_at(&tree, &at)?)
}
