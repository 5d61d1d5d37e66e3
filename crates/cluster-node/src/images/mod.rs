//! Images of the node: which are here, who may use them, how the others are pulled.

pub(crate) mod access;
pub(crate) mod account;
pub(crate) mod collection;
pub(crate) mod ensure;
pub(crate) mod executor;
pub(crate) mod failure;
pub(crate) mod hold;
pub(crate) mod inventory;
pub(crate) mod kept;
pub(crate) mod notes;
pub(crate) mod offline;
pub(crate) mod progress;
pub(crate) mod providers;
pub(crate) mod queue;
pub(crate) mod records;
pub(crate) mod registry;
mod shared_work;
pub(crate) mod store;
pub(crate) mod stored;
pub(crate) mod usage;
pub(crate) mod wire;

pub(crate) use image_policy::LOCAL_REGISTRY;

/// The time since any fixed moment.
pub(crate) type Clock = std::sync::Arc<dyn Fn() -> std::time::Duration + Send + Sync>;

/// The machine's monotonic clock.
pub(crate) fn monotonic() -> Clock {
    let began = std::time::Instant::now();
    std::sync::Arc::new(move || began.elapsed())
}
