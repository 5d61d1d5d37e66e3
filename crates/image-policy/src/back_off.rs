//! Exponential back-off per key (client-go `flowcontrol.Backoff`, as image pulls and container
//! restarts use it). Time is an argument: a duration since any fixed moment.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// First window after a failure.
///
/// Source: kubelet, image pull back-off and container restart back-off.
pub const BACK_OFF_INITIAL: Duration = Duration::from_secs(10);

/// Longest window.
///
/// Source: kubelet, `MaxImageBackOff` and `MaxContainerBackOff`.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// Windows that double from one failure to the next and are forgotten after twice the longest.
#[derive(Clone, Debug)]
pub struct BackOff<K> {
    initial: Duration,
    max: Duration,
    entries: HashMap<K, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    window: Duration,
    last_failure: Duration,
}

impl<K: Eq + Hash> BackOff<K> {
    /// Windows from `initial`, doubling up to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, entries: HashMap::new() }
    }

    /// Notes a failure at `now` and returns the window that starts there.
    pub fn fail(&mut self, key: K, now: Duration) -> Duration {
        let window = match self.entries.get(&key) {
            Some(entry) if !self.is_stale(entry, now) => (entry.window * 2).min(self.max),
            _ => self.initial,
        };
        self.entries.insert(key, Entry { window, last_failure: now });
        window
    }

    /// How much of the window is left at `now`; `None` if the next try may start.
    pub fn remaining<Q>(&self, key: &Q, now: Duration) -> Option<Duration>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.entries.get(key)?;
        if self.is_stale(entry, now) {
            return None;
        }
        (entry.last_failure + entry.window).checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Whether a failure of the key is remembered.
    pub fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Forgets one key, so that its next failure starts anew.
    pub fn reset<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key);
    }

    /// Forgets every key whose last failure is longer ago than twice the longest window.
    pub fn collect_garbage(&mut self, now: Duration) {
        let stale_after = self.max * 2;
        self.entries.retain(|_, entry| now.saturating_sub(entry.last_failure) <= stale_after);
    }

    fn is_stale(&self, entry: &Entry, now: Duration) -> bool {
        self.max * 2 < now.saturating_sub(entry.last_failure)
    }
}

impl<K: Eq + Hash> Default for BackOff<K> {
    /// The kubelet's numbers: 10 s doubling to 300 s.
    fn default() -> Self {
        Self::new(BACK_OFF_INITIAL, BACK_OFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn windows_double_to_the_limit() {
        let mut back_off = BackOff::default();
        let windows: Vec<u64> = [0, 10, 30, 70, 150, 310, 610]
            .into_iter()
            .map(|at| back_off.fail("k", s(at)).as_secs())
            .collect();
        assert_eq!(windows, [10, 20, 40, 80, 160, 300, 300]); // P13
    }

    #[test]
    fn a_success_does_not_reset_the_window() {
        let mut back_off = BackOff::default();
        for at in [0, 10, 30, 70, 150] {
            back_off.fail("k", s(at));
        }
        assert_eq!(back_off.fail("k", s(450)), s(300)); // P14
    }

    #[test]
    fn a_long_quiet_time_starts_anew() {
        let mut back_off = BackOff::default();
        back_off.fail("k", s(0));
        back_off.fail("k", s(10));
        assert_eq!(back_off.fail("k", s(611)), s(10)); // P15
    }

    #[test]
    fn window_ends_exactly_when_it_has_passed() {
        let mut back_off = BackOff::default();
        back_off.fail("k", s(100));
        assert_eq!(back_off.remaining(&"k", s(100)), Some(s(10)));
        assert_eq!(back_off.remaining(&"k", s(109)), Some(s(1)));
        assert_eq!(back_off.remaining(&"k", s(110)), None);
        assert_eq!(back_off.remaining(&"other", s(100)), None);
        back_off.reset(&"k");
        assert_eq!(back_off.remaining(&"k", s(100)), None);
    }

    #[test]
    fn garbage_collection_keeps_recent_failures() {
        let mut back_off = BackOff::default();
        back_off.fail("old", s(0));
        back_off.fail("new", s(500));
        back_off.collect_garbage(s(601));
        assert!(back_off.contains(&"new") && !back_off.contains(&"old"));
    }
}
