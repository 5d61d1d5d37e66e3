//! The process that watches over one container.

/// Capacity of the pipe of an attached reader, in bytes.
pub(crate) const ATTACH_PIPE_BYTES: usize = 1 << 20;

/// Runs the shim; returns its exit code.
pub(crate) fn main() -> u8 {
    1
}
