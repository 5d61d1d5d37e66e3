//! The loop of a shim: output into the log, requests, ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::WaitOptions;
use rustix::time::Timespec;

use super::Settled;
use super::exec::{self, Target};
use super::log::Log;
use crate::cgroup::{self, Cgroup};
use crate::channel::{Channel, Received};
use crate::init::StdioFds;
use crate::kill;
use crate::launch::{Launched, exit_of};
use crate::on_disk::{self, ContainerRecord, ExitRecord};
use crate::step::Stream;
use crate::wire::message::{Reply, Request, ShimLaunch};
use crate::wire::{Exit, Failure, Process, Terminal, UserNamespace};

/// Bytes read from a container at once; the size of a pipe.
const READ_BYTES_MAX: usize = 64 << 10;

/// Most connections at a time; more are refused.
const CLIENTS_MAX: usize = 256;

/// How long the shim waits for the end of output that a stranger still holds open.
const DRAIN_SECONDS_MAX: i64 = 2;

/// The shim's side of the standard streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    /// Whether the first attached caller takes stdin with it when it leaves.
    pub(super) stdin_once: bool,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Master side of the terminal, which is also `stdout`.
    terminal: Option<OwnedFd>,
}

impl Streams {
    pub(super) fn take_terminal(&mut self, master: Option<OwnedFd>) {
        let Some(master) = master else { return };
        self.stdout = master.try_clone().ok();
        // A read that finds nothing must not hold the loop up.
        if let Some(stdout) = &self.stdout {
            let _ = rustix::io::ioctl_fionbio(stdout, true);
        }
        self.terminal = Some(master);
    }

    fn of(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// A reader attached to the output.
struct Sink {
    stream: Stream,
    pipe: OwnedFd,
}

/// One container and all that is connected to it.
pub(super) struct Shim {
    pub(super) init: Launched,
    dir: PathBuf,
    may_set_groups: bool,
    listener: OwnedFd,
    record: ContainerRecord,
    /// Keeps the mount namespace, and with it the mounts, until the end.
    namespace: Option<File>,
    streams: Streams,
    log: Option<Log>,
    cgroup: Option<Cgroup>,
    clients: Vec<Channel>,
    /// Execs and who waits for their end.
    execs: Vec<(u32, Channel)>,
    sinks: Vec<Sink>,
    /// The code of a program that could not be started.
    refused: Option<u8>,
}

/// What one round of waiting found.
#[derive(Default)]
struct Ready {
    signal: bool,
    connection: bool,
    stdout: bool,
    stderr: bool,
    clients: Vec<bool>,
}

impl Shim {
    pub(super) fn new(
        launch: &ShimLaunch,
        init: Launched,
        settled: Settled,
        streams: Streams,
        log: Option<Log>,
        cgroup: Option<Cgroup>,
    ) -> Self {
        let user = launch.spec.sandbox.namespaces.user;
        Self {
            init,
            dir: launch.dir.clone(),
            may_set_groups: user != UserNamespace::CallerAsRoot,
            listener: settled.listener,
            record: settled.record,
            namespace: Some(settled.namespace),
            streams,
            log,
            cgroup,
            clients: Vec::new(),
            execs: Vec::new(),
            sinks: Vec::new(),
            refused: None,
        }
    }

    /// Serves until the container has ended, and writes down how.
    pub(super) fn watch(&mut self, signals: &OwnedFd) -> io::Result<()> {
        let exit = loop {
            let ready = self.wait(Some(signals), None)?;
            if ready.stdout {
                self.copy_output(Stream::Stdout);
            }
            if ready.stderr {
                self.copy_output(Stream::Stderr);
            }
            if ready.signal {
                drain_signals(signals);
            }
            // Also without a signal: several may have been one.
            if let Some(exit) = self.reap() {
                break exit;
            }
            self.serve(&ready.clients);
            if ready.connection {
                self.accept();
            }
        };
        self.finish(exit)
    }

    fn wait(&self, signals: Option<&OwnedFd>, timeout: Option<&Timespec>) -> io::Result<Ready> {
        let head: [Option<BorrowedFd<'_>>; 4] = [
            signals.map(AsFd::as_fd),
            signals.map(|_| self.listener.as_fd()),
            self.streams.stdout.as_ref().map(AsFd::as_fd),
            self.streams.stderr.as_ref().map(AsFd::as_fd),
        ];
        let mut fds: Vec<PollFd<'_>> = head
            .iter()
            .flatten()
            .copied()
            .chain(self.clients.iter().map(AsFd::as_fd))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, timeout) {
            Err(Errno::INTR) => return Ok(Ready::default()),
            other => other?,
        };
        let mut polled = fds.iter().map(|fd| !fd.revents().is_empty());
        let [signal, connection, stdout, stderr] =
            head.map(|fd| fd.is_some() && polled.next().unwrap_or(false));
        Ok(Ready { signal, connection, stdout, stderr, clients: polled.collect() })
    }

    /// Copies what is there into the log and to attached readers; `false` at the end.
    fn copy_output(&mut self, stream: Stream) -> bool {
        let mut bytes = [0; READ_BYTES_MAX];
        let Some(source) = self.streams.of(stream).as_ref() else { return false };
        let length = match rustix::io::read(source, &mut bytes) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            // EIO: the last process closed the terminal.
            Err(_) => 0,
        };
        let now = on_disk::nanos_now();
        if length == 0 {
            *self.streams.of(stream) = None;
            if let Some(log) = &mut self.log {
                log.end(stream, now);
            }
            self.sinks.retain(|sink| sink.stream != stream);
            return false;
        }
        if let Some(log) = &mut self.log {
            log.append(stream, &bytes[..length], now);
        }
        // A reader that is gone or does not keep up is let go; the container is not held up.
        self.sinks.retain(|sink| {
            sink.stream != stream
                || matches!(rustix::io::write(&sink.pipe, &bytes[..length]), Ok(n) if n == length)
        });
        true
    }

    /// Takes note of every process that ended; returns how the first one did.
    fn reap(&mut self) -> Option<Exit> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            let exit = exit_of(status);
            if pid == self.init.child.pid {
                ended = Some(exit);
            } else if let Some(index) = self.execs.iter().position(|(exec, _)| *exec == pid) {
                let (_, client) = self.execs.swap_remove(index);
                // A caller that left is not interested.
                let _ = client.send(&Reply::Exited(exit), &[]);
            }
        }
        ended
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            if self.clients.len() + self.execs.len() < CLIENTS_MAX {
                self.clients.push(Channel::new(socket));
            }
        }
    }

    fn serve(&mut self, ready: &[bool]) {
        let clients = std::mem::take(&mut self.clients);
        for (index, mut client) in clients.into_iter().enumerate() {
            if !ready.get(index).copied().unwrap_or(false) {
                self.clients.push(client);
                continue;
            }
            match client.try_read() {
                Ok(Received::Partial) => self.clients.push(client),
                Ok(Received::Frame(body, fds)) => match serde_json::from_slice(&body) {
                    Ok(request) => self.answer(client, request, fds),
                    Err(error) => refuse(&client, Failure::setup("read the request", error)),
                },
                Ok(Received::Closed) | Err(_) => {}
            }
        }
    }

    /// Answers one request; a caller that left meanwhile gets no answer.
    fn answer(&mut self, client: Channel, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Start => {
                let reply = match self.start() {
                    Ok(()) => Reply::Done,
                    Err(failure) => Reply::Failed(failure),
                };
                let _ = client.send(&reply, &[]);
            }
            Request::Exec { process, terminal } => self.exec(client, &process, terminal, fds),
            Request::Attach { stdout, stderr, stdin } => {
                self.attach(&client, [stdout, stderr], stdin, fds);
            }
            Request::ReopenLog => {
                let reopened = self.log.as_mut().map_or(Ok(()), Log::reopen);
                let reply = match reopened {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Failed(Failure::setup("open the log", error)),
                };
                let _ = client.send(&reply, &[]);
            }
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        if self.record.started_at_nanos.is_some() {
            return Err(Failure::setup("start", "the container was started before"));
        }
        let started = self.init.start();
        if let Err(Failure::Program { code, .. }) = &started {
            self.refused = Some(*code);
        }
        started?;
        self.record.started_at_nanos = Some(on_disk::nanos_now());
        on_disk::write(&self.dir, on_disk::CONTAINER, &self.record)
            .map_err(|error| Failure::setup("record the start", error))
    }

    fn exec(&mut self, client: Channel, process: &Process, terminal: Terminal, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let stdio = match (terminal, fds.next(), fds.next(), fds.next()) {
            (Terminal::Size(_), ..) => None,
            (Terminal::None, Some(stdin), Some(stdout), Some(stderr)) => {
                Some(StdioFds { stdin, stdout, stderr })
            }
            (Terminal::None, ..) => {
                return refuse(&client, Failure::setup("exec", "three descriptors are needed"));
            }
        };
        if self.record.started_at_nanos.is_none() {
            return refuse(&client, Failure::setup("exec", "the container is not running"));
        }
        let target = Target {
            init: &self.init.child,
            cgroup: self.cgroup.as_ref(),
            may_set_groups: self.may_set_groups,
        };
        match exec::start(&target, process, terminal, stdio) {
            Ok((pid, master)) => {
                let fds: Vec<_> = master.iter().map(AsFd::as_fd).collect();
                // A caller that is gone: the process lives on, as with every other runtime.
                let _ = client.send(&Reply::ExecStarted { pid }, &fds);
                self.execs.push((pid, client));
            }
            Err(failure) => refuse(&client, failure),
        }
    }

    fn attach(&mut self, client: &Channel, wanted: [bool; 2], stdin: bool, fds: Vec<OwnedFd>) {
        let streams = [Stream::Stdout, Stream::Stderr];
        let wanted = streams.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
        for ((stream, _), pipe) in wanted.zip(fds) {
            let open = self.streams.of(stream).is_some();
            if open && rustix::io::ioctl_fionbio(&pipe, true).is_ok() {
                self.sinks.push(Sink { stream, pipe });
            }
        }
        let terminal = self.streams.terminal.is_some();
        let input = self.streams.terminal.as_ref().or(self.streams.stdin.as_ref());
        // The terminal is passed also to a caller that only reads: it is what is resized.
        let passed: Vec<_> =
            input.filter(|_| stdin || terminal).into_iter().map(AsFd::as_fd).collect();
        let sent = client.send(&Reply::Attached { terminal }, &passed);
        if sent.is_ok() && stdin && self.streams.stdin_once {
            self.streams.stdin = None;
        }
    }

    /// Ends what is left, collects the last output, and writes the exit record.
    fn finish(&mut self, exit: Exit) -> io::Result<()> {
        if !self.record.own_pid_namespace {
            kill::everything_in(&self.record.mount_namespace)?;
        }
        self.reap_rest();
        // The last holder: with this the container is unmounted.
        self.namespace = None;
        self.drain()?;
        let oom_killed = self.cgroup.as_ref().is_some_and(Cgroup::was_oom_killed);
        cgroup::remove(&self.record.cgroups)?;
        let record = ExitRecord {
            exit: Some(self.refused.map_or(exit, Exit::Code)),
            oom_killed,
            started_at_nanos: self.record.started_at_nanos,
            finished_at_nanos: on_disk::nanos_now(),
        };
        on_disk::write(&self.dir, on_disk::EXIT, &record)
    }

    /// Everything is dead or dying: waits for each, so that the last mounts are gone.
    fn reap_rest(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().cast_unsigned();
                    if let Some(index) = self.execs.iter().position(|(exec, _)| *exec == pid) {
                        let (_, client) = self.execs.swap_remove(index);
                        let _ = client.send(&Reply::Exited(exit_of(status)), &[]);
                    }
                }
                Ok(None) | Err(Errno::INTR) => {}
                // No child is left.
                Err(_) => return,
            }
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        let timeout = Timespec { tv_sec: DRAIN_SECONDS_MAX, tv_nsec: 0 };
        self.clients.clear();
        while self.streams.stdout.is_some() || self.streams.stderr.is_some() {
            let ready = self.wait(None, Some(&timeout))?;
            if ready.stdout {
                self.copy_output(Stream::Stdout);
            }
            if ready.stderr {
                self.copy_output(Stream::Stderr);
            }
            if !ready.stdout && !ready.stderr {
                break;
            }
        }
        let now = on_disk::nanos_now();
        if let Some(log) = &mut self.log {
            log.end(Stream::Stdout, now);
            log.end(Stream::Stderr, now);
        }
        Ok(())
    }
}

fn refuse(client: &Channel, failure: Failure) {
    let _ = client.send(&Reply::Failed(failure), &[]);
}

/// What the signals say is asked for afresh; SIGTERM and its like do not end a shim.
fn drain_signals(signals: &OwnedFd) {
    let mut bytes = [0; 4096];
    while let Ok(1..) = rustix::io::read(signals, &mut bytes) {}
}
