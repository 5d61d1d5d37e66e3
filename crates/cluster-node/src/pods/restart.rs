//! Restart back-off of crashed containers: 10 s doubling to 300 s, forgotten after 10 minutes of
//! running (mini-kubernetes.md 8.3).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// First delay.
const DELAY_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Delays stop growing here; twice this without a restart forgets the entry.
const DELAY_MAX: SignedDuration = SignedDuration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

/// What to do about a container that ended and has to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Start it now.
    Now,
    /// Start it at `until`; it is in a back-off window of `delay`.
    At { until: Timestamp, delay: SignedDuration },
}

/// Restart back-off of the containers of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CrashBackOff {
    entries: BTreeMap<String, Entry>,
}

impl CrashBackOff {
    /// Decides about a container that ended at `ended`; changes nothing.
    pub(crate) fn check(&self, container: &str, ended: Timestamp, now: Timestamp) -> Restart {
        match self.entries.get(container) {
            Some(entry) if !is_expired(entry, ended) && now.duration_since(ended) < entry.delay => {
                Restart::At {
                    until: ended.saturating_add(entry.delay).unwrap_or(now),
                    delay: entry.delay,
                }
            }
            _ => Restart::Now,
        }
    }

    /// Notes a restart at `now` of a container that ended at `ended`.
    pub(crate) fn restarted(&mut self, container: &str, ended: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(container) {
            Some(entry) if !is_expired(entry, ended) => (entry.delay + entry.delay).min(DELAY_MAX),
            _ => DELAY_FIRST,
        };
        self.entries.insert(container.to_owned(), Entry { delay, updated: now });
    }
}

fn is_expired(entry: &Entry, ended: Timestamp) -> bool {
    ended.duration_since(entry.updated) > DELAY_MAX + DELAY_MAX
}

/// The waiting message of a container in back-off.
pub(crate) fn back_off_message(delay: SignedDuration, container: &str, pod: &str) -> String {
    format!("back-off {} restarting failed container={container} pod={pod}", go_duration(delay))
}

/// Whole seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else if seconds < 3600 {
        format!("{}m{}s", seconds / 60, seconds % 60)
    } else {
        format!("{}h{}m{}s", seconds / 3600, seconds % 3600 / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
    }

    /// mini-kubernetes.md 14, row 67: a container that ends at once, again and again.
    #[test]
    fn row_67_delays_are_10_20_40_up_to_300_seconds() {
        let mut back_off = CrashBackOff::default();
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let ended = now;
            if let Restart::At { until, delay } = back_off.check("c", ended, now) {
                waits.push(delay.as_secs());
                assert_eq!(back_off.check("c", ended, until), Restart::Now);
                now = until;
            } else {
                waits.push(0);
            }
            back_off.restarted("c", ended, now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn row_67_ten_minutes_of_running_forget_the_history() {
        let mut back_off = CrashBackOff::default();
        back_off.restarted("c", at(0), at(0));
        back_off.restarted("c", at(5), at(15));
        assert!(
            matches!(back_off.check("c", at(20), at(21)), Restart::At { delay, .. } if delay.as_secs() == 20)
        );
        let late = at(15 + 601);
        assert_eq!(back_off.check("c", late, late), Restart::Now);
        back_off.restarted("c", late, late);
        assert!(
            matches!(back_off.check("c", late, late), Restart::At { delay, .. } if delay.as_secs() == 10)
        );
    }

    #[test]
    fn containers_of_one_pod_do_not_share_a_window() {
        let mut back_off = CrashBackOff::default();
        back_off.restarted("a", at(0), at(0));
        assert_eq!(back_off.check("b", at(1), at(1)), Restart::Now);
    }

    #[test]
    fn message_names_delay_container_and_pod() {
        assert_eq!(
            back_off_message(SignedDuration::from_secs(80), "c", "p_ns(u)"),
            "back-off 1m20s restarting failed container=c pod=p_ns(u)"
        );
        assert_eq!(go_duration(SignedDuration::from_secs(300)), "5m0s");
        assert_eq!(go_duration(SignedDuration::from_secs(10)), "10s");
    }
}
