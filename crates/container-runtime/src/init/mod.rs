//! The child that becomes a container: what it does between `clone` and the start of the
//! program.
//!
//! It runs in its new namespaces with the rights of its parent, sets everything up, gives its
//! rights away, reports, waits for the word to start, and becomes the program.

mod become_program;
mod credentials;
mod devices;
mod inside;
mod layers;
mod mounts;
mod namespaces;
mod program;
mod root;
mod user;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::mount::MountPropagationFlags;

pub(crate) use become_program::{Program, become_program};
pub(crate) use namespaces::{Joined, clone_flags, joined};

use self::inside::Inside;
use crate::cgroup::CgroupView;
use crate::channel::Channel;
use crate::syscall;
use crate::wire::message::InitEvent;
use crate::wire::{Failure, Process, Sandbox, Terminal, UserNamespace};

/// Descriptors that become stdin, stdout and stderr.
#[derive(Debug)]
pub(crate) struct StdioFds {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Everything the child needs; its copy of what the parent prepared.
pub(crate) struct Init<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) process: &'a Process,
    pub(crate) terminal: Terminal,
    /// `None` with a terminal.
    pub(crate) stdio: Option<StdioFds>,
    pub(crate) joined: Vec<Joined>,
    pub(crate) cgroup: Option<CgroupView>,
}

/// Becomes the container, or reports why not; never returns.
pub(crate) fn run(init: Init<'_>, mut parent: Channel) -> ! {
    let failure = set_up(init, &mut parent);
    // Without a parent there is nobody to tell.
    let _ = parent.send(&InitEvent::Failed(failure), &[]);
    syscall::exit_now(1)
}

/// Returns only on failure.
fn set_up(init: Init<'_>, parent: &mut Channel) -> Failure {
    let mut stubs = Vec::new();
    let prepared = prepare(&init, parent, &mut stubs);
    if let Err(failure) = prepared {
        return failure;
    }
    let program = Program {
        process: init.process,
        terminal: init.terminal,
        stdio: init.stdio,
        may_set_groups: init.sandbox.namespaces.user != UserNamespace::CallerAsRoot,
        stubs,
    };
    become_program(program, parent)
}

fn prepare(init: &Init<'_>, parent: &mut Channel, stubs: &mut Vec<PathBuf>) -> Result<(), Failure> {
    rustix::process::umask(rustix::fs::Mode::empty());
    // The parent writes the identity maps of a new user namespace before this word.
    let (): () = parent.receive().map_err(|error| Failure::setup("wait for parent", error))?.0;
    let sandbox = init.sandbox;
    namespaces::enter(sandbox, &init.joined)?;
    if let Some(score) = init.process.oom_score_adj {
        set_oom_score(score);
    }

    // Bind sources are cloned while the mounts are still the host's, so that the ones that
    // asked for it stay peers of the host's.
    let mut plan = mounts::plan(sandbox, init.cgroup.as_ref())?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(|error| Failure::setup("separate the mounts from the host's", error))?;
    let root = root::mount(sandbox, &mounts::stubs(&plan))?;
    let inside = Inside::new(&root, stubs);
    mounts::perform(sandbox, &mut plan, inside)?;
    let inside = Inside::new(&root, stubs);
    if init.terminal != Terminal::None {
        devices::console_mount_point(inside)?;
    }
    write_sysctls(sandbox, &root)?;
    mounts::restrict(sandbox, &root)?;
    root::pivot(&root)?;
    if sandbox.readonly_root {
        root::make_readonly(&root)?;
    }
    Ok(())
}

/// Lowering is refused without CAP_SYS_RESOURCE; what the process inherited is then nearest.
pub(crate) fn set_oom_score(score: i16) {
    let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
}

fn write_sysctls(sandbox: &Sandbox, root: &root::RootMount) -> Result<(), Failure> {
    for (name, value) in &sandbox.sysctls {
        let failed = |error: rustix::io::Errno| Failure::setup(format!("sysctl {name}"), error);
        let valid = name.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        });
        if !valid {
            return Err(failed(rustix::io::Errno::INVAL));
        }
        let path = format!("proc/sys/{}", name.replace('.', "/"));
        let file = inside::open_for_writing(&root.fd, path.as_ref()).map_err(failed)?;
        rustix::io::write(&file, value.as_bytes()).map_err(failed)?;
    }
    Ok(())
}
