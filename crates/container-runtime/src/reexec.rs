//! Helper processes: this very program, started again under another name.
//!
//! Namespaces can only be made by a process with one thread, and forking one with many is not
//! safe, so every container begins with a fresh process of the same binary.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::channel::Channel;
use crate::syscall::{self, MountChange};
use crate::{probe, shim, step};

const SHIM: &str = "shipway:shim";
const STEP: &str = "shipway:step";
const PROBE: &str = "shipway:probe";

/// A helper to start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// Watches over one container.
    Shim,
    /// Runs one step in the foreground.
    Step,
    /// Tries what is permitted here.
    Probe,
}

impl Entry {
    fn name(self) -> &'static str {
        match self {
            Self::Shim => SHIM,
            Self::Step => STEP,
            Self::Probe => PROBE,
        }
    }
}

/// Runs the helper that this process was started as, and then does not return.
///
/// Must be the first call of `main`, before any thread exists: the runtime starts its helpers
/// as `/proc/self/exe` under names of its own.
pub fn reexec() {
    let Some(name) = std::env::args_os().next() else { return };
    let code = match name.to_str() {
        Some(SHIM) => shim::main(),
        Some(STEP) => step::main(),
        Some(PROBE) => probe::main(),
        _ => return,
    };
    syscall::exit_now(code);
}

/// Starts a helper whose stdin is the other end of the returned channel.
///
/// The label shows in `ps` behind the helper's name.
pub(crate) fn start(
    entry: Entry,
    label: &str,
    stdout: Stdio,
    stderr: Stdio,
) -> io::Result<(Child, Channel)> {
    let (ours, theirs) = Channel::pair()?;
    let protected = protected_program();
    let program = match &protected {
        Some(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()),
        None => "/proc/self/exe".to_owned(),
    };
    let child = Command::new(program)
        .arg0(entry.name())
        .arg(label)
        .env_clear()
        .stdin(Stdio::from(theirs.into_socket()))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    Ok((child, ours))
}

/// This program through a read-only mount of its own.
///
/// A process inside a container can start `/proc/self/exe` of a helper and so get hold of the
/// host's binary; seen through this mount it cannot be written (CVE-2019-5736). Without the
/// right to mount, nothing runs in a root of its own with more rights than its starter.
fn protected_program() -> Option<OwnedFd> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program = open_tree(CWD, "/proc/self/exe", flags).ok()?;
    let readonly = MountChange { set: MOUNT_ATTR_RDONLY, ..MountChange::default() };
    syscall::mount_setattr(&program, readonly).ok()?;
    Some(program)
}
