//! What a process in a container is: its program, environment, identity and rights.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;

/// One process to start: its program, environment, identity and rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; the program is looked up in `PATH` of `env` if it has no slash.
    pub args: Vec<String>,
    /// Environment in order; of two equal names the later one wins.
    ///
    /// `HOME` is filled in from the root's `/etc/passwd` if it is absent, as every OCI runtime does.
    pub env: Vec<(String, String)>,
    /// Working directory inside the root; created (0755) if it is missing.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// File mode creation mask, 0 to 0o777; 0o022 is what images expect.
    pub umask: u32,
    /// The capabilities it may hold.
    pub capabilities: Capabilities,
    /// Forbids set-user-ID programs and file capabilities to add rights
    /// (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: SeccompProfile,
    /// Resource limits; what is absent is inherited.
    pub limits: Vec<ResourceLimit>,
    /// Preference of the out-of-memory killer, -1000 to 1000; `None` inherits.
    ///
    /// Lowering needs CAP_SYS_RESOURCE; without it the nearest allowed value is set.
    pub oom_score_adj: Option<i16>,
}

impl Process {
    /// A process with the defaults of a container: root, the default capabilities, umask 022,
    /// working directory `/`, no filter.
    pub fn new<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: User::default(),
            umask: 0o022,
            capabilities: Capabilities::default(),
            no_new_privileges: false,
            seccomp: SeccompProfile::Unconfined,
            limits: Vec::new(),
            oom_score_adj: None,
        }
    }
}

/// Who a process runs as, resolved inside the container's root when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// As in an image's `USER`: `user[:group]`, each a name or a number; empty is root.
    ///
    /// A number needs no entry in `/etc/passwd`; a name that has none fails the start. Without
    /// a group the primary group of the passwd entry is taken, or 0.
    pub name: String,
    /// Supplementary groups by number (`supplementalGroups`, `fsGroup`).
    pub groups: Vec<u32>,
    /// Whether the groups of the root's `/etc/group` are added.
    pub image_groups: ImageGroups,
}

impl User {
    /// The user an image's `USER` field names (`user[:group]`).
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The given numbers.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self::named(format!("{uid}:{gid}"))
    }
}

/// Whether memberships in the root's `/etc/group` count (`supplementalGroupsPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageGroups {
    /// Added to [`User::groups`]; the Kubernetes default.
    #[default]
    Merge,
    /// Left out (`Strict`).
    Ignore,
}

/// The capabilities of a container's process.
///
/// They fill the bounding, permitted and effective sets; the inheritable set is empty. A user
/// other than root therefore has none in effect after its program starts, unless `ambient`
/// lists some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding, permitted and effective set; what the caller does not hold itself is left out.
    pub bounding: CapabilitySet,
    /// Kept across the start of a program by a user other than root; a subset of `bounding`.
    pub ambient: CapabilitySet,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { bounding: CapabilitySet::DEFAULT, ambient: CapabilitySet::EMPTY }
    }
}

/// System call filter of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// No filter.
    #[default]
    Unconfined,
    /// The default filter of docker and containerd, as narrowed or widened by the
    /// capabilities of the process.
    RuntimeDefault,
}

/// One resource limit (`setrlimit(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// The number of the resource, one of `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit in the unit of the resource; `None` is unlimited.
    pub soft: Option<u64>,
    /// Hard limit in the unit of the resource; `None` is unlimited.
    pub hard: Option<u64>,
}
