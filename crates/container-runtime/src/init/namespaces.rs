//! Which namespaces a child gets, and what is to be done in them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::process_id::ProcessId;
use crate::syscall;
use crate::wire::{Failure, Namespace, Network, Sandbox, UserNamespace};

/// A namespace of another process, opened before the child leaves the host's `/proc`.
#[derive(Debug)]
pub(crate) struct Joined {
    fd: OwnedFd,
    kind: LinkNameSpaceType,
    name: &'static str,
}

/// The `CLONE_NEW*` flags of a sandbox.
pub(crate) fn clone_flags(sandbox: &Sandbox) -> libc::c_int {
    let namespaces = &sandbox.namespaces;
    let mut flags = libc::CLONE_NEWNS;
    for (namespace, flag) in [
        (&namespaces.pid, libc::CLONE_NEWPID),
        (&namespaces.ipc, libc::CLONE_NEWIPC),
        (&namespaces.uts, libc::CLONE_NEWUTS),
    ] {
        if *namespace == Namespace::New {
            flags |= flag;
        }
    }
    if namespaces.network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    if namespaces.user != UserNamespace::Host {
        flags |= libc::CLONE_NEWUSER;
    }
    flags
}

/// Opens the namespaces that a sandbox shares with other processes.
///
/// The PID namespace is joined here and now: it counts for children only.
pub(crate) fn joined(sandbox: &Sandbox) -> Result<Vec<Joined>, Failure> {
    let namespaces = &sandbox.namespaces;
    let of = |namespace: &Namespace| match namespace {
        Namespace::OfProcess(process) => Some(*process),
        Namespace::New | Namespace::Host => None,
    };
    if let Some(process) = of(&namespaces.pid) {
        let joined = open(process, "pid", LinkNameSpaceType::ProcessID)?;
        enter_one(&joined)?;
    }
    let network = match namespaces.network {
        Network::OfProcess(process) => Some(process),
        Network::Host | Network::None => None,
    };
    [
        (of(&namespaces.ipc), "ipc", LinkNameSpaceType::InterProcessCommunication),
        (of(&namespaces.uts), "uts", LinkNameSpaceType::HostNameAndNISDomainName),
        (network, "net", LinkNameSpaceType::Network),
    ]
    .into_iter()
    .filter_map(|(process, name, kind)| Some(open(process?, name, kind)))
    .collect()
}

fn open(
    process: ProcessId,
    name: &'static str,
    kind: LinkNameSpaceType,
) -> Result<Joined, Failure> {
    let pid = process.pid;
    let path = format!("/proc/{pid}/ns/{name}");
    let opened = rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    // Asked after the descriptor is open: who lives now had the number all the time before.
    match opened {
        Ok(fd) if process.is_alive() => Ok(Joined { fd, kind, name }),
        Ok(_) => Err(rustix::io::Errno::SRCH),
        Err(error) => Err(error),
    }
    .map_err(|error| Failure::setup(format!("open the {name} namespace of {pid}"), error))
}

fn enter_one(joined: &Joined) -> Result<(), Failure> {
    move_into_link_name_space(joined.fd.as_fd(), Some(joined.kind))
        .map_err(|error| Failure::setup(format!("join the {} namespace", joined.name), error))
}

/// Joins what is shared and prepares what is new.
pub(super) fn enter(sandbox: &Sandbox, joined: &[Joined]) -> Result<(), Failure> {
    for joined in joined {
        enter_one(joined)?;
    }
    if sandbox.namespaces.network == Network::None {
        syscall::loopback_up().map_err(|error| Failure::setup("enable loopback", error))?;
    }
    match (&sandbox.hostname, &sandbox.namespaces.uts) {
        (Some(name), Namespace::New) => rustix::system::sethostname(name.as_bytes())
            .map_err(|error| Failure::setup(format!("host name {name}"), error)),
        _ => Ok(()),
    }
}

/// Makes the control group of this process the root of what it sees.
pub(super) fn unshare_cgroup() -> io::Result<()> {
    syscall::unshare(UnshareFlags::NEWCGROUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_of_a_number_that_another_process_has_now_is_refused() -> io::Result<()> {
        let own = ProcessId::of(std::process::id())?;
        let former = ProcessId { started_ticks: own.started_ticks - 1, ..own };
        for (name, kind) in [
            ("pid", LinkNameSpaceType::ProcessID),
            ("ipc", LinkNameSpaceType::InterProcessCommunication),
            ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
            ("net", LinkNameSpaceType::Network),
        ] {
            assert!(open(own, name, kind).is_ok(), "{name}");
            let failure = open(former, name, kind).expect_err("another process");
            let step = format!("open the {name} namespace of {}", own.pid);
            assert_eq!(failure, Failure::setup(step, rustix::io::Errno::SRCH));
        }
        Ok(())
    }
}
