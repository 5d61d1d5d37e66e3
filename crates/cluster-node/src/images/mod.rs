//! Images of the node: which are here, who may use them, how the others are pulled.

pub(crate) mod access;
pub(crate) mod account;
pub(crate) mod ensure;
pub(crate) mod executor;
pub(crate) mod progress;
pub(crate) mod records;
pub(crate) mod registry;
pub(crate) mod store;

/// Registry name of images that exist on this node only; nothing is ever asked over the network.
pub(crate) const LOCAL_REGISTRY: &str = "shipway.local";
