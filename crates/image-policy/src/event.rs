//! The texts a user sees about images: events on the pod and waiting states of its containers.
//! They are interface: people and scripts search for them.

use std::time::Duration;

use crate::{WaitingReason, go_duration};

/// Type of an event (core/v1 `Event.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Something happened.
    Normal,
    /// Something went wrong.
    Warning,
}

impl EventType {
    /// The value of the field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// An event on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Normal or warning.
    pub event_type: EventType,
    /// One word, such as `Pulling`.
    pub reason: &'static str,
    /// The text.
    pub message: String,
}

/// `state.waiting` of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// One word, such as `ErrImagePull`.
    pub reason: String,
    /// The text; may be empty.
    pub message: String,
}

const fn normal(reason: &'static str, message: String) -> Event {
    Event { event_type: EventType::Normal, reason, message }
}

const fn warning(reason: &'static str, message: String) -> Event {
    Event { event_type: EventType::Warning, reason, message }
}

/// Before a registry is asked.
pub fn pulling(image: &str) -> Event {
    normal("Pulling", format!("Pulling image {image:?}"))
}

/// After a pull; `pull` is the pull alone, `waiting` adds the time in the queue.
pub fn pulled(image: &str, pull: Duration, waiting: Duration, size_bytes: u64) -> Event {
    normal(
        "Pulled",
        format!(
            "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size_bytes} bytes.",
            go_duration(pull),
            go_duration(waiting)
        ),
    )
}

/// The image is there and nobody asked whether this pod may use it.
pub fn already_present(image: &str) -> Event {
    normal("Pulled", format!("Container image {image:?} already present on machine"))
}

/// The image is there and this pod may use it (KEP-2535).
pub fn already_present_and_accessible(image: &str) -> Event {
    normal(
        "Pulled",
        format!(
            "Container image {image:?} already present on machine and can be accessed by the pod"
        ),
    )
}

/// Reason of the events of [`pull_progress`].
pub const PULL_PROGRESS: &str = "PullProgress";

/// How far a pull is, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes that came in.
    pub bytes: u64,
    /// Bytes that have to come in; 0 while nobody knows.
    pub bytes_total: u64,
    /// Layers that are not complete.
    pub layers_left: usize,
    /// Layers of the image.
    pub layers_total: usize,
    /// How long the pull runs.
    pub running: Duration,
}

/// A long pull says how far it is; ours, the kubelet has none (kubelet-images.md 14, pain 14).
pub const fn pull_progress(message: String) -> Event {
    normal(PULL_PROGRESS, message)
}

/// What a pull fails with that received nothing for `silence`.
pub fn stalled_message(silence: Duration, bytes: u64, bytes_total: u64) -> String {
    let silence = go_duration(silence);
    if bytes_total == 0 {
        return format!("pull stalled: the registry sent nothing for {silence}");
    }
    let (got, total) = (mebibytes(bytes), mebibytes(bytes_total));
    format!("pull stalled: no byte came in for {silence} ({got} of {total} MiB received)")
}

/// What a pull says that waits in the node's queue; 1 is the next.
pub fn pull_queued_message(image: &str, place: usize) -> String {
    format!("Waiting to pull image {image:?}: place {place} in the queue of this node")
}

/// What a pull says that runs.
pub fn pull_progress_message(image: &str, progress: &PullProgress) -> String {
    let seconds = progress.running.as_secs();
    if progress.bytes_total == 0 {
        return format!("Pulling image {image:?}: waiting for the registry for {seconds}s");
    }
    let (got, total) = (mebibytes(progress.bytes), mebibytes(progress.bytes_total));
    if progress.bytes == progress.bytes_total {
        return format!("Pulling image {image:?}: {total} MiB received, unpacking for {seconds}s");
    }
    let millis = progress.running.as_millis().max(1);
    let rate = u128::from(progress.bytes) * 1000 / millis;
    let rate = mebibytes(u64::try_from(rate).unwrap_or(u64::MAX));
    let (left, layers) = (progress.layers_left, progress.layers_total);
    let noun = if layers == 1 { "layer" } else { "layers" };
    format!(
        "Pulling image {image:?}: {got} of {total} MiB ({rate} MiB/s), {left} of {layers} {noun} left"
    )
}

/// Mebibytes with one decimal, rounded down.
fn mebibytes(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A pull failed.
pub fn failed_to_pull(image: &str, error: &str) -> Event {
    warning("Failed", format!("Failed to pull image {image:?}: {error}"))
}

/// After any image error, with the waiting reason.
pub fn failed(reason: &str) -> Event {
    warning("Failed", format!("Error: {reason}"))
}

/// In the back-off window of a pull.
pub fn back_off(image: &str) -> Event {
    normal("BackOff", format!("Back-off pulling image {image:?}"))
}

/// Policy `Never` and no usable image.
pub fn never_pull(image: &str) -> Event {
    warning(
        WaitingReason::ErrImageNeverPull.as_str(),
        format!("Container image {image:?} is not present with pull policy of Never"),
    )
}

/// The image text does not parse, or the local image cannot be read; `message` is the whole text.
pub const fn inspect_failed(message: String) -> Event {
    warning("InspectFailed", message)
}

/// Some pull secrets of the pod do not exist; `names` in the order of the pod's list.
pub fn failed_to_retrieve_pull_secrets(names: &[String]) -> Event {
    warning(
        "FailedToRetrieveImagePullSecret",
        format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            names.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulled_event_has_both_times_and_the_size() {
        let event = pulled("X", Duration::from_micros(1_234_500), Duration::from_millis(2500), 42);
        assert_eq!(
            event.message,
            r#"Successfully pulled image "X" in 1.234s (2.5s including waiting). Image size: 42 bytes."#
        ); // P12
    }

    #[test]
    fn progress_tells_bytes_rate_and_layers() {
        let progress = PullProgress {
            bytes: 3 << 20,
            bytes_total: 10 << 20,
            layers_left: 2,
            layers_total: 5,
            running: Duration::from_secs(2),
        };
        for (progress, expected) in [
            (progress, r#"Pulling image "X": 3.0 of 10.0 MiB (1.5 MiB/s), 2 of 5 layers left"#),
            (
                PullProgress { bytes: 10 << 20, ..progress },
                r#"Pulling image "X": 10.0 MiB received, unpacking for 2s"#,
            ),
            (
                PullProgress { bytes: 0, bytes_total: 0, ..progress },
                r#"Pulling image "X": waiting for the registry for 2s"#,
            ),
        ] {
            assert_eq!(pull_progress_message("X", &progress), expected);
        }
        assert_eq!(
            stalled_message(Duration::from_secs(300), 3 << 20, 10 << 20),
            "pull stalled: no byte came in for 5m0s (3.0 of 10.0 MiB received)"
        );
        assert_eq!(
            pull_queued_message("X", 3),
            r#"Waiting to pull image "X": place 3 in the queue of this node"#
        );
    }

    #[test]
    fn missing_secrets_are_named_in_the_order_of_the_pod() {
        let event = failed_to_retrieve_pull_secrets(&["b".to_owned(), "a".to_owned()]);
        assert_eq!(event.event_type, EventType::Warning);
        assert_eq!(
            event.message,
            "Unable to retrieve some image pull secrets (b, a); attempting to pull the image may not succeed."
        ); // P17
    }

    #[test]
    fn back_off_of_a_pull_is_a_normal_event() {
        assert_eq!(back_off("X").event_type, EventType::Normal);
        assert_eq!(back_off("X").message, r#"Back-off pulling image "X""#);
    }
}
