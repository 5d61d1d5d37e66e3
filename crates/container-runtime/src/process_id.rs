//! A process that is named beyond the reuse of its number.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::Signal;
use crate::syscall;

/// A process number with the time its process was started, which makes it unique in one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub(crate) pid: u32,
    /// Clock ticks since boot (proc_pid_stat(5), field 22).
    pub(crate) started_ticks: u64,
}

impl ProcessId {
    /// Names the process that has the number now.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started_ticks = parse_started_ticks(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed stat"))?;
        Ok(Self { pid, started_ticks })
    }

    /// Opens the process, or nothing if it is gone.
    pub(crate) fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Compared after the descriptor is open: the number cannot change hands any more.
        match Self::of(self.pid) {
            Ok(current) if current == *self => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the process runs; one that ended but was not reaped does not.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.open(), Ok(Some(fd)) if !syscall::is_readable(&fd))
    }

    /// Sends a signal; `false` if the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.open()? {
            Some(fd) => syscall::pidfd_send_signal(&fd, signal),
            None => Ok(false),
        }
    }
}

/// The program's name in parentheses may itself hold spaces and parentheses.
fn parse_started_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Identifies this boot of the machine.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_under_its_name() -> io::Result<()> {
        assert!(ProcessId::of(std::process::id())?.is_alive());
        Ok(())
    }

    #[test]
    fn number_with_another_start_time_is_another_process() -> io::Result<()> {
        let mut other = ProcessId::of(std::process::id())?;
        other.started_ticks += 1;
        assert!(!other.is_alive());
        assert!(!other.signal(Signal::KILL)?);
        Ok(())
    }

    #[test]
    fn program_name_with_parentheses_is_skipped() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_started_ticks(stat), Some(4242));
    }
}
