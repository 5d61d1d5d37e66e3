//! Start, exec, signal and reap processes in a root filesystem: namespaces, mounts, cgroups.
//!
//! This crate knows no images, pods or networks, and is the only home of `unsafe`.
