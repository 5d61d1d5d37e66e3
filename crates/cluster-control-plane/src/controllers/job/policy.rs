//! `spec.podFailurePolicy`: what a failed pod means for its job.

use serde_json::Value;

use crate::object;

/// What the first matching rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The job fails at once, with this message.
    FailJob(String),
    /// The pod does not count.
    Ignore,
    /// The pod counts as a failure.
    Count,
}

/// Whether a failed pod counts against the back-off limit.
pub(super) fn counts(job: &Value, pod: &Value) -> bool {
    action(job, pod) != Action::Ignore
}

/// The action for a failed pod: that of the first rule that matches.
pub(super) fn action(job: &Value, pod: &Value) -> Action {
    // Only a pod that reached its end shows exit codes and conditions.
    if object::text(pod, &["status", "phase"]) != "Failed" {
        return Action::Count;
    }
    for (index, rule) in
        object::list(job, &["spec", "podFailurePolicy", "rules"]).iter().enumerate()
    {
        let Some(message) = matched(rule, pod, index) else { continue };
        return match object::text(rule, &["action"]) {
            "FailJob" => Action::FailJob(message),
            "Ignore" => Action::Ignore,
            _ => Action::Count,
        };
    }
    Action::Count
}

fn matched(rule: &Value, pod: &Value, index: usize) -> Option<String> {
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let action = object::text(rule, &["action"]);
    if let Some(codes) = object::at(rule, &["onExitCodes"]) {
        let wanted = object::text(codes, &["containerName"]);
        let values: Vec<i64> =
            object::list(codes, &["values"]).iter().filter_map(Value::as_i64).collect();
        let within = object::text(codes, &["operator"]) == "In";
        let statuses = ["initContainerStatuses", "containerStatuses"]
            .into_iter()
            .flat_map(|list| object::list(pod, &["status", list]));
        return statuses.into_iter().find_map(|status| {
            let container = object::text(status, &["name"]);
            let code = object::integer(status, &["state", "terminated", "exitCode"])?;
            let chosen = wanted.is_empty() || wanted == container;
            (chosen && code != 0 && values.contains(&code) == within).then(|| {
                format!(
                    "Container {container} for pod {namespace}/{name} failed with exit code {code} \
                     matching {action} rule at index {index}"
                )
            })
        });
    }
    object::list(rule, &["onPodConditions"]).iter().find_map(|pattern| {
        let kind = object::text(pattern, &["type"]);
        let status = match object::text(pattern, &["status"]) {
            "" => "True",
            status => status,
        };
        let condition = object::condition(pod, kind)?;
        (object::text(condition, &["status"]) == status).then(|| {
            format!("Pod {namespace}/{name} has condition {kind} matching {action} rule at index {index}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn failed(code: i64) -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "status": {
                "phase": "Failed",
                "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}],
                "conditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
        })
    }

    #[test]
    fn first_matching_rule_decides() {
        let rules = json!([
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        ]);
        let job = json!({"spec": {"podFailurePolicy": {"rules": rules}}});
        assert_eq!(
            action(&job, &failed(42)),
            Action::FailJob(
                "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 0"
                    .to_owned()
            )
        );
        assert_eq!(action(&job, &failed(1)), Action::Ignore);
        assert_eq!(action(&json!({}), &failed(1)), Action::Count);
    }
}
