//! The process that watches over one container.
//!
//! It belongs to nobody: forked twice, in a session of its own, with everything it needs in
//! memory and in the container's directory. It has one thread and one loop.

mod exec;
mod log;
mod watch;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use self::log::Log;
use self::watch::{Shim, Streams};
use crate::cgroup;
use crate::channel::Channel;
use crate::container::socket_address;
use crate::init::StdioFds;
use crate::kill::MountNamespace;
use crate::launch::{self, Launched};
use crate::on_disk::{self, ContainerRecord};
use crate::process_id::{ProcessId, boot_id};
use crate::syscall::{self, Cloned};
use crate::wire::message::{LaunchReply, ShimLaunch};
use crate::wire::{ContainerSpec, Failure, Namespace, Stdin, Terminal};

/// Capacity of the pipe of an attached reader, in bytes.
pub(crate) const ATTACH_PIPE_BYTES: usize = 1 << 20;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// Runs the shim; returns its exit code.
pub(crate) fn main() -> u8 {
    // The starter's caller waits for the first of the two forks only.
    match syscall::clone_child(0, None) {
        Ok(Cloned::Child) => {}
        Ok(Cloned::Parent(_)) => return 0,
        Err(_) => return 1,
    }
    match run() {
        Ok(()) => 0,
        Err(error) => {
            complain(&error.to_string());
            1
        }
    }
}

/// Standard error is `shim.log` in the container's directory.
fn complain(words: &str) {
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{words}\n").as_bytes());
}

fn run() -> io::Result<()> {
    // Fails only for a leader of a process group, which a fork is not.
    let _ = rustix::process::setsid();
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    rustix::stdio::dup2_stdin(&null)?;
    rustix::process::chdir("/")?;
    // What a container without a PID namespace leaves behind is reaped here.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Fails never; else `ps -o comm` shows a number.
    let _ = rustix::thread::set_name(c"shipway:shim");
    let signals = syscall::signalfd()?;
    let mut caller = Channel::new(channel);
    let (launch, _) = caller.receive::<ShimLaunch>()?;
    let prepared = prepare(&launch, &null);
    let reply = match &prepared {
        Ok((shim, record)) => LaunchReply::Created {
            pid: shim.init.child.pid,
            user: record.user.clone(),
            degraded: record.degraded.clone(),
        },
        Err(failure) => LaunchReply::Failed(failure.clone()),
    };
    // Releases the lock that says the container is being created.
    rustix::stdio::dup2_stdout(&null)?;
    // A caller that died meanwhile left a created container, which whoever takes over finds.
    let _ = caller.send(&reply, &[]);
    drop(caller);
    match prepared {
        Ok((mut shim, _)) => shim.watch(&signals),
        Err(_) => Ok(()),
    }
}

fn prepare(launch: &ShimLaunch, null: &OwnedFd) -> Result<(Shim, ContainerRecord), Failure> {
    let spec = &launch.spec;
    let log = match &spec.log_path {
        Some(path) => Some(
            Log::open(path.clone())
                .map_err(|error| Failure::setup(format!("open log {}", path.display()), error))?,
        ),
        None => None,
    };
    let (mut streams, stdio) =
        streams(spec, null).map_err(|error| Failure::setup("standard streams", error))?;
    let (cgroup, mut degraded) = match &spec.cgroup {
        Some(limits) => cgroup::create(limits),
        None => (None, Vec::new()),
    };
    let terminal = spec.stdio.terminal;
    let launched = launch::launch(&spec.sandbox, &spec.process, terminal, stdio, cgroup.as_ref());
    let dirs = cgroup.as_ref().map(cgroup::Cgroup::dirs).unwrap_or_default();
    let settled = launched.and_then(|mut launched| {
        degraded.append(&mut launched.degraded);
        streams.take_terminal(launched.terminal.take());
        let settled = settle(&launch.dir, spec, &launched, degraded, dirs.clone());
        settled
            .map_err(|error| {
                launch::discard(&launched.child);
                Failure::setup(format!("record {}", launch.dir.display()), error)
            })
            .map(|settled| (launched, settled))
    });
    match settled {
        Ok((init, settled)) => {
            let record = settled.record.clone();
            Ok((Shim::new(launch, init, settled, streams, log, cgroup), record))
        }
        Err(failure) => {
            // A group that stays is empty and named like the container.
            let _ = cgroup::remove(&dirs);
            Err(failure)
        }
    }
}

/// What a container is known by.
struct Settled {
    listener: OwnedFd,
    record: ContainerRecord,
    /// Keeps the mount namespace alive, and so its numbers the container's.
    namespace: File,
}

/// Opens the socket and writes the record: from here on the container can be found.
fn settle(
    dir: &Path,
    spec: &ContainerSpec,
    launched: &Launched,
    degraded: Vec<String>,
    cgroups: Vec<std::path::PathBuf>,
) -> io::Result<Settled> {
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir_fd = rustix::fs::open(dir, flags, Mode::empty())?;
    rustix::net::bind(&listener, &socket_address(&dir_fd)?)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let pid = launched.child.pid;
    let (namespace, mount_namespace) = MountNamespace::of(pid)?;
    let record = ContainerRecord {
        boot_id: boot_id(),
        shim: ProcessId::of(std::process::id())?,
        init: ProcessId::of(pid)?,
        mount_namespace,
        own_pid_namespace: spec.sandbox.namespaces.pid == Namespace::New,
        user: launched.user.clone(),
        started_at_nanos: None,
        cgroups,
        degraded,
    };
    on_disk::write(dir, on_disk::CONTAINER, &record)?;
    Ok(Settled { listener, record, namespace })
}

/// Pipes of a container, and their ends for its first process.
fn streams(spec: &ContainerSpec, null: &OwnedFd) -> io::Result<(Streams, Option<StdioFds>)> {
    let mut streams = Streams::default();
    if spec.stdio.terminal != Terminal::None {
        return Ok((streams, None));
    }
    let stdin = match spec.stdio.stdin {
        Stdin::Null => null.try_clone()?,
        Stdin::Open | Stdin::Once => {
            let (reader, writer) = io::pipe()?;
            streams.stdin = Some(writer.into());
            reader.into()
        }
    };
    streams.stdin_once = spec.stdio.stdin == Stdin::Once;
    let (stdout, their_stdout) = io::pipe()?;
    let (stderr, their_stderr) = io::pipe()?;
    streams.stdout = Some(stdout.into());
    streams.stderr = Some(stderr.into());
    for fd in [&streams.stdout, &streams.stderr].into_iter().flatten() {
        rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
    }
    let stdio = StdioFds { stdin, stdout: their_stdout.into(), stderr: their_stderr.into() };
    Ok((streams, Some(stdio)))
}
