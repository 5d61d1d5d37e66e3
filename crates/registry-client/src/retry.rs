//! When to make a request again, and after which pause.

use std::time::Duration;

/// Pause before the first retry; doubled for each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// Longest pause of our own choice.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest pause that a registry may ask for; beyond it the caller is told instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Whether an HTTP status may be gone on the next attempt.
pub(crate) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// The pause before retry number `retry` (0 is the first), or nothing when the registry wants
/// more patience than we have. `chance` is from 0 to 1 and spreads clients that failed at once.
pub(crate) fn pause(retry: u32, retry_after: Option<Duration>, chance: f64) -> Option<Duration> {
    let own = PAUSE_FIRST.saturating_mul(1 << retry.min(10)).min(PAUSE_MAX);
    let own = own.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
    match retry_after {
        Some(wait) if RETRY_AFTER_MAX < wait => None,
        Some(wait) => Some(wait.max(own)),
        None => Some(own),
    }
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3). The form with a date is rare, needs a
/// clock, and is treated as absent.
pub(crate) fn parse_retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_spread() {
        let millis = |retry, chance| pause(retry, None, chance).unwrap_or_default().as_millis();
        assert_eq!([millis(0, 1.0), millis(1, 1.0), millis(2, 1.0)], [250, 500, 1000]);
        assert_eq!([millis(0, 0.0), millis(20, 1.0)], [125, 10_000]);
    }

    #[test]
    fn registry_may_ask_for_up_to_a_minute() {
        assert_eq!(pause(0, Some(Duration::from_secs(7)), 1.0), Some(Duration::from_secs(7)));
        assert_eq!(pause(0, Some(Duration::from_secs(3600)), 1.0), None);
        assert_eq!(parse_retry_after(" 5 "), Some(Duration::from_secs(5)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }
}
