//! Pure translation of a container's spec into what its process gets: environment, arguments,
//! identity, limits and network files.

pub(crate) mod downward;
pub(crate) mod environment;
pub(crate) mod expansion;
pub(crate) mod network_files;
pub(crate) mod quantity;
pub(crate) mod resources;
pub(crate) mod security;
