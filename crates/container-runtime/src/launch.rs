//! The parent's side of a new container: clone, maps, control group, readiness, start.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::{Pid, WaitOptions};

use crate::cgroup::Cgroup;
use crate::channel::Channel;
use crate::init::{self, Init, StdioFds};
use crate::kill::MountNamespace;
use crate::syscall::{self, Child, Cloned};
use crate::wire::message::InitEvent;
use crate::wire::{Exit, Failure, Process, ResolvedUser, Sandbox, Terminal, UserNamespace};

/// A child that has everything but its program.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) user: ResolvedUser,
    pub(crate) stubs: Vec<PathBuf>,
    pub(crate) degraded: Vec<String>,
    /// Master side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// Its mount namespace, if it was given one, and what keeps that alive.
    pub(crate) mounts: Option<(File, MountNamespace)>,
    channel: Channel,
}

/// Makes a child in the namespaces of a sandbox, up to the start of its program.
pub(crate) fn launch(
    sandbox: &Sandbox,
    process: &Process,
    terminal: Terminal,
    stdio: Option<StdioFds>,
    cgroup: Option<&Cgroup>,
) -> Result<Launched, Failure> {
    let joined = init::joined(sandbox)?;
    let (ours, theirs) = Channel::pair().map_err(|e| Failure::setup("channel", e))?;
    let into = cgroup.and_then(Cgroup::unified_fd);
    let cloned = syscall::clone_child(init::clone_flags(sandbox), into.as_ref().map(AsFd::as_fd))
        .map_err(|error| Failure::setup("create namespaces", error))?;
    let child = match cloned {
        Cloned::Child => {
            drop(ours);
            let view = cgroup.map(Cgroup::view);
            let init = Init { sandbox, process, terminal, stdio, joined, cgroup: view };
            init::run(init, theirs)
        }
        Cloned::Parent(child) => child,
    };
    drop((theirs, stdio, joined));
    let ready = write_maps(sandbox.namespaces.user, child.pid).and_then(|()| {
        // Now, because a child that becomes another user than root and has not started its
        // program yet may be looked at with CAP_SYS_PTRACE only.
        let mounts = MountNamespace::of(child.pid)
            .map_err(|error| Failure::setup("find the mount namespace", error))?;
        ours.send(&(), &[]).map_err(|error| Failure::setup("reach the child", error))?;
        cgroup.map_or(Ok(()), |cgroup| cgroup.attach(child.pid))?;
        Ok(mounts)
    });
    match ready {
        Ok(mounts) => {
            let mut launched = Launched::until_ready(child, ours)?;
            launched.mounts = Some(mounts);
            Ok(launched)
        }
        Err(failure) => {
            discard(&child);
            Err(failure)
        }
    }
}

impl Launched {
    /// Waits until a child has everything but its program; ends it if it fails.
    pub(crate) fn until_ready(child: Child, mut channel: Channel) -> Result<Self, Failure> {
        match until_ready(&mut channel) {
            Ok(ready) => Ok(Self {
                child,
                user: ready.user,
                stubs: ready.stubs,
                degraded: ready.degraded,
                terminal: ready.terminal,
                mounts: None,
                channel,
            }),
            Err(failure) => {
                discard(&child);
                Err(failure)
            }
        }
    }

    /// Lets the program start; returns when the kernel has taken it.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        start(&mut self.channel)
    }
}

/// Lets a ready child start its program.
pub(crate) fn start(channel: &mut Channel) -> Result<(), Failure> {
    channel.send(&(), &[]).map_err(|error| Failure::setup("start the program", error))?;
    match channel.receive::<InitEvent>() {
        Ok((InitEvent::Failed(failure), _)) => Err(failure),
        // The start of the program closed the child's side.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What a child reported with readiness.
pub(crate) struct Ready {
    pub(crate) user: ResolvedUser,
    pub(crate) stubs: Vec<PathBuf>,
    pub(crate) degraded: Vec<String>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// Waits until a child has everything but its program.
pub(crate) fn until_ready(channel: &mut Channel) -> Result<Ready, Failure> {
    match channel.receive::<InitEvent>() {
        Ok((InitEvent::Ready { user, stubs, degraded }, fds)) => {
            Ok(Ready { user, stubs, degraded, terminal: fds.into_iter().next() })
        }
        Ok((InitEvent::Failed(failure), _)) => Err(failure),
        Ok((InitEvent::Forked, _)) => Err(Failure::setup("set up the child", "odd report")),
        Err(error) => Err(Failure::setup("set up the child", error)),
    }
}

/// Kills a child that did not get ready, and waits for its end.
pub(crate) fn discard(child: &Child) {
    // Gone already is as good.
    let _ = syscall::pidfd_send_signal(&child.pidfd, crate::Signal::KILL);
    let _ = wait_for(child.pid);
}

/// Waits for the end of one child.
pub(crate) fn wait_for(pid: u32) -> io::Result<Exit> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(None) => {}
            Ok(Some((_, status))) => return Ok(exit_of(status)),
        }
    }
}

pub(crate) fn exit_of(status: rustix::process::WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, Some(signal)) => Exit::Signal(u8::try_from(signal).unwrap_or(u8::MAX)),
        (None, None) => Exit::Signal(9),
    }
}

fn write_maps(user: UserNamespace, pid: u32) -> Result<(), Failure> {
    let write = |name: &str, text: &str| {
        fs::write(format!("/proc/{pid}/{name}"), text)
            .map_err(|error| Failure::setup(format!("write {name} of the user namespace"), error))
    };
    match user {
        UserNamespace::Host => Ok(()),
        UserNamespace::Identity => {
            write("uid_map", &identity_of("/proc/self/uid_map")?)?;
            write("gid_map", &identity_of("/proc/self/gid_map")?)
        }
        UserNamespace::CallerAsRoot => {
            write("setgroups", "deny")?;
            write("uid_map", &format!("0 {} 1", rustix::process::geteuid().as_raw()))?;
            write("gid_map", &format!("0 {} 1", rustix::process::getegid().as_raw()))
        }
    }
}

fn identity_of(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map(|map| identity(&map))
        .map_err(|error| Failure::setup(format!("read {path}"), error))
}

/// A map in which every identifier that this namespace knows is itself: `0 0 4294967295` on a
/// host, less in a pod with users of its own.
fn identity(map: &str) -> String {
    let mut lines = String::new();
    for line in map.lines() {
        let mut fields = line.split_ascii_whitespace();
        if let (Some(first), Some(_), Some(count)) = (fields.next(), fields.next(), fields.next()) {
            lines.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_map_covers_what_the_caller_has() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 100000 65536\n70000 5 1\n"), "0 0 65536\n70000 70000 1\n");
    }
}
