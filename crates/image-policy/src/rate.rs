//! Token bucket for pulls (`registryPullQPS`, `registryBurst`): asked once, never queues.

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
    fn rate_of_zero_is_no_limit() {
        let mut bucket = TokenBucket::new(0, 1);
        assert!((0..100).all(|_| bucket.try_take(Duration::ZERO)));
    }
}
