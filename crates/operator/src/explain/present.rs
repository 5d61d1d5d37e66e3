//! What the cluster says about a container now: its waiting state, its last events, and when the
//! node may try again.

use image_policy::event::PULL_PROGRESS;
use std::time::Duration;

use image_policy::BackOff;
use k8s_openapi::api::core::v1::Event;

use super::gathering::Gathered;
use super::report::{EventReport, Present, WaitingReport};
use super::subject::{ImageUse, Subject};

/// Events that are shown per container.
const EVENTS_MAX: usize = 5;

/// The reasons of events about images.
const REASONS: [&str; 9] = [
    "Pulling",
    PULL_PROGRESS,
    "Pulled",
    "Failed",
    "BackOff",
    "InspectFailed",
    "ErrImageNeverPull",
    "FailedToRetrieveImagePullSecret",
    PROVIDER_FAILED,
];

/// The reason of our node's event about a credential provider that gave nothing.
const PROVIDER_FAILED: &str = "CredentialProviderFailed";

/// The reasons that an event about the pod as a whole may have.
const REASONS_OF_PODS: [&str; 2] = ["FailedToRetrieveImagePullSecret", PROVIDER_FAILED];

/// The waiting reasons between a failed pull and the next one (kubelet-images.md 3.1).
const FAILED_PULLS: [&str; 4] =
    ["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "SignatureValidationFailed"];

/// The present state of one container, if its pod exists; `now` is in seconds since 1970.
pub(crate) fn read(
    subject: &Subject,
    image_use: &ImageUse,
    gathered: &Gathered,
    now: i64,
) -> Option<Present> {
    let live = subject.live.as_ref()?;
    let state = live.states.iter().find(|state| state.container == image_use.name);
    let waiting = waiting(subject, image_use);
    let mut events: Vec<&Event> =
        gathered.events.iter().filter(|event| is_about(event, image_use)).collect();
    events.sort_by_key(|event| last_seen(event));
    let failures: Vec<&&Event> =
        events.iter().filter(|event| message(event).starts_with("Failed to pull image")).collect();
    let attempts: u32 = failures.iter().map(|event| count(event)).sum();
    let is_failing = waiting.is_some_and(|(reason, _)| is_failed_pull(reason));
    let last_failure = failures.last().and_then(|event| last_seen(event));
    let next_attempt_seconds = last_failure.filter(|_| is_failing).map(|last| {
        let end = last + i64::try_from(window(attempts)).unwrap_or(i64::MAX);
        u64::try_from(end.saturating_sub(now)).unwrap_or(0)
    });
    let skipped = events.len().saturating_sub(EVENTS_MAX);
    Some(Present {
        waiting: waiting.map(|(reason, message)| WaitingReport {
            reason: reason.to_owned(),
            message: message.to_owned(),
        }),
        started: state.is_some_and(|state| state.started),
        events: events.into_iter().skip(skipped).map(shown).collect(),
        attempts: (attempts > 0).then_some(attempts),
        next_attempt_seconds,
    })
}

/// Reason and message of the waiting state of one container.
pub(crate) fn waiting<'a>(
    subject: &'a Subject,
    image_use: &ImageUse,
) -> Option<(&'a str, &'a str)> {
    let live = subject.live.as_ref()?;
    let state = live.states.iter().find(|state| state.container == image_use.name)?;
    state.waiting.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str()))
}

/// Whether a waiting reason is that of a failed pull.
pub(crate) fn is_failed_pull(reason: &str) -> bool {
    FAILED_PULLS.contains(&reason)
}

/// The error of the last failed pull of this image, by its event.
pub(crate) fn failed_pull(image_use: &ImageUse, gathered: &Gathered) -> Option<String> {
    let prefix = format!("Failed to pull image {:?}: ", image_use.image);
    let of_image = gathered.events.iter().filter(|event| is_about(event, image_use));
    let failures = of_image.filter(|event| message(event).starts_with(&prefix));
    let last = failures.max_by_key(|event| last_seen(event))?;
    message(last).strip_prefix(&prefix).map(str::to_owned)
}

/// What the node said last about a credential provider that gave nothing.
pub(crate) fn provider_failed(image_use: &ImageUse, gathered: &Gathered) -> Option<String> {
    let of_image = gathered.events.iter().filter(|event| is_about(event, image_use));
    let failures = of_image.filter(|event| event.reason.as_deref() == Some(PROVIDER_FAILED));
    failures.max_by_key(|event| last_seen(event)).map(|event| message(event).to_owned())
}

/// The text of the last failed pull, if it speaks of a refused credential.
pub(crate) fn refused_before(image_use: &ImageUse, gathered: &Gathered) -> Option<String> {
    let of_image = gathered.events.iter().filter(|event| is_about(event, image_use));
    let refusals = of_image.filter(|event| {
        let text = message(event).to_ascii_lowercase();
        text.starts_with("failed to pull image")
            && ["401", "unauthorized", "password"].iter().any(|part| text.contains(part))
    });
    refusals.max_by_key(|event| last_seen(event)).map(|event| message(event).to_owned())
}

/// Seconds of the back-off after so many failures (kubelet-images.md 3.1).
fn window(attempts: u32) -> u64 {
    let mut back_off = BackOff::default();
    let mut fail = || back_off.fail((), Duration::ZERO);
    let first = fail();
    // More failures than this change nothing: the longest window is reached.
    (1..attempts.min(16)).fold(first, |_, _| fail()).as_secs()
}

fn is_about(event: &Event, image_use: &ImageUse) -> bool {
    let reason = event.reason.as_deref().unwrap_or_default();
    if !REASONS.contains(&reason) {
        return false;
    }
    match (&event.involved_object.field_path, &image_use.event_path) {
        (Some(path), Some(own)) => path == own,
        (Some(_), None) => false,
        // Events of the pod itself, or of an image volume, which names no path.
        (None, _) => REASONS_OF_PODS.contains(&reason) || message(event).contains(&image_use.image),
    }
}

fn message(event: &Event) -> &str {
    event.message.as_deref().unwrap_or_default()
}

fn count(event: &Event) -> u32 {
    let series = event.series.as_ref().and_then(|series| series.count);
    u32::try_from(series.or(event.count).unwrap_or(1)).unwrap_or(1).max(1)
}

/// Seconds since 1970.
fn last_seen(event: &Event) -> Option<i64> {
    let of_series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    of_series
        .map(|time| time.0.as_second())
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0.as_second()))
        .or_else(|| event.event_time.as_ref().map(|time| time.0.as_second()))
}

fn shown(event: &Event) -> EventReport {
    EventReport {
        event_type: event.type_.clone().unwrap_or_default(),
        reason: event.reason.clone().unwrap_or_default(),
        message: message(event).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kubelet-images.md 15.7, row P13.
    #[test]
    fn windows_follow_the_number_of_failures() {
        let windows: Vec<u64> = (1..=7).map(window).collect();
        assert_eq!(windows, [10, 20, 40, 80, 160, 300, 300]);
    }
}
