//! Image garbage collection and disk pressure (kubelet-images.md 10): the rules are
//! `image_policy::collection`'s, this looks, removes and tells.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use image_policy::collection::{
    Candidate, CollectionPolicy, Disk, Need, PressureThreshold, free_disk_space_failed,
    invalid_disk_capacity,
};
use jiff::Timestamp;
use tokio::sync::watch;

use super::inventory::{Inventory, InventoryError, NodeImage};
use super::kept::KeptImages;
use crate::events::{self, Note, Recorder};

/// First look at the images: their ages count from here.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// Time between two looks at the disk for pressure.
const PRESSURE_PERIOD: Duration = Duration::from_secs(10);
/// How long the node says that it is under pressure at least, so that the condition does not
/// flap (`--eviction-pressure-transition-period` of the kubelet).
const PRESSURE_MIN: Duration = Duration::from_secs(300);
/// Time between two removals of all unused images while the pressure stays.
const RELIEF_PERIOD: Duration = Duration::from_secs(60);

/// When a node collects images, and what it reports of them.
#[derive(Clone, Debug)]
pub struct CollectionOptions {
    /// Thresholds and ages.
    pub policy: CollectionPolicy,
    /// Time between two collections; 5 minutes in the kubelet.
    pub period: Duration,
    /// When the disk is short, so that all unused images go; `None` = never.
    pub pressure: Option<PressureThreshold>,
    /// Most images in the status of the node; `None` = no limit (`--node-status-max-images`).
    pub status_images_max: Option<usize>,
    /// Images that are kept present and pinned.
    pub kept: KeptImages,
}

/// Is called with the manifests and indexes that are left, and when the removal began.
pub(crate) type WhenRemoved = Box<dyn Fn(&BTreeSet<String>, Timestamp) + Send + Sync>;

/// Collects the images of a node.
pub(crate) struct Collector {
    /// Records of images that are gone say nothing any more (kubelet-images.md 8.3).
    pub(crate) removed: WhenRemoved,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) recorder: Recorder,
    pub(crate) node_name: String,
    pub(crate) options: CollectionOptions,
    /// When the node started.
    pub(crate) began: Timestamp,
    /// Whether the disk is short.
    pub(crate) pressure: watch::Sender<bool>,
}

/// Why a collection did not reach its aim.
#[derive(Debug, thiserror::Error)]
enum CollectionError {
    #[error("{}", invalid_disk_capacity(*.0))]
    InvalidCapacity(u64),
    #[error("{0}")]
    Shortfall(String),
    #[error("cannot look at the disk: {0}")]
    Disk(String),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
}

/// What a collection removed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Collected {
    names: Vec<String>,
    freed_bytes: u64,
    /// Bytes of blobs that go when their delay is over.
    waiting_bytes: u64,
}

impl Collected {
    fn add(&mut self, more: Self) {
        self.names.extend(more.names);
        self.freed_bytes += more.freed_bytes;
        self.waiting_bytes += more.waiting_bytes;
    }
}

impl Collector {
    /// Collects until the node stops.
    pub(crate) async fn run(self) {
        let collector = Arc::new(self);
        let mut failed_before = false;
        let mut strain = Strain::default();
        tokio::time::sleep(FIRST_LOOK.min(collector.options.period)).await;
        collector.blocking(|this| this.inventory.list(Timestamp::now()).map(drop)).await;
        let mut collections = tokio::time::interval(collector.options.period);
        let mut looks = tokio::time::interval(PRESSURE_PERIOD.min(collector.options.period));
        for timer in [&mut collections, &mut looks] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                _ = collections.tick() => {
                    let done = collector.blocking(|this| this.collect(Timestamp::now())).await;
                    let failed = matches!(done, Some(Err(_)));
                    if let Some(Err(error)) = done {
                        tracing::warn!(%error, "image garbage collection failed");
                        if failed_before {
                            collector.warn("ImageGCFailed", error.to_string());
                        }
                    }
                    failed_before = failed;
                }
                _ = looks.tick() => {
                    let now = Timestamp::now();
                    strain = collector.blocking(move |this| this.look(strain, now)).await
                        .unwrap_or_default();
                }
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(|error| tracing::error!(%error, "collecting images panicked"))
            .ok()
    }

    fn warn(&self, reason: &str, message: String) {
        self.recorder.send(Note {
            object: events::node_reference(&self.node_name),
            warning: true,
            reason: reason.to_owned(),
            message,
            at: Timestamp::now(),
        });
    }

    fn disk(&self) -> Result<Disk, CollectionError> {
        self.inventory.disk().map_err(CollectionError::Disk)
    }

    /// One collection: what is too old, and what the space demands.
    fn collect(&self, now: Timestamp) -> Result<Collected, CollectionError> {
        self.inventory.free_waiting()?;
        let policy = &self.options.policy;
        let mut collected = Collected::default();
        if policy.is_off() {
            return Ok(collected);
        }
        let mut images = self.inventory.list(now)?;
        let old = policy.too_old(&candidates(&images), since_epoch(now), since_epoch(self.began));
        for at in old.iter().rev() {
            let image = images.remove(*at);
            self.remove(&image, "age", &mut collected);
        }
        let disk = self.disk()?;
        match policy.need(disk) {
            Need::Nothing => {}
            Need::InvalidCapacity => {
                let error = CollectionError::InvalidCapacity(disk.capacity_bytes);
                self.warn("InvalidDiskCapacity", error.to_string());
                return Err(error);
            }
            Need::Free { bytes } => {
                // The disk was measured after the images of age had gone.
                let mut freed = Collected::default();
                let result = self.free_space(&images, bytes, now, &mut freed);
                let is_enough = bytes <= freed.freed_bytes + freed.waiting_bytes;
                collected.add(freed);
                result?;
                if !is_enough {
                    let text = free_disk_space_failed(disk, collected.freed_bytes);
                    self.warn("FreeDiskSpaceFailed", text.clone());
                    self.told(&collected, now);
                    return Err(CollectionError::Shortfall(text));
                }
            }
        }
        self.told(&collected, now);
        Ok(collected)
    }

    /// Removes unused images in the kubelet's order until enough is freed.
    fn free_space(
        &self,
        images: &[NodeImage],
        bytes: u64,
        now: Timestamp,
        collected: &mut Collected,
    ) -> Result<(), CollectionError> {
        let order = self.options.policy.in_eviction_order(&candidates(images), since_epoch(now));
        for at in order {
            if collected.freed_bytes + collected.waiting_bytes >= bytes {
                return Ok(());
            }
            self.remove(&images[at], "space", collected);
        }
        if collected.freed_bytes + collected.waiting_bytes < bytes {
            collected.freed_bytes += self.inventory.free_loose_layers(now)?;
        }
        Ok(())
    }

    /// Removes an image; one that a start has in hand by now stays.
    fn remove(&self, image: &NodeImage, reason: &'static str, collected: &mut Collected) {
        match self.inventory.remove_image(image) {
            Ok(removed) => {
                let names = removed.names.join(", ");
                tracing::info!(names, reason, bytes = removed.freed_bytes, "image collected");
                collected.names.extend(removed.names);
                collected.freed_bytes += removed.freed_bytes;
                collected.waiting_bytes += removed.waiting_bytes;
            }
            Err(error) => tracing::warn!(image = image.id(), %error, "image not collected"),
        }
    }

    fn told(&self, collected: &Collected, began: Timestamp) {
        if collected.names.is_empty() {
            return;
        }
        match self.inventory.roots() {
            Ok(roots) => (self.removed)(&roots, began),
            Err(error) => tracing::warn!(%error, "pull records are not tidied"),
        }
    }

    /// Looks whether the disk is short; if so all unused images go.
    fn look(&self, strain: Strain, now: Timestamp) -> Strain {
        let Some(threshold) = self.options.pressure else { return strain };
        let disk = match self.disk() {
            Ok(disk) => disk,
            Err(error) => {
                tracing::warn!(%error, "pressure is not known");
                return strain;
            }
        };
        let mut next = strain.after(threshold.is_crossed(disk), now);
        if next.is_due(now) {
            // Before anything else: the least that helps.
            match self.relieve(now) {
                Ok(collected) => tracing::warn!(
                    images = collected.names.len(),
                    bytes = collected.freed_bytes,
                    "the disk is short: unused images removed"
                ),
                Err(error) => tracing::warn!(%error, "unused images are not removed"),
            }
            next.relieved = Some(now);
        }
        let is_strained = next.is_strained();
        self.pressure
            .send_if_modified(|known| std::mem::replace(known, is_strained) != is_strained);
        next
    }

    /// Removes every unused image that is old enough, whatever the thresholds say.
    fn relieve(&self, now: Timestamp) -> Result<Collected, CollectionError> {
        self.inventory.free_waiting()?;
        let mut collected = Collected::default();
        let images = self.inventory.list(now)?;
        self.free_space(&images, u64::MAX, now, &mut collected)?;
        self.told(&collected, now);
        Ok(collected)
    }
}

/// How long the disk has been short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Strain {
    /// Last time that it was seen short; `None` once the condition is over.
    seen: Option<Timestamp>,
    relieved: Option<Timestamp>,
    is_crossed: bool,
}

impl Strain {
    fn after(self, is_crossed: bool, now: Timestamp) -> Self {
        let is_recent =
            |at: &Timestamp| since_epoch(now).saturating_sub(since_epoch(*at)) < PRESSURE_MIN;
        let seen = if is_crossed { Some(now) } else { self.seen.filter(is_recent) };
        Strain { seen, is_crossed, relieved: self.relieved }
    }

    fn is_strained(&self) -> bool {
        self.seen.is_some()
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let passed = |at| since_epoch(now).saturating_sub(since_epoch(at)) >= RELIEF_PERIOD;
        self.is_crossed && self.relieved.is_none_or(passed)
    }
}

fn candidates(images: &[NodeImage]) -> Vec<Candidate> {
    let candidate = |image: &NodeImage| Candidate {
        last_used: image.last_used.map(since_epoch),
        detected: since_epoch(image.detected),
        in_use: image.is_used(),
        pinned: image.pin.is_some(),
    };
    images.iter().map(candidate).collect()
}

/// Time since 1970; nothing before.
fn since_epoch(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default()
}

impl Default for CollectionOptions {
    /// The kubelet's; pressure at less than 5 % available, because the disk of a laptop is not
    /// the node's alone.
    fn default() -> Self {
        CollectionOptions {
            policy: CollectionPolicy::default(),
            period: Duration::from_secs(300),
            pressure: Some(PressureThreshold::Percent(5)),
            status_images_max: Some(50),
            kept: KeptImages::default(),
        }
    }
}

#[cfg(test)]
mod tests;
