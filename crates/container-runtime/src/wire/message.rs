//! Messages between a caller, the shim of a container and the helper of a step.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ContainerSpec, InPlaceSpec, Process, StepSpec, Terminal};

/// Why a process could not be started; it has crossed process boundaries as text.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The program is missing (code 127) or cannot be executed (126).
    #[error("{message}")]
    Program {
        /// `exec: "foo": executable file not found in $PATH` and the like.
        message: String,
        /// What a shell would exit with: 126 or 127.
        code: u8,
    },
    /// The user or group does not exist in the root.
    #[error("{message}")]
    User {
        /// `unable to find user foo: no matching entries in passwd file`.
        message: String,
    },
    /// A mount, namespace or limit could not be set up.
    #[error("{step}: {message}")]
    Setup {
        /// What was attempted, with the object.
        step: String,
        /// What the kernel answered.
        message: String,
    },
    /// The layers of a mount could not be shown ([`crate::MountSource::Layers`]).
    #[error("layers at {target}: {message}")]
    Layers {
        /// Where in the container.
        target: String,
        /// What went wrong.
        message: String,
    },
    /// A fresh `/proc` is refused here; a step can run with the caller's one instead.
    #[error("mount proc: {message}")]
    FreshProcRefused {
        /// What the kernel answered.
        message: String,
    },
}

impl Failure {
    /// A failed step of the set-up.
    pub(crate) fn setup(step: impl Into<String>, error: impl ToString) -> Self {
        Self::Setup { step: step.into(), message: error.to_string() }
    }
}

/// The numbers a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It called `exit`.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl Exit {
    /// What a shell and the kubelet report: the code, or 128 plus the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => i32::from(code),
            Self::Signal(signal) => 128 + i32::from(signal),
        }
    }

    /// Whether the process ended with code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

/// The first message to a new shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShimLaunch {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) spec: ContainerSpec,
}

/// The answer to [`ShimLaunch`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LaunchReply {
    Created { pid: u32, user: ResolvedUser, degraded: Vec<String> },
    Failed(Failure),
}

/// A request to a running shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start the created process.
    Start,
    /// Start another process; carries stdin, stdout, stderr unless it has a terminal.
    Exec { process: Box<Process>, terminal: Terminal },
    /// Copy output from now on to the descriptors that come with it.
    Attach { stdout: bool, stderr: bool, stdin: bool },
    /// Open the log file anew, after it was renamed.
    ReopenLog,
}

/// The answers of a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    /// The process runs; carries the terminal's master side if it has one.
    ExecStarted {
        pid: u32,
    },
    /// It ended; the last message of an exec.
    Exited(Exit),
    /// Carries the write side of stdin if asked for, or the terminal's master side.
    Attached {
        terminal: bool,
    },
    Failed(Failure),
}

/// The first message to the helper of a step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StepLaunch {
    Sandboxed(StepSpec),
    InPlace(InPlaceSpec),
}

/// The messages of that helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StepReply {
    Ended { exit: Exit, stubs: Vec<PathBuf> },
    Failed(Failure),
}

/// What a process that becomes a container tells its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum InitEvent {
    /// Everything but the start of the program is done; carries the terminal if it has one.
    Ready {
        user: ResolvedUser,
        stubs: Vec<PathBuf>,
        degraded: Vec<String>,
    },
    /// An exec forked its final process; carries a descriptor of it.
    Forked,
    Failed(Failure),
}
