//! Everything that crosses a process boundary: what a container is to be, and the messages
//! between a caller, the shim of a container and the processes that become containers.

pub(crate) mod message;

mod process;
mod sandbox;

pub use message::{Exit, Failure, ResolvedUser};
pub use process::{Capabilities, ImageGroups, Process, ResourceLimit, SeccompProfile, User};
pub use sandbox::{
    CgroupLimits, ContainerSpec, Device, InPlaceSpec, Mount, MountSource, Namespace, Namespaces,
    Network, Propagation, Root, Sandbox, Stdin, Stdio, StepSpec, Terminal, UserNamespace,
    WindowSize,
};
