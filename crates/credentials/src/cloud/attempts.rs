//! Which failures are worth another try, and when.

use std::time::Duration;

use super::{CloudError, Performer, Response, SendError};

/// Longest `Retry-After` that is waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// How often something is tried, and how long is waited between tries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    tries: u32,
    first: Duration,
    most: Duration,
}

impl Pace {
    /// For the public APIs of a cloud.
    pub(crate) const CLOUD: Self =
        Self { tries: 3, first: Duration::from_millis(200), most: Duration::from_secs(5) };
    /// For the metadata service of the machine.
    pub(crate) const METADATA: Self =
        Self { tries: 5, first: Duration::from_millis(100), most: Duration::from_secs(2) };

    /// Full jitter: anything between nothing and twice as much as the time before.
    fn pause(self, performer: &dyn Performer, attempt: u32) {
        let limit = self.first.saturating_mul(1 << attempt.min(16)).min(self.most);
        let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        performer.pause(Duration::from_millis(performer.random() % milliseconds));
    }
}

/// Tries until it works, the error is not worth another try, or the tries of `pace` are used up.
pub(crate) fn attempts<T>(
    performer: &dyn Performer,
    pace: Pace,
    mut attempt: impl FnMut(u32) -> Result<T, CloudError>,
) -> Result<T, CloudError> {
    let mut number = 0;
    loop {
        match attempt(number) {
            Err(error) if error.retryable && number + 1 < pace.tries => {
                pace.pause(performer, number);
                number += 1;
            }
            result => return result,
        }
    }
}

/// Whether a status alone says that the same request may work later.
pub(crate) const fn is_passing(status: u16) -> bool {
    status == 429 || status >= 500
}

/// Waits as long as the answer asks for, within reason.
pub(crate) fn heed_retry_after(performer: &dyn Performer, response: &Response) {
    let seconds = response.header("retry-after").and_then(|text| text.trim().parse().ok());
    if let Some(seconds) = seconds {
        performer.pause(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
}

impl CloudError {
    /// No answer came from a metadata service. One that is there answers at once: whoever waited
    /// in vain is on another machine, and does not wait again.
    pub(crate) fn no_metadata(
        provider: &'static str,
        step: &'static str,
        place: impl Into<String>,
        error: &SendError,
    ) -> Self {
        match (Self::unsent(provider, step, place, error), error) {
            (unsent, SendError::Timeout) => unsent
                .retryable(false)
                .hint("this may be no machine of that cloud: docs/cloud-credentials.md, Identity"),
            (unsent, _) => unsent,
        }
    }

    /// No answer came.
    pub(crate) fn unsent(
        provider: &'static str,
        step: &'static str,
        place: impl Into<String>,
        error: &SendError,
    ) -> Self {
        let retryable = !matches!(error, SendError::Refused(_));
        let error = Self::new(provider, step, place, error.to_string()).retryable(retryable);
        match retryable {
            true => error.hint("check that this machine reaches it: name, firewall, HTTPS_PROXY"),
            false => error,
        }
    }
}
