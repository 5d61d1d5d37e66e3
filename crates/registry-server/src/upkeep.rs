//! What a registry does beside its requests: collect what nobody needs, read everything again.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, CollectMode, CollectOptions, Collected, DiskError, Scrubbed};
use tokio::sync::watch;

use crate::bytes::BlobBytes;
use crate::options::{CollectionSchedule, UPLOAD_IDLE_MAX};
use crate::service::Service;

/// How long a registry serves before it begins a scrub that is due: a start has other work.
const SCRUB_START_DELAY: Duration = Duration::from_secs(600);

/// Pause after the disk failed under a scrub.
const SCRUB_RETRY_PAUSE: Duration = Duration::from_secs(3600);

/// How fast and how often every blob is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSchedule {
    /// Bytes read per second.
    pub bytes_per_second: u64,
    /// Time between the end of a pass and the beginning of the next.
    pub interval: Duration,
    /// How long the registry serves before a pass that is due begins or goes on.
    pub start_delay: Duration,
}

impl Default for ScrubSchedule {
    /// 8 MiB per second, a week after the last pass.
    fn default() -> Self {
        Self {
            bytes_per_second: 8 * 1024 * 1024,
            interval: Duration::from_secs(7 * 24 * 3600),
            start_delay: SCRUB_START_DELAY,
        }
    }
}

/// What was done since the start, for metrics and the admin API.
#[derive(Debug, Default)]
pub(crate) struct UpkeepCounters {
    pub(crate) collections: AtomicU64,
    pub(crate) collected_blobs: AtomicU64,
    pub(crate) collected_bytes: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) damaged_blobs: AtomicU64,
}

impl UpkeepCounters {
    fn collected(&self, collected: &Collected) {
        self.collections.fetch_add(1, Ordering::Relaxed);
        self.collected_blobs.fetch_add(collected.blobs, Ordering::Relaxed);
        self.collected_bytes.fetch_add(collected.bytes, Ordering::Relaxed);
    }
}

/// Collects at intervals until stopped.
pub(crate) async fn collect_at_intervals(
    service: Arc<Service>,
    schedule: CollectionSchedule,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(schedule.interval) => {}
        }
        if let BlobBytes::Bucket(bytes) = &service.bytes {
            match bytes.collect(&service.metadata, schedule.delay).await {
                Ok(collected) => {
                    service.upkeep.collected(&collected);
                    let Collected { blobs, bytes, .. } = collected;
                    tracing::info!(blobs, bytes, "unneeded blobs of the bucket collected");
                    if blobs > 0 {
                        tidy(&service).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "the bucket is not collected for now"),
            }
            continue;
        }
        let store = service.store.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let options = CollectOptions {
                now: SystemTime::now(),
                delay: schedule.delay,
                upload_idle_max: UPLOAD_IDLE_MAX,
                mode: CollectMode::Apply,
            };
            store.collect(&options, |digest, bytes| {
                tracing::debug!(%digest, bytes, "blob collected");
            })
        });
        let collected = match collected.await {
            Ok(Ok(collected)) => collected,
            Ok(Err(error)) => {
                tracing::warn!(%error, "nothing was collected");
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "the collection panicked");
                continue;
            }
        };
        service.upkeep.collected(&collected);
        let Collected { blobs, bytes, uploads, waiting_blobs, waiting_bytes, .. } = collected;
        tracing::info!(
            blobs,
            bytes,
            uploads,
            waiting_blobs,
            waiting_bytes,
            "unneeded blobs collected"
        );
        if blobs > 0 {
            tidy(&service).await;
        }
    }
}

/// Forgets what held nothing but collected blobs.
async fn tidy(service: &Service) {
    if let Err(error) = service.metadata.tidy().await {
        tracing::warn!(%error, "links of removed blobs stay for now");
    }
}

/// The thread that scrubs; it ends when this is dropped.
pub(crate) struct Scrubber {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Begins to scrub at the times of the schedule.
    pub(crate) fn start(
        store: BlobStore,
        schedule: ScrubSchedule,
        counters: Arc<UpkeepCounters>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("registry-scrub".to_owned())
            .spawn(move || scrub_until_stopped(&store, schedule, &counters, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scrubbing thread panicked");
        }
    }
}

fn scrub_until_stopped(
    store: &BlobStore,
    schedule: ScrubSchedule,
    counters: &UpkeepCounters,
    stopped: &Receiver<()>,
) {
    let wait = |time: Duration| match stopped.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
    };
    let mut pause = schedule.start_delay;
    loop {
        let since = store.last_scrub().and_then(|last| SystemTime::now().duration_since(last).ok());
        let due_in = since.map_or(Duration::ZERO, |since| schedule.interval.saturating_sub(since));
        if wait(pause.max(due_in)).is_break() {
            return;
        }
        pause = match scrub_once(store, schedule.bytes_per_second, counters, wait) {
            // Stopped in the middle: the next start goes on there.
            Ok(scrubbed) if !scrubbed.complete => return,
            Ok(Scrubbed { blobs, bytes, damaged, .. }) => {
                tracing::info!(blobs, bytes, damaged = damaged.len(), "every blob was read again");
                // The end of a pass is noted to the second.
                schedule.interval.max(Duration::from_secs(1))
            }
            Err(error) => {
                tracing::error!(%error, "cannot read blobs again");
                SCRUB_RETRY_PAUSE
            }
        };
    }
}

fn scrub_once(
    store: &BlobStore,
    bytes_per_second: u64,
    counters: &UpkeepCounters,
    wait: impl FnMut(Duration) -> ControlFlow<()>,
) -> Result<Scrubbed, DiskError> {
    let scrubbed = store.scrub(bytes_per_second, wait, |digest| {
        counters.damaged_blobs.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            %digest,
            "blob is damaged on disk or cannot be read: push an image that has it again"
        );
    })?;
    counters.scrubbed_bytes.fetch_add(scrubbed.bytes, Ordering::Relaxed);
    Ok(scrubbed)
}
