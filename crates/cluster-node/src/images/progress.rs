//! How far a pull is.

/// What whoever waits for a pull may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PullState {
    /// Place in the queue of the node, 1 is the next; nothing once the pull runs.
    pub(crate) place: Option<usize>,
    /// Bytes of config and layers that came in so far.
    pub(crate) bytes: u64,
    /// Bytes of config and layers that have to come in; 0 before the manifest is known.
    pub(crate) bytes_total: u64,
    /// Layers that are not complete yet.
    pub(crate) layers_left: usize,
    /// Layers of the image; 0 before the manifest is known.
    pub(crate) layers_total: usize,
}
