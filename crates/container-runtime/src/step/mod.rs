//! Steps of a build: one process in the foreground, and nothing of it afterwards.

mod helper;

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;
use thiserror::Error;

pub(crate) use helper::main;

use crate::cgroup::{self, Cgroup};
use crate::channel::{Channel, Received};
use crate::reexec::{self, Entry};
use crate::wire::message::{StepLaunch, StepReply};
use crate::wire::{CgroupLimits, Exit, Failure, InPlaceSpec, StepSpec};

/// Largest piece of output handed over at once, in bytes.
const OUTPUT_BYTES_MAX: usize = 32 << 10;

/// Where a piece of output was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a step ended. Nothing of it runs or is mounted any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOutcome {
    /// How its process ended.
    pub exit: Exit,
    /// Mount points that had to be created in the writable root, outermost first.
    ///
    /// They are still there, empty, unless the step changed them; a builder removes them with
    /// [`remove_stubs`] before it looks at the changes.
    pub stubs: Vec<PathBuf>,
}

/// Why a step has no outcome. Nothing of it runs or is mounted any more.
#[derive(Debug, Error)]
pub enum StepError {
    /// The step cannot be as the spec says: program, user, mount.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The caller cancelled it.
    #[error("step was cancelled")]
    Cancelled,
    /// A limit that was asked for cannot be enforced here.
    #[error("{0}")]
    Limits(String),
    /// The helper could not be started or was killed.
    #[error("step helper")]
    Helper(#[source] io::Error),
}

/// Ends a step from another thread.
#[derive(Clone, Debug)]
pub struct Cancel {
    event: Arc<OwnedFd>,
}

impl Cancel {
    /// A handle that has not been used yet.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Kills every step that was given this handle or a clone of it, now or later.
    pub fn cancel(&self) {
        // Fails only if the counter is full, and then the handle is used already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Waits until the handle is used, no longer than `timeout`; says whether it is used.
    ///
    /// # Errors
    /// The event cannot be waited for.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut events = [PollFd::new(&self.event, PollFlags::IN)];
        // A time that the kernel cannot express is as good as none.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut events, timeout.as_ref()) {
            Ok(ready) => Ok(0 < ready),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs a step in namespaces of its own and waits for its end.
///
/// Output is handed to `output` piece by piece in the order it arrives. Everything the step
/// started is killed when its process ends, and its mounts are gone when this returns: the
/// upper directory is the caller's again.
///
/// # Errors
/// [`StepError`]; a step that ran and failed is an outcome, not an error.
pub fn run_step(
    spec: &StepSpec,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<StepOutcome, StepError> {
    run(&StepLaunch::Sandboxed(spec.clone()), None, cancel, output)
}

/// The same as [`run_step`] in a control group of its own, which is gone afterwards. Missing
/// parents of the group are made and stay.
///
/// # Errors
/// [`StepError`]; [`StepError::Limits`] if the machine does not enforce a limit.
pub fn run_step_limited(
    spec: &StepSpec,
    limits: &CgroupLimits,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<StepOutcome, StepError> {
    run(&StepLaunch::Sandboxed(spec.clone()), Some(limits), cancel, output)
}

/// Runs a step without namespaces, in the caller's own root or below a directory, and waits
/// for its end.
///
/// Works in a pod with the default capabilities and seccomp RuntimeDefault. Everything the
/// step started is killed when its process ends, also what turned itself into a daemon.
///
/// # Errors
/// [`StepError`]; a step that ran and failed is an outcome, not an error.
pub fn run_in_place(
    spec: &InPlaceSpec,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<StepOutcome, StepError> {
    run(&StepLaunch::InPlace(spec.clone()), None, cancel, output)
}

/// Removes the mount points that a step's set-up left in its upper directory, unless the step
/// put something there.
///
/// # Errors
/// One cannot be removed.
pub fn remove_stubs(upper: &Path, stubs: &[PathBuf]) -> io::Result<()> {
    for stub in stubs.iter().rev() {
        let path = upper.join(stub.strip_prefix("/").unwrap_or(stub));
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir(&path),
            Ok(metadata) if metadata.is_file() && metadata.len() == 0 => fs::remove_file(&path),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match removed.map_err(|error| (error.kind(), error)) {
            Err((io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty, _)) | Ok(()) => {}
            Err((_, error)) => return Err(error),
        }
    }
    Ok(())
}

/// The control group of a step, removed when dropped.
struct Group(Cgroup);

impl Group {
    fn create(limits: &CgroupLimits) -> Result<Option<Self>, StepError> {
        let (group, degraded) = cgroup::create(limits);
        let group = group.map(Self);
        if degraded.is_empty() { Ok(group) } else { Err(StepError::Limits(degraded.join("; "))) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // At worst an empty group stays.
        let _ = cgroup::remove(&self.0.innermost_dirs());
    }
}

fn run(
    launch: &StepLaunch,
    limits: Option<&CgroupLimits>,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<StepOutcome, StepError> {
    let group = limits.map(Group::create).transpose()?.flatten();
    let started = reexec::start(Entry::Step, "", Stdio::piped(), Stdio::piped());
    let (mut helper, channel) = started.map_err(StepError::Helper)?;
    // The helper waits for its orders, so that everything it starts begins in the group.
    let joined = group.as_ref().map_or(Ok(()), |group| group.0.attach(helper.id()));
    if let Err(failure) = joined {
        drop(channel);
        helper.wait().map_err(StepError::Helper)?;
        return Err(StepError::Limits(failure.to_string()));
    }
    let mut watch = Watch {
        channel: Some(channel),
        stdout: helper.stdout.take(),
        stderr: helper.stderr.take(),
        reply: None,
        cancelled: false,
    };
    let sent = watch.channel.as_ref().map_or(Ok(()), |channel| channel.send(launch, &[]));
    let watched = sent.and_then(|()| watch.until_closed(cancel, output));
    // Closing the channel is what tells the helper to kill everything.
    watch.channel = None;
    let ended = helper.wait();
    match (watched.and(ended), watch.reply) {
        (_, _) if watch.cancelled => Err(StepError::Cancelled),
        (_, Some(StepReply::Ended { exit, stubs })) => Ok(StepOutcome { exit, stubs }),
        (_, Some(StepReply::Failed(failure))) => Err(failure.into()),
        (Err(error), None) => Err(StepError::Helper(error)),
        (Ok(status), None) => Err(StepError::Helper(io::Error::other(format!(
            "it ended without a word ({status}); does main call container_runtime::reexec first?"
        )))),
    }
}

/// What is still open between the caller and the helper.
struct Watch {
    channel: Option<Channel>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    reply: Option<StepReply>,
    cancelled: bool,
}

impl Watch {
    fn until_closed(
        &mut self,
        cancel: &Cancel,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> io::Result<()> {
        let mut bytes = vec![0; OUTPUT_BYTES_MAX];
        while self.channel.is_some() || self.stdout.is_some() || self.stderr.is_some() {
            let ready = self.poll(cancel)?;
            if ready.cancel {
                self.cancelled = true;
                self.channel = None;
            }
            if ready.stdout && !pass_on(&mut self.stdout, &mut bytes, Stream::Stdout, output)? {
                self.stdout = None;
            }
            if ready.stderr && !pass_on(&mut self.stderr, &mut bytes, Stream::Stderr, output)? {
                self.stderr = None;
            }
            if ready.channel {
                self.read_reply()?;
            }
        }
        Ok(())
    }

    fn poll(&self, cancel: &Cancel) -> io::Result<Ready> {
        let sources: [Option<BorrowedFd<'_>>; 4] = [
            (!self.cancelled).then(|| cancel.event.as_fd()),
            self.channel.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        let mut fds: Vec<_> = sources
            .iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        loop {
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let mut polled = fds.iter();
        let [cancel, channel, stdout, stderr] = sources.map(|source| {
            source.is_some() && polled.next().is_some_and(|fd| !fd.revents().is_empty())
        });
        Ok(Ready { cancel, channel, stdout, stderr })
    }

    fn read_reply(&mut self) -> io::Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        match channel.try_read()? {
            Received::Partial => {}
            Received::Closed => self.channel = None,
            Received::Frame(body, _) => self.reply = Some(serde_json::from_slice(&body)?),
        }
        Ok(())
    }
}

struct Ready {
    cancel: bool,
    channel: bool,
    stdout: bool,
    stderr: bool,
}

/// Whether the pipe is still open.
fn pass_on(
    pipe: &mut Option<impl Read>,
    bytes: &mut [u8],
    stream: Stream,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let length = pipe.read(bytes)?;
    if 0 < length {
        output(stream, &bytes[..length]);
    }
    Ok(0 < length)
}
