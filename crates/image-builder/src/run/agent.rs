//! `RUN --mount=type=ssh`: a socket of the step's own that passes on to the agent of the caller.
//!
//! The agent's socket itself is never shown: its owner and mode are the caller's affair, while
//! the mount has mode, uid and gid of its own, and connections must end with the step.

use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use std::os::fd::AsRawFd as _;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::mounts::FileLook;
use crate::error::StepError;

/// Most connections to an agent at once; further ones wait.
const CONNECTIONS_MAX: usize = 64;

/// A socket that listens until it is dropped.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    path: PathBuf,
    /// Accepts; owns every connection.
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl AgentSocket {
    /// Listens in a directory of its own below `scratch` for whoever may use `look`.
    ///
    /// Must be called on the runtime.
    pub(crate) fn listen(agent: &Path, look: FileLook, scratch: &Path) -> Result<Self, StepError> {
        let made = tempfile::Builder::new().prefix("agent-").tempdir_in(scratch);
        let directory = made.map_err(|error| StepError::io(scratch, error))?;
        let path = directory.path().join("socket");
        let failed = |error: std::io::Error| StepError::io(&path, error);
        let listener = bind(directory.path()).map_err(failed)?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(look.uid), Gid::from_raw(look.gid));
            rustix::fs::chown(&path, Some(uid), Some(gid)).map_err(|e| failed(e.into()))?;
        }
        let mode = Mode::from_raw_mode(look.mode);
        rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty()).map_err(|e| failed(e.into()))?;
        let task = tokio::spawn(serve(listener, agent.to_owned()));
        Ok(Self { path, task, _directory: directory })
    }

    /// Where it listens; the file may be moved.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Binds below a directory whose path may be longer than a socket address (108 bytes).
fn bind(directory: &Path) -> std::io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    let short = format!("/proc/self/fd/{}/socket", opened.as_raw_fd());
    let listener = StdListener::bind(short)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn serve(listener: UnixListener, agent: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        if CONNECTIONS_MAX <= connections.len() {
            connections.join_next().await;
        }
        let Ok((mut client, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let agent = agent.clone();
        connections.spawn(async move {
            match UnixStream::connect(&agent).await {
                Ok(mut upstream) => {
                    // Either side may hang up at any time; the other notices.
                    let _ = copy_bidirectional(&mut client, &mut upstream).await;
                }
                Err(error) => {
                    tracing::warn!(agent = %agent.display(), %error, "agent does not answer");
                }
            }
        });
    }
}
