//! Token bucket for pulls (`registryPullQPS`, `registryBurst`).

use std::time::Duration;

/// Lets `burst` calls through at once and `per_second` of them in the long run.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    last: Duration,
}

impl TokenBucket {
    /// A full bucket; a rate of zero lets everything through.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst);
        Self { per_second: f64::from(per_second), burst, tokens: burst, last: Duration::ZERO }
    }

    /// Takes one token at `now` (a duration since any fixed moment); says whether there was one.
    /// Without one the kubelet fails the pull with `pull QPS exceeded`.
    pub fn try_take(&mut self, now: Duration) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let passed = now.saturating_sub(self.last).as_secs_f64();
        self.last = now.max(self.last);
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// How long after `now` the next token is there, for whoever would rather wait than fail; at
    /// least a millisecond.
    pub fn next_token(&self, now: Duration) -> Duration {
        if self.per_second == 0.0 {
            return Duration::from_millis(1);
        }
        let passed = now.saturating_sub(self.last).as_secs_f64();
        let missing = 1.0 - (self.tokens + passed * self.per_second);
        Duration::from_secs_f64((missing / self.per_second).clamp(0.001, 3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_passes_and_the_rest_of_an_instant_does_not() {
        let mut bucket = TokenBucket::new(5, 10);
        let passed = (0..12).filter(|_| bucket.try_take(Duration::from_secs(1))).count();
        assert_eq!(passed, 10); // P16
        assert!(bucket.try_take(Duration::from_millis(1200)), "five a second refill");
        assert!(!bucket.try_take(Duration::from_millis(1200)));
    }

    #[test]
    fn whoever_waits_knows_how_long() {
        let mut bucket = TokenBucket::new(5, 1);
        let now = Duration::from_secs(1);
        assert!(bucket.try_take(now));
        assert_eq!(bucket.next_token(now), Duration::from_millis(200));
        assert_eq!(bucket.next_token(now + Duration::from_millis(150)), Duration::from_millis(50));
        assert!(bucket.try_take(now + bucket.next_token(now)));
    }

    #[test]
    fn rate_of_zero_is_no_limit() {
        let mut bucket = TokenBucket::new(0, 1);
        assert!((0..100).all(|_| bucket.try_take(Duration::ZERO)));
    }
}
