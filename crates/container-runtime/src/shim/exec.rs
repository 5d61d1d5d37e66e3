//! Another process in a running container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::cgroup::Cgroup;
use crate::channel::Channel;
use crate::init::{Program, StdioFds, become_program, set_oom_score};
use crate::launch::{self, wait_for};
use crate::syscall::{self, Child, Cloned};
use crate::wire::message::InitEvent;
use crate::wire::{Failure, Process, Terminal};

/// The container that a process is to join.
pub(super) struct Target<'a> {
    pub(super) init: &'a Child,
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) may_set_groups: bool,
}

/// Starts a process in a container; returns its number here and its terminal.
pub(super) fn start(
    target: &Target<'_>,
    process: &Process,
    terminal: Terminal,
    stdio: Option<StdioFds>,
) -> Result<(u32, Option<OwnedFd>), Failure> {
    let setup = |error: io::Error| Failure::setup("exec", error);
    let namespaces = differing_namespaces(target.init.pid).map_err(setup)?;
    let (mut ours, theirs) = Channel::pair().map_err(setup)?;
    let door = match syscall::clone_child(0, None).map_err(setup)? {
        Cloned::Child => {
            drop(ours);
            go_through(target, namespaces, Goal { process, terminal, stdio }, theirs)
        }
        Cloned::Parent(door) => door,
    };
    drop((theirs, stdio));
    let started = follow(&mut ours, target);
    // The first fork ends as soon as it has told us about the second.
    let _ = wait_for(door.pid);
    started
}

/// What the second fork is to become.
struct Goal<'a> {
    process: &'a Process,
    terminal: Terminal,
    stdio: Option<StdioFds>,
}

/// Enters the container's namespaces and forks once more: a new PID namespace counts for
/// children only.
fn go_through(
    target: &Target<'_>,
    namespaces: ThreadNameSpaceType,
    goal: Goal<'_>,
    mut parent: Channel,
) -> ! {
    if let Some(score) = goal.process.oom_score_adj {
        set_oom_score(score);
    }
    let cloned = move_into_thread_name_spaces(target.init.pidfd.as_fd(), namespaces)
        .map_err(io::Error::from)
        .and_then(|()| syscall::clone_child(libc::CLONE_PARENT, None));
    match cloned {
        Ok(Cloned::Parent(child)) => {
            let _ = parent.send(&InitEvent::Forked, &[child.pidfd.as_fd()]);
            syscall::exit_now(0)
        }
        Ok(Cloned::Child) => {
            rustix::process::umask(rustix::fs::Mode::empty());
            // Waits until the shim knows this process and has moved it into its groups.
            if parent.receive::<()>().is_err() {
                syscall::exit_now(1);
            }
            let program = Program {
                process: goal.process,
                terminal: goal.terminal,
                stdio: goal.stdio,
                may_set_groups: target.may_set_groups,
                stubs: Vec::new(),
            };
            let failure = become_program(program, &mut parent);
            let _ = parent.send(&InitEvent::Failed(failure), &[]);
            syscall::exit_now(1)
        }
        Err(error) => {
            let failure = Failure::setup("enter the container", error);
            let _ = parent.send(&InitEvent::Failed(failure), &[]);
            syscall::exit_now(1)
        }
    }
}

fn follow(channel: &mut Channel, target: &Target<'_>) -> Result<(u32, Option<OwnedFd>), Failure> {
    let setup = |error: io::Error| Failure::setup("exec", error);
    let pidfd = match channel.receive::<InitEvent>().map_err(setup)? {
        (InitEvent::Forked, fds) => {
            fds.into_iter().next().ok_or_else(|| setup(io::ErrorKind::InvalidData.into()))?
        }
        (InitEvent::Failed(failure), _) => return Err(failure),
        (InitEvent::Ready { .. }, _) => return Err(setup(io::ErrorKind::InvalidData.into())),
    };
    let child = Child { pid: pid_of(&pidfd).map_err(setup)?, pidfd };
    let attached = target.cgroup.map_or(Ok(()), |cgroup| cgroup.attach(child.pid));
    let ready = attached
        .and_then(|()| channel.send(&(), &[]).map_err(setup))
        .and_then(|()| launch::until_ready(channel))
        .and_then(|ready| launch::start(channel).map(|()| ready));
    match ready {
        Ok(ready) => Ok((child.pid, ready.terminal)),
        Err(failure) => {
            launch::discard(&child);
            Err(failure)
        }
    }
}

/// The number of a process in this one's PID namespace; the fork that made it may live in
/// another, where it has another number.
fn pid_of(pidfd: &OwnedFd) -> io::Result<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The namespaces in which a process is not with this one.
fn differing_namespaces(pid: u32) -> io::Result<ThreadNameSpaceType> {
    let mut differing = ThreadNameSpaceType::empty();
    for (name, kind) in [
        ("user", ThreadNameSpaceType::USER),
        ("mnt", ThreadNameSpaceType::MOUNT),
        ("pid", ThreadNameSpaceType::PROCESS_ID),
        ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        ("net", ThreadNameSpaceType::NETWORK),
        ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
    ] {
        let inode = |owner: &str| -> io::Result<u64> {
            Ok(fs::metadata(format!("/proc/{owner}/ns/{name}"))?.ino())
        };
        if inode("self")? != inode(&pid.to_string())? {
            differing |= kind;
        }
    }
    Ok(differing)
}
