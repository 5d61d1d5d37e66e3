//! The process that owns a running step: it ends when the step does, and the step with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::WaitOptions;

use crate::Signal;
use crate::channel::{Channel, Received};
use crate::init::{Program, StdioFds, become_program, set_oom_score};
use crate::kill::{self, MountNamespace};
use crate::launch::{self, Launched, exit_of};
use crate::syscall::{self, Cloned};
use crate::wire::message::{InitEvent, StepLaunch, StepReply};
use crate::wire::{Exit, Failure, InPlaceSpec, Namespace, StepSpec, Terminal, UserNamespace};

/// Runs the helper of a step; returns its exit code.
pub(crate) fn main() -> u8 {
    match run() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn run() -> io::Result<()> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = OwnedFd::from(File::open("/dev/null")?);
    rustix::stdio::dup2_stdin(&null)?;
    // A session of its own: Ctrl-C reaches the caller, which decides.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Fails never; else `ps -o comm` shows a number.
    let _ = rustix::thread::set_name(c"shipway:step");
    let signals = syscall::signalfd()?;
    let mut caller = Channel::new(socket);
    let (launch, _) = caller.receive::<StepLaunch>()?;
    let launched = stdio(&null)
        .map_err(|error| Failure::setup("standard streams", error))
        .and_then(|stdio| match &launch {
            StepLaunch::Sandboxed(spec) => sandboxed(spec, stdio),
            StepLaunch::InPlace(spec) => in_place(spec, stdio),
        })
        .and_then(|(mut launched, territory)| {
            launched.start().inspect_err(|_| launch::discard(&launched.child))?;
            Ok((launched, territory))
        });
    let reply = match launched {
        Ok((launched, territory)) => {
            let exit = until_end(&launched, &mut caller, &signals)?;
            end_everything(territory)?;
            StepReply::Ended { exit, stubs: launched.stubs }
        }
        Err(failure) => StepReply::Failed(failure),
    };
    caller.send(&reply, &[])
}

/// What belongs to a step.
enum Territory {
    /// The PID namespace that ends with its first process; the file is its mount namespace.
    OwnProcesses(File),
    /// Every process in a mount namespace, which the file keeps alive.
    Namespace(File, MountNamespace),
    /// Every descendant.
    Descendants,
}

fn stdio(null: &OwnedFd) -> io::Result<StdioFds> {
    Ok(StdioFds {
        stdin: null.try_clone()?,
        stdout: rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?,
        stderr: rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?,
    })
}

fn sandboxed(spec: &StepSpec, stdio: StdioFds) -> Result<(Launched, Territory), Failure> {
    let again = StdioFds {
        stdin: clone(&stdio.stdin)?,
        stdout: clone(&stdio.stdout)?,
        stderr: clone(&stdio.stderr)?,
    };
    let launch =
        |sandbox, stdio| launch::launch(sandbox, &spec.process, Terminal::None, Some(stdio), None);
    let mut own_processes = spec.sandbox.namespaces.pid == Namespace::New;
    let mut launched = match launch(&spec.sandbox, stdio) {
        // The kernel shows a new /proc only to who sees all of the old one. With the caller's
        // processes the caller's /proc will do.
        Err(Failure::FreshProcRefused { .. })
            if spec.sandbox.namespaces.user != UserNamespace::Host =>
        {
            let mut sandbox = spec.sandbox.clone();
            sandbox.namespaces.pid = Namespace::Host;
            own_processes = false;
            launch(&sandbox, again)?
        }
        other => other?,
    };
    let Some((file, namespace)) = launched.mounts.take() else {
        return Err(Failure::setup("find the mount namespace", "it has none"));
    };
    let territory = match own_processes {
        true => Territory::OwnProcesses(file),
        false => Territory::Namespace(file, namespace),
    };
    Ok((launched, territory))
}

fn clone(fd: &OwnedFd) -> Result<OwnedFd, Failure> {
    fd.try_clone().map_err(|error| Failure::setup("standard streams", error))
}

fn in_place(spec: &InPlaceSpec, stdio: StdioFds) -> Result<(Launched, Territory), Failure> {
    let setup = |error: io::Error| Failure::setup("start the step", error);
    let (ours, mut theirs) = Channel::pair().map_err(setup)?;
    let child = match syscall::clone_child(0, None).map_err(setup)? {
        Cloned::Child => {
            drop(ours);
            let failure = match enter_root(spec) {
                Ok(()) => {
                    let program = Program {
                        process: &spec.process,
                        terminal: Terminal::None,
                        stdio: Some(stdio),
                        may_set_groups: true,
                        stubs: Vec::new(),
                    };
                    become_program(program, &mut theirs)
                }
                Err(failure) => failure,
            };
            let _ = theirs.send(&InitEvent::Failed(failure), &[]);
            syscall::exit_now(1)
        }
        Cloned::Parent(child) => child,
    };
    drop((theirs, stdio));
    Ok((Launched::until_ready(child, ours)?, Territory::Descendants))
}

fn enter_root(spec: &InPlaceSpec) -> Result<(), Failure> {
    rustix::process::umask(rustix::fs::Mode::empty());
    if let Some(score) = spec.process.oom_score_adj {
        set_oom_score(score);
    }
    let Some(root) = &spec.chroot else { return Ok(()) };
    rustix::process::chroot(root)
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(|error| Failure::setup(format!("chroot to {}", root.display()), error))
}

/// Waits for the end of the first process; kills it when the caller closes the channel.
fn until_end(launched: &Launched, caller: &mut Channel, signals: &OwnedFd) -> io::Result<Exit> {
    let mut cancelled = false;
    loop {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get().cast_unsigned() == launched.child.pid {
                return Ok(exit_of(status));
            }
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        if !cancelled {
            fds.push(PollFd::from_borrowed_fd(caller.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let from_caller = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        let mut bytes = [0; 1024];
        while let Ok(1..) = rustix::io::read(signals, &mut bytes) {}
        if from_caller && matches!(caller.try_read(), Ok(Received::Closed) | Err(_)) {
            cancelled = true;
            syscall::pidfd_send_signal(&launched.child.pidfd, Signal::KILL)?;
        }
    }
}

fn end_everything(territory: Territory) -> io::Result<()> {
    match territory {
        // The last holder: with this the step is unmounted.
        Territory::OwnProcesses(file) => drop(file),
        Territory::Namespace(file, namespace) => {
            kill::everything_in(&namespace)?;
            while reap_one(WaitOptions::empty()) {}
            drop(file);
        }
        // What a killed process leaves becomes a child of this one, its reaper; so killing
        // children until there is none ends every descendant. Waiting is safe only as long as
        // all children are killed ones: the end of each may bring new ones.
        Territory::Descendants => {
            while kill::children()? {
                if !reap_one(WaitOptions::NOHANG) {
                    reap_one(WaitOptions::empty());
                }
            }
        }
    }
    Ok(())
}

/// Whether there was one to reap.
fn reap_one(options: WaitOptions) -> bool {
    loop {
        match rustix::process::wait(options) {
            Err(Errno::INTR) => {}
            reaped => return matches!(reaped, Ok(Some(_))),
        }
    }
}
