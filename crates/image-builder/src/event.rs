//! What a build says while it runs; the caller renders it.

use std::sync::Arc;
use std::time::Duration;

use dockerfile::Span;

use crate::cache::explain::CacheDecision;

/// Identity of a step for events: the stage's place in the plan and the step's in the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepNumber {
    /// Place of the stage in the plan, from 0.
    pub stage: usize,
    /// Place of the step in the stage, from 0.
    pub step: usize,
}

/// Where a line of output was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output of the step.
    Stdout,
    /// Standard error of the step.
    Stderr,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildEvent {
    /// What there is to do is known; sent once per platform.
    Planned {
        /// Stages that start from an image or a context, and steps that are cached or executed.
        steps: usize,
    },
    /// How RUN steps will run, and in one line why no better way.
    Isolation {
        /// Name of the mode.
        mode: &'static str,
        /// Why better modes were refused; empty if there is none.
        reason: String,
    },
    /// A stage begins from its base.
    StageStarted {
        /// Place of the stage in the plan.
        stage: usize,
        /// `[name 1/5] FROM base`.
        title: String,
    },
    /// The base of a stage is known; its layers are fetched when a step needs them.
    StageReady {
        /// Place of the stage in the plan.
        stage: usize,
        /// How long it took.
        duration: Duration,
    },
    /// A step begins.
    StepStarted {
        /// Which.
        step: StepNumber,
        /// `[name 2/5] RUN make`.
        title: String,
        /// Where it was written.
        span: Span,
    },
    /// A piece of output, not necessarily a whole line.
    StepOutput {
        /// Whose.
        step: StepNumber,
        /// From which stream.
        stream: OutputStream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A step is done.
    StepFinished {
        /// Which.
        step: StepNumber,
        /// How it came about.
        how: StepEnd,
        /// Bytes of the compressed layer, if there is one.
        layer_bytes: Option<u64>,
        /// How long it took.
        duration: Duration,
    },
    /// Why a step was found in a cache or not; only if the request asks for it.
    Cache {
        /// Which step.
        step: StepNumber,
        /// Why.
        decision: CacheDecision,
    },
    /// A step failed; the error follows as the result of the build.
    StepFailed {
        /// Which.
        step: StepNumber,
        /// Why, with its causes.
        reason: String,
    },
    /// A step was ended before it was done: by the caller, or because another failed.
    StepCancelled {
        /// Which.
        step: StepNumber,
    },
    /// A step's changes were read, compressed and stored.
    LayerWritten {
        /// Digest of the blob.
        digest: String,
        /// Bytes of the archive before compression.
        tar_bytes: u64,
        /// Bytes of the blob.
        bytes: u64,
        /// How long that took; part of the step's own time.
        duration: Duration,
    },
    /// A registry is asked for an image.
    Resolving {
        /// The image.
        reference: String,
    },
    /// The registry has answered; an error follows as the result of the build.
    Resolved {
        /// The image.
        reference: String,
        /// How long it took.
        duration: Duration,
    },
    /// A layer is being fetched.
    Fetching {
        /// Digest of the blob.
        what: String,
        /// The image or cache it belongs to.
        from: String,
        /// Bytes, if known.
        bytes: Option<u64>,
    },
    /// More of a layer has arrived; at most some of these per second.
    FetchAdvanced {
        /// Digest of the blob.
        what: String,
        /// Bytes so far.
        bytes: u64,
    },
    /// A layer has arrived and was verified.
    Fetched {
        /// Digest of the blob.
        what: String,
        /// Its size in bytes.
        bytes: u64,
        /// How long it took.
        duration: Duration,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// Digest of the uncompressed archive.
        what: String,
    },
    /// A layer was unpacked.
    Unpacked {
        /// Digest of the uncompressed archive.
        what: String,
        /// How long it took.
        duration: Duration,
    },
    /// The image is complete in the store.
    ImageReady {
        /// Digest of its manifest.
        digest: String,
    },
    /// A push begins.
    Pushing {
        /// Where to.
        reference: String,
    },
    /// A blob is being sent.
    PushingBlob {
        /// Its digest.
        what: String,
        /// Where to.
        to: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// More of a blob was sent; at most some of these per second.
    PushAdvanced {
        /// Its digest.
        what: String,
        /// Where to.
        to: String,
        /// Bytes so far.
        bytes: u64,
    },
    /// The registry has a blob.
    PushedBlob {
        /// Its digest.
        what: String,
        /// Where to.
        to: String,
        /// Whether it had to be sent.
        how: PushEnd,
    },
    /// A push is done.
    Pushed {
        /// Where to.
        reference: String,
        /// Digest of the manifest.
        digest: String,
    },
    /// Something the author of the Dockerfile or the caller should know.
    Warning(String),
}

/// How a step came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// It was found in the cache.
    Cached,
    /// It was executed.
    Executed,
}

/// How a blob came to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushEnd {
    /// It was sent.
    Sent,
    /// It was there, or in another repository of the same registry.
    Existed,
}

/// Receives the events of a build; called from several threads.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(BuildEvent) + Send + Sync>);

impl Events {
    /// Hands every event to `receiver`, which should be quick.
    pub fn new(receiver: impl Fn(BuildEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receiver))
    }

    /// Nobody listens.
    pub fn ignored() -> Self {
        Self::new(|_| {})
    }

    /// Passes an event on to the receiver.
    pub fn send(&self, event: BuildEvent) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
