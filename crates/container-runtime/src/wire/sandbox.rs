//! What surrounds the processes of a container: root, mounts, namespaces, limits.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Process;
use crate::process_id::ProcessId;

/// A container that lives on its own: a process in a sandbox, watched over by a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The first process; the container ends when it does.
    pub process: Process,
    /// What surrounds it.
    pub sandbox: Sandbox,
    /// Limits; `None` puts the container into no control group of its own.
    pub cgroup: Option<CgroupLimits>,
    /// Where the first process reads and writes.
    pub stdio: Stdio,
    /// The file that stdout and stderr are appended to, in the log format of CRI.
    ///
    /// The directory must exist. `None` throws the output away.
    pub log_path: Option<PathBuf>,
}

/// A step that runs in the foreground, for a builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSpec {
    /// The process of the step; everything it started is killed when it ends.
    pub process: Process,
    /// What surrounds it.
    pub sandbox: Sandbox,
}

/// A step that runs without namespaces, in the caller's own root or below a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlaceSpec {
    /// The process of the step; everything it started is killed when it ends.
    pub process: Process,
    /// A directory to `chroot(2)` into; `None` runs in the caller's root.
    pub chroot: Option<PathBuf>,
}

/// Root, mounts and namespaces of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Where the files come from.
    pub root: Root,
    /// Whether the root is read-only (`readOnlyRootFilesystem`); mounts keep their own flags.
    pub readonly_root: bool,
    /// Mounts in addition to `/proc`, `/sys`, `/dev`, `/dev/pts`, `/dev/shm`, `/dev/mqueue`.
    ///
    /// They are made in order of the depth of their targets. One with the target of a
    /// standard mount replaces it.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host to offer, besides the standard ones.
    pub devices: Vec<Device>,
    /// Which namespaces are new, shared or the caller's.
    pub namespaces: Namespaces,
    /// Host name in a new UTS namespace; `None` keeps the caller's.
    pub hostname: Option<String>,
    /// Kernel parameters (`net.ipv4.ip_forward` → `1`), written inside the new namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Paths hidden from the container; [`Sandbox::MASKED_PATHS`] unless privileged.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that cannot be written; [`Sandbox::READONLY_PATHS`] unless privileged.
    pub readonly_paths: Vec<PathBuf>,
    /// Every device of the host, a writable `/sys`, device nodes that work on every mount.
    ///
    /// Capabilities, filter and masked paths are set on their own: see [`Sandbox::privileged`].
    pub privileged: bool,
}

impl Sandbox {
    /// Hidden by default, as by docker and containerd.
    pub const MASKED_PATHS: &[&str] = &[
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];

    /// Read-only by default, as by docker and containerd.
    pub const READONLY_PATHS: &[&str] =
        &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

    /// The sandbox of an ordinary container on `root`: new mount, PID, IPC and UTS
    /// namespaces, the host's network, the default masks.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            readonly_root: false,
            mounts: Vec::new(),
            devices: Vec::new(),
            namespaces: Namespaces::default(),
            hostname: None,
            sysctls: Vec::new(),
            masked_paths: Self::MASKED_PATHS.iter().map(PathBuf::from).collect(),
            readonly_paths: Self::READONLY_PATHS.iter().map(PathBuf::from).collect(),
            privileged: false,
        }
    }

    /// Lifts the restrictions that `privileged: true` lifts here; the caller also grants
    /// [`crate::CapabilitySet::ALL`] and sets no seccomp profile.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.privileged = true;
        self.masked_paths.clear();
        self.readonly_paths.clear();
        self
    }
}

/// Where the root of a container comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// A directory, used as it is.
    Directory(PathBuf),
    /// Layers of directories under one writable directory.
    ///
    /// The mount exists only inside the container's mount namespace: the host never sees it,
    /// and it is gone when the last process of the container is.
    Overlay {
        /// Read-only layers, the topmost first; at least one, at most 500.
        lowers: Vec<PathBuf>,
        /// Receives the changes; must not lie on an overlay file system.
        upper: PathBuf,
        /// Scratch space of the kernel: an empty directory on the file system of `upper`.
        work: PathBuf,
    },
    /// Layers of directories that cannot be written.
    OverlayReadOnly {
        /// Read-only layers, the topmost first; at least one, at most 500.
        lowers: Vec<PathBuf>,
    },
}

/// One mount inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container, resolved inside its root; created if it is missing.
    pub target: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// Whether it is read-only, with everything mounted below it.
    pub readonly: bool,
    /// Whether later mounts pass between host and container.
    pub propagation: Propagation,
}

impl Mount {
    /// A writable bind mount of a host path.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            source: MountSource::Bind { path: source.into(), beneath: None },
            readonly: false,
            propagation: Propagation::Private,
        }
    }

    /// An empty tmpfs with mode 1777.
    pub fn tmpfs(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            source: MountSource::Tmpfs { bytes_max: None, mode: 0o1777 },
            readonly: false,
            propagation: Propagation::Private,
        }
    }

    /// The same mount, read-only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.readonly = true;
        self
    }
}

/// What a [`Mount`] shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host, with what is mounted below it.
    Bind {
        /// The path on the host.
        path: PathBuf,
        /// A path below it that is mounted instead (`subPath`).
        ///
        /// It is opened beneath `path`: a symbolic link that leads out fails the start.
        /// A missing one is created as a directory with mode 0750.
        beneath: Option<PathBuf>,
    },
    /// A file system in memory.
    Tmpfs {
        /// Its capacity in bytes; `None` is half of the memory.
        bytes_max: Option<u64>,
        /// Mode of its root directory.
        mode: u32,
    },
    /// The union of directories of the host, whatever the mount says read-only and without
    /// execution, devices and set-user-ID.
    Layers {
        /// The topmost first, at most 500; none is an empty directory.
        lowers: Vec<PathBuf>,
        /// A path in the union that is mounted instead (`subPath`); a missing one or a symbolic
        /// link that leads out fails the start.
        beneath: Option<PathBuf>,
    },
}

/// Whether later mounts pass between host and container (`mountPropagation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// In neither direction (`None`).
    #[default]
    Private,
    /// From the host into the container (`HostToContainer`).
    Slave,
    /// In both directions (`Bidirectional`).
    Shared,
}

/// A device node of the host offered to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The node on the host.
    pub host: PathBuf,
    /// Where it appears in the container.
    pub target: PathBuf,
}

/// Which namespaces of a container are its own. The mount namespace always is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Process identifiers.
    pub pid: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Network.
    pub network: Network,
    /// Users.
    pub user: UserNamespace,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self {
            pid: Namespace::New,
            ipc: Namespace::New,
            uts: Namespace::New,
            network: Network::Host,
            user: UserNamespace::Host,
        }
    }
}

/// Where one namespace of a container comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// A new one.
    New,
    /// The caller's (`hostPID`, `hostIPC`).
    Host,
    /// That of this process, as [`crate::Container::process`] gives it; refused once the process
    /// has ended, whoever has its number then.
    OfProcess(ProcessId),
}

/// The network a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The caller's network.
    Host,
    /// A new one with nothing but loopback (`RUN --network=none`).
    None,
    /// That of this process; refused once it has ended.
    OfProcess(ProcessId),
}

/// The users a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespace {
    /// The caller's; making mounts then needs CAP_SYS_ADMIN.
    #[default]
    Host,
    /// A new one in which every identifier is itself.
    ///
    /// A caller that is root with CAP_SETUID and CAP_SETGID can write this map without
    /// CAP_SYS_ADMIN, which is what makes overlay builds possible in a default pod.
    Identity,
    /// A new one in which the caller is root and nobody else exists; for callers that are
    /// not root.
    CallerAsRoot,
}

/// Limits of a container's control group.
///
/// What is `None` is not limited and needs no controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// Name of the group below the caller's own, e.g. `shipway/pod-1/container-2`.
    ///
    /// Missing parents are created without limits.
    pub path: PathBuf,
    /// Relative weight against other groups, 2 to 262144, 1024 per CPU (`cpu.shares`).
    pub cpu_shares: Option<u64>,
    /// CPU time in microseconds per period of 100 ms, at least 1000.
    pub cpu_quota_micros: Option<u64>,
    /// Memory in bytes; above it the kernel kills.
    pub memory_bytes_max: Option<u64>,
    /// Number of processes and threads.
    pub pids_max: Option<u64>,
    /// Makes the group, in one hierarchy, even if nothing is limited.
    #[serde(default)]
    pub named: bool,
}

/// Where the first process of a container reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Whether stdin is a pipe that can be attached to, or `/dev/null`.
    pub stdin: Stdin,
    /// A terminal for stdin, stdout and stderr together.
    pub terminal: Terminal,
}

/// What stdin of a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe that stays open when an attached caller leaves (`stdin: true`).
    Open,
    /// A pipe that is closed when the first attached caller closes it (`stdinOnce: true`).
    Once,
}

/// Whether a process has a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// Pipes.
    #[default]
    None,
    /// A pseudo-terminal of the container's own `/dev/pts` with this size.
    Size(WindowSize),
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

impl Default for WindowSize {
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}
