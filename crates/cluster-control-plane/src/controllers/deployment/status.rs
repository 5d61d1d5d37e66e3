//! What a deployment reports, and when it is complete or late.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::rollout;
use crate::object;

/// Whether every pod is of the new template and available, and no other is left.
pub(super) fn is_complete(deployment: &Value, new: Option<&Value>, sets: &[Arc<Value>]) -> bool {
    let wanted = rollout::desired(deployment);
    let count = |set: &Value, key: &str| object::integer(set, &["status", key]).unwrap_or(0);
    let total: i64 = sets.iter().map(|set| count(set, "replicas")).sum();
    new.is_some_and(|new| {
        count(new, "replicas") == wanted
            && count(new, "availableReplicas") == wanted
            && total == wanted
    })
}

/// The status.
pub(super) fn of(
    deployment: &Value,
    new: Option<&Value>,
    sets: &[Arc<Value>],
    now: Timestamp,
) -> Value {
    let count = |set: &Value, key: &str| object::integer(set, &["status", key]).unwrap_or(0);
    let sum = |key: &str| sets.iter().map(|set| count(set, key)).sum::<i64>();
    let wanted = rollout::desired(deployment);
    let (total, available) = (sum("replicas"), sum("availableReplicas"));
    let mut status = json!({"observedGeneration": object::generation(deployment)});
    for (key, number) in [
        ("replicas", total),
        ("updatedReplicas", new.map_or(0, |new| count(new, "replicas"))),
        ("readyReplicas", sum("readyReplicas")),
        ("availableReplicas", available),
        ("unavailableReplicas", (wanted.max(total) - available).max(0)),
    ] {
        if number != 0 {
            object::set(&mut status, &[key], number);
        }
    }
    if let Some(collisions) = object::integer(deployment, &["status", "collisionCount"]) {
        object::set(&mut status, &["collisionCount"], collisions);
    }
    let mut conditions = object::list(deployment, &["status", "conditions"]).to_vec();
    let least = wanted - rollout::fences(deployment).1;
    let enough = least <= available;
    let text = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        let text = "Deployment does not have minimum availability.".to_owned();
        ("False", "MinimumReplicasUnavailable", text)
    };
    set(&mut conditions, "Available", text, now, Moves::OnChange);
    progress(deployment, new, sets, &status, &mut conditions, now);
    object::set(&mut status, &["conditions"], conditions);
    status
}

fn progress(
    deployment: &Value,
    new: Option<&Value>,
    sets: &[Arc<Value>],
    status: &Value,
    conditions: &mut Vec<Value>,
    now: Timestamp,
) {
    if object::at(deployment, &["spec", "progressDeadlineSeconds"]).is_none() {
        conditions.retain(|condition| object::text(condition, &["type"]) != "Progressing");
        return;
    }
    let name = new.map_or_else(
        || format!("Deployment {:?}", object::name(deployment)),
        |new| format!("ReplicaSet {:?}", object::name(new)),
    );
    if object::at(deployment, &["spec", "paused"]) == Some(&Value::Bool(true)) {
        let text = ("Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
        set(conditions, "Progressing", text, now, Moves::OnChange);
        return;
    }
    if is_complete(deployment, new, sets) {
        let text = format!("{name} has successfully progressed.");
        set(
            conditions,
            "Progressing",
            ("True", "NewReplicaSetAvailable", text),
            now,
            Moves::OnChange,
        );
        return;
    }
    let old = object::at(deployment, &["status"]).cloned().unwrap_or_default();
    let moved =
        ["updatedReplicas", "readyReplicas", "availableReplicas", "replicas", "observedGeneration"]
            .into_iter()
            .any(|key| object::integer(&old, &[key]) != object::integer(status, &[key]));
    let known =
        conditions.iter().find(|condition| object::text(condition, &["type"]) == "Progressing");
    if moved
        || known.is_none_or(|known| object::text(known, &["reason"]) == "NewReplicaSetAvailable")
    {
        let text = format!("{name} is progressing.");
        set(conditions, "Progressing", ("True", "ReplicaSetUpdated", text), now, Moves::Always);
        return;
    }
    let mut current = deployment.clone();
    object::set(&mut current, &["status", "conditions"], conditions.clone());
    if progress_deadline(&current, &current["status"]).is_some_and(|deadline| deadline <= now) {
        let text = format!("{name} has timed out progressing.");
        let text = ("False", "ProgressDeadlineExceeded", text);
        set(conditions, "Progressing", text, now, Moves::OnChange);
    }
}

/// When a rollout that has not moved counts as failed.
pub(super) fn progress_deadline(deployment: &Value, status: &Value) -> Option<Timestamp> {
    let seconds = object::integer(deployment, &["spec", "progressDeadlineSeconds"])?;
    let condition = object::list(status, &["conditions"])
        .iter()
        .find(|condition| object::text(condition, &["type"]) == "Progressing")?;
    let waits = object::text(condition, &["reason"]) == "ReplicaSetUpdated";
    let since = object::time(condition, &["lastUpdateTime"]).filter(|_| waits)?;
    since.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// When `lastUpdateTime` moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moves {
    /// With status or reason.
    OnChange,
    /// With every report.
    Always,
}

fn set(
    conditions: &mut Vec<Value>,
    kind: &str,
    (status, reason, message): (&str, &str, String),
    now: Timestamp,
    moves: Moves,
) {
    let time = object::format_time(now);
    let mut new = json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": time,
        "lastTransitionTime": time,
    });
    let Some(old) = conditions.iter_mut().find(|old| object::text(old, &["type"]) == kind) else {
        conditions.push(new);
        return;
    };
    let keep = |new: &mut Value, key: &str| {
        let since = object::text(old, &[key]).to_owned();
        object::set(new, &[key], since);
    };
    if object::text(old, &["status"]) == status {
        keep(&mut new, "lastTransitionTime");
        if object::text(old, &["reason"]) == reason && moves == Moves::OnChange {
            keep(&mut new, "lastUpdateTime");
        }
    }
    *old = new;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(status: &Value) -> Vec<&str> {
        object::list(status, &["conditions"])
            .iter()
            .map(|condition| object::text(condition, &["reason"]))
            .collect()
    }

    #[test]
    fn rollout_progresses_times_out_and_completes() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let mut deployment = json!({
            "metadata": {"name": "d", "generation": 1},
            "spec": {"replicas": 1, "progressDeadlineSeconds": 60, "strategy": {
                "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            }},
        });
        let set = |available: i64| {
            Arc::new(json!({
                "metadata": {"name": "d-1", "uid": "u"},
                "status": {"replicas": 1, "availableReplicas": available, "readyReplicas": available},
            }))
        };
        let mut report = |available: i64, time: &str| {
            let sets = [set(available)];
            let status = of(&deployment, Some(&sets[0]), &sets, at(time));
            deployment["status"] = status.clone();
            status
        };
        let first = report(0, "2026-01-01T00:00:00Z");
        assert_eq!(reasons(&first), ["MinimumReplicasUnavailable", "ReplicaSetUpdated"]);
        assert_eq!(first["unavailableReplicas"], 1);
        let waiting = report(0, "2026-01-01T00:00:59Z");
        assert_eq!(waiting, first);
        let late = report(0, "2026-01-01T00:01:00Z");
        assert_eq!(reasons(&late)[1], "ProgressDeadlineExceeded");
        let done = report(1, "2026-01-01T00:02:00Z");
        assert_eq!(reasons(&done), ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
        assert_eq!(done["updatedReplicas"], 1);
    }
}
