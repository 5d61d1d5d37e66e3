//! What a pull or push tells while it runs.

use std::fmt;
use std::sync::Arc;

use blob_store::Tail;
use oci_model::{Descriptor, Digest};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressEvent {
    /// The reference names this manifest or index.
    Resolved {
        /// The manifest or index.
        descriptor: Descriptor,
    },
    /// A blob is about to be moved.
    Started {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A blob comes in from its first byte on, also when that begins anew after a failure.
    Receiving {
        /// The blob.
        digest: Digest,
        /// Its bytes so far, not verified.
        tail: Tail,
    },
    /// More of a blob was moved. After a restart the count may go back.
    Advanced {
        /// The blob.
        digest: Digest,
        /// Bytes moved so far.
        bytes: u64,
    },
    /// The blob is complete and verified where it was to go.
    Done {
        /// The blob.
        digest: Digest,
    },
    /// The blob was there already, or was mounted from another repository.
    Exists {
        /// The blob.
        digest: Digest,
    },
    /// A request failed and will be made again.
    Retrying {
        /// What failed.
        reason: String,
        /// When.
        wait: std::time::Duration,
    },
    /// The registry sent a text for the user (`Warning` header).
    Warning {
        /// The text.
        text: String,
    },
}

/// Receives [`ProgressEvent`]s; clones share the receiver. It must not block.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(ProgressEvent) + Send + Sync>);

impl Progress {
    /// Calls `receiver` for each event.
    pub fn new(receiver: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receiver))
    }

    /// Tells nobody.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn tell(&self, event: ProgressEvent) {
        (self.0)(event);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
