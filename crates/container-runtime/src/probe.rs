//! Which ways to run a step this machine permits, found out by trying them.

use std::io;
use std::path::Path;
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::reexec::{self, Entry};

/// A way to run a step, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// Namespaces and an overlay mount, with CAP_SYS_ADMIN.
    Overlay,
    /// The same inside a user namespace.
    UserNamespace,
    /// The caller's own root, without namespaces: only in an image that is made for it.
    InPlace,
    /// A directory with `chroot(2)`, without namespaces.
    Chroot,
    /// No step can run; builds without RUN still work.
    None,
}

/// Why a mode cannot be used, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The mode.
    pub mode: Mode,
    /// What was tried, what the kernel answered, and what would permit it.
    pub reason: String,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The modes that work here, the best first; [`Mode::None`] is always the last.
    pub permitted: Vec<Mode>,
    /// The modes that do not, the best first.
    pub refused: Vec<Refusal>,
    /// Whether a user namespace gets its own `/proc`; if not, [`Mode::UserNamespace`] needs
    /// `Namespace::Host` for process identifiers.
    pub fresh_proc: bool,
}

/// Why nothing could be found out.
#[derive(Debug, Error)]
#[error("probe isolation in {dir}")]
pub struct ProbeError {
    dir: String,
    source: io::Error,
}

/// Tries every mode in a child process, with a real mount in `state_dir`.
///
/// [`Mode::InPlace`] is permitted to whoever has the rights for it; whether the root is the
/// caller's to change is the caller's to know.
///
/// # Errors
/// `state_dir` cannot be written, or the child was killed.
pub fn probe_isolation(state_dir: &Path) -> Result<Isolation, ProbeError> {
    let tried = || {
        let (mut helper, mut channel) =
            reexec::start(Entry::Probe, "", Stdio::null(), Stdio::inherit())?;
        channel.send(&state_dir, &[])?;
        let received = channel.receive::<Result<Isolation, String>>();
        helper.wait()?;
        received?.0.map_err(io::Error::other)
    };
    tried().map_err(|source| ProbeError { dir: state_dir.display().to_string(), source })
}

/// Runs the probe; returns its exit code.
pub(crate) fn main() -> u8 {
    1
}
