//! Limits and surroundings of every RUN of a build, as the caller decides them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use container_runtime::{CgroupLimits, Mount, MountSource, Propagation, ResourceLimit};

use crate::error::StepError;

/// Limits and surroundings of every RUN. They are no part of cache keys: a command is expected
/// to make the same files under any limit it survives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunResources {
    /// Resource limits of processes (`--ulimit`).
    pub limits: Vec<ResourceLimit>,
    /// Capacity of `/dev/shm` in bytes; `None` is 64 MiB (`--shm-size`).
    pub shm_bytes: Option<u64>,
    /// More lines of `/etc/hosts`: names and their addresses (`--add-host`).
    pub hosts: Vec<(String, IpAddr)>,
    /// The control group that those of commands are made in, below the builder's own
    /// (`--cgroup-parent`).
    pub cgroup_parent: Option<PathBuf>,
    /// Memory in bytes; above it the kernel kills (`--memory`).
    pub memory_bytes_max: Option<u64>,
    /// Relative weight, 1024 per CPU (`--cpu-shares`).
    pub cpu_shares: Option<u64>,
    /// CPU time in microseconds per 100 ms (`--cpu-quota`).
    pub cpu_quota_micros: Option<u64>,
}

impl RunResources {
    /// The control group of one command, if it needs one.
    pub(crate) fn cgroup(&self) -> Option<CgroupLimits> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let limits = CgroupLimits {
            cpu_shares: self.cpu_shares,
            cpu_quota_micros: self.cpu_quota_micros,
            memory_bytes_max: self.memory_bytes_max,
            named: self.cgroup_parent.is_some(),
            ..CgroupLimits::default()
        };
        if limits == CgroupLimits::default() {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("shipway-step-{}-{number}", std::process::id());
        let parent = self.cgroup_parent.as_deref().unwrap_or(Path::new(""));
        Some(CgroupLimits { path: parent.join(name), ..limits })
    }

    /// `/dev/shm` of another size.
    pub(crate) fn shm(&self) -> Option<Mount> {
        Some(Mount {
            target: "/dev/shm".into(),
            source: MountSource::Tmpfs { bytes_max: Some(self.shm_bytes?), mode: 0o1777 },
            readonly: false,
            propagation: Propagation::Private,
        })
    }

    /// Lines for `/etc/hosts`.
    pub(crate) fn host_lines(&self) -> String {
        self.hosts.iter().map(|(name, address)| format!("{address}\t{name}\n")).collect()
    }

    /// Refuses what takes namespaces or control groups.
    pub(crate) fn refuse_without_namespaces(&self) -> Result<(), StepError> {
        let flag = if self.shm_bytes.is_some() {
            "--shm-size"
        } else if !self.hosts.is_empty() {
            "--add-host"
        } else if self.cgroup().is_some() {
            "--memory, --cpu-shares, --cpu-quota and --cgroup-parent"
        } else {
            return Ok(());
        };
        Err(StepError::NoIsolation { reason: format!("{flag} need namespaces of the command") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_is_made_only_for_limits_and_parents() {
        assert_eq!(RunResources::default().cgroup(), None);
        let limited = RunResources { memory_bytes_max: Some(1 << 20), ..RunResources::default() };
        let group = limited.cgroup().expect("a limit");
        assert_eq!((group.memory_bytes_max, group.named), (Some(1 << 20), false));
        assert_ne!(limited.cgroup().map(|group| group.path), Some(group.path));
        let parent = Some(PathBuf::from("/builds"));
        let placed = RunResources { cgroup_parent: parent, ..RunResources::default() };
        assert!(placed.cgroup().expect("a parent").path.starts_with("/builds"));
    }

    #[test]
    fn what_needs_namespaces_is_named() {
        let shm = RunResources { shm_bytes: Some(1), ..RunResources::default() };
        let error = shm.refuse_without_namespaces().expect_err("no namespaces").to_string();
        assert!(error.contains("--shm-size"), "{error}");
        assert!(RunResources::default().refuse_without_namespaces().is_ok());
    }
}
