//! What the kubelet does next about one image: its events and the container's waiting state, in
//! the texts of `image_policy`.

use credentials::Origin;
use image_policy::{
    Decision, Event, Presence, PullPolicy, Refusal, Waiting, decide, event, pull_failure,
};

use super::answer::AnswerKind;
use super::attempt;
use super::cause::Facts;
use super::present;
use super::report::{EventReport, Prediction, WaitingReport};

/// Predicts the next container start.
pub(crate) fn predict(facts: &Facts<'_>) -> Prediction {
    let mut next = Prediction { events: Vec::new(), waiting: None, provided: Vec::new() };
    let missing = facts.gathered.missing();
    if !missing.is_empty() {
        next.events.push(shown(event::failed_to_retrieve_pull_secrets(&missing)));
    }
    let image = &facts.image_use.image;
    let decision = match decide(image, facts.policy, None) {
        Decision::LookFor(_) if facts.served_here => {
            decide(image, facts.policy, Some(&Presence::Usable { verified: true }))
        }
        Decision::LookFor(_) if facts.policy == PullPolicy::Never && facts.has_started() => {
            next.provided.push("the node still has the image".to_owned());
            decide(image, facts.policy, Some(&Presence::Usable { verified: true }))
        }
        Decision::LookFor(_) if !facts.on_nodes.is_empty() => {
            let why = "the node wants a proof of access for the image that it has";
            next.provided.push(why.to_owned());
            decide(image, facts.policy, Some(&Presence::MustProveAccess))
        }
        Decision::LookFor(_) => {
            next.provided.push("the node does not have the image yet".to_owned());
            decide(image, facts.policy, Some(&Presence::Absent))
        }
        decided => decided,
    };
    match decision {
        Decision::Refuse(refusal) => {
            refuse(refusal, &mut next);
            return next;
        }
        Decision::Use(event) => {
            next.events.push(shown(event));
            return next;
        }
        Decision::Pull(_) | Decision::LookFor(_) => {}
    }
    if let Some(broken) = &facts.candidates.broken {
        // The kubelet makes the error's text the reason itself (kubelet-images.md 2.6).
        next.events.push(shown(event::failed(&broken.error)));
        let waiting = WaitingReport { reason: broken.error.clone(), message: broken.error.clone() };
        next.waiting = Some(waiting);
        return next;
    }
    pull(facts, image, &mut next);
    next
}

/// A node that fails with a file of its own may not have seen what the file holds now.
fn files_are_read(facts: &Facts<'_>) -> Option<String> {
    let opens = facts.answers.iter().position(|answer| answer.kind == AnswerKind::Opens);
    let deciding = facts.candidates.list.get(opens.unwrap_or(0))?;
    let is_of_node = matches!(&deciding.origin, Origin::File { .. });
    let waiting = facts.present.and_then(|present| present.waiting.as_ref());
    let has_failed = waiting.is_some_and(|waiting| present::is_failed_pull(&waiting.reason));
    (is_of_node && has_failed).then(|| {
        "the node has read its file since it was written: the node reads its files every 5m \
         (shipway up --node-credentials-cache)"
            .to_owned()
    })
}

/// One attempt per candidate, or one without any.
fn pull(facts: &Facts<'_>, image: &str, next: &mut Prediction) {
    next.events.push(shown(event::pulling(image)));
    if let Some(why) = &facts.gathered.unknown {
        next.provided.push(format!("the pod has no other credentials: {why}"));
    }
    if let Some(provider) = facts.candidates.providers.first() {
        next.provided.push(format!("the provider {provider} has no credential for it"));
    }
    if let Some(cloud) = facts.candidates.cloud {
        next.provided.push(format!("cloud {cloud} has no credential for it"));
    }
    next.provided.extend(files_are_read(facts));
    let anonymous = [facts.anonymous];
    let answers: Vec<_> = match facts.answers {
        [] => anonymous.to_vec(),
        answers => answers.iter().collect(),
    };
    if answers.iter().any(|answer| answer.kind == AnswerKind::NotAsked) {
        next.provided.push("the registry was not asked, so that nothing more is known".to_owned());
        return;
    }
    let mut errors = Vec::new();
    for answer in answers {
        if answer.kind == AnswerKind::Opens {
            if attempt::node_failed(facts).is_some() {
                next.provided.push("what failed on the node is over".to_owned());
            }
            next.events.push(EventReport {
                event_type: "Normal".to_owned(),
                reason: "Pulled".to_owned(),
                message: format!("Successfully pulled image {image:?}"),
            });
            return;
        }
        errors.push(answer.text.clone());
    }
    refuse(pull_failure(image, &errors).refusal, next);
}

fn refuse(refusal: Refusal, next: &mut Prediction) {
    next.events.extend(refusal.events.into_iter().map(shown));
    next.waiting = Some(waiting(refusal.waiting));
}

fn waiting(waiting: Waiting) -> WaitingReport {
    WaitingReport { reason: waiting.reason, message: waiting.message }
}

fn shown(event: Event) -> EventReport {
    EventReport {
        event_type: event.event_type.as_str().to_owned(),
        reason: event.reason.to_owned(),
        message: event.message,
    }
}
