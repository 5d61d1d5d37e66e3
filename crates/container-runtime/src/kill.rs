//! Finding and killing the processes that belong to something.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::Signal;
use crate::process_id::ProcessId;
use crate::syscall;

/// A mount namespace by its numbers.
///
/// The kernel gives inode numbers of dead namespaces out again at once, so the inode alone says
/// something only while somebody keeps the namespace alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountNamespace {
    inode: u64,
    /// Never given out again; kernels before 6.8 have none.
    unique: Option<u64>,
}

impl MountNamespace {
    /// The namespace of a process, and a descriptor that keeps it alive.
    pub(crate) fn of(pid: u32) -> io::Result<(File, Self)> {
        let file = File::open(format!("/proc/{pid}/ns/mnt"))?;
        let inode = file.metadata()?.ino();
        let unique = syscall::mount_namespace_id(&file).ok();
        Ok((file, Self { inode, unique }))
    }

    /// Whether another process can be told to be in it although nobody keeps it alive.
    pub(crate) fn is_unmistakable(&self) -> bool {
        self.unique.is_some()
    }

    /// Whether a process is in it.
    fn holds(&self, pid: u32) -> bool {
        // Cheaper than opening it, and most processes are elsewhere.
        let metadata = fs::metadata(format!("/proc/{pid}/ns/mnt"));
        metadata.is_ok_and(|namespace| namespace.ino() == self.inode)
            && Self::of(pid).is_ok_and(|(_, found)| found == *self)
    }
}

/// Kills every process in a mount namespace, until none is left.
///
/// What a container started is in its mount namespace whatever its parent, session or control
/// group, and a process can only leave it with CAP_SYS_ADMIN. The caller keeps the namespace
/// alive, or has checked that it is unmistakable.
pub(crate) fn everything_in(namespace: &MountNamespace) -> io::Result<()> {
    /// A fork that raced with one pass is found by the next one.
    const PASSES_MAX: usize = 100;
    for _ in 0..PASSES_MAX {
        let mut found = false;
        for pid in all_processes()? {
            // Named before it is looked at: the number cannot change hands in between.
            let Ok(process) = ProcessId::of(pid) else { continue };
            if namespace.holds(pid) {
                found |= process.is_alive() && process.signal(Signal::KILL)?;
            }
        }
        if !found {
            return Ok(());
        }
    }
    Err(io::Error::other("processes of the container start faster than they can be killed"))
}

/// Kills every child of this process; whether there is one, dead or alive.
pub(crate) fn children() -> io::Result<bool> {
    let own = std::process::id();
    let mut found = false;
    for pid in all_processes()? {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.and_then(|parent| parent.parse().ok()) == Some(own) {
            found = true;
            ProcessId::of(pid)?.signal(Signal::KILL)?;
        }
    }
    Ok(found)
}

/// Numbers of all processes this one can see.
fn all_processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}
