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
