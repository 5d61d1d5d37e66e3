//! Which ReplicaSets to scale next, from the deployment and its sets alone.

use std::sync::Arc;

use serde_json::Value;

use super::DESIRED;
use crate::object;

/// One set to scale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    /// The set.
    pub(super) uid: String,
    /// Replicas it shall have.
    pub(super) to: i64,
}

/// `spec.replicas` of a set or deployment.
pub(super) fn replicas(object: &Value) -> i64 {
    object::integer(object, &["spec", "replicas"]).unwrap_or(1)
}

/// Pods that a set reports.
pub(super) fn running(set: &Value) -> i64 {
    object::integer(set, &["status", "replicas"]).unwrap_or(0)
}

fn available(set: &Value) -> i64 {
    object::integer(set, &["status", "availableReplicas"]).unwrap_or(0)
}

/// Replicas the deployment asks for.
pub(super) fn desired(deployment: &Value) -> i64 {
    replicas(deployment)
}

/// Most replicas at any time.
pub(super) fn maximum(deployment: &Value) -> i64 {
    desired(deployment) + if is_recreate(deployment) { 0 } else { fences(deployment).0 }
}

fn is_recreate(deployment: &Value) -> bool {
    object::text(deployment, &["spec", "strategy", "type"]) == "Recreate"
}

/// `maxSurge` and `maxUnavailable` in pods; both zero would stand still, so one may be missing.
pub(super) fn fences(deployment: &Value) -> (i64, i64) {
    let desired = desired(deployment);
    let of = |key: &str, round_up: bool| {
        let value = object::at(deployment, &["spec", "strategy", "rollingUpdate", key]);
        match value {
            Some(Value::Number(number)) => number.as_i64().unwrap_or(0),
            Some(Value::String(text)) => {
                let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
                let scaled = desired * percent;
                if round_up { (scaled + 99) / 100 } else { scaled / 100 }
            }
            _ => 0,
        }
    };
    let (surge, unavailable) = (of("maxSurge", true), of("maxUnavailable", false));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(desired)) }
}

/// Replicas a new set starts with.
pub(super) fn first_replicas(deployment: &Value, old: &[Arc<Value>], old_pods: &[String]) -> i64 {
    if is_recreate(deployment) {
        let busy = !old_pods.is_empty() || old.iter().any(|set| 0 < replicas(set));
        return if busy { 0 } else { desired(deployment) };
    }
    scaled_up(deployment, 0, old.iter().map(|set| replicas(set)).sum())
}

/// What the new set grows to, given the replicas of all sets together.
fn scaled_up(deployment: &Value, own: i64, total: i64) -> i64 {
    let room = (maximum(deployment) - total).max(0);
    own + room.min(desired(deployment) - own).max(0)
}

/// The sets to scale now.
pub(super) fn steps(
    deployment: &Value,
    new: Option<&Value>,
    old: &[Arc<Value>],
    old_pods: &[String],
    paused: bool,
) -> Vec<Scale> {
    let active: Vec<&Value> =
        old.iter().map(AsRef::as_ref).chain(new).filter(|set| 0 < replicas(set)).collect();
    let wanted = desired(deployment);
    // The only set with pods follows the deployment's count, rollout or not.
    if paused || active.len() <= 1 {
        let only = active.first().copied().or(new).filter(|set| {
            let is_new = new.is_some_and(|new| object::uid(new) == object::uid(set));
            let resized = object::annotation(set, DESIRED) != Some(&wanted.to_string());
            (is_new && old_pods.is_empty())
                || (paused && active.len() <= 1)
                || (is_new && resized && !is_recreate(deployment))
        });
        if let Some(only) = only {
            return scale(only, wanted).into_iter().collect();
        }
        if paused {
            return Vec::new();
        }
    }
    let Some(new) = new else { return Vec::new() };
    if is_recreate(deployment) {
        let down: Vec<Scale> = old.iter().filter_map(|set| scale(set, 0)).collect();
        if !down.is_empty() {
            return down;
        }
        return if old_pods.is_empty() {
            scale(new, wanted).into_iter().collect()
        } else {
            Vec::new()
        };
    }
    rolling(deployment, new, old)
}

fn rolling(deployment: &Value, new: &Value, old: &[Arc<Value>]) -> Vec<Scale> {
    let wanted = desired(deployment);
    let total: i64 = old.iter().map(|set| replicas(set)).sum::<i64>() + replicas(new);
    if wanted < replicas(new) {
        return scale(new, wanted).into_iter().collect();
    }
    let mut steps: Vec<Scale> =
        scale(new, scaled_up(deployment, replicas(new), total)).into_iter().collect();
    let grown = steps.first().map_or_else(|| replicas(new), |step| step.to);
    let total = total - replicas(new) + grown;
    let least = wanted - fences(deployment).1;
    let unavailable = (grown - available(new)).max(0);
    let mut room = total - least - unavailable;
    let mut left: Vec<(&Value, i64)> = old.iter().map(|set| (&**set, replicas(set))).collect();
    // Pods that are not available give way first; they serve nobody.
    for (set, count) in &mut left {
        let idle = (*count - available(set)).clamp(0, room.max(0));
        *count -= idle;
        room -= idle;
    }
    let all_available: i64 = old.iter().map(|set| available(set)).sum::<i64>() + available(new);
    let mut room = room.min(all_available - least).max(0);
    for (_, count) in &mut left {
        let gone = (*count).min(room);
        *count -= gone;
        room -= gone;
    }
    steps.extend(left.into_iter().filter_map(|(set, count)| scale(set, count)));
    steps
}

fn scale(set: &Value, to: i64) -> Option<Scale> {
    (replicas(set) != to).then(|| Scale { uid: object::uid(set).to_owned(), to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i64, strategy: Value) -> Value {
        json!({"spec": {"replicas": replicas, "strategy": strategy}})
    }

    fn quarter(replicas: i64) -> Value {
        let fences = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
        deployment(replicas, json!({"type": "RollingUpdate", "rollingUpdate": fences}))
    }

    fn set(uid: &str, replicas: i64, available: i64) -> Arc<Value> {
        Arc::new(json!({
            "metadata": {"uid": uid},
            "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "availableReplicas": available},
        }))
    }

    fn after(
        deployment: &Value,
        new: &Arc<Value>,
        old: &[Arc<Value>],
        pods: usize,
    ) -> Vec<(String, i64)> {
        let pods = vec!["p".to_owned(); pods];
        let steps = steps(deployment, Some(new), old, &pods, false);
        steps.into_iter().map(|step| (step.uid, step.to)).collect()
    }

    #[test]
    fn fences_round_surge_up_and_unavailable_down() {
        assert_eq!(fences(&quarter(10)), (3, 2));
        assert_eq!(fences(&quarter(1)), (1, 0));
        let none = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
        assert_eq!(fences(&deployment(4, none)), (0, 1));
    }

    #[test]
    fn rolling_update_keeps_within_both_fences() {
        let deployment = quarter(4);
        let old = [set("old", 4, 4)];
        assert_eq!(first_replicas(&deployment, &old, &[]), 1);
        // One new pod that is not available yet: one old one may go.
        let step = after(&deployment, &set("new", 1, 0), &old, 4);
        assert_eq!(step, [("old".to_owned(), 3)]);
        let step = after(&deployment, &set("new", 1, 1), &[set("old", 3, 3)], 3);
        assert_eq!(step, [("new".to_owned(), 2), ("old".to_owned(), 2)]);
        let step = after(&deployment, &set("new", 4, 4), &[set("old", 1, 1)], 1);
        assert_eq!(step, [("old".to_owned(), 0)]);
        assert_eq!(after(&deployment, &set("new", 4, 4), &[set("old", 0, 0)], 0), []);
    }

    #[test]
    fn pods_that_never_became_available_go_first() {
        let deployment = quarter(4);
        let old = [set("good", 3, 3), set("stuck", 1, 0)];
        let step = after(&deployment, &set("new", 1, 0), &old, 4);
        assert_eq!(step, [("stuck".to_owned(), 0)]);
    }

    #[test]
    fn recreate_waits_until_the_old_pods_are_gone() {
        let deployment = deployment(2, json!({"type": "Recreate"}));
        let old = [set("old", 2, 2)];
        assert_eq!(after(&deployment, &set("new", 0, 0), &old, 2), [("old".to_owned(), 0)]);
        assert_eq!(after(&deployment, &set("new", 0, 0), &[set("old", 0, 0)], 1), []);
        let step = after(&deployment, &set("new", 0, 0), &[set("old", 0, 0)], 0);
        assert_eq!(step, [("new".to_owned(), 2)]);
    }

    #[test]
    fn count_of_a_settled_deployment_follows_at_once() {
        assert_eq!(after(&quarter(5), &set("new", 2, 2), &[], 0), [("new".to_owned(), 5)]);
        assert_eq!(
            after(&quarter(0), &set("new", 2, 2), &[set("old", 0, 0)], 0),
            [("new".to_owned(), 0)]
        );
    }
}
