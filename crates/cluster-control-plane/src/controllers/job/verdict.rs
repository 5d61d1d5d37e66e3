//! What a job needs next, from the job, its pods and the time alone.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::indexes;
use super::policy::{self, Action};
use super::tracking::{self, Counted, Ended};
use crate::controllers::children::{is_active, is_ready, with_condition};
use crate::object;

/// Pause before the pod after the first failure is replaced; it doubles with each failure.
const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// Longest such pause (upstream since 1.28).
const BACK_OFF_MAX: Duration = Duration::from_secs(600);

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The status to have.
    pub(super) status: Value,
    /// Whether the job ends.
    pub(super) end: Option<End>,
    /// Pods to create.
    pub(super) create: i64,
    /// Pods to delete without counting them, by position.
    pub(super) discard: Vec<usize>,
    /// When to look again, if nothing happens before.
    pub(super) look_again: Option<Duration>,
}

/// How far a job has come with ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is decided; its pods are being stopped.
    Stopping,
    /// Nothing of it runs any more.
    Finished,
}

/// Why a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    success: bool,
    reason: String,
    message: String,
}

impl Outcome {
    fn failure(reason: &str, message: &str) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.to_owned() }
    }
}

/// The terminal condition of a finished job.
pub(super) fn finished(job: &Value) -> Option<&Value> {
    ["Complete", "Failed"].into_iter().find_map(|kind| {
        object::condition(job, kind)
            .filter(|condition| object::text(condition, &["status"]) == "True")
    })
}

/// Decides.
pub(super) fn decide(job: &Value, pods: &[Arc<Value>], now: Timestamp) -> Plan {
    let counted = tracking::count(job, pods);
    let suspended = object::at(job, &["spec", "suspend"]) == Some(&Value::Bool(true));
    let mut status = object::at(job, &["status"]).cloned().unwrap_or_else(|| json!({}));
    let active: Vec<usize> = (0..pods.len()).filter(|at| is_active(&pods[*at])).collect();
    let start = object::time(job, &["status", "startTime"]);
    let mut conditions = object::list(job, &["status", "conditions"]).to_vec();
    let was_suspended = object::condition(job, "Suspended")
        .is_some_and(|condition| object::text(condition, &["status"]) == "True");
    if suspended {
        let text = ("JobSuspended", "Job suspended");
        conditions = with_condition(&conditions, "Suspended", "True", text, now);
        object::remove(&mut status, &["startTime"]);
    } else {
        if was_suspended {
            let text = ("JobResumed", "Job resumed");
            conditions = with_condition(&conditions, "Suspended", "False", text, now);
        }
        if start.is_none() {
            object::set(&mut status, &["startTime"], object::format_time(now));
        }
    }
    let start = if suspended { None } else { start.or(Some(now)) };
    let outcome = decided(job).or_else(|| outcome(job, pods, &counted, start, now));
    let mut plan =
        Plan { status: json!({}), end: None, create: 0, discard: Vec::new(), look_again: None };
    let mut running = active.len();
    match outcome {
        Some(outcome) => {
            let target = if outcome.success { "SuccessCriteriaMet" } else { "FailureTarget" };
            let text = (outcome.reason.as_str(), outcome.message.as_str());
            conditions = with_condition(&conditions, target, "True", text, now);
            let stopped = pods.iter().all(|pod| is_stopped(pod)) && counted.is_settled();
            if stopped {
                let last = if outcome.success { "Complete" } else { "Failed" };
                conditions = with_condition(&conditions, last, "True", text, now);
                if outcome.success {
                    object::set(&mut status, &["completionTime"], object::format_time(now));
                }
            }
            plan.end = Some(if stopped { End::Finished } else { End::Stopping });
        }
        None if suspended => {
            plan.discard = active.clone();
            running = 0;
        }
        None => {
            balance(job, pods, &counted, &active, now, &mut plan);
            running = (running + usize::try_from(plan.create).unwrap_or(0))
                .saturating_sub(plan.discard.len());
            let deadline = deadline(job, start);
            if let Some(left) =
                deadline.and_then(|at| Duration::try_from(at.duration_since(now)).ok())
            {
                // One second more: times have whole seconds.
                let left = left + Duration::from_secs(1);
                plan.look_again = Some(plan.look_again.map_or(left, |wait| wait.min(left)));
            }
        }
    }
    fill_status(&mut status, job, pods, &counted, running);
    set_or_remove(&mut status, "conditions", Value::Array(conditions));
    plan.status = status;
    plan
}

/// Whether nothing of a pod runs any more and it has been counted.
fn is_stopped(pod: &Value) -> bool {
    matches!(object::text(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

fn fill_status(
    status: &mut Value,
    job: &Value,
    pods: &[Arc<Value>],
    counted: &Counted,
    running: usize,
) {
    let count = |wanted: &dyn Fn(&Value) -> bool| pods.iter().filter(|pod| wanted(pod)).count();
    let ready = count(&|pod| is_active(pod) && is_ready(pod));
    let terminating = count(&|pod| object::is_deleting(pod) && !is_stopped(pod));
    for (key, number) in [
        ("active", i64::try_from(running).unwrap_or(i64::MAX)),
        ("succeeded", counted.succeeded),
        ("failed", counted.failed),
    ] {
        if number == 0 {
            object::remove(status, &[key]);
        } else {
            object::set(status, &[key], number);
        }
    }
    object::set(status, &["ready"], ready);
    object::set(status, &["terminating"], terminating);
    object::set(status, &["uncountedTerminatedPods"], counted.uncounted());
    if indexes::is_indexed(job) {
        let done = indexes::completed(job, pods);
        // An index counts once, however many of its pods succeeded.
        object::set(status, &["succeeded"], done.len());
        set_or_remove(status, "completedIndexes", json!(indexes::format(&done)));
    }
}

fn set_or_remove(status: &mut Value, key: &str, value: Value) {
    let empty = match &value {
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    };
    if empty {
        object::remove(status, &[key]);
    } else {
        object::set(status, &[key], value);
    }
}

/// The outcome that was already decided.
fn decided(job: &Value) -> Option<Outcome> {
    for (kind, success) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
        if let Some(condition) = object::condition(job, kind)
            && object::text(condition, &["status"]) == "True"
        {
            let text = |key: &str| object::text(condition, &[key]).to_owned();
            return Some(Outcome { success, reason: text("reason"), message: text("message") });
        }
    }
    None
}

fn outcome(
    job: &Value,
    pods: &[Arc<Value>],
    counted: &Counted,
    start: Option<Timestamp>,
    now: Timestamp,
) -> Option<Outcome> {
    for pod in pods.iter().filter(|pod| tracking::ended(job, pod) == Some(Ended::Failed)) {
        if let Action::FailJob(message) = policy::action(job, pod) {
            return Some(Outcome::failure("PodFailurePolicy", &message));
        }
    }
    let limit = object::integer(job, &["spec", "backoffLimit"]).unwrap_or(6);
    let restarts = object::text(job, &["spec", "template", "spec", "restartPolicy"]) == "OnFailure";
    if limit < counted.all_failed() || (restarts && restarted_too_often(pods, limit)) {
        let text = "Job has reached the specified backoff limit";
        return Some(Outcome::failure("BackoffLimitExceeded", text));
    }
    if deadline(job, start).is_some_and(|deadline| deadline <= now) {
        let text = "Job was active longer than specified deadline";
        return Some(Outcome::failure("DeadlineExceeded", text));
    }
    let completions = object::integer(job, &["spec", "completions"]);
    let active = pods.iter().any(|pod| is_active(pod));
    let reached = match completions {
        Some(completions) if indexes::is_indexed(job) => {
            completions <= i64::try_from(indexes::completed(job, pods).len()).unwrap_or(0)
        }
        Some(completions) => completions <= counted.all_succeeded(),
        // A work queue is done when one pod succeeded and none runs.
        None => 0 < counted.all_succeeded() && !active,
    };
    reached.then(|| Outcome {
        success: true,
        reason: "CompletionsReached".to_owned(),
        message: "Reached expected number of succeeded pods".to_owned(),
    })
}

fn deadline(job: &Value, start: Option<Timestamp>) -> Option<Timestamp> {
    let seconds = object::integer(job, &["spec", "activeDeadlineSeconds"])?;
    start?.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn restarted_too_often(pods: &[Arc<Value>], limit: i64) -> bool {
    let restarts: i64 = pods
        .iter()
        .filter(|pod| matches!(object::text(pod, &["status", "phase"]), "Pending" | "Running"))
        .flat_map(|pod| {
            ["initContainerStatuses", "containerStatuses"]
                .into_iter()
                .flat_map(|list| object::list(pod, &["status", list]))
        })
        .filter_map(|status| object::integer(status, &["restartCount"]))
        .sum();
    if limit == 0 { 0 < restarts } else { limit <= restarts }
}

/// How many pods to create or discard.
fn balance(
    job: &Value,
    pods: &[Arc<Value>],
    counted: &Counted,
    active: &[usize],
    now: Timestamp,
    plan: &mut Plan,
) {
    let parallelism = object::integer(job, &["spec", "parallelism"]).unwrap_or(1);
    let running = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let succeeded = if indexes::is_indexed(job) {
        i64::try_from(indexes::completed(job, pods).len()).unwrap_or(0)
    } else {
        counted.all_succeeded()
    };
    let wanted = match object::integer(job, &["spec", "completions"]) {
        Some(completions) => parallelism.min(completions - succeeded).max(0),
        // After the first success of a work queue no new pods start.
        None if 0 < succeeded => running.min(parallelism),
        None => parallelism,
    };
    if wanted < running {
        let excess = usize::try_from(running - wanted).unwrap_or(0);
        let mut candidates = active.to_vec();
        // Those that have come least far go first.
        candidates.sort_by_key(|at| {
            let phase = object::text(&pods[*at], &["status", "phase"]) == "Running";
            (is_ready(&pods[*at]), phase)
        });
        plan.discard = candidates.into_iter().take(excess).collect();
        return;
    }
    let terminating = if tracking::waits_for_failed(job) {
        let leaving =
            pods.iter().filter(|pod| object::is_deleting(pod) && !is_stopped(pod)).count();
        i64::try_from(leaving).unwrap_or(0)
    } else {
        0
    };
    let missing = (wanted - running - terminating).max(0);
    if missing == 0 {
        return;
    }
    match back_off(job, pods, now) {
        Some(wait) => plan.look_again = Some(wait),
        None => plan.create = missing,
    }
}

/// How long new pods have to wait: the pods that failed since the last success decide.
fn back_off(job: &Value, pods: &[Arc<Value>], now: Timestamp) -> Option<Duration> {
    let mut ends: Vec<(Timestamp, Ended)> = pods
        .iter()
        .filter_map(|pod| {
            let ended = tracking::ended(job, pod)?;
            // A pod that we discarded ourselves did not fail.
            if object::is_deleting(pod) && !tracking::is_tracked(pod) {
                return None;
            }
            let counts = ended == Ended::Succeeded || policy::counts(job, pod);
            counts.then(|| (finished_at(pod), ended))
        })
        .collect();
    ends.sort_by_key(|(at, _)| *at);
    let since = ends.iter().rev().take_while(|(_, ended)| *ended == Ended::Failed);
    let failures = u32::try_from(since.count()).unwrap_or(u32::MAX);
    let (last, _) = ends.last().filter(|_| 0 < failures)?;
    let doublings = failures.saturating_sub(1).min(16);
    let pause = (BACK_OFF_FIRST * 2_u32.pow(doublings)).min(BACK_OFF_MAX);
    let until = last.checked_add(pause).ok()?;
    Duration::try_from(until.duration_since(now)).ok().filter(|wait| !wait.is_zero())
}

/// When a pod ended: its last container, else its deletion, else its creation.
fn finished_at(pod: &Value) -> Timestamp {
    let terminated = object::list(pod, &["status", "containerStatuses"])
        .iter()
        .filter_map(|status| object::time(status, &["state", "terminated", "finishedAt"]))
        .max();
    terminated
        .or_else(|| {
            let ready = object::condition(pod, "Ready")?;
            object::time(ready, &["lastTransitionTime"])
        })
        .or_else(|| object::time(pod, &["metadata", "deletionTimestamp"]))
        .or_else(|| object::time(pod, &["metadata", "creationTimestamp"]))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
