//! How many pulls run at once and how fast they begin (kubelet-images.md 3.2).
//!
//! Whoever pulls takes a [`Ticket`], waits for its [`Turn`], first come first served, and gives it
//! back by dropping it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use image_policy::TokenBucket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Clock;

/// Pulls at once unless something else is configured: enough for a node whose pods share few
/// images, few enough that each is done soon.
const PARALLEL_PULLS: usize = 5;
/// The kubelet's `registryPullQPS`.
const PULLS_PER_SECOND: i64 = 5;
/// The kubelet's `registryBurst`.
const PULLS_BURST: i64 = 10;
/// Longest silence of a pull: containerd's `image_pull_progress_timeout`.
const STALL_TIME: Duration = Duration::from_secs(5 * 60);
/// A pull that takes no longer than this tells no progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(10);

/// Limits of the node's pulls; the fields are those of the kubelet's configuration where it has
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullLimits {
    /// `serializeImagePulls`: one pull at a time. Off when unset; the kubelet's default is on.
    pub serialize_image_pulls: Option<bool>,
    /// `maxParallelImagePulls`: pulls at once. Five when nothing is set; without limit, as in the
    /// kubelet, when only `serialize_image_pulls` is set to false.
    pub max_parallel_image_pulls: Option<i64>,
    /// `registryPullQPS`: pulls that begin per second in the long run; 0 is no limit.
    pub registry_pull_qps: i64,
    /// `registryBurst`: pulls that may begin at once.
    pub registry_burst: i64,
    /// What becomes of pulls beyond the rate.
    pub over_rate: OverRate,
    /// A pull that receives no byte for so long is ended and retried by back-off; zero is never.
    pub stall_time: Duration,
    /// A pull says how far it is after this time, and again after twice the time, and so on; zero
    /// is never.
    pub progress_after: Duration,
}

/// What becomes of a pull when the rate of pulls is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverRate {
    /// It waits.
    #[default]
    Wait,
    /// It fails with `pull QPS exceeded`, as in the kubelet.
    Fail,
}

impl Default for PullLimits {
    fn default() -> Self {
        PullLimits {
            serialize_image_pulls: None,
            max_parallel_image_pulls: None,
            registry_pull_qps: PULLS_PER_SECOND,
            registry_burst: PULLS_BURST,
            over_rate: OverRate::Wait,
            stall_time: STALL_TIME,
            progress_after: PROGRESS_AFTER,
        }
    }
}

/// Limits that contradict themselves; the texts are the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullLimitsError {
    /// Less than one pull at once.
    #[error("invalid configuration: maxParallelImagePulls {0} must be a positive number")]
    NotPositive(i64),
    /// Several pulls at once, and one at a time.
    #[error(
        "invalid configuration: maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false"
    )]
    SerialAndParallel,
    /// A negative rate.
    #[error(
        "invalid configuration: registryPullQPS (--registry-qps) {0} must not be a negative number"
    )]
    NegativeRate(i64),
    /// A negative burst.
    #[error(
        "invalid configuration: registryBurst (--registry-burst) {0} must not be a negative number"
    )]
    NegativeBurst(i64),
}

impl PullLimits {
    /// Checks the limits as the kubelet does (kubelet-images.md 3.2).
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), PullLimitsError> {
        if let Some(most) = self.max_parallel_image_pulls {
            if most < 1 {
                return Err(PullLimitsError::NotPositive(most));
            }
            if most > 1 && self.serialize_image_pulls == Some(true) {
                return Err(PullLimitsError::SerialAndParallel);
            }
        }
        if self.registry_pull_qps < 0 {
            return Err(PullLimitsError::NegativeRate(self.registry_pull_qps));
        }
        if self.registry_burst < 0 {
            return Err(PullLimitsError::NegativeBurst(self.registry_burst));
        }
        Ok(())
    }

    fn at_once(&self) -> usize {
        match (self.serialize_image_pulls, self.max_parallel_image_pulls) {
            (Some(true), _) => 1,
            (_, Some(most)) => {
                usize::try_from(most).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
            }
            (Some(false), None) => Semaphore::MAX_PERMITS,
            (None, None) => PARALLEL_PULLS,
        }
    }
}

/// The queue of a node's pulls.
pub(crate) struct Queue {
    slots: Arc<Semaphore>,
    waiting: Mutex<BTreeSet<u64>>,
    next: AtomicU64,
    bucket: Mutex<TokenBucket>,
    over_rate: OverRate,
    clock: Clock,
}

impl Queue {
    /// A queue with these limits, which were validated.
    pub(crate) fn new(limits: &PullLimits, clock: Clock) -> Self {
        let whole = |number: i64| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
        let burst = match limits.over_rate {
            OverRate::Fail => limits.registry_burst,
            // Who waits must be able to get a token.
            OverRate::Wait => limits.registry_burst.max(1),
        };
        Queue {
            slots: Arc::new(Semaphore::new(limits.at_once())),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            bucket: Mutex::new(TokenBucket::new(whole(limits.registry_pull_qps), whole(burst))),
            over_rate: limits.over_rate,
            clock,
        }
    }

    /// Whether a pull may be asked for now; each pod's pull counts, also one that it shares.
    pub(crate) fn admits(&self) -> bool {
        self.over_rate == OverRate::Wait || self.bucket().try_take((self.clock)())
    }

    /// A place at the end of the queue.
    pub(crate) fn enter(self: &Arc<Self>) -> Ticket {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(number);
        Ticket { queue: Arc::clone(self), number, waits: AtomicBool::new(false) }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bucket(&self) -> MutexGuard<'_, TokenBucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue; dropping it leaves the queue.
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    number: u64,
    /// Whether its turn did not come at once.
    waits: AtomicBool,
}

/// The right to pull, until it is dropped.
pub(crate) struct Turn {
    _slot: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    /// How many are before this one, and itself; nothing before it has to wait and once its turn
    /// has come.
    pub(crate) fn place(&self) -> Option<usize> {
        if !self.waits.load(Ordering::Relaxed) {
            return None;
        }
        let waiting = self.queue.waiting();
        waiting.contains(&self.number).then(|| waiting.range(..=self.number).count())
    }

    /// Waits for the turn.
    pub(crate) async fn turn(&self) -> Turn {
        // The semaphore is fair, and nobody ever closes it.
        let slot = match Arc::clone(&self.queue.slots).try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) => {
                self.waits.store(true, Ordering::Relaxed);
                Arc::clone(&self.queue.slots).acquire_owned().await.ok()
            }
        };
        if self.queue.over_rate == OverRate::Wait {
            loop {
                let now = (self.queue.clock)();
                let wait = {
                    let mut bucket = self.queue.bucket();
                    if bucket.try_take(now) {
                        break;
                    }
                    bucket.next_token(now)
                };
                self.waits.store(true, Ordering::Relaxed);
                tokio::time::sleep(wait).await;
            }
        }
        self.queue.waiting().remove(&self.number);
        Turn { _slot: slot }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.waiting().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn queue(limits: &PullLimits) -> Arc<Queue> {
        Arc::new(Queue::new(limits, Arc::new(|| Duration::from_secs(1))))
    }

    /// kubelet-images.md 3.2.
    #[test]
    fn limits_are_refused_in_the_kubelets_words() {
        let base = PullLimits::default();
        for (limits, expected) in [
            (base.clone(), None),
            (
                PullLimits { max_parallel_image_pulls: Some(0), ..base.clone() },
                Some("invalid configuration: maxParallelImagePulls 0 must be a positive number"),
            ),
            (
                PullLimits {
                    serialize_image_pulls: Some(true),
                    max_parallel_image_pulls: Some(2),
                    ..base.clone()
                },
                Some(
                    "invalid configuration: maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false",
                ),
            ),
            (
                PullLimits {
                    serialize_image_pulls: Some(true),
                    max_parallel_image_pulls: Some(1),
                    ..base.clone()
                },
                None,
            ),
            (
                PullLimits { registry_pull_qps: -1, ..base.clone() },
                Some(
                    "invalid configuration: registryPullQPS (--registry-qps) -1 must not be a negative number",
                ),
            ),
            (
                PullLimits { registry_burst: -2, ..base },
                Some(
                    "invalid configuration: registryBurst (--registry-burst) -2 must not be a negative number",
                ),
            ),
        ] {
            let text = limits.validate().err().map(|error| error.to_string());
            assert_eq!(text.as_deref(), expected, "{limits:?}");
        }
    }

    /// kubelet-images.md 3.2: what is unset.
    #[test]
    fn pulls_at_once_follow_from_both_settings() {
        let at_once = |serialize_image_pulls, max_parallel_image_pulls| {
            let limits = PullLimits {
                serialize_image_pulls,
                max_parallel_image_pulls,
                ..PullLimits::default()
            };
            limits.at_once()
        };
        assert_eq!(at_once(None, None), 5);
        assert_eq!(at_once(Some(true), None), 1);
        assert_eq!(at_once(Some(false), None), Semaphore::MAX_PERMITS);
        assert_eq!(at_once(None, Some(2)), 2);
        assert_eq!(at_once(Some(true), Some(1)), 1);
    }

    #[tokio::test]
    async fn whoever_came_first_is_next_and_places_move_up() {
        let limits = PullLimits { serialize_image_pulls: Some(true), ..PullLimits::default() };
        let queue = queue(&limits);
        let [a, b, c] = [queue.enter(), queue.enter(), queue.enter()];
        assert_eq!([a.place(), b.place(), c.place()], [None; 3], "nobody waits yet");
        let turn = a.turn().await;
        assert!(b.turn().now_or_never().is_none());
        let mut turn_of_c = Box::pin(c.turn());
        assert!((&mut turn_of_c).now_or_never().is_none());
        assert_eq!([a.place(), b.place(), c.place()], [None, Some(1), Some(2)]);
        drop(b);
        assert_eq!(c.place(), Some(1), "a deleted pod leaves the queue");
        drop(turn);
        let _turn = turn_of_c.await;
        assert_eq!(c.place(), None);
    }
}
