//! RUN: a command on the files of a stage, and what it changed as a layer.
//!
//! [`sandbox`] runs it in namespaces over an overlay mount, [`root_tree`] without namespaces in
//! a real directory tree: the executor's own root, or a directory to `chroot(2)` into.

pub(crate) mod agent;
pub(crate) mod caches;
mod covers;
mod ignored;
pub(crate) mod mounts;
mod relocate;
pub(crate) mod resources;
mod root_swap;
pub(crate) mod root_tree;
pub(crate) mod sandbox;
mod stubs;
pub(crate) mod touched;

use std::path::{Path, PathBuf};

use container_runtime::{
    Cancel, Capabilities, CapabilitySet, Exit, ImageGroups, Process, StepOutcome, Stream, User,
};
use dockerfile::{RunAction, Security};

use self::resources::RunResources;
use crate::error::StepError;
use crate::event::{BuildEvent, Events, OutputStream, StepNumber};

/// File creation mask of commands: what images expect.
const UMASK: u32 = 0o022;

/// The process of a RUN.
pub(crate) fn process(command: &Command<'_>, extra_env: &[(String, String)]) -> Process {
    let action = command.action;
    let mut process = Process::new(action.argv.iter().cloned());
    process.env = action.env.to_vec();
    for (name, value) in action.proxies.iter().chain(extra_env) {
        process.env.push((name.clone(), value.clone()));
    }
    process.cwd = PathBuf::from(&action.directory);
    process.user = User::named(action.user.clone());
    if action.user.split_once(':').is_some_and(|(_, group)| !group.is_empty()) {
        // A group that was named is the only one.
        process.user.image_groups = ImageGroups::Ignore;
    }
    process.umask = UMASK;
    process.limits.clone_from(&command.resources.limits);
    match action.security {
        Security::Sandbox => {}
        Security::Insecure => {
            process.capabilities =
                Capabilities { bounding: CapabilitySet::ALL, ambient: CapabilitySet::EMPTY };
        }
    }
    process
}

/// Less free space than this explains why a command failed, in bytes.
const FREE_BYTES_MIN: u64 = 256 << 10;

/// The result of a command that wrote to the file system of `disk` as the result of its step.
pub(crate) fn check_exit(
    command: &Command<'_>,
    outcome: &StepOutcome,
    disk: &Path,
) -> Result<(), StepError> {
    if outcome.exit == Exit::Code(0) {
        return Ok(());
    }
    // Few programs say so themselves.
    let free = rustix::fs::statvfs(disk).map(|found| found.f_bavail * found.f_frsize);
    if free.is_ok_and(|free| free < FREE_BYTES_MIN) {
        let disk = disk.display();
        let text = format!("No space left on device: the file system of {disk} is full");
        command.events.send(BuildEvent::Warning(text));
    }
    let action = command.action;
    Err(StepError::Exit { command: action.argv.join(" "), code: outcome.exit.code() })
}

/// Passes output on as events.
pub(crate) fn forward(events: &Events, step: StepNumber) -> impl FnMut(Stream, &[u8]) + use<> {
    let events = events.clone();
    move |stream, bytes| {
        let stream = match stream {
            Stream::Stdout => OutputStream::Stdout,
            Stream::Stderr => OutputStream::Stderr,
        };
        events.send(BuildEvent::StepOutput { step, stream, bytes: bytes.to_vec() });
    }
}

/// What every engine gets told about one command.
pub(crate) struct Command<'a> {
    pub(crate) action: &'a RunAction,
    pub(crate) step: StepNumber,
    pub(crate) events: &'a Events,
    pub(crate) cancel: &'a Cancel,
    /// Scratch space of the build.
    pub(crate) scratch: &'a Path,
    pub(crate) resources: &'a RunResources,
    /// Paths at which nothing becomes part of the layer.
    pub(crate) ignored: &'a [PathBuf],
}
