//! What happens to one container's image at one container start (kubelet `EnsureImageExists`).

use crate::event::{self, Event, Waiting};
use crate::{PullPolicy, image_with_default_tag};

/// What the node knows about the image, asked only when [`PullPolicy::Always`] does not decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The image is not on the node.
    Absent,
    /// The image is on the node, and this pod may use it.
    Usable {
        /// Whether that was checked (KEP-2535); it changes the event's text.
        verified: bool,
    },
    /// The image is on the node, but this pod has not proven that it may use it (KEP-2535).
    MustProveAccess,
    /// Looking failed, with this text.
    Error(String),
}

/// What to do for this container now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask [`decide`] again with the presence of this image (the text with its default tag).
    LookFor(String),
    /// Use the local image, after this event.
    Use(Event),
    /// Pull this image (the text with its default tag), unless it is in back-off.
    Pull(String),
    /// The container cannot start: these events, this waiting state.
    Refuse(Refusal),
}

/// Why a container cannot start, and what to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Events to emit, in order.
    pub events: Vec<Event>,
    /// The waiting state.
    pub waiting: Waiting,
}

/// The words of `state.waiting.reason` that concern images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingReason {
    /// The last pull failed.
    ErrImagePull,
    /// Waiting for the next pull.
    ImagePullBackOff,
    /// Policy `Never` and no usable image.
    ErrImageNeverPull,
    /// The local image cannot be read.
    ImageInspectError,
    /// The image text does not parse.
    InvalidImageName,
    /// The registry cannot be reached.
    RegistryUnavailable,
    /// The image's signature was refused.
    SignatureValidationFailed,
}

/// Whether a container that waits for `reason` waits since a pull failed, and pulls again; the
/// other reasons about images are of the image's name or of the node.
pub fn is_failed_pull(reason: &str) -> bool {
    [
        WaitingReason::ErrImagePull,
        WaitingReason::ImagePullBackOff,
        WaitingReason::RegistryUnavailable,
        WaitingReason::SignatureValidationFailed,
    ]
    .into_iter()
    .any(|failed| failed.as_str() == reason)
}

impl WaitingReason {
    /// The value of the field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ErrImagePull => "ErrImagePull",
            Self::ImagePullBackOff => "ImagePullBackOff",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::ImageInspectError => "ImageInspectError",
            Self::InvalidImageName => "InvalidImageName",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::SignatureValidationFailed => "SignatureValidationFailed",
        }
    }
}

/// Decides for `image` under `policy`; call first without `presence`, and again with it if asked.
pub fn decide(image: &str, policy: PullPolicy, presence: Option<&Presence>) -> Decision {
    let tagged = match image_with_default_tag(image) {
        Ok(tagged) => tagged,
        Err(error) => {
            let message = error.to_string();
            let event = event::inspect_failed(message.clone());
            return refuse(event, WaitingReason::InvalidImageName, message);
        }
    };
    if policy == PullPolicy::Always {
        return Decision::Pull(tagged);
    }
    match (presence, policy) {
        (None, _) => Decision::LookFor(tagged),
        (Some(Presence::Error(error)), _) => {
            // The kubelet prints an empty reference here; scripts know the text by now.
            let message = format!("Failed to inspect image \"\": {error}");
            let event = event::inspect_failed(message.clone());
            refuse(event, WaitingReason::ImageInspectError, message)
        }
        (Some(Presence::Usable { verified: true }), _) => {
            Decision::Use(event::already_present_and_accessible(image))
        }
        (Some(Presence::Usable { verified: false }), _) => {
            Decision::Use(event::already_present(image))
        }
        // The same text for both: a pod must not learn what other tenants run.
        (Some(Presence::Absent | Presence::MustProveAccess), PullPolicy::Never) => {
            let event = event::never_pull(image);
            let message = event.message.clone();
            refuse(event, WaitingReason::ErrImageNeverPull, message)
        }
        (Some(Presence::Absent | Presence::MustProveAccess), _) => Decision::Pull(tagged),
    }
}

fn refuse(first: Event, reason: WaitingReason, message: String) -> Decision {
    let events = vec![first, event::failed(reason.as_str())];
    let waiting = Waiting { reason: reason.as_str().to_owned(), message };
    Decision::Refuse(Refusal { events, waiting })
}

/// A failed pull, classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFailure {
    /// The one text for all credentials that were tried.
    pub error: String,
    /// Events and waiting state.
    pub refusal: Refusal,
}

/// One text out of the errors of all credentials: equal texts once, several in brackets.
pub fn aggregate_errors(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for error in errors {
        // The kubelet's CRI client drops this prefix for the code Unknown only.
        let text = error.strip_prefix("rpc error: code = Unknown desc = ").unwrap_or(error);
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    match unique[..] {
        [one] => one.to_owned(),
        _ => format!("[{}]", unique.join(", ")),
    }
}

/// What to show after a pull of `image` (as written) failed with `errors`, one per credential.
pub fn pull_failure(image: &str, errors: &[String]) -> PullFailure {
    let error = aggregate_errors(errors);
    let special = |word: &str, text: &str| {
        error
            .strip_prefix(word)
            .map(|rest| format!("image pull failed for {image} because {text}{rest}"))
    };
    let (reason, message) =
        if let Some(message) = special("RegistryUnavailable", "the registry is unavailable") {
            (WaitingReason::RegistryUnavailable, message)
        } else if let Some(message) =
            special("SignatureValidationFailed", "the signature validation failed")
        {
            (WaitingReason::SignatureValidationFailed, message)
        } else {
            (WaitingReason::ErrImagePull, error.clone())
        };
    let events = vec![event::failed_to_pull(image, &error), event::failed(reason.as_str())];
    let waiting = Waiting { reason: reason.as_str().to_owned(), message };
    PullFailure { error, refusal: Refusal { events, waiting } }
}

/// What to show while the next pull of `image` (as written) waits for its time.
pub fn back_off_waiting(image: &str, last: Option<&Waiting>) -> Refusal {
    let event = event::back_off(image);
    let message = match last {
        Some(last) => format!("{}: {}: {}", event.message, last.reason, last.message),
        None => event.message.clone(),
    };
    let reason = WaitingReason::ImagePullBackOff.as_str();
    Refusal {
        events: vec![event, event::failed(reason)],
        waiting: Waiting { reason: reason.to_owned(), message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(refusal: &Refusal) -> Vec<String> {
        let mut texts: Vec<String> = refusal
            .events
            .iter()
            .map(|e| format!("{} {} {}", e.event_type.as_str(), e.reason, e.message))
            .collect();
        texts.push(format!("{}: {}", refusal.waiting.reason, refusal.waiting.message));
        texts
    }

    fn refusal(decision: Decision) -> Vec<String> {
        match decision {
            Decision::Refuse(refusal) => texts(&refusal),
            other => vec![format!("{other:?}")],
        }
    }

    fn with(policy: PullPolicy, presence: Presence) -> Decision {
        decide("X/y", policy, Some(&presence))
    }

    #[test]
    fn always_pulls_without_looking() {
        assert_eq!(
            decide("nginx", PullPolicy::Always, None),
            Decision::Pull("nginx:latest".into())
        ); // P1
    }

    #[test]
    fn present_image_is_used_with_the_text_of_the_check() {
        let event = |decision| match decision {
            Decision::Use(event) => event.message,
            other => format!("{other:?}"),
        };
        assert_eq!(
            event(with(PullPolicy::IfNotPresent, Presence::Usable { verified: false })),
            r#"Container image "X/y" already present on machine"#
        ); // P2
        assert_eq!(
            event(with(PullPolicy::Never, Presence::Usable { verified: true })),
            r#"Container image "X/y" already present on machine and can be accessed by the pod"#
        ); // P3
    }

    #[test]
    fn never_says_the_same_for_absent_and_for_forbidden() {
        let expected = [
            r#"Warning ErrImageNeverPull Container image "X/y" is not present with pull policy of Never"#,
            "Warning Failed Error: ErrImageNeverPull",
            r#"ErrImageNeverPull: Container image "X/y" is not present with pull policy of Never"#,
        ];
        assert_eq!(refusal(with(PullPolicy::Never, Presence::Absent)), expected); // P4
        assert_eq!(refusal(with(PullPolicy::Never, Presence::MustProveAccess)), expected); // P5
    }

    #[test]
    fn absent_or_unproven_images_are_pulled_if_not_present() {
        let pull = Decision::Pull("X/y:latest".to_owned());
        assert_eq!(with(PullPolicy::IfNotPresent, Presence::Absent), pull);
        assert_eq!(with(PullPolicy::IfNotPresent, Presence::MustProveAccess), pull);
    }

    #[test]
    fn inspect_error_prints_an_empty_reference() {
        assert_eq!(
            refusal(with(PullPolicy::IfNotPresent, Presence::Error("boom".to_owned()))),
            [
                r#"Warning InspectFailed Failed to inspect image "": boom"#,
                "Warning Failed Error: ImageInspectError",
                r#"ImageInspectError: Failed to inspect image "": boom"#,
            ]
        ); // P6
    }

    #[test]
    fn unparsable_image_is_refused_before_anything_else() {
        let lower = |name: &str| {
            format!("invalid reference format: repository name ({name}) must be lowercase")
        };
        for (image, error) in [
            ("a//b", "invalid reference format".to_owned()),
            ("Nginx", lower("library/Nginx")),               // R27
            ("team/App", lower("team/App")),                 // R27
            ("FAILED_IMAGE", lower("library/FAILED_IMAGE")), // R27
        ] {
            let text = format!(
                "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {error}"
            );
            for policy in [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never] {
                assert_eq!(
                    refusal(decide(image, policy, None)),
                    [
                        format!("Warning InspectFailed {text}"),
                        "Warning Failed Error: InvalidImageName".to_owned(),
                        format!("InvalidImageName: {text}"),
                    ],
                    "{policy:?}"
                );
            }
        }
    }

    /// What a pull that failed with `errors` shows: the error in the event, the reason, the message.
    #[track_caller]
    fn failure(errors: &[&str], error: &str, reason: &str, message: &str) {
        let errors: Vec<String> = errors.iter().map(|error| (*error).to_owned()).collect();
        let failure = pull_failure("X", &errors);
        assert_eq!(failure.error, error);
        assert_eq!(
            texts(&failure.refusal),
            [
                format!("Warning Failed Failed to pull image \"X\": {error}"),
                format!("Warning Failed Error: {reason}"),
                format!("{reason}: {message}"),
            ]
        );
    }

    #[test]
    fn pull_errors_become_reasons_by_their_prefix() {
        failure(&["boom"], "boom", "ErrImagePull", "boom"); // P7
        failure(
            &["RegistryUnavailable: refused"],
            "RegistryUnavailable: refused",
            "RegistryUnavailable",
            "image pull failed for X because the registry is unavailable: refused",
        ); // P9
        failure(
            &["SignatureValidationFailed"],
            "SignatureValidationFailed",
            "SignatureValidationFailed",
            "image pull failed for X because the signature validation failed",
        ); // P10
        failure(&["rpc error: code = Unknown desc = z"], "z", "ErrImagePull", "z"); // P11
        let kept = "rpc error: code = NotFound desc = z";
        failure(&[kept], kept, "ErrImagePull", kept); // P11
    }

    #[test]
    fn errors_of_several_credentials_are_one_text() {
        failure(&["e1", "e2"], "[e1, e2]", "ErrImagePull", "[e1, e2]"); // L9
        failure(&["e1", "e1"], "e1", "ErrImagePull", "e1"); // L9
        let both = "[RegistryUnavailable: x, y]";
        failure(&["RegistryUnavailable: x", "y"], both, "ErrImagePull", both); // L10
    }

    #[test]
    fn failed_pulls_are_told_from_other_waits() {
        let last = |error: &str| pull_failure("X", &[error.to_owned()]).refusal.waiting;
        for error in ["boom", "RegistryUnavailable: refused", "SignatureValidationFailed"] {
            let failed = last(error);
            assert!(is_failed_pull(&failed.reason), "{failed:?}");
            let waits = back_off_waiting("X", Some(&failed)).waiting;
            assert!(is_failed_pull(&waits.reason), "{waits:?}");
        }
        for other in
            ["ErrImageNeverPull", "ImageInspectError", "InvalidImageName", "ContainerCreating", ""]
        {
            assert!(!is_failed_pull(other), "{other}");
        }
    }

    #[test]
    fn back_off_repeats_the_last_error() {
        let last = pull_failure("X", &["boom".to_owned()]).refusal.waiting;
        assert_eq!(
            texts(&back_off_waiting("X", Some(&last))),
            [
                r#"Normal BackOff Back-off pulling image "X""#,
                "Warning Failed Error: ImagePullBackOff",
                r#"ImagePullBackOff: Back-off pulling image "X": ErrImagePull: boom"#,
            ]
        ); // P8
    }
}
