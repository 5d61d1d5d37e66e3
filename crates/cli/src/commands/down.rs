//! `shipway down`: ends the machine, its containers and its mounts; the state stays unless it is
//! purged.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::Args;
use container_runtime::{Runtime, State};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use super::up::record::{Lock, Record};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output;

/// Flags of `shipway down`.
#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    /// Remove the state directory too: images, volumes and the cluster are lost
    #[arg(long)]
    purge: bool,
}

/// Stops everything on the state directory.
pub(crate) fn run(args: &DownArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let state_dir = globals.state_dir();
    let Ok(state_dir) = state_dir.canonicalize() else {
        output::error_line(&format!("nothing to stop: {} does not exist", state_dir.display()));
        return Ok(ExitCode::SUCCESS);
    };
    // Held until the end, so that no new machine starts meanwhile.
    let lock = match Lock::take(&state_dir).context("cannot lock the state directory")? {
        Some(lock) => lock,
        None => stop_daemon(&state_dir)?,
    };
    stop_containers(&state_dir)?;
    if args.purge {
        std::fs::remove_dir_all(&state_dir)
            .with_context(|| format!("cannot remove {}", state_dir.display()))?;
    }
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

/// Ends the daemon and waits for the end of its lock.
fn stop_daemon(state_dir: &Path) -> Result<Lock, Failure> {
    let record = Record::read(state_dir).context("cannot read the record of the machine")?;
    let pid = record
        .and_then(|record| i32::try_from(record.pid).ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| anyhow!("a machine is starting on {}; try again", state_dir.display()))?;
    match rustix::process::kill_process(pid, Signal::TERM) {
        // Gone a moment ago: its lock is free too.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            return Err(Failure::new(Kind::Environment, error)
                .hint("it belongs to another user; try again as that user or as root"));
        }
    }
    Lock::wait(state_dir).context("cannot wait for the end of the machine").map_err(Failure::from)
}

/// Ends every container of the node and removes what is mounted below the state directory.
pub(crate) fn stop_containers(state_dir: &Path) -> Result<(), Failure> {
    let directory = state_dir.join("node/containers");
    if directory.is_dir() {
        let runtime = Runtime::open(&directory).context("cannot open the node's containers")?;
        for container in runtime.list().context("cannot list the node's containers")? {
            let running = !matches!(container.state(), Ok(State::Stopped(_)));
            if running {
                container.kill_all().with_context(|| format!("container {}", container.id()))?;
                container.wait().with_context(|| format!("container {}", container.id()))?;
            }
        }
    }
    for mount in mounts_below(state_dir)? {
        rustix::mount::unmount(&mount, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", mount.display()))?;
    }
    Ok(())
}

/// Mount points below a directory, innermost first.
fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("cannot list mounts")?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(directory) && path != directory)
        .collect();
    mounts.sort();
    mounts.reverse();
    Ok(mounts)
}

/// mountinfo writes blanks, tabs, line feeds and backslashes as three octal digits (proc(5)).
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
