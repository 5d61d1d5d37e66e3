//! Finding and killing the processes that belong to something.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::Signal;
use crate::process_id::ProcessId;

/// Kills every process in the mount namespace with this inode, until none is left.
///
/// What a container started is in its mount namespace whatever its parent, session or control
/// group, and a process can only leave it with CAP_SYS_ADMIN.
pub(crate) fn everything_in_mount_namespace(inode: u64) -> io::Result<()> {
    /// A fork that raced with one pass is found by the next one.
    const PASSES_MAX: usize = 100;
    for _ in 0..PASSES_MAX {
        let mut found = false;
        for pid in all_processes()? {
            let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt"));
            if !namespace.is_ok_and(|namespace| namespace.ino() == inode) {
                continue;
            }
            if let Ok(process) = ProcessId::of(pid) {
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
