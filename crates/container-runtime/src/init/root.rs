//! The root mount of a container and the move into it.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree,
};

use super::inside::Kind;
use crate::syscall::{self, MountChange};
use crate::wire::{Failure, Root, Sandbox, UserNamespace};

/// The longest string that `fsconfig(2)` takes, in bytes.
const FSCONFIG_BYTES_MAX: usize = 255;

pub(super) const MOUNT_ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(super) const MOUNT_ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
pub(super) const MOUNT_ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;

/// The root of a container, attached but not yet moved into.
pub(crate) struct RootMount {
    /// Its root directory.
    pub(crate) fd: OwnedFd,
    /// Where it hangs in the mount namespace of the container until the move.
    pub(crate) attached_at: PathBuf,
}

/// Mounts the root of a sandbox in the mount namespace of this process.
///
/// `stubs` are mount points that will be needed; an overlay gets them from a layer below all
/// others, so that none has to be created in the upper directory.
pub(super) fn mount(sandbox: &Sandbox, stubs: &[Stub]) -> Result<RootMount, Failure> {
    let (fd, at) = match &sandbox.root {
        Root::Directory(dir) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let fd = open_tree(CWD, dir, flags)
                .map_err(|error| Failure::setup(format!("root {}", dir.display()), error))?;
            let nodev = MountChange { set: MOUNT_ATTR_NODEV, ..MountChange::default() };
            if !sandbox.privileged {
                syscall::mount_setattr(&fd, nodev)
                    .map_err(|error| Failure::setup("forbid devices in the root", error))?;
            }
            (fd, dir)
        }
        Root::Overlay { lowers, upper, work } => {
            (overlay(sandbox, lowers, Some((upper, work)), stubs)?, upper)
        }
        Root::OverlayReadOnly { lowers } => {
            let Some(top) = lowers.first() else {
                return Err(Failure::setup("overlay root", "no layer"));
            };
            (overlay(sandbox, lowers, None, stubs)?, top)
        }
    };
    attach(&fd, at).map_err(|error| Failure::setup("attach the root", error))?;
    let attached_at = path_of(&fd).map_err(|error| Failure::setup("find the root", error))?;
    Ok(RootMount { fd, attached_at })
}

pub(super) fn attach(mount: &OwnedFd, at: &Path) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(mount, "", CWD, at, flags)
}

/// Where a descriptor lies for this process.
pub(super) fn path_of(fd: impl AsFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Layers opened by descriptor: a path through `/proc/self/fd` is short, and free of the
/// characters that options of a mount cannot hold.
struct Layers {
    lowers: Vec<OwnedFd>,
    upper: Option<(OwnedFd, OwnedFd)>,
}

fn by_fd(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(super) fn overlay(
    sandbox: &Sandbox,
    lowers: &[PathBuf],
    upper: Option<(&PathBuf, &PathBuf)>,
    stubs: &[Stub],
) -> Result<OwnedFd, Failure> {
    let open = |path: &PathBuf| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|error| Failure::setup(format!("layer {}", path.display()), error))
    };
    if let Some((_, work)) = upper {
        // What a volatile mount leaves to say that a crash may have torn the upper directory.
        // No container survives a crash of the machine, so it says nothing here.
        let _ = fs::remove_dir_all(work.join("work/incompat"));
    }
    let mut layers = Layers {
        lowers: lowers.iter().map(open).collect::<Result<_, _>>()?,
        upper: match upper {
            Some((upper, work)) => Some((open(upper)?, open(work)?)),
            None => None,
        },
    };
    let mut lowers: Vec<_> = lowers.iter().cloned().map(Some).collect();
    let over = upper.map_or(lowers.first().cloned().flatten(), |(_, work)| Some(work.clone()));
    if let Some((over, fd)) = over.and_then(|over| stub_layer(over, stubs)) {
        // What is covered now can only be named by its descriptor.
        for covered in lowers.iter_mut().filter(|lower| lower.as_ref() == Some(&over)) {
            *covered = None;
        }
        layers.lowers.push(fd);
        lowers.push(Some(over));
    }
    match overlay_by_fsconfig(sandbox, &layers, &lowers) {
        // "lowerdir+" came with Linux 6.5.
        Err((Errno::INVAL, _)) => overlay_by_options(sandbox, &layers),
        other => other,
    }
    .map_err(|(error, log)| {
        Failure::setup(format!("overlay of {} layers", lowers.len()), with_log(error, &log))
    })
}

/// A mount point that must exist.
pub(super) struct Stub {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

/// A layer in memory that holds nothing but mount points.
///
/// It is attached over a directory whose descriptor is open already, in this mount namespace
/// only. Without it mount points are created in the root when they are needed, so a failure
/// here is none.
fn stub_layer(over: PathBuf, stubs: &[Stub]) -> Option<(PathBuf, OwnedFd)> {
    if stubs.is_empty() {
        return None;
    }
    let options = [("mode", "755".to_owned())];
    let layer = super::mounts::new_detached("tmpfs", &options, MountAttrFlags::empty()).ok()?;
    for stub in stubs {
        make_stub(&layer, stub).ok()?;
    }
    attach(&layer, &over).ok()?;
    Some((over, layer))
}

fn make_stub(layer: &OwnedFd, stub: &Stub) -> rustix::io::Result<()> {
    let names = stub.path.strip_prefix("/").unwrap_or(&stub.path);
    let mut path = PathBuf::new();
    let mut components = names.components().peekable();
    while let Some(component) = components.next() {
        if !matches!(component, Component::Normal(_)) {
            return Err(Errno::INVAL);
        }
        path.push(component);
        let is_file = components.peek().is_none() && stub.kind == Kind::File;
        let made = if is_file {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(layer, &path, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            rustix::fs::mkdirat(layer, &path, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn with_log(error: Errno, log: &str) -> String {
    if log.is_empty() { error.to_string() } else { format!("{error} ({log})") }
}

fn overlay_by_fsconfig(
    sandbox: &Sandbox,
    layers: &Layers,
    paths: &[Option<PathBuf>],
) -> Result<OwnedFd, (Errno, String)> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| (e, String::new()))?;
    let configure = || -> rustix::io::Result<()> {
        fsconfig_set_string(&context, "source", "shipway")?;
        for (fd, path) in layers.lowers.iter().zip(paths) {
            // The plain path where it fits: it is what `mount` shows.
            match path.as_deref().and_then(Path::to_str).filter(|text| is_plain(text)) {
                Some(text) => fsconfig_set_string(&context, "lowerdir+", text)?,
                None => fsconfig_set_string(&context, "lowerdir+", by_fd(fd))?,
            }
        }
        if let Some((upper, work)) = &layers.upper {
            fsconfig_set_string(&context, "upperdir", by_fd(upper))?;
            fsconfig_set_string(&context, "workdir", by_fd(work))?;
            // Without it every end of a container syncs the whole file system.
            fsconfig_set_flag(&context, "volatile")?;
        }
        if sandbox.namespaces.user != UserNamespace::Host {
            fsconfig_set_flag(&context, "userxattr")?;
        }
        fsconfig_create(&context)
    };
    if let Err(error) = configure() {
        return Err((error, log_of(&context)));
    }
    let mut attributes = MountAttrFlags::empty();
    if !sandbox.privileged {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|error| (error, log_of(&context)))
}

fn is_plain(path: &str) -> bool {
    path.len() <= FSCONFIG_BYTES_MAX && !path.contains([':', ',', '\\'])
}

/// What the kernel wrote about a failed mount.
pub(super) fn log_of(context: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut bytes = [0; 1024];
    let Ok(context) = context.try_clone() else { return String::new() };
    let mut context = fs::File::from(context);
    // Each read gives one line; an end of file or ENODATA ends it.
    while let Ok(length @ 1..) = context.read(&mut bytes) {
        lines.push(String::from_utf8_lossy(&bytes[..length]).trim().to_owned());
    }
    lines.join("; ")
}

fn overlay_by_options(sandbox: &Sandbox, layers: &Layers) -> Result<OwnedFd, (Errno, String)> {
    let plain = |error| (error, String::new());
    let lowers: Vec<_> = layers.lowers.iter().map(by_fd).collect();
    let mut options = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = &layers.upper {
        options.push_str(&format!(",upperdir={},workdir={},volatile", by_fd(upper), by_fd(work)));
    }
    if sandbox.namespaces.user != UserNamespace::Host {
        options.push_str(",userxattr");
    }
    let options = std::ffi::CString::new(options).map_err(|_| plain(Errno::INVAL))?;
    let mut flags = MountFlags::empty();
    if !sandbox.privileged {
        flags |= MountFlags::NODEV;
    }
    // Mounted over the top layer, cloned, and taken away again, to have it as a descriptor.
    let at = layers.upper.as_ref().map_or(layers.lowers.first(), |(upper, _)| Some(upper));
    let at = by_fd(at.ok_or(plain(Errno::INVAL))?);
    rustix::mount::mount("shipway", at.as_str(), "overlay", flags, options.as_c_str())
        .map_err(plain)?;
    let at = fs::read_link(&at).map_err(|_| plain(Errno::NOENT))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = open_tree(CWD, &at, clone).map_err(plain)?;
    rustix::mount::unmount(&at, UnmountFlags::DETACH).map_err(plain)?;
    Ok(fd)
}

/// Makes the root mount the root of this mount namespace and drops the host's.
pub(super) fn pivot(root: &RootMount) -> Result<(), Failure> {
    let failed = |error: Errno| Failure::setup("pivot_root", error);
    rustix::process::fchdir(&root.fd).map_err(failed)?;
    match rustix::process::pivot_root(".", ".") {
        // A caller with CAP_SYS_ADMIN under seccomp RuntimeDefault may mount but not pivot.
        Err(Errno::PERM) => return move_over_root(root).map_err(failed),
        other => other.map_err(failed)?,
    }
    // The old root lies over the new one; it takes the host's mounts with it.
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)
}

/// Covers the old root with the new one; the host's mounts stay below, out of reach without
/// CAP_SYS_CHROOT outside.
fn move_over_root(root: &RootMount) -> rustix::io::Result<()> {
    attach(&root.fd, Path::new("/"))?;
    rustix::process::fchdir(&root.fd)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

pub(super) fn make_readonly(root: &RootMount) -> Result<(), Failure> {
    let readonly = MountChange { set: MOUNT_ATTR_RDONLY, ..MountChange::default() };
    syscall::mount_setattr(&root.fd, readonly)
        .map_err(|error| Failure::setup("make the root read-only", error))
}
