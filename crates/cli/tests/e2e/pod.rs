//! A pod's container as the kubelet and containerd make it, by Debian's runc: the executor image
//! (one file) on an overlay, the capabilities, the seccomp profile, the masks and the mounts.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::{Ran, run};

/// What `seccompProfile: RuntimeDefault` is: written out by containerd for a container with the
/// default capabilities, without io_uring, which later versions dropped.
const RUNTIME_DEFAULT: &str = include_str!("runtime_default.json");

/// containerd's default capabilities: mask 00000000a80425fb.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// CRI-O's default, which is smaller.
const CRI_O: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "KILL",
];

/// A security context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Context {
    /// Nothing is said, on a node with `--seccomp-default`.
    Default,
    /// `seccompProfile: Unconfined`, which is what most nodes have when nothing is said.
    Unconfined,
    /// `privileged: true`.
    Privileged,
    /// Pod Security Standards "restricted": not root, all capabilities dropped.
    Restricted,
    /// "Restricted" but for its seccomp profile.
    PlainUser,
    /// CRI-O's smaller set of capabilities.
    CriO,
}

/// One container and what it can see of this machine.
pub(crate) struct Pod {
    dir: TempDir,
    context: Context,
    /// Directory of the executor.
    home: String,
    is_root_readonly: bool,
    mounts: Vec<Value>,
    env: Vec<String>,
}

impl Pod {
    /// A pod with the mounts that every pod has, its build context at `/workspace`, and no volume
    /// for state.
    pub(crate) fn new(context: Context, workspace: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("shipway-pod-").tempdir().expect("a directory");
        let user = if context.uid() == 0 { 0o755 } else { 0o777 };
        let mut pod = Self {
            dir,
            context,
            home: "/kaniko".to_owned(),
            is_root_readonly: false,
            mounts: Vec::new(),
            env: Vec::new(),
        };
        for (name, text) in [
            ("resolv.conf", "nameserver 192.0.2.1\n"),
            ("hosts", "127.0.0.1\tlocalhost\n192.0.2.7\tpod\n"),
            ("hostname", "pod\n"),
            ("termination-log", ""),
        ] {
            let file = pod.path(name);
            std::fs::write(&file, text).expect("a file");
            set_mode(&file, 0o666);
            let target =
                if text.is_empty() { format!("/dev/{name}") } else { format!("/etc/{name}") };
            pod.bind(&file, &target, "rw");
        }
        let token = pod.path("token");
        std::fs::create_dir_all(&token).expect("a directory");
        std::fs::write(token.join("token"), "service account").expect("a file");
        pod.bind(&token, "/var/run/secrets/kubernetes.io/serviceaccount", "ro");
        pod.bind(workspace, "/workspace", "rw");
        let executor = pod.path("image/kaniko/executor");
        std::fs::create_dir_all(executor.parent().expect("a parent")).expect("a directory");
        let built = Path::new(env!("CARGO_BIN_EXE_shipway"));
        // A link where that is possible: the binary is large.
        if std::fs::hard_link(built, &executor).is_err() {
            std::fs::copy(built, &executor).expect("a copy");
        }
        set_mode(&pod.path("image/kaniko"), user);
        pod
    }

    /// An emptyDir.
    pub(crate) fn empty_dir(mut self, target: &str) -> Self {
        let source = self.path(&format!("volumes{target}"));
        std::fs::create_dir_all(&source).expect("a directory");
        set_mode(&source, 0o777);
        self.bind(&source, target, "rw");
        self
    }

    /// An emptyDir in memory.
    pub(crate) fn memory(mut self, target: &str, size: &str) -> Self {
        let size = format!("size={size}");
        self.mounts.push(json!({
            "destination": target, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=777", size],
        }));
        self
    }

    /// `readOnlyRootFilesystem: true`.
    pub(crate) fn readonly_root(mut self) -> Self {
        self.is_root_readonly = true;
        self
    }

    /// A variable of the container.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// A volume with something of this machine in it.
    pub(crate) fn volume(mut self, source: &Path, target: &str) -> Self {
        self.bind(source, target, "rw");
        self
    }

    /// A volume that can only be read, or one file of it.
    pub(crate) fn readonly_volume(mut self, source: &Path, target: &str) -> Self {
        self.bind(source, target, "ro");
        self
    }

    /// Puts the executor into another directory of its image.
    pub(crate) fn living_in(mut self, directory: &str) -> Self {
        let to = self.path(&format!("image{directory}"));
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        std::fs::rename(self.path("image/kaniko"), to).expect("ours");
        directory.clone_into(&mut self.home);
        self
    }

    /// A file of the pod's on this machine.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Files that the container left in its root, in the mount points aside.
    pub(crate) fn left_in_root(&self) -> Vec<String> {
        let find = "find . -mindepth 1 ! -type d ! -path './kaniko/state/*' | sort";
        let ran = run(Command::new("sh").args(["-c", find]).current_dir(self.path("upper")), "");
        ran.ok().lines().map(str::to_owned).collect()
    }

    fn bind(&mut self, source: &Path, target: &str, mode: &str) {
        self.mounts.push(json!({
            "destination": target, "type": "bind", "source": source,
            "options": ["rbind", "rprivate", mode],
        }));
    }

    /// Runs the executor to its end.
    pub(crate) fn executor(&self, arguments: &[&str]) -> Ran {
        let program = format!("{}/executor", self.home);
        let mut argv = vec![program.as_str()];
        argv.extend(arguments);
        std::fs::write(self.path("config.json"), self.config(&argv).to_string()).expect("a file");
        for name in ["upper", "work", "rootfs"] {
            std::fs::create_dir_all(self.path(name)).expect("a directory");
        }
        // Everything is mounted in a namespace that ends with the shell. runc's check of hybrid
        // control groups fails on an empty version 2 tree, which is therefore hidden.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null
            mount -t overlay overlay -o lowerdir=image,upperdir=upper,workdir=work rootfs || exit 99
            exec runc --root \"$PWD/runc\" run -b \"$PWD\" \"pod-$$\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).current_dir(self.dir.path());
        run(&mut command, "")
    }

    /// What the executor wrote as its digest, if `--digest-file=/dev/termination-log` was given.
    pub(crate) fn digest(&self) -> String {
        std::fs::read_to_string(self.path("termination-log")).expect("a file")
    }

    fn config(&self, argv: &[&str]) -> Value {
        let context = self.context;
        let capabilities: Vec<String> = context.capabilities();
        let mut env = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin:/kaniko".to_owned()];
        env.extend(self.env.iter().cloned());
        let privileged = context == Context::Privileged;
        let mut kernel = vec!["nosuid", "noexec", "nodev"];
        let proc = kernel.clone();
        if !privileged {
            kernel.push("ro");
        }
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": proc}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                   "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
            json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                   "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                   "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": kernel}),
        ];
        mounts.extend(self.mounts.iter().cloned());
        let mut linux = json!({
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"},
                {"allow": true, "type": "b", "access": "m"},
            ]},
        });
        if privileged {
            linux["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
        } else {
            linux["maskedPaths"] = json!([
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ]);
            linux["readonlyPaths"] =
                json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",]);
        }
        if context.is_confined() {
            linux["seccomp"] = serde_json::from_str(RUNTIME_DEFAULT).expect("JSON");
        }
        json!({
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "root": {"path": "rootfs", "readonly": self.is_root_readonly},
            "process": {
                "terminal": false,
                "cwd": "/",
                "args": argv,
                "env": env,
                "user": {"uid": context.uid(), "gid": context.uid()},
                // The kubelet sets it for `allowPrivilegeEscalation: false`.
                "noNewPrivileges": matches!(context, Context::Restricted | Context::PlainUser),
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "mounts": mounts,
            "linux": linux,
        })
    }
}

impl Context {
    fn uid(self) -> u32 {
        if matches!(self, Self::Restricted | Self::PlainUser) { 1000 } else { 0 }
    }

    fn is_confined(self) -> bool {
        matches!(self, Self::Default | Self::Restricted | Self::CriO)
    }

    fn capabilities(self) -> Vec<String> {
        let prefixed = |names: &[&str]| names.iter().map(|name| format!("CAP_{name}")).collect();
        match self {
            Self::Default | Self::Unconfined => prefixed(DEFAULT),
            Self::CriO => prefixed(CRI_O),
            Self::Restricted | Self::PlainUser => Vec::new(),
            Self::Privileged => {
                // All that this machine has to give, but for what would end it.
                let mut all: Vec<String> = prefixed(DEFAULT);
                let more = [
                    "DAC_READ_SEARCH",
                    "NET_ADMIN",
                    "SYS_ADMIN",
                    "SYS_PTRACE",
                    "IPC_LOCK",
                    "LINUX_IMMUTABLE",
                    "SYS_NICE",
                    "MAC_ADMIN",
                    "SYSLOG",
                    "BPF",
                    "PERFMON",
                ];
                all.extend(more.map(|name| format!("CAP_{name}")));
                all
            }
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("ours");
}
