//! Descriptors that tasks wait on.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Lets tasks wait until a descriptor is readable.
///
/// # Errors
/// The kernel cannot watch it.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "the replacement is unsafe for types with odd AsRawFd; OwnedFd has none"
    )]
    AsyncFd::new(descriptor)
}
