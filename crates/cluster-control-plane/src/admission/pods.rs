//! What every new pod gets: priority and the tolerations of a node that goes away.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::object;
use crate::resources::PODS;

/// Seconds a pod stays on a node that is not ready or not reachable.
const TOLERATION_SECONDS: u32 = 300;

/// Sets the priority of the class; without priority class objects only the system's two are known.
pub(super) fn priority(pod: &mut Value) -> Result<(), ApiError> {
    let class = object::text(pod, &["spec", "priorityClassName"]);
    let priority = match class {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        other => {
            let why = format!("no PriorityClass with name {other} was found");
            return Err(ApiError::forbidden(&PODS, object::name(pod), &why));
        }
    };
    if let Some(own) = object::integer(pod, &["spec", "priority"])
        && own != priority
    {
        let why = format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority \
             admission controller computed {priority} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(&PODS, object::name(pod), &why));
    }
    object::set(pod, &["spec", "priority"], priority);
    object::set_default(pod, &["spec", "preemptionPolicy"], "PreemptLowerPriority");
    Ok(())
}

/// Adds the two tolerations that DefaultTolerationSeconds adds.
pub(super) fn tolerations(pod: &mut Value) {
    let mut tolerations = object::list(pod, &["spec", "tolerations"]).to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|own| {
            let (own_key, effect) = (object::text(own, &["key"]), object::text(own, &["effect"]));
            (own_key == key || own_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    object::set(pod, &["spec", "tolerations"], tolerations);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_tolerations_yield_to_the_pods_own() {
        let keys = |own: Value| {
            let mut pod = json!({"spec": {"tolerations": own}});
            tolerations(&mut pod);
            object::list(&pod, &["spec", "tolerations"])
                .iter()
                .map(|one| object::text(one, &["key"]).to_owned())
                .collect::<Vec<_>>()
        };
        let (not_ready, unreachable) =
            ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable");
        assert_eq!(keys(json!([])), [not_ready, unreachable]);
        assert_eq!(keys(json!([{"operator": "Exists"}])), [""]);
        assert_eq!(
            keys(json!([{"key": not_ready, "operator": "Exists"}])),
            [not_ready, unreachable]
        );
    }

    #[test]
    fn unknown_priority_class_is_forbidden() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "high"}});
        let refused = priority(&mut pod).expect_err("no such class");
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: no PriorityClass with name high was found"
        );
    }
}
