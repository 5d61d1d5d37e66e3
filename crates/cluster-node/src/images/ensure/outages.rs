//! What the node knows about registries that do not answer, shared by all its pods.
//!
//! While a registry is down nobody but one probe asks it: pulls fail at once with what is known,
//! in the kubelet's words and back-off windows. When it answers again all pods that wait for it
//! are let go, each after a random pause, however much of their windows is left
//! (kubelet-images.md 3.1 and 14, pain 3).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use image_policy::BACK_OFF_INITIAL;
use tokio::sync::watch;

use super::Images;
use crate::images::registry::Trouble;

/// Patience that a registry is granted when it asks for some and does not say how much.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);
/// Longest patience that is granted.
const RATE_LIMIT_MAX: Duration = Duration::from_secs(3600);
/// Probes end when nobody asked for the registry for so long.
const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);
/// Outages that are remembered; with more, the one that nobody waits for, or else that nobody asked
/// about for longest, is forgotten, and found out again if need be.
const OUTAGES_MAX: usize = 256;

/// How fast the node looks at registries that are down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Pause before the first probe, doubled from probe to probe.
    pub(crate) probe_first: Duration,
    /// Longest pause between probes.
    pub(crate) probe_max: Duration,
    /// How long a pull waits for a registry to come back before it fails: a hiccup that is over
    /// by the first or second probe fails nobody else.
    pub(crate) patience: Duration,
    /// Whoever was held back is let go within so much time.
    pub(crate) spread: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            probe_first: Duration::from_millis(500),
            probe_max: Duration::from_secs(30),
            patience: Duration::from_secs(2),
            spread: Duration::from_secs(5),
        }
    }
}

/// An outage: of a registry, or of a registry for one set of credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OutageKey {
    registry: String,
    /// Hashes of the credentials that a rate limit is about; nothing for the registry as a whole.
    credentials: Option<Vec<String>>,
}

impl OutageKey {
    /// Whether the registry answers nobody.
    pub(crate) fn is_of_all(&self) -> bool {
        self.credentials.is_none()
    }
}

/// What is known of an outage.
struct Outage {
    /// What pods are told.
    cause: String,
    /// When somebody last asked for the registry.
    asked: Duration,
    /// Pods that wait for its end.
    waiting: usize,
    /// Tells it from an earlier one of the same registry, whose probe may still run.
    number: u64,
}

/// The registries that do not answer.
#[derive(Default)]
pub(crate) struct Outages {
    pub(crate) pace: Pace,
    known: Mutex<HashMap<OutageKey, Outage>>,
    /// How many outages there were.
    numbers: AtomicU64,
    /// The outages that ended by a recovery, until they begin again.
    recovered: Mutex<HashSet<OutageKey>>,
    /// Changes whenever one ends.
    ended: watch::Sender<()>,
}

/// How an outage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The registry was seen down, and then up: whoever waited may try at once.
    Recovery,
    /// It was never seen down, or nobody cares any more: the windows of the back-off count. A
    /// registry that answers while its blobs cannot be had would else be asked without end.
    Unclear,
}

/// A pull that has to wait for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) key: OutageKey,
    pub(crate) cause: String,
}

impl Outages {
    fn known(&self) -> MutexGuard<'_, HashMap<OutageKey, Outage>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, registry: &str, credentials: &[String], now: Duration) -> Option<Held> {
        let mut known = self.known();
        [None, Some(credentials.to_vec())].into_iter().find_map(|credentials| {
            let key = OutageKey { registry: registry.to_owned(), credentials };
            let outage = known.get_mut(&key)?;
            outage.asked = now;
            Some(Held { cause: outage.cause.clone(), key })
        })
    }

    /// Lets a pull through, now or within [`Pace::patience`].
    ///
    /// # Errors
    /// The registry is known not to answer.
    pub(crate) async fn pass(
        &self,
        registry: &str,
        credentials: &[String],
        now: Duration,
    ) -> Result<(), Held> {
        let mut ended = self.ended.subscribe();
        let pass = async {
            while self.held(registry, credentials, now).is_some() {
                // The sender lives as long as `self`.
                let _ = ended.changed().await;
            }
        };
        if tokio::time::timeout(self.pace.patience, pass).await.is_ok() {
            return Ok(());
        }
        self.held(registry, credentials, now).map_or(Ok(()), Err)
    }

    /// Waits until an outage has ended, and after a recovery a random time more.
    pub(crate) async fn end_of(&self, key: &OutageKey) -> Ending {
        let mut ended = self.ended.subscribe();
        {
            let _waiting = Waiting::of(self, key);
            while self.known().contains_key(key) {
                let _ = ended.changed().await;
            }
        }
        if !self.recovered().contains(key) {
            return Ending::Unclear;
        }
        tokio::time::sleep(self.pace.spread.mul_f64(fastrand::f64())).await;
        Ending::Recovery
    }

    fn recovered(&self) -> MutexGuard<'_, HashSet<OutageKey>> {
        self.recovered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an outage; returns its number unless it was known.
    fn begin(&self, key: OutageKey, cause: String, now: Duration) -> Option<u64> {
        self.recovered().remove(&key);
        let mut known = self.known();
        if let Some(outage) = known.get_mut(&key) {
            (outage.cause, outage.asked) = (cause, now);
            return None;
        }
        if OUTAGES_MAX <= known.len() {
            let stalest =
                known.iter().min_by_key(|(_, outage)| (outage.waiting != 0, outage.asked));
            if let Some(stalest) = stalest.map(|(key, _)| key.clone()) {
                known.remove(&stalest);
                self.ended.send_replace(());
            }
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        known.insert(key, Outage { cause, asked: now, waiting: 0, number });
        Some(number)
    }

    fn end(&self, key: &OutageKey, number: u64, ending: Ending) {
        let mut known = self.known();
        if known.get(key).is_none_or(|outage| outage.number != number) {
            return;
        }
        known.remove(key);
        drop(known);
        let mut recovered = self.recovered();
        if ending == Ending::Recovery {
            if OUTAGES_MAX <= recovered.len() {
                recovered.clear();
            }
            recovered.insert(key.clone());
        }
        drop(recovered);
        self.ended.send_replace(());
    }

    /// Whether an outage is still of interest.
    fn is_wanted(&self, key: &OutageKey, number: u64, now: Duration) -> bool {
        self.known().get(key).is_some_and(|outage| {
            let is_fresh = now.saturating_sub(outage.asked) < FORGET_AFTER;
            outage.number == number && (is_fresh || outage.waiting != 0)
        })
    }
}

/// Somebody who waits for the end of an outage.
struct Waiting<'a> {
    outages: &'a Outages,
    key: &'a OutageKey,
}

impl<'a> Waiting<'a> {
    fn of(outages: &'a Outages, key: &'a OutageKey) -> Self {
        if let Some(outage) = outages.known().get_mut(key) {
            outage.waiting += 1;
        }
        Waiting { outages, key }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(outage) = self.outages.known().get_mut(self.key) {
            outage.waiting = outage.waiting.saturating_sub(1);
        }
    }
}

impl Images {
    /// Draws the conclusions of a failure that is not this image's alone; returns what held it.
    pub(super) fn note_trouble(
        self: &Arc<Self>,
        registry: &str,
        credentials: &[String],
        trouble: &Trouble,
    ) -> Option<OutageKey> {
        let registry = registry.to_owned();
        let now = (self.clock)();
        match trouble {
            Trouble::Image | Trouble::Credential | Trouble::Machine(_) => None,
            Trouble::Registry(cause) => {
                let key = OutageKey { registry, credentials: None };
                if let Some(number) = self.outages.begin(key.clone(), cause.clone(), now) {
                    tokio::spawn(probe(Arc::downgrade(self), key.clone(), number));
                }
                Some(key)
            }
            Trouble::Patience(cause, wait) => {
                let key = OutageKey { registry, credentials: Some(credentials.to_vec()) };
                if let Some(number) = self.outages.begin(key.clone(), cause.clone(), now) {
                    let wait = wait.unwrap_or(RATE_LIMIT_PAUSE).min(RATE_LIMIT_MAX);
                    tokio::spawn(outwait(Arc::downgrade(self), key.clone(), number, wait));
                }
                Some(key)
            }
        }
    }
}

/// Asks a registry, less and less often, until it answers or nobody cares.
async fn probe(images: Weak<Images>, key: OutageKey, number: u64) {
    let Some(pace) = images.upgrade().map(|images| images.outages.pace) else { return };
    let mut pause = pace.probe_first;
    let mut ending = Ending::Unclear;
    loop {
        // Half of it is left to chance: many nodes may wait for one registry.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        let Some(images) = images.upgrade() else { return };
        if !images.outages.is_wanted(&key, number, (images.clock)()) {
            images.outages.end(&key, number, Ending::Unclear);
            return;
        }
        if images.puller.answers(key.registry.clone()).await {
            images.outages.end(&key, number, ending);
            return;
        }
        ending = Ending::Recovery;
        pause = (pause * 2).min(pace.probe_max);
    }
}

/// Grants the patience that a registry asked for.
async fn outwait(images: Weak<Images>, key: OutageKey, number: u64, wait: Duration) {
    tokio::time::sleep(wait).await;
    if let Some(images) = images.upgrade() {
        // After a shorter one the windows count: it would else be no back-off at all.
        let is_long = BACK_OFF_INITIAL <= wait;
        let ending = if is_long { Ending::Recovery } else { Ending::Unclear };
        images.outages.end(&key, number, ending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(registry: &str) -> OutageKey {
        OutageKey { registry: registry.to_owned(), credentials: None }
    }

    #[tokio::test]
    async fn hosts_that_do_not_exist_cannot_end_an_outage_that_pods_wait_for() {
        let outages = Outages::default();
        let begin = |registry: &str, second| {
            outages.begin(key(registry), "down".to_owned(), Duration::from_secs(second))
        };
        let number = begin("registry.example.com", 0).expect("new");
        begin("nobody-waits.example.com", 1).expect("new");
        let awaited = key("registry.example.com");
        let mut end = std::pin::pin!(outages.end_of(&awaited));
        assert!(futures_util::poll!(&mut end).is_pending());
        for number in 0..2 * OUTAGES_MAX as u64 {
            begin(&format!("bogus-{number}"), 2 + number).expect("new");
        }
        assert_eq!(outages.known().len(), OUTAGES_MAX);
        assert!(outages.held("nobody-waits.example.com", &[], Duration::ZERO).is_none());
        assert!(futures_util::poll!(&mut end).is_pending(), "nobody asks, one waits");
        outages.end(&awaited, number, Ending::Unclear);
        assert_eq!(end.await, Ending::Unclear);
    }

    #[test]
    fn probe_of_an_earlier_outage_decides_nothing_about_the_next() {
        let outages = Outages::default();
        let begin = || outages.begin(key("r"), "down".to_owned(), Duration::ZERO);
        let first = begin().expect("new");
        assert_eq!(begin(), None, "known");
        outages.end(&key("r"), first, Ending::Recovery);
        let second = begin().expect("new");
        assert!(!outages.is_wanted(&key("r"), first, Duration::ZERO));
        outages.end(&key("r"), first, Ending::Recovery);
        assert!(outages.is_wanted(&key("r"), second, Duration::ZERO));
    }
}
