//! Start, exec, signal and reap processes in a root filesystem: namespaces, mounts, cgroups.
//!
//! This crate knows no images, pods or networks, and is the only home of `unsafe` (all of it
//! in `syscall.rs`). It is sync; callers with an async runtime use its descriptors
//! ([`Container::end_watch`], [`ExecSession`]) or blocking tasks.
//!
//! # How it works
//! * `main` calls [`reexec`] first: helpers are this binary, started again, because namespaces
//!   and forks need a process with one thread.
//! * A container has a *shim*: a process of its own session that no other process owns. It
//!   makes the namespaces and mounts, starts the program, copies its output into a log,
//!   serves exec and attach on a socket, and writes down how it ended. Everything about a
//!   container is in its directory: whoever opens it finds the container again, also after
//!   the program that created it was killed.
//! * All mounts live in the mount namespace of the container, so there is nothing to unmount:
//!   when its last process is gone, they are. The first process dies with its shim.
//! * A *step* of a build is the same without a shim: [`run_step`] in namespaces,
//!   [`run_in_place`] without any.
//!
//! Start reading at [`Runtime::create`], then `shim`, then `init`.

mod capability;
mod cgroup;
mod channel;
mod container;
mod init;
mod kill;
mod launch;
mod on_disk;
mod probe;
mod process_id;
mod reexec;
mod runtime;
mod seccomp;
mod session;
mod shim;
mod signal;
mod step;
mod syscall;
mod wire;

pub use capability::{Capability, CapabilitySet, UnknownCapability};
pub use container::{Container, ContainerError, Ended, State};
pub use probe::{Isolation, Mode, ProbeError, Refusal, probe_isolation};
pub use process_id::ProcessId;
pub use reexec::reexec;
pub use runtime::{CreateError, OpenError, Runtime};
pub use session::{AttachOptions, Attachment, ExecSession, ExecSpec, ExecStdin};
pub use signal::{Signal, UnknownSignal};
pub use step::{
    Cancel, StepError, StepOutcome, Stream, remove_stubs, run_in_place, run_step, run_step_limited,
};
pub use wire::{
    Capabilities, CgroupLimits, ContainerSpec, Device, Exit, Failure, ImageGroups, InPlaceSpec,
    Mount, MountSource, Namespace, Namespaces, Network, Process, Propagation, ResolvedUser,
    ResourceLimit, Root, Sandbox, SeccompProfile, Stdin, Stdio, StepSpec, Terminal, User,
    UserNamespace, WindowSize,
};
