//! The node's own last attempt at an image. What it met there, such as a full disk, no answer of a
//! registry shows.

use super::cause::Facts;
use super::fix::{self, Fix};
use super::gathering::Gathered;
use super::present;
use super::report::{Cause, Remark, Verdict};
use super::subject::{ImageUse, Subject};

/// The failed pull that a container waits for to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastFailure {
    /// The node's text.
    pub(crate) text: String,
    /// What it is about.
    pub(crate) kind: FailureKind,
}

/// What a failed pull is about, as far as its text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// A registry that refused the credential: what it answers now counts more.
    Refused,
    /// Another answer of a registry to the request: what it answers now counts more.
    Answered,
    /// A limit of the node, which passes by itself.
    Passing,
    /// The node's disk is full.
    Space,
    /// The node does not trust the registry's certificate.
    Certificate,
    /// The node does not reach the registry.
    Network,
    /// Something else.
    Other,
}

/// The last failed pull of a container that waits in that state; `None` too if its text is gone.
pub(crate) fn last_failure(
    subject: &Subject,
    image_use: &ImageUse,
    gathered: &Gathered,
) -> Option<LastFailure> {
    let (reason, message) = present::waiting(subject, image_use)?;
    if !present::is_failed_pull(reason) {
        return None;
    }
    let text = present::failed_pull(image_use, gathered)
        .or_else(|| of_message(subject, image_use, reason, message))?;
    let kind = kind_of(&text, &image_use.image);
    Some(LastFailure { text, kind })
}

/// The error in a waiting state's message (kubelet-images.md 3.1), where events are gone.
fn of_message(
    subject: &Subject,
    image_use: &ImageUse,
    reason: &str,
    message: &str,
) -> Option<String> {
    let back_off = format!("Back-off pulling image {:?}: ", image_use.image);
    let error = match message.strip_prefix(&back_off) {
        Some(last) => last.split_once(": ").map_or(last, |(_, error)| error),
        // It names no image, and a workload's image may be another one by now.
        None if reason != "ImagePullBackOff" && subject.kind == "Pod" => message,
        None => return None,
    };
    (!error.is_empty()).then(|| error.to_owned())
}

fn kind_of(error: &str, image: &str) -> FailureKind {
    // Names, paths and URLs say nothing about the error.
    let without_image = error.replace(image, " ").to_ascii_lowercase();
    let words: Vec<&str> =
        without_image.split_whitespace().filter(|word| !word.contains('/')).collect();
    // A file's, and no registry's.
    let text = words.join(" ").replace("permission denied", "");
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let has_status = |statuses: [&str; 2]| {
        text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| statuses.contains(&word))
    };
    if says(&["no space left", "disk quota exceeded"]) {
        FailureKind::Space
    } else if says(&["x509", "certificate"]) {
        FailureKind::Certificate
    } else if says(&["pull qps exceeded"]) {
        FailureKind::Passing
    } else if has_status(["401", "403"]) {
        FailureKind::Refused
    } else if has_status(["404", "429"]) {
        FailureKind::Answered
    } else if says(&[
        "no such host",
        "connection refused",
        "connection reset",
        "no route to host",
        "network is unreachable",
        "timeout",
        "timed out",
        "deadline exceeded",
    ]) {
        FailureKind::Network
    } else if says(&[
        "unauthorized",
        "denied",
        "forbidden",
        "authentication required",
        "no basic auth credentials",
        "authorization failed",
    ]) {
        FailureKind::Refused
    } else if says(&[
        "manifest unknown",
        "name unknown",
        "not found",
        "toomanyrequests",
        "too many requests",
    ]) {
        FailureKind::Answered
    } else {
        FailureKind::Other
    }
}

impl Facts<'_> {
    /// Whether the registry refused the pod's node at the last attempt for this pod: the node had
    /// no image then with which it would start the pod.
    pub(crate) fn was_refused(&self) -> bool {
        self.last_failure.is_some_and(|failure| failure.kind == FailureKind::Refused)
    }

    /// Why that refusal does not settle the next attempt while the node has the image: it may have
    /// come since, for every pod (`shipway node pull`) or for another one.
    pub(crate) fn refused_before_it_had(&self, node: &str) -> String {
        format!(
            "node {node} has the image now; at the pod's last attempt it had it not, or wanted a \
             proof that this pod may use it, which of the two is not known, and was refused; {}",
            self.next_attempt()
        )
    }

    /// When the node tries again, for people.
    fn next_attempt(&self) -> String {
        match self.present.and_then(|present| present.next_attempt_seconds) {
            Some(0) => "the next one may start now".to_owned(),
            Some(seconds) => format!("the next one comes in {seconds} s"),
            None => "the next one is to come".to_owned(),
        }
    }
}

/// The cause of an image that opens as seen from here, while its node failed over something else.
pub(crate) fn node_failed(facts: &Facts<'_>) -> Option<Cause> {
    let failure = facts.last_failure?;
    let fix = what_to_do(facts, failure.kind)?;
    let seen = match facts.served_here {
        true => "the node serves it itself",
        false => "the registry opens it, as seen from here",
    };
    let text = format!(
        "{seen}, but the node's last attempt failed: {}; {}, and comes through if that is over",
        failure.text,
        facts.next_attempt()
    );
    let code = "node-failed".to_owned();
    Some(Cause { code, text, fix: fix.text, command: fix.command })
}

/// A remark about an image that comes now, and did not when it was tried last.
pub(crate) fn remark(facts: &Facts<'_>, verdict: Verdict) -> Option<Remark> {
    let failure = facts.last_failure.filter(|_| verdict == Verdict::Pulls)?;
    let text = format!(
        "the node's last attempt failed, and it would not now: {}; {}",
        failure.text,
        facts.next_attempt()
    );
    Some(Remark::new("last-attempt-failed", text))
}

/// What to do about what the node met; `None` if the registry's present answer decides.
fn what_to_do(facts: &Facts<'_>, kind: FailureKind) -> Option<Fix> {
    let node = facts.subject.live.as_ref().and_then(|live| live.node.as_deref());
    let node = node.map_or_else(|| "the node".to_owned(), |node| format!("node {node}"));
    let words = |text: String| Some(Fix { text, command: None });
    let registry = facts.name.reference.as_ref().map(|reference| reference.registry());
    match kind {
        FailureKind::Refused | FailureKind::Answered | FailureKind::Passing => None,
        FailureKind::Space if facts.node.is_shipway() => Some(Fix {
            text: format!(
                "free space on {node}, or give its state directory a larger disk; this removes \
                 the images that nothing uses"
            ),
            command: Some("shipway node prune".to_owned()),
        }),
        FailureKind::Space => words(format!(
            "free space on {node} (crictl rmi --prune removes the images that nothing uses), let \
             its kubelet collect images earlier (imageGCHighThresholdPercent), or give it a larger \
             disk"
        )),
        FailureKind::Certificate => {
            let fix = fix::certificate(registry?);
            Some(Fix { text: format!("on {node}: {}", fix.text), ..fix })
        }
        FailureKind::Network => {
            let fix = fix::connect(registry?);
            Some(Fix { text: format!("on {node}: {}", fix.text), ..fix })
        }
        FailureKind::Other => words(format!(
            "if the next attempt fails too, look into the log of {node} (of shipway up, or of its \
             container runtime) at the time of the event"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the texts of nodes are about; kubelet-images.md 3.1 has where they stand.
    #[test]
    fn a_failed_pull_is_sorted_by_its_text_alone() {
        use FailureKind::{Answered, Certificate, Network, Other, Passing, Refused, Space};
        let image = "r.example/denied/app:404";
        for (error, expected) in [
            ("write /state/blobs/sha256/ab: No space left on device (os error 28)", Space),
            ("no space left for /state/blobs/sha256/ab", Space),
            ("tls: failed to verify certificate: x509: unknown authority", Certificate),
            ("dial tcp: lookup r.example: no such host", Network),
            (
                "Get \"https://r.example/v2/\": dial tcp 10.0.0.1:443: i/o timeout: timed out",
                Network,
            ),
            ("pull QPS exceeded", Passing),
            ("r.example/denied/app:404: 401 Unauthorized", Refused),
            ("unexpected status of request to https://r.example/v2/: 403 Forbidden", Refused),
            ("denied: requested access to the resource is denied", Refused),
            ("[r.example/denied/app:404: 401 Unauthorized, 404 Not Found]", Refused),
            ("unexpected status: 429 Too Many Requests: denied: try later", Answered),
            ("r.example/denied/app:404: 404 Not Found: manifest unknown", Answered),
            ("failed to resolve reference \"r.example/denied/app:404\": not found", Answered),
            ("toomanyrequests: You have reached your pull rate limit", Answered),
            ("mkdir /state/layers: Permission denied (os error 13)", Other),
            ("pulling r.example/denied/app:404: layer 2 does not match its digest", Other),
            ("unpacking https://r.example/v2/denied/app/blobs/401 failed", Other),
        ] {
            assert_eq!(kind_of(error, image), expected, "{error}");
        }
    }
}
