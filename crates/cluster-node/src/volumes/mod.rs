//! Volumes of a pod: what they hold, how they are written, and where containers see them.

pub(crate) mod content;
pub(crate) mod host_path;
pub(crate) mod image;
pub(crate) mod ownership;
pub(crate) mod reclaim;
pub(crate) mod setup;
pub(crate) mod writer;
