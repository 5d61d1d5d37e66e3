//! Control groups: limits of a container, version 1 and 2.
//!
//! A group is made only for controllers that a limit needs. What the machine does not permit
//! is reported, not fatal: a laptop container or CI job often has no writable groups.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};

use crate::wire::{CgroupLimits, Failure};

/// Period that CPU quotas refer to, in microseconds (cpu.cfs_period_us, cpu.max).
const PERIOD_MICROS: u64 = 100_000;

/// How often the removal of a group is tried while its last processes are being reaped.
const REMOVALS_MAX: u32 = 100;
const REMOVAL_PAUSE: Duration = Duration::from_millis(2);

/// The groups of one container.
#[derive(Debug, Default)]
pub(crate) struct Cgroup {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    /// Name of the controller, or empty for version 2.
    name: &'static str,
    dir: PathBuf,
    /// Parents below the caller's own group, innermost first.
    parents: Vec<PathBuf>,
}

/// How a container sees its groups.
#[derive(Clone, Debug)]
pub(crate) enum CgroupView {
    /// One tree (version 2), in a namespace of its own.
    Unified,
    /// One directory per controller (version 1).
    Hierarchies(Vec<(&'static str, PathBuf)>),
}

/// A file of a group and what is written to it.
type Setting = (&'static str, String);

/// What version 1 and 2 write for one controller.
struct Wanted {
    controller: &'static str,
    v1: Vec<Setting>,
    v2: Vec<Setting>,
}

fn wanted(limits: &CgroupLimits) -> Vec<Wanted> {
    let mut cpu = Wanted { controller: "cpu", v1: Vec::new(), v2: Vec::new() };
    if let Some(shares) = limits.cpu_shares {
        cpu.v1.push(("cpu.shares", shares.to_string()));
        cpu.v2.push(("cpu.weight", weight_of_shares(shares).to_string()));
    }
    if let Some(quota) = limits.cpu_quota_micros {
        cpu.v1.push(("cpu.cfs_period_us", PERIOD_MICROS.to_string()));
        cpu.v1.push(("cpu.cfs_quota_us", quota.to_string()));
        cpu.v2.push(("cpu.max", format!("{quota} {PERIOD_MICROS}")));
    }
    let mut memory = Wanted { controller: "memory", v1: Vec::new(), v2: Vec::new() };
    if let Some(bytes) = limits.memory_bytes_max {
        memory.v1.push(("memory.limit_in_bytes", bytes.to_string()));
        memory.v2.push(("memory.max", bytes.to_string()));
    }
    let mut pids = Wanted { controller: "pids", v1: Vec::new(), v2: Vec::new() };
    if let Some(count) = limits.pids_max {
        pids.v1.push(("pids.max", count.to_string()));
        pids.v2.push(("pids.max", count.to_string()));
    }
    let is_wanted =
        |wanted: &Wanted| !wanted.v1.is_empty() || (limits.named && wanted.controller == "pids");
    [cpu, memory, pids].into_iter().filter(is_wanted).collect()
}

/// Shares of version 1 as a weight of version 2, so that 1024 shares are the default weight of
/// 100 (the curve of newer OCI runtimes; mini-kubernetes.md 8.6).
fn weight_of_shares(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Bounded by the clamp above: 1 to 10000.
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

/// Makes the groups that limits need; also says what could not be done.
pub(crate) fn create(limits: &CgroupLimits) -> (Option<Cgroup>, Vec<String>) {
    let mut degraded = Vec::new();
    let mut cgroup = Cgroup::default();
    let machine = Machine::read();
    let mut unified = Vec::new();
    for wanted in wanted(limits) {
        match machine.v1_base(wanted.controller) {
            Some(base) => match make(&base, &limits.path, wanted.controller) {
                Ok(hierarchy) => {
                    degraded.extend(write_all(&hierarchy.dir, &wanted.v1, wanted.controller));
                    no_swap_v1(&hierarchy.dir, limits);
                    cgroup.hierarchies.push(hierarchy);
                }
                Err(error) => degraded.push(not_enforced(wanted.controller, &error)),
            },
            None => unified.push(wanted),
        }
    }
    if !unified.is_empty() {
        match make_unified(&machine, &limits.path, &unified) {
            Ok(hierarchy) => {
                for wanted in &unified {
                    degraded.extend(write_all(&hierarchy.dir, &wanted.v2, wanted.controller));
                }
                // Absent without swap accounting, and then nothing can be swapped by group.
                let _ = fs::write(hierarchy.dir.join("memory.swap.max"), "0");
                cgroup.hierarchies.push(hierarchy);
            }
            Err(error) => {
                degraded.extend(unified.iter().map(|w| not_enforced(w.controller, &error)));
            }
        }
    }
    let made = (!cgroup.hierarchies.is_empty()).then_some(cgroup);
    (made, degraded)
}

fn not_enforced(controller: &str, error: &io::Error) -> String {
    format!("{controller} limit is not enforced: control group: {error}")
}

fn write_all(dir: &Path, settings: &[Setting], controller: &str) -> Vec<String> {
    let write = |(file, value): &Setting| fs::write(dir.join(file), value);
    settings
        .iter()
        .filter_map(|setting| write(setting).err())
        .map(|error| not_enforced(controller, &error))
        .collect()
}

/// Memory and swap together are limited to the memory limit, as with version 2.
fn no_swap_v1(dir: &Path, limits: &CgroupLimits) {
    if let Some(bytes) = limits.memory_bytes_max {
        // Absent without swap accounting.
        let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), bytes.to_string());
    }
}

fn make(base: &Path, path: &Path, name: &'static str) -> io::Result<Hierarchy> {
    let mut dir = base.to_owned();
    let mut parents = Vec::new();
    for component in path.components() {
        let std::path::Component::Normal(component) = component else { continue };
        if dir != base {
            parents.insert(0, dir.clone());
        }
        dir.push(component);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    if dir == base {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Hierarchy { name, dir, parents })
}

fn make_unified(machine: &Machine, path: &Path, wanted: &[Wanted]) -> io::Result<Hierarchy> {
    let enable: Vec<_> = wanted.iter().map(|wanted| format!("+{}", wanted.controller)).collect();
    let enable = enable.join(" ");
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no cgroup file system");
    for base in machine.v2_bases() {
        // A group that has processes cannot hand controllers down, save the root.
        let enabled = fs::write(base.join("cgroup.subtree_control"), &enable);
        let made = enabled.and_then(|()| {
            let hierarchy = make(&base, path, "")?;
            for parent in hierarchy.parents.iter().rev() {
                fs::write(parent.join("cgroup.subtree_control"), &enable)?;
            }
            Ok(hierarchy)
        });
        match made {
            Ok(hierarchy) => return Ok(hierarchy),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Cgroup {
    /// A group that a child can begin in.
    pub(crate) fn unified_fd(&self) -> Option<OwnedFd> {
        let unified = self.hierarchies.iter().find(|hierarchy| hierarchy.name.is_empty())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &unified.dir, flags, Mode::empty()).ok()
    }

    pub(crate) fn view(&self) -> CgroupView {
        let split: Vec<_> = self
            .hierarchies
            .iter()
            .filter(|hierarchy| !hierarchy.name.is_empty())
            .map(|hierarchy| (hierarchy.name, hierarchy.dir.clone()))
            .collect();
        if split.is_empty() { CgroupView::Unified } else { CgroupView::Hierarchies(split) }
    }

    /// Moves a process in.
    pub(crate) fn attach(&self, pid: u32) -> Result<(), Failure> {
        for hierarchy in &self.hierarchies {
            fs::write(hierarchy.dir.join("cgroup.procs"), pid.to_string()).map_err(|error| {
                Failure::setup(format!("join {}", hierarchy.dir.display()), error)
            })?;
        }
        Ok(())
    }

    /// Whether the kernel killed a process in it for want of memory.
    pub(crate) fn was_oom_killed(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| {
            ["memory.oom_control", "memory.events"]
                .iter()
                .filter_map(|file| fs::read_to_string(hierarchy.dir.join(file)).ok())
                .any(|text| 0 < oom_kills(&text))
        })
    }

    /// The innermost directories alone: parents may be somebody else's.
    pub(crate) fn innermost_dirs(&self) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.dir.clone()).collect()
    }

    /// Every directory to be removed with the container, innermost first.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        let of = |hierarchy: &Hierarchy| {
            [hierarchy.dir.clone()].into_iter().chain(hierarchy.parents.clone())
        };
        self.hierarchies.iter().flat_map(of).collect()
    }
}

fn oom_kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Removes groups that have no process left; parents that others still use stay.
pub(crate) fn remove(dirs: &[PathBuf]) -> io::Result<()> {
    for (index, dir) in dirs.iter().enumerate() {
        let is_parent = index > 0 && dirs[..index].iter().any(|inner| inner.starts_with(dir));
        let mut tries = 0;
        loop {
            match fs::remove_dir(dir) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(_) if is_parent => break,
                Err(error) if REMOVALS_MAX <= tries => return Err(error),
                Err(_) => {
                    tries += 1;
                    std::thread::sleep(REMOVAL_PAUSE);
                }
            }
        }
    }
    Ok(())
}

/// Where this machine has its groups, and which are this process's own.
#[derive(Debug, Default)]
struct Machine {
    /// Text of `/proc/self/mountinfo`.
    mounts: String,
    /// Text of `/proc/self/cgroup`.
    own: String,
}

impl Machine {
    fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self { mounts: text("/proc/self/mountinfo"), own: text("/proc/self/cgroup") }
    }

    /// Mount points of a type with their super block options.
    fn mounts_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.mounts.lines().filter_map(move |line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let (found, options) = (right.next()?, right.nth(1)?);
            (found == kind).then(|| Some((left.split(' ').nth(4)?, options)))?
        })
    }

    fn v1_base(&self, controller: &str) -> Option<PathBuf> {
        let (mount, _) = self
            .mounts_of("cgroup")
            .find(|(_, options)| options.split(',').any(|option| option == controller))?;
        let own = self.own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            controllers.split(',').any(|c| c == controller).then(|| fields.next())?
        });
        Some(below(mount, own.unwrap_or("/")))
    }

    /// The own group first, so that limits of the caller hold for its containers.
    fn v2_bases(&self) -> Vec<PathBuf> {
        let Some((mount, _)) = self.mounts_of("cgroup2").next() else { return Vec::new() };
        let own = self.own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let mut bases = vec![below(mount, own)];
        if bases[0] != Path::new(mount) {
            bases.push(PathBuf::from(mount));
        }
        bases
    }
}

/// In a container the path may be the host's and not exist below the mount.
fn below(mount: &str, path: &str) -> PathBuf {
    let mount = PathBuf::from(mount);
    let dir = mount.join(path.trim_start_matches('/'));
    if dir.is_dir() { dir } else { mount }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_with_the_same_default() {
        for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn controllers_without_a_limit_need_no_group() {
        let limits = CgroupLimits { pids_max: Some(5), ..CgroupLimits::default() };
        let names: Vec<_> = wanted(&limits).iter().map(|wanted| wanted.controller).collect();
        assert_eq!(names, ["pids"]);
        assert!(wanted(&CgroupLimits::default()).is_empty());
        let named = CgroupLimits { named: true, ..CgroupLimits::default() };
        assert_eq!(wanted(&named).len(), 1);
    }

    #[test]
    fn version_one_mount_is_found_by_its_controller() {
        let machine = Machine {
            mounts: "32 31 0:29 / /nowhere/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                     41 31 0:38 / /nowhere/unified rw - cgroup2 cgroup2 rw\n"
                .to_owned(),
            own: "1:cpu,cpuacct:/own\n0::/\n".to_owned(),
        };
        assert_eq!(machine.v1_base("cpu"), Some(PathBuf::from("/nowhere/cpu")));
        assert_eq!(machine.v1_base("memory"), None);
        assert_eq!(machine.v2_bases(), [PathBuf::from("/nowhere/unified/")]);
    }

    #[test]
    fn oom_kills_are_read_from_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(oom_kills("low 0\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(oom_kills(""), 0);
    }
}
