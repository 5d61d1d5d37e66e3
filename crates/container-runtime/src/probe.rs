//! Which ways to run a step this machine permits, found out by trying them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::capability::CapabilitySet;
use crate::channel::Channel;
use crate::init::StdioFds;
use crate::launch;
use crate::reexec::{self, Entry};
use crate::syscall::{self, Cloned};
use crate::wire::{Failure, Namespace, Process, Root, Sandbox, Terminal, UserNamespace};

/// A way to run a step, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// Namespaces and an overlay mount, with CAP_SYS_ADMIN.
    Overlay,
    /// The same inside a user namespace.
    UserNamespace,
    /// The caller's own root, without namespaces: only in an image that is made for it.
    InPlace,
    /// A directory with `chroot(2)`, without namespaces.
    Chroot,
    /// No step can run; builds without RUN still work.
    None,
}

/// Why a mode cannot be used, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The mode.
    pub mode: Mode,
    /// What was tried, what the kernel answered, and what would permit it.
    pub reason: String,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The modes that work here, the best first; [`Mode::None`] is always the last.
    pub permitted: Vec<Mode>,
    /// The modes that do not, the best first.
    pub refused: Vec<Refusal>,
    /// The users of [`Mode::UserNamespace`]: every one, or only the caller as root.
    pub users: UserNamespace,
    /// Whether a user namespace gets its own `/proc`; if not, [`crate::run_step`] falls back
    /// to the caller's processes and their `/proc`.
    pub fresh_proc: bool,
}

/// Why nothing could be found out.
#[derive(Debug, Error)]
#[error("probe isolation in {dir}")]
pub struct ProbeError {
    dir: String,
    source: io::Error,
}

/// Tries every mode in a child process, with real mounts in `state_dir`.
///
/// [`Mode::InPlace`] is permitted to whoever has the rights for it; whether the root is the
/// caller's to change is the caller's to know.
///
/// # Errors
/// `state_dir` cannot be written, or the child was killed.
pub fn probe_isolation(state_dir: &Path) -> Result<Isolation, ProbeError> {
    let tried = || {
        let (mut helper, mut channel) =
            reexec::start(Entry::Probe, "", Stdio::null(), Stdio::null())?;
        channel.send(&state_dir, &[])?;
        let received = channel.receive::<Result<Isolation, String>>();
        helper.wait()?;
        received?.0.map_err(io::Error::other)
    };
    tried().map_err(|source| ProbeError { dir: state_dir.display().to_string(), source })
}

/// Runs the probe; returns its exit code.
pub(crate) fn main() -> u8 {
    let run = || -> io::Result<()> {
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let null = OwnedFd::from(fs::File::open("/dev/null")?);
        rustix::stdio::dup2_stdin(&null)?;
        let mut caller = Channel::new(socket);
        let (state_dir, _) = caller.receive::<PathBuf>()?;
        let dir = state_dir.join(format!(".probe.{}", std::process::id()));
        let found = fs::create_dir(&dir).map(|()| probe(&dir)).map_err(|e| e.to_string());
        let removed = remove(&dir).map_err(|error| error.to_string());
        caller.send(&found.and_then(|found| removed.map(|()| found)), &[])
    };
    u8::from(run().is_err())
}

/// Removes what was tried in. overlayfs leaves a directory of mode 0 in its work directory, which
/// only root can look into.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(dir)?;
            fs::remove_dir_all(dir)
        }
        removed => removed,
    }
}

fn open_up(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for item in fs::read_dir(dir)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            open_up(&item.path())?;
        }
    }
    Ok(())
}

fn probe(dir: &Path) -> Isolation {
    let mut found = Isolation {
        permitted: Vec::new(),
        refused: Vec::new(),
        users: UserNamespace::Identity,
        fresh_proc: true,
    };
    let mut note = |mode: Mode, result: Result<(), String>| match result {
        Ok(()) => found.permitted.push(mode),
        Err(reason) => found.refused.push(Refusal { mode, reason }),
    };
    note(Mode::Overlay, overlay(&dir.join("overlay")));
    let users = user_namespace(&dir.join("userns"));
    note(Mode::UserNamespace, users.as_ref().map(drop).map_err(Clone::clone));
    note(Mode::InPlace, in_place());
    note(Mode::Chroot, in_place().and_then(|()| chroot()));
    note(Mode::None, Ok(()));
    if let Ok((users, fresh_proc)) = users {
        found.users = users;
        found.fresh_proc = fresh_proc;
    }
    found
}

/// Runs nothing, in a sandbox on an overlay of two empty directories and one with a program
/// that is this one: what is wanted is that everything up to its start succeeds.
fn sandbox(dir: &Path, user: UserNamespace, pid: Namespace) -> Result<(), Failure> {
    let directory = |name: &str| -> Result<PathBuf, Failure> {
        let path = dir.join(name);
        fs::create_dir_all(&path)
            .map_err(|error| Failure::setup(format!("create {}", path.display()), error))?;
        Ok(path)
    };
    let lower = directory("lower")?;
    let program = lower.join("program");
    fs::write(&program, "")
        .and_then(|()| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        })
        .map_err(|error| Failure::setup(format!("create {}", program.display()), error))?;
    let root =
        Root::Overlay { lowers: vec![lower], upper: directory("upper")?, work: directory("work")? };
    let mut sandbox = Sandbox::new(root);
    sandbox.namespaces.user = user;
    sandbox.namespaces.pid = pid;
    let mut process = Process::new(["/program"]);
    // Creating it proves that the overlay takes a change.
    process.cwd = PathBuf::from("/new");
    let null = || -> io::Result<OwnedFd> {
        Ok(fs::File::options().read(true).write(true).open("/dev/null")?.into())
    };
    let stdio = || -> io::Result<StdioFds> {
        Ok(StdioFds { stdin: null()?, stdout: null()?, stderr: null()? })
    };
    let stdio = stdio().map_err(|error| Failure::setup("open /dev/null", error))?;
    let launched = launch::launch(&sandbox, &process, Terminal::None, Some(stdio), None)?;
    launch::discard(&launched.child);
    Ok(())
}

fn overlay(dir: &Path) -> Result<(), String> {
    sandbox(dir, UserNamespace::Host, Namespace::New).map_err(|failure| {
        let rights = Rights::read();
        let advice = if !rights.has(CapabilitySet::SYS_ADMIN) {
            "CAP_SYS_ADMIN is missing"
        } else if is_on_overlay(dir) {
            ON_OVERLAY
        } else if rights.filtered {
            "a seccomp filter forbids it"
        } else {
            "AppArmor or SELinux may forbid it"
        };
        format!("{failure} ({advice})")
    })
}

/// What to do about a state directory that no overlay mount can write to.
const ON_OVERLAY: &str = "the state directory is on overlayfs, which cannot be the upper of \
    another overlay: mount an emptyDir or a volume there";

fn is_on_overlay(dir: &Path) -> bool {
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    rustix::fs::statfs(dir).is_ok_and(|found| found.f_type == OVERLAYFS_SUPER_MAGIC)
}

fn user_namespace(dir: &Path) -> Result<(UserNamespace, bool), String> {
    let users = if rustix::process::geteuid().is_root() {
        UserNamespace::Identity
    } else {
        UserNamespace::CallerAsRoot
    };
    match sandbox(&dir.join("fresh"), users, Namespace::New) {
        Ok(()) => return Ok((users, true)),
        Err(Failure::FreshProcRefused { .. }) => {}
        Err(failure) => return Err(explain_user_namespace(&failure, dir)),
    }
    sandbox(&dir.join("shared"), users, Namespace::Host)
        .map(|()| (users, false))
        .map_err(|failure| explain_user_namespace(&failure, dir))
}

fn explain_user_namespace(failure: &Failure, dir: &Path) -> String {
    let number = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let advice = if Rights::read().filtered {
        "a seccomp filter forbids it: set seccompProfile Unconfined, or hostUsers: false"
    } else if number("/proc/sys/user/max_user_namespaces") == "0" {
        "user.max_user_namespaces is 0"
    } else if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "AppArmor restricts user namespaces"
    } else if failure.to_string().starts_with("overlay") && is_on_overlay(dir) {
        ON_OVERLAY
    } else if number("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "kernel.unprivileged_userns_clone is 0"
    } else {
        "AppArmor or SELinux may forbid it"
    };
    format!("{failure} ({advice})")
}

/// In place, files of every owner are written and users are changed.
fn in_place() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root: set runAsUser 0".to_owned());
    }
    let needed = CapabilitySet::from_add_drop(
        ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETUID", "SETGID"],
        ["ALL"],
    );
    let missing = needed.unwrap_or(CapabilitySet::EMPTY).difference(Rights::read().capabilities);
    match missing {
        CapabilitySet::EMPTY => Ok(()),
        missing => Err(format!("missing {missing}: keep the default capabilities")),
    }
}

fn chroot() -> Result<(), String> {
    let refused = |error: io::Error| format!("chroot: {error} (CAP_SYS_CHROOT is missing)");
    match syscall::clone_child(0, None).map_err(refused)? {
        Cloned::Child => syscall::exit_now(u8::from(rustix::process::chroot("/").is_err())),
        Cloned::Parent(child) => match launch::wait_for(child.pid) {
            Ok(exit) if exit.is_success() => Ok(()),
            _ => Err(refused(io::ErrorKind::PermissionDenied.into())),
        },
    }
}

/// What this process may do, for the explanation of what it could not.
struct Rights {
    capabilities: CapabilitySet,
    /// Whether a seccomp filter is in force.
    filtered: bool,
}

impl Rights {
    fn read() -> Self {
        let held = rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            capabilities: CapabilitySet::from_bits(held),
            filtered: mode.is_some_and(|mode| mode.trim() != "0"),
        }
    }

    fn has(&self, capability: CapabilitySet) -> bool {
        self.capabilities.contains(capability)
    }
}
