//! Counting pods: each finished pod moves from its own finalizer, through
//! `status.uncountedTerminatedPods`, into the counters, so that a crash between any two writes
//! neither loses nor repeats one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{TRACKING, policy};
use crate::object;

/// How a pod ended for its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Phase `Succeeded`.
    Succeeded,
    /// Phase `Failed`, or being deleted before it could end.
    Failed,
}

/// The counters after this look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Pods counted for good.
    pub(super) succeeded: i64,
    /// Pods counted for good.
    pub(super) failed: i64,
    /// uids that only the status keeps from being forgotten.
    pub(super) uncounted_succeeded: Vec<String>,
    /// uids that only the status keeps from being forgotten.
    pub(super) uncounted_failed: Vec<String>,
}

impl Counted {
    /// Successes, the uncounted included.
    pub(super) fn all_succeeded(&self) -> i64 {
        self.succeeded + length(&self.uncounted_succeeded)
    }

    /// Failures, the uncounted included.
    pub(super) fn all_failed(&self) -> i64 {
        self.failed + length(&self.uncounted_failed)
    }

    /// `status.uncountedTerminatedPods`.
    pub(super) fn uncounted(&self) -> Value {
        let mut uncounted = json!({});
        for (key, uids) in
            [("succeeded", &self.uncounted_succeeded), ("failed", &self.uncounted_failed)]
        {
            if !uids.is_empty() {
                object::set(&mut uncounted, &[key], json!(uids));
            }
        }
        uncounted
    }

    /// Whether every finished pod is counted for good.
    pub(super) fn is_settled(&self) -> bool {
        self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty()
    }
}

fn length(uids: &[String]) -> i64 {
    i64::try_from(uids.len()).unwrap_or(i64::MAX)
}

/// Whether a pod still waits to be counted.
pub(super) fn is_tracked(pod: &Value) -> bool {
    object::finalizers(pod).contains(&TRACKING)
}

/// Whether a status names the pod as counted only there.
pub(super) fn is_uncounted(status: &Value, pod: &Value) -> bool {
    ["succeeded", "failed"].into_iter().any(|key| {
        object::list(status, &["uncountedTerminatedPods", key])
            .iter()
            .any(|uid| uid.as_str() == Some(object::uid(pod)))
    })
}

/// How a pod ended, if it did.
pub(super) fn ended(job: &Value, pod: &Value) -> Option<Ended> {
    match object::text(pod, &["status", "phase"]) {
        "Succeeded" => Some(Ended::Succeeded),
        "Failed" => Some(Ended::Failed),
        // A pod on its way out may never report an end; unless the job waits for that, it failed.
        _ if object::is_deleting(pod) && !(waits_for_failed(job) && has_node(pod)) => {
            Some(Ended::Failed)
        }
        _ => None,
    }
}

/// Whether some node will report the pod's end.
fn has_node(pod: &Value) -> bool {
    !object::text(pod, &["spec", "nodeName"]).is_empty()
}

/// `podReplacementPolicy: Failed`.
pub(super) fn waits_for_failed(job: &Value) -> bool {
    object::text(job, &["spec", "podReplacementPolicy"]) == "Failed"
}

/// Counts the job's pods.
pub(super) fn count(job: &Value, pods: &[Arc<Value>]) -> Counted {
    let uids = |key: &str| -> Vec<String> {
        object::list(job, &["status", "uncountedTerminatedPods", key])
            .iter()
            .filter_map(|uid| uid.as_str().map(str::to_owned))
            .collect()
    };
    let number = |key: &str| object::integer(job, &["status", key]).unwrap_or(0);
    let mut counted =
        Counted { succeeded: number("succeeded"), failed: number("failed"), ..Counted::default() };
    let tracked = |uid: &str| pods.iter().any(|pod| object::uid(pod) == uid && is_tracked(pod));
    // Listed before and without a finalizer now: counted for good.
    for uid in uids("succeeded") {
        if tracked(&uid) { counted.uncounted_succeeded.push(uid) } else { counted.succeeded += 1 }
    }
    for uid in uids("failed") {
        if tracked(&uid) { counted.uncounted_failed.push(uid) } else { counted.failed += 1 }
    }
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        let uid = object::uid(pod).to_owned();
        let known =
            counted.uncounted_succeeded.contains(&uid) || counted.uncounted_failed.contains(&uid);
        match ended(job, pod) {
            Some(Ended::Succeeded) if !known => counted.uncounted_succeeded.push(uid),
            Some(Ended::Failed) if !known && policy::counts(job, pod) => {
                counted.uncounted_failed.push(uid);
            }
            Some(Ended::Succeeded | Ended::Failed) | None => {}
        }
    }
    counted
}
