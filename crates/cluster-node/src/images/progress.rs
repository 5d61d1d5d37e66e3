//! How far a pull is: counted where the bytes come in, read by whoever waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Clock;
use super::queue::Ticket;

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
    /// How long the pull runs; zero while it waits in the queue.
    pub(crate) running: Duration,
}

impl PullState {
    /// The state in one line, as events and waiting messages have it.
    pub(crate) fn message(&self, image: &str) -> String {
        match self.place {
            Some(place) => image_policy::event::pull_queued_message(image, place),
            None => image_policy::event::pull_progress_message(
                image,
                &image_policy::event::PullProgress {
                    bytes: self.bytes,
                    bytes_total: self.bytes_total,
                    layers_left: self.layers_left,
                    layers_total: self.layers_total,
                    running: self.running,
                },
            ),
        }
    }
}

/// The bytes of one blob; several pulls may wait for the same.
pub(crate) struct BlobCount {
    bytes_total: u64,
    is_layer: bool,
    bytes: AtomicU64,
    /// Milliseconds of the clock at the last byte; 0 until the transfer begins.
    last_ms: AtomicU64,
    complete: AtomicBool,
    clock: Clock,
}

impl BlobCount {
    /// A blob of which nothing came in.
    pub(crate) fn new(bytes_total: u64, is_layer: bool, clock: Clock) -> Self {
        BlobCount {
            bytes_total,
            is_layer,
            bytes: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            clock,
        }
    }

    /// The transfer begins.
    pub(crate) fn begin(&self) {
        self.last_ms.store(millis((self.clock)()).max(1), Ordering::Relaxed);
    }

    /// So many bytes came in by now.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.begin();
    }

    /// All of it is in the store.
    pub(crate) fn finish(&self) {
        self.bytes.store(self.bytes_total, Ordering::Relaxed);
        self.complete.store(true, Ordering::Relaxed);
    }
}

/// The state of one pull.
pub(crate) struct Meter {
    clock: Clock,
    ticket: Ticket,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    began: Option<Duration>,
    /// The last moment at which something other than a byte of a blob happened.
    touched: Duration,
    blobs: Vec<Arc<BlobCount>>,
}

impl Meter {
    pub(crate) fn new(ticket: Ticket, clock: Clock) -> Self {
        Meter { clock, ticket, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place in the queue that this pull has.
    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// A try begins: nothing of it is known yet.
    pub(crate) fn begin(&self) {
        let now = (self.clock)();
        let mut inner = self.inner();
        inner.began.get_or_insert(now);
        inner.touched = now;
        inner.blobs.clear();
    }

    /// A blob belongs to the pull.
    pub(crate) fn add(&self, blob: Arc<BlobCount>) {
        let now = (self.clock)();
        let mut inner = self.inner();
        inner.touched = now;
        inner.blobs.push(blob);
    }

    /// A blob does not come in this way after all.
    pub(crate) fn remove(&self, blob: &Arc<BlobCount>) {
        self.inner().blobs.retain(|known| !Arc::ptr_eq(known, blob));
    }

    /// How long nothing has come in although something should; zero while only others' transfers
    /// or the local disk are waited for.
    pub(crate) fn silence(&self) -> Duration {
        let now = (self.clock)();
        let inner = self.inner();
        let mut last = inner.touched;
        let mut expects = inner.blobs.is_empty();
        for blob in &inner.blobs {
            let at = blob.last_ms.load(Ordering::Relaxed);
            if at == 0 || blob.complete.load(Ordering::Relaxed) {
                continue;
            }
            last = last.max(Duration::from_millis(at));
            // All bytes are here: what is left is unpacking.
            expects |= blob.bytes.load(Ordering::Relaxed) < blob.bytes_total;
        }
        if expects { now.saturating_sub(last) } else { Duration::ZERO }
    }

    /// What can be told now.
    pub(crate) fn state(&self) -> PullState {
        let now = (self.clock)();
        let inner = self.inner();
        let mut state = PullState {
            place: self.ticket.place(),
            running: inner.began.map_or(Duration::ZERO, |began| now.saturating_sub(began)),
            ..PullState::default()
        };
        for blob in &inner.blobs {
            state.bytes += blob.bytes.load(Ordering::Relaxed);
            state.bytes_total += blob.bytes_total;
            state.layers_total += usize::from(blob.is_layer);
            let left = blob.is_layer && !blob.complete.load(Ordering::Relaxed);
            state.layers_left += usize::from(left);
        }
        state
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
