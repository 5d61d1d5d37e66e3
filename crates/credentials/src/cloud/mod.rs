//! Credentials of the clouds' registries: which cloud a host belongs to, and the exchange that
//! turns an identity of this machine into a user name and password.
//!
//! | file | job |
//! |---|---|
//! | `host` | the registry of an image, parsed so that no look-alike passes |
//! | `performer` | what an exchange asks of the machine: HTTP, files, programs, time |
//! | `attempts` | which failures are worth another try, and when |
//! | `deadline` | an end for a whole exchange |
//! | `code` | which codes and ids of an answer an error repeats |
//! | `overrides` | endpoints of the environment, which lead nowhere else |
//! | `label` | names of the environment that become part of a URL |
//! | `aws/` | Amazon ECR, private and public |
//! | `azure/` | Azure Container Registry |
//! | `google/` | Google Artifact Registry and Container Registry |
//! | `ibm/` | IBM Cloud Container Registry |
//! | `oci/` | Oracle Cloud Infrastructure Registry |
//! | `quay/` | Quay's robot accounts |
//! | `provider` | one entry over them: which cloud a host belongs to, whose identity is used |
//! | `clouds` | credentials kept while they are good, one exchange at a time for each host |
//! | `plugin` | the kubelet's exec protocol around it |
//! | `docker_helper` | docker's credential helper protocol around it |
//!
//! Like the rest of this crate nothing here opens a socket or starts a process: the exchanges are
//! plain functions over a [`Performer`], which the caller implements. They block; an asynchronous
//! caller runs them on a thread for blocking work.

mod attempts;
pub mod aws;
pub mod azure;
mod clouds;
mod code;
mod deadline;
pub mod docker_helper;
pub mod google;
mod host;
pub mod ibm;
mod label;
pub mod oci;
mod overrides;
mod performer;
pub mod plugin;
mod provider;
pub mod quay;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod world;

use std::time::{Duration, SystemTime};

pub use self::clouds::Clouds;
pub use self::host::RegistryHost;
pub use self::performer::{
    Method, Performer, ProgramOutput, Reach, Request, Response, RunError, SendError,
};
pub use self::provider::{CloudOptions, CloudProvider, PodIdentity, UnknownProvider};
use crate::RegistryAuth;

/// A credential that a cloud gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudCredential {
    /// The only host that it is for, lower case, without a port.
    pub host: String,
    /// User and password.
    pub auth: RegistryAuth,
    /// When it ends by the clock of this machine, if the cloud said so.
    pub expires_at: Option<SystemTime>,
    /// How long it may be kept; zero for one that is good for this pull only.
    pub keep_for: Duration,
    /// Where the identity behind it came from, such as `environment` or `instance metadata`.
    pub source: String,
}

/// Why an exchange gave no credential. Says nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{provider}: {step} at {place}: {reason}{}", id_of(.request_id))]
pub struct CloudError {
    /// The provider, such as `ecr`.
    pub provider: &'static str,
    /// What was being done.
    pub step: &'static str,
    /// The host, file or variable that it was done with.
    pub place: String,
    /// What went wrong: a status and the error code of the service, never its body.
    pub reason: String,
    /// The service's id of the request.
    pub request_id: Option<String>,
    /// Whether the same call may work a little later.
    pub retryable: bool,
    /// What to try.
    pub hint: Option<String>,
    /// How long the service asked to wait before another try.
    pub retry_after: Option<Duration>,
}

fn id_of(request_id: &Option<String>) -> String {
    request_id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default()
}

impl CloudError {
    /// Whether this machine simply is nobody at the cloud, as most machines are.
    pub fn is_for_want_of_identity(&self) -> bool {
        self.step.starts_with("find ")
    }

    /// An error that no second try mends.
    pub(crate) fn new(
        provider: &'static str,
        step: &'static str,
        place: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        let place = place.into();
        // Users write passwords and tokens into URLs.
        let place = if place.contains("://") { overrides::without_secrets(&place) } else { place };
        Self {
            provider,
            step,
            place,
            reason: reason.into(),
            request_id: None,
            retryable: false,
            hint: None,
            retry_after: None,
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    #[must_use]
    pub(crate) fn request_id(mut self, id: Option<&str>) -> Self {
        // It comes from outside, and goes into one line of a log.
        self.request_id = id.and_then(code::request_id).map(str::to_owned);
        self
    }
}

/// `Sun, 01 Nov 2026 00:00:00 GMT` (RFC 9110, section 5.6.7).
pub(crate) fn parse_http_date(text: &str) -> Option<SystemTime> {
    let time = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let time = time.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(time.timestamp().into())
}

/// A moment of somebody else's clock by ours. How far theirs is ahead shows in the `Date` of their
/// answer; less than a minute is no difference.
pub(crate) fn by_our_clock(response: &Response, now: SystemTime, theirs: SystemTime) -> SystemTime {
    let date = response.header("date").and_then(parse_http_date);
    let Some(date) = date.filter(|date| apart(*date, now) > Duration::from_secs(60)) else {
        return theirs;
    };
    let ours = match date.duration_since(now) {
        Ok(ahead) => theirs.checked_sub(ahead),
        Err(behind) => theirs.checked_add(behind.duration()),
    };
    ours.unwrap_or(now)
}

/// A moment so many seconds after another; that moment itself if there is no such time.
pub(crate) fn after(moment: SystemTime, seconds: u64) -> SystemTime {
    moment.checked_add(Duration::from_secs(seconds)).unwrap_or(moment)
}

/// How far two times are from each other, whichever comes first.
pub(crate) fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

/// How long a token may be kept that ends at `expires_at`: half of what is left, in whole seconds,
/// and nothing for one that has ended. The kubelet does not forget a credential that stopped
/// working, so a kept one must be far from its end.
pub(crate) fn half_life(now: SystemTime, expires_at: SystemTime) -> Duration {
    let left = expires_at.duration_since(now).unwrap_or_default();
    Duration::from_secs(left.as_secs() / 2)
}

#[cfg(test)]
mod tests {
    use super::world::{answer, answer_with, at, now};
    use super::*;

    #[test]
    fn moments_of_another_clock_are_told_by_ours() {
        // cloud-credentials.md 11, skew: their clock is two hours ahead, one behind, the same.
        let ends = at("2026-11-01T12:00:00Z");
        for (date, expected) in [
            (Some("Sun, 01 Nov 2026 02:00:00 GMT"), "2026-11-01T10:00:00Z"),
            (Some("Sat, 31 Oct 2026 23:00:00 GMT"), "2026-11-01T13:00:00Z"),
            (Some("Sun, 01 Nov 2026 00:00:59 GMT"), "2026-11-01T12:00:00Z"),
            (Some("yesterday"), "2026-11-01T12:00:00Z"),
            (None, "2026-11-01T12:00:00Z"),
        ] {
            let answer = date.map_or_else(
                || answer(200, "{}"),
                |date| answer_with(200, &[("date", date)], "{}"),
            );
            let answer = answer.expect("an answer");
            assert_eq!(by_our_clock(&answer, now(), ends), at(expected), "{date:?}");
        }
    }

    #[test]
    fn a_moment_beyond_all_time_is_no_moment() {
        assert_eq!(after(now(), u64::MAX), now());
        assert_eq!(after(now(), 1), now() + Duration::from_secs(1));
    }

    #[test]
    fn ids_of_requests_stay_on_one_line() {
        let error = CloudError::new("ecr", "step", "place", "reason");
        let known = error.clone().request_id(Some("4f-1"));
        assert_eq!(known.to_string(), "ecr: step at place: reason (request 4f-1)");
        let forged = error.request_id(Some("4f\nerror: forged"));
        assert_eq!(forged.to_string(), "ecr: step at place: reason");
    }
}
