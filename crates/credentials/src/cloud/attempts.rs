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
    fn wait(self, performer: &dyn Performer, attempt: u32) -> Duration {
        let limit = self.first.saturating_mul(1 << attempt.min(16)).min(self.most);
        let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(performer.random() % milliseconds)
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
                let wait = pace.wait(performer, number);
                let wait = error.retry_after.map_or(wait, |asked| asked.max(wait));
                if wait >= performer.time_left() {
                    return Err(error);
                }
                performer.pause(wait);
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

impl CloudError {
    /// What the answer says about another try: whether, and after how long, within reason.
    #[must_use]
    pub(crate) fn retryable_by(self, response: &Response, retryable: bool) -> Self {
        let seconds = response.header("retry-after").and_then(|text| text.trim().parse().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        Self { retryable, retry_after: retry_after.filter(|_| retryable), ..self }
    }

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
