//! One container as any process sees it: through its directory and its shim's socket.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use crate::cgroup;
use crate::channel::Channel;
use crate::kill;
use crate::on_disk::{self, ContainerRecord, ExitRecord};
use crate::process_id::{ProcessId, boot_id};
use crate::session::{AttachOptions, Attachment, ExecSession, ExecSpec};
use crate::signal::Signal;
use crate::syscall;
use crate::wire::message::{Reply, Request};
use crate::wire::{Exit, Failure, ResolvedUser, Terminal};

/// One container; a name for it, not its life.
#[derive(Clone, Debug)]
pub struct Container {
    id: String,
    dir: PathBuf,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Set up, its program not yet started.
    Created,
    /// Its first process runs.
    Running {
        /// When the program was started.
        started_at: SystemTime,
    },
    /// Its first process ended, and everything else in it.
    Stopped(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How the first process ended; `None` if nobody saw it, because the shim was killed or
    /// the machine restarted (report 137, `ContainerStatusUnknown`).
    pub exit: Option<Exit>,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// When the program was started; `None` if it never was.
    pub started_at: Option<SystemTime>,
    /// When it ended, or when the end was found out.
    pub finished_at: SystemTime,
}

impl Ended {
    /// The exit code of the container: 137 if nobody saw the end.
    pub fn code(&self) -> i32 {
        self.exit.map_or(137, Exit::code)
    }
}

/// Why something could not be done to a container.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// It does not run, or no longer.
    #[error("container {id} is not running")]
    NotRunning {
        /// The container.
        id: String,
    },
    /// A program, user or mount is not as asked.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// Directory, socket or process cannot be reached.
    #[error("{action} container {id}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The container.
        id: String,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl Container {
    pub(crate) fn new(id: &str, dir: PathBuf) -> Self {
        Self { id: id.to_owned(), dir }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts the program of a created container.
    ///
    /// # Errors
    /// [`ContainerError::Refused`] if the kernel does not take the program; the container is
    /// then stopped with the code of the failure.
    pub fn start(&self) -> Result<(), ContainerError> {
        match self.request("start", &Request::Start)? {
            Reply::Failed(failure) => Err(failure.into()),
            _ => Ok(()),
        }
    }

    /// Where it is in its life; finds out about ends that nobody recorded.
    ///
    /// # Errors
    /// A record cannot be read or written.
    pub fn state(&self) -> Result<State, ContainerError> {
        self.find_state().map_err(|source| self.io("inspect", source))
    }

    fn find_state(&self) -> io::Result<State> {
        if let Some(record) = on_disk::read::<ExitRecord>(&self.dir, on_disk::EXIT)? {
            return Ok(State::Stopped(ended(&record)));
        }
        let Some(record) = self.record()? else {
            return Ok(State::Stopped(ended(&lost(None))));
        };
        if record.boot_id == boot_id() && record.shim.is_alive() {
            return Ok(match record.started_at_nanos {
                Some(nanos) => State::Running { started_at: on_disk::time_of_nanos(nanos) },
                None => State::Created,
            });
        }
        // The shim may have written its last word between the two looks.
        if let Some(record) = on_disk::read::<ExitRecord>(&self.dir, on_disk::EXIT)? {
            return Ok(State::Stopped(ended(&record)));
        }
        self.bury(&record)?;
        let exit = lost(record.started_at_nanos);
        on_disk::write(&self.dir, on_disk::EXIT, &exit)?;
        Ok(State::Stopped(ended(&exit)))
    }

    /// Ends what a dead shim left.
    fn bury(&self, record: &ContainerRecord) -> io::Result<()> {
        if record.boot_id == boot_id() {
            if let Some(init) = record.init.open()? {
                syscall::pidfd_send_signal(&init, Signal::KILL)?;
                syscall::wait_readable(&init)?;
            }
            // With its first process a PID namespace has ended as a whole.
            if !record.own_pid_namespace && record.mount_namespace.is_unmistakable() {
                kill::everything_in(&record.mount_namespace)?;
            }
        }
        cgroup::remove(&record.cgroups)
    }

    fn record(&self) -> io::Result<Option<ContainerRecord>> {
        on_disk::read(&self.dir, on_disk::CONTAINER)
    }

    fn live_record(&self, action: &'static str) -> Result<ContainerRecord, ContainerError> {
        match self.record() {
            Ok(Some(record)) if record.boot_id == boot_id() => Ok(record),
            Ok(_) => Err(self.not_running()),
            Err(source) => Err(self.io(action, source)),
        }
    }

    /// Number of the first process in the caller's PID namespace, while it lives.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] once it has ended.
    pub fn pid(&self) -> Result<u32, ContainerError> {
        Ok(self.process()?.pid)
    }

    /// The first process, while it lives, named so that no later one is mistaken for it.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] once it has ended.
    pub fn process(&self) -> Result<ProcessId, ContainerError> {
        let record = self.live_record("inspect")?;
        if record.init.is_alive() { Ok(record.init) } else { Err(self.not_running()) }
    }

    /// The numbers that the first process runs as, known once the container is created.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn user(&self) -> Result<ResolvedUser, ContainerError> {
        Ok(self.known("inspect")?.user)
    }

    /// What this machine did not permit, one line each; empty if everything is as asked.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn degraded(&self) -> Result<Vec<String>, ContainerError> {
        Ok(self.known("inspect")?.degraded)
    }

    fn known(&self, action: &'static str) -> Result<ContainerRecord, ContainerError> {
        self.record().map_err(|source| self.io(action, source))?.ok_or_else(|| self.not_running())
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] once it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), ContainerError> {
        let record = self.live_record("signal")?;
        match record.init.signal(signal) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.not_running()),
            Err(source) => Err(self.io("signal", source)),
        }
    }

    /// Kills every process of the container; does nothing if none is left.
    ///
    /// Returns before the last of them is gone: use [`Container::wait`].
    ///
    /// # Errors
    /// A process cannot be signalled.
    pub fn kill_all(&self) -> Result<(), ContainerError> {
        let record = match self.live_record("kill") {
            Ok(record) => record,
            Err(ContainerError::NotRunning { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let killed = record.init.signal(Signal::KILL).and_then(|_| {
            // While it lives, the shim keeps the namespace alive.
            if record.own_pid_namespace || !record.shim.is_alive() {
                return Ok(());
            }
            kill::everything_in(&record.mount_namespace)
        });
        killed.map_err(|source| self.io("kill", source))
    }

    /// A descriptor that becomes readable when the container has ended, for `poll` and its
    /// kin; `None` if it has ended already.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn end_watch(&self) -> Result<Option<OwnedFd>, ContainerError> {
        let record = match self.live_record("watch") {
            Ok(record) => record,
            Err(ContainerError::NotRunning { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        record.shim.open().map_err(|source| self.io("watch", source))
    }

    /// Waits until the container has ended.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn wait(&self) -> Result<Ended, ContainerError> {
        loop {
            if let Some(shim) = self.end_watch()? {
                syscall::wait_readable(&shim).map_err(|source| self.io("wait for", source))?;
            }
            if let State::Stopped(ended) = self.state()? {
                return Ok(ended);
            }
        }
    }

    /// Starts another process in the running container.
    ///
    /// # Errors
    /// [`ContainerError::Refused`] names a missing program (code 127) or one that cannot be
    /// executed (126).
    pub fn exec(&self, spec: &ExecSpec) -> Result<ExecSession, ContainerError> {
        let mut shim = self.connect("exec in")?;
        let (ours, theirs) =
            crate::session::pipes(spec).map_err(|source| self.io("exec in", source))?;
        let request =
            Request::Exec { process: Box::new(spec.process.clone()), terminal: spec.terminal };
        let passed: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let reply = shim.send(&request, &passed).and_then(|()| shim.receive::<Reply>());
        drop(theirs);
        match reply {
            Ok((Reply::ExecStarted { pid }, fds)) => {
                let master = match spec.terminal {
                    Terminal::None => None,
                    Terminal::Size(_) => fds.into_iter().next(),
                };
                Ok(ExecSession::new(shim, pid, ours, master))
            }
            Ok((Reply::Failed(failure), _)) => Err(failure.into()),
            Ok(_) => Err(self.io("exec in", io::ErrorKind::InvalidData.into())),
            Err(source) => Err(self.io("exec in", source)),
        }
    }

    /// Connects to stdin, stdout and stderr of the first process, from now on.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] once it has ended.
    pub fn attach(&self, options: &AttachOptions) -> Result<Attachment, ContainerError> {
        let mut shim = self.connect("attach to")?;
        let pipes = crate::session::attach_pipes(options);
        let (ours, theirs) = pipes.map_err(|source| self.io("attach to", source))?;
        let request = Request::Attach {
            stdout: options.stdout,
            stderr: options.stderr,
            stdin: options.stdin,
        };
        let passed: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let reply = shim.send(&request, &passed).and_then(|()| shim.receive::<Reply>());
        match reply {
            Ok((Reply::Attached { terminal }, fds)) => {
                Ok(Attachment::new(ours, terminal, fds.into_iter().next()))
            }
            Ok((Reply::Failed(failure), _)) => Err(failure.into()),
            Ok(_) => Err(self.io("attach to", io::ErrorKind::InvalidData.into())),
            Err(source) => Err(self.io("attach to", source)),
        }
    }

    /// Makes the shim open its log file anew, after the caller renamed it (log rotation, CRI
    /// `ReopenContainerLog`).
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] once the container has ended.
    pub fn reopen_log(&self) -> Result<(), ContainerError> {
        match self.request("reopen the log of", &Request::ReopenLog)? {
            Reply::Failed(failure) => Err(failure.into()),
            _ => Ok(()),
        }
    }

    /// Kills what is left of the container and removes its directory and control groups.
    ///
    /// Its mounts lived in its own mount namespace and are gone with its last process.
    ///
    /// # Errors
    /// A process, group or file cannot be removed; calling it again continues.
    pub fn delete(&self) -> Result<(), ContainerError> {
        self.remove().map_err(|source| self.io("delete", source))
    }

    fn remove(&self) -> io::Result<()> {
        if self.record()?.is_none() {
            self.wait_for_creator()?;
        }
        if let Some(record) = self.record()? {
            let same_boot = record.boot_id == boot_id();
            if let Some(shim) = if same_boot { record.shim.open()? } else { None } {
                // The shim ends the others when the first process has ended.
                record.init.signal(Signal::KILL)?;
                syscall::wait_readable(&shim)?;
            }
            match on_disk::read::<ExitRecord>(&self.dir, on_disk::EXIT)? {
                // Whoever wrote it had ended everything before.
                Some(_) => cgroup::remove(&record.cgroups)?,
                None => self.bury(&record)?,
            }
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// A shim whose creator was killed still holds this lock until it has written its record
    /// or has given up.
    fn wait_for_creator(&self) -> io::Result<()> {
        match File::open(self.dir.join(on_disk::CREATING)) {
            Ok(lock) => Ok(rustix::fs::flock(&lock, FlockOperation::LockExclusive)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn request(&self, action: &'static str, request: &Request) -> Result<Reply, ContainerError> {
        let mut shim = self.connect(action)?;
        let reply = shim.send(request, &[]).and_then(|()| shim.receive());
        reply.map(|(reply, _)| reply).map_err(|source| self.io(action, source))
    }

    fn connect(&self, action: &'static str) -> Result<Channel, ContainerError> {
        match connect(&self.dir) {
            Ok(channel) => Ok(channel),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => {
                Err(self.not_running())
            }
            Err(error) => Err(self.io(action, error.into())),
        }
    }

    fn not_running(&self) -> ContainerError {
        ContainerError::NotRunning { id: self.id.clone() }
    }

    fn io(&self, action: &'static str, source: io::Error) -> ContainerError {
        ContainerError::Io { action, id: self.id.clone(), source }
    }
}

/// Socket addresses are short (108 bytes); a descriptor of the directory makes any path fit.
pub(crate) fn socket_address(dir: &OwnedFd) -> rustix::io::Result<SocketAddrUnix> {
    let fd = dir.as_raw_fd();
    SocketAddrUnix::new(Path::new(&format!("/proc/self/fd/{fd}/{}", on_disk::SOCKET)))
}

fn connect(dir: &Path) -> rustix::io::Result<Channel> {
    let dir =
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &socket_address(&dir)?)?;
    Ok(Channel::new(socket))
}

fn lost(started_at_nanos: Option<u64>) -> ExitRecord {
    ExitRecord {
        exit: None,
        oom_killed: false,
        started_at_nanos,
        finished_at_nanos: on_disk::nanos_now(),
    }
}

fn ended(record: &ExitRecord) -> Ended {
    Ended {
        exit: record.exit,
        oom_killed: record.oom_killed,
        started_at: record.started_at_nanos.map(on_disk::time_of_nanos),
        finished_at: on_disk::time_of_nanos(record.finished_at_nanos),
    }
}
