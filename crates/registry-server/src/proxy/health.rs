//! How an upstream fares: when it may be asked, and with which credential. No I/O, no clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::upstream::{UpstreamError, UpstreamQuota};

/// Failures in a row after which an upstream is left alone.
const FAILURES_MAX: u32 = 3;

/// For how long it is left alone at first; doubled each time that a look finds it down still.
const PAUSE_FIRST: Duration = Duration::from_secs(5);

/// Longest time that it is left alone.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How long one look at a broken upstream may keep others from looking.
const PROBE_TIME: Duration = Duration::from_secs(15);

/// How long a credential is left alone that was rate-limited without a hint.
const LIMITED_TIME: Duration = Duration::from_secs(60);

/// Longest time that a hint is believed.
const LIMITED_TIME_MAX: Duration = Duration::from_secs(6 * 3600);

/// State of one upstream.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<State>,
    pub(crate) counts: Counts,
}

#[derive(Debug)]
struct State {
    /// Failures since the last success.
    failures: u32,
    /// Not asked before this.
    closed_until: Option<Instant>,
    credentials: Vec<Credential>,
}

#[derive(Clone, Debug, Default)]
struct Credential {
    limited_until: Option<Instant>,
    quota: Option<UpstreamQuota>,
}

/// What happened, for metrics; each only grows.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) mismatches: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) limited: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// How an upstream fares, for metrics and people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// The registry.
    pub host: String,
    /// Whether it is left alone for now because it failed repeatedly.
    pub broken: bool,
    /// What is left of each credential's allowance, by position; nothing where the registry does
    /// not tell.
    pub quotas: Vec<Option<UpstreamQuota>>,
    /// Credentials that have to wait for a rate limit to pass.
    pub limited_credentials: usize,
    /// Requests served from the cache.
    pub hits: u64,
    /// Requests for which the registry had to be asked for content.
    pub misses: u64,
    /// Requests served from the cache because the registry gave no answer.
    pub stale: u64,
    /// Requests sent to the registry.
    pub requests: u64,
    /// Bytes of blobs received from the registry.
    pub bytes: u64,
    /// Times that its content did not match its digest: it is suspicious then.
    pub mismatches: u64,
    /// Times that it failed or could not be reached.
    pub failures: u64,
    /// Times that it asked for patience (429).
    pub rate_limited: u64,
}

impl Health {
    pub(crate) fn new(credentials: usize) -> Self {
        let credentials = vec![Credential::default(); credentials.max(1)];
        let state = State { failures: 0, closed_until: None, credentials };
        Self { state: Mutex::new(state), counts: Counts::default() }
    }

    /// The credential to ask with, if the upstream may be asked at all.
    pub(crate) fn admit(&self, now: Instant) -> Result<usize, UpstreamError> {
        let mut state = self.state();
        if let Some(until) = state.closed_until {
            if now < until {
                let wait = (until - now).as_secs() + 1;
                let reason = format!("it failed repeatedly and is asked again in {wait} s");
                return Err(UpstreamError::Unavailable { reason });
            }
            // This request finds out; others wait for it.
            state.closed_until = Some(now + PROBE_TIME);
        }
        let free = |credential: &Credential| credential.limited_until.is_none_or(|at| at <= now);
        if let Some(at) = state.credentials.iter().position(free) {
            return Ok(at);
        }
        let first = state.credentials.iter().filter_map(|one| one.limited_until).min();
        Err(UpstreamError::RateLimited { retry_after: first.map(|at| at - now) })
    }

    /// It answered.
    pub(crate) fn answered(&self, credential: usize, quota: Option<UpstreamQuota>) {
        let mut state = self.state();
        state.failures = 0;
        state.closed_until = None;
        if let (Some(quota), Some(credential)) = (quota, state.credentials.get_mut(credential)) {
            credential.quota = Some(quota);
        }
    }

    /// It gave no answer.
    pub(crate) fn failed(&self, now: Instant) {
        Counts::add(&self.counts.failures, 1);
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if FAILURES_MAX <= state.failures {
            let doublings = (state.failures - FAILURES_MAX).min(10);
            state.closed_until = Some(now + (PAUSE_FIRST * (1 << doublings)).min(PAUSE_MAX));
        }
    }

    /// It asked for patience with this credential.
    pub(crate) fn limited(&self, credential: usize, wait: Option<Duration>, now: Instant) {
        Counts::add(&self.counts.limited, 1);
        let wait = wait.unwrap_or(LIMITED_TIME).clamp(Duration::from_secs(1), LIMITED_TIME_MAX);
        let mut state = self.state();
        state.failures = 0;
        state.closed_until = None;
        if let Some(credential) = state.credentials.get_mut(credential) {
            credential.limited_until = Some(now + wait);
        }
    }

    pub(crate) fn status(&self, host: &str, now: Instant) -> UpstreamStatus {
        let state = self.state();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let limited =
            |credential: &&Credential| credential.limited_until.is_some_and(|until| now < until);
        UpstreamStatus {
            host: host.to_owned(),
            broken: state.closed_until.is_some(),
            quotas: state.credentials.iter().map(|one| one.quota.clone()).collect(),
            limited_credentials: state.credentials.iter().filter(limited).count(),
            hits: read(&self.counts.hits),
            misses: read(&self.counts.misses),
            stale: read(&self.counts.stale),
            requests: read(&self.counts.requests),
            bytes: read(&self.counts.bytes),
            mismatches: read(&self.counts.mismatches),
            failures: read(&self.counts.failures),
            rate_limited: read(&self.counts.limited),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_broken_upstream_is_left_alone_for_longer_each_time() {
        let (health, now) = (Health::new(1), Instant::now());
        for _ in 0..FAILURES_MAX {
            assert_eq!(health.admit(now), Ok(0));
            health.failed(now);
        }
        assert!(matches!(health.admit(now + seconds(4)), Err(UpstreamError::Unavailable { .. })));
        let later = now + seconds(5);
        assert_eq!(health.admit(later), Ok(0), "one looks");
        assert!(health.admit(later).is_err(), "the others wait for it");
        health.failed(later);
        assert!(health.admit(later + seconds(9)).is_err());
        assert_eq!(health.admit(later + seconds(10)), Ok(0));
        assert!(health.status("r", later).broken);
        health.answered(0, None);
        assert_eq!((health.admit(later), health.admit(later)), (Ok(0), Ok(0)));
        assert!(!health.status("r", later).broken);
    }

    #[test]
    fn a_look_that_never_ends_does_not_close_the_upstream_for_good() {
        let (health, now) = (Health::new(1), Instant::now());
        (0..FAILURES_MAX).for_each(|_| health.failed(now));
        let later = now + seconds(5);
        assert_eq!(health.admit(later), Ok(0));
        assert!(health.admit(later + seconds(14)).is_err());
        assert_eq!(health.admit(later + seconds(15)), Ok(0));
    }

    #[test]
    fn credentials_take_turns_when_one_is_limited() {
        let (health, now) = (Health::new(2), Instant::now());
        health.limited(0, Some(seconds(100)), now);
        assert_eq!(health.admit(now), Ok(1));
        health.limited(1, None, now);
        let refused = health.admit(now + seconds(10));
        assert_eq!(refused, Err(UpstreamError::RateLimited { retry_after: Some(seconds(50)) }));
        assert_eq!(health.admit(now + seconds(60)), Ok(1));
        assert_eq!(health.admit(now + seconds(100)), Ok(0));
        assert_eq!(health.status("r", now).limited_credentials, 2);
    }

    #[test]
    fn what_is_left_of_an_allowance_is_kept() {
        let health = Health::new(2);
        let quota = UpstreamQuota { limit: Some(100), remaining: 7, window: None };
        health.answered(1, Some(quota.clone()));
        health.answered(1, None);
        assert_eq!(health.status("r", Instant::now()).quotas, [None, Some(quota)]);
    }
}
