//! Jobs, ReplicaSets, ReplicationControllers and Deployments.

use serde_json::{Value, json};

use super::{Errors, IMMUTABLE, names, pods};
use crate::error::{FieldError, FieldErrorKind};
use crate::object;
use crate::selectors::LabelSelector;

/// Most rules of a pod failure policy.
const FAILURE_RULES_MAX: usize = 20;
/// Most exit codes of one rule.
const EXIT_CODES_MAX: usize = 255;

/// Validates a ReplicationController.
pub(super) fn replication_controller(errors: &mut Errors, new: &Value) {
    errors.not_negative(
        "spec",
        new.get("spec").unwrap_or(&Value::Null),
        &["replicas", "minReadySeconds"],
    );
    let selector = object::at(new, &["spec", "selector"]).cloned().unwrap_or_default();
    if selector.as_object().is_none_or(serde_json::Map::is_empty) {
        errors.required("spec.selector", "");
    }
    let Some(template) = object::at(new, &["spec", "template"]) else {
        errors.required("spec.template", "");
        return;
    };
    match_template(errors, &json!({"matchLabels": selector}), template);
    pods::template(errors, "spec.template", template);
    always_restarts(errors, "ReplicationController", template);
}

/// Validates a ReplicaSet.
pub(super) fn replica_set(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    errors.not_negative(
        "spec",
        new.get("spec").unwrap_or(&Value::Null),
        &["replicas", "minReadySeconds"],
    );
    selected_template(errors, new, old, "ReplicaSet");
}

/// Validates a Deployment.
pub(super) fn deployment(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let keys = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    errors.not_negative("spec", spec, &keys);
    selected_template(errors, new, old, "Deployment");
    let deadline = object::integer(spec, &["progressDeadlineSeconds"]);
    let ready = object::integer(spec, &["minReadySeconds"]).unwrap_or(0);
    if let Some(deadline) = deadline
        && deadline <= ready
    {
        errors.invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            "must be greater than minReadySeconds",
        );
    }
    strategy(errors, spec);
}

fn strategy(errors: &mut Errors, spec: &Value) {
    let path = "spec.strategy";
    let kind = object::text(spec, &["strategy", "type"]);
    errors.one_of(&format!("{path}.type"), kind, &["Recreate", "RollingUpdate"]);
    let rolling = object::at(spec, &["strategy", "rollingUpdate"]);
    let Some(rolling) = rolling else { return };
    if kind == "Recreate" {
        let text = "may not be specified when strategy `type` is 'Recreate'";
        errors.forbidden(format!("{path}.rollingUpdate"), text);
        return;
    }
    let mut zero = true;
    for key in ["maxSurge", "maxUnavailable"] {
        let path = format!("{path}.rollingUpdate.{key}");
        match rolling.get(key) {
            Some(Value::Number(number)) => {
                let number = number.as_i64().unwrap_or(-1);
                zero &= number == 0;
                if number < 0 {
                    errors.invalid(path, number, "must be greater than or equal to 0");
                }
            }
            Some(Value::String(text)) => {
                let percent = text.strip_suffix('%').and_then(|text| text.parse::<u32>().ok());
                zero &= percent == Some(0);
                match percent {
                    None => {
                        let detail = "a valid percent string must be a numeric string followed by an \
                                      ending '%' (e.g. '1%',  or '93%', regex used for validation is \
                                      '[0-9]+%')";
                        errors.invalid(path, text.as_str(), detail);
                    }
                    Some(percent) if 100 < percent && key == "maxUnavailable" => {
                        errors.invalid(path, text.as_str(), "must not be greater than 100%");
                    }
                    Some(_) => {}
                }
            }
            _ => {}
        }
    }
    if zero {
        let field = format!("{path}.rollingUpdate.maxUnavailable");
        let value = rolling.get("maxUnavailable").cloned().unwrap_or_else(|| json!(0));
        errors.invalid(field, value, "may not be 0 when `maxSurge` is 0");
    }
}

/// Selector and template of a ReplicaSet or Deployment.
fn selected_template(errors: &mut Errors, new: &Value, old: Option<&Value>, kind: &str) {
    let selector = object::at(new, &["spec", "selector"]);
    match selector {
        None => errors.required("spec.selector", ""),
        Some(selector) if LabelSelector::from_object(selector).is_empty() => {
            let text = format!("empty selector is invalid for {}", kind.to_ascii_lowercase());
            errors.invalid("spec.selector", selector.clone(), &text);
        }
        Some(_) => {}
    }
    if let Some(old) = old {
        errors.immutable("spec.selector", new, old);
    }
    let Some(template) = object::at(new, &["spec", "template"]) else {
        errors.required("spec.template", "");
        return;
    };
    if let Some(selector) = selector {
        match_template(errors, selector, template);
    }
    pods::template(errors, "spec.template", template);
    always_restarts(errors, kind, template);
}

fn match_template(errors: &mut Errors, selector: &Value, template: &Value) {
    let selector = LabelSelector::from_object(selector);
    if selector.is_empty() || selector.matches(template) {
        return;
    }
    let labels = object::map(template, &["metadata", "labels"]).into_iter().flatten();
    let pairs: Vec<String> = labels.map(|(key, value)| format!("{key:?}:{value}")).collect();
    errors.add(FieldError {
        field: "spec.template.metadata.labels".to_owned(),
        kind: FieldErrorKind::Invalid,
        // Go prints the map.
        body: format!(
            "Invalid value: map[string]string{{{}}}: `selector` does not match template `labels`",
            pairs.join(", ")
        ),
    });
}

fn always_restarts(errors: &mut Errors, kind: &str, template: &Value) {
    let policy = object::text(template, &["spec", "restartPolicy"]);
    if policy != "Always" {
        let field = "spec.template.spec.restartPolicy";
        errors.add(FieldError::not_supported(field, &policy.into(), &["Always"]));
    }
    if object::at(template, &["spec", "activeDeadlineSeconds"]).is_some() {
        let text = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden("spec.template.spec.activeDeadlineSeconds", &text);
    }
}

/// Validates a Job (mini-kubernetes.md 6.3).
pub(super) fn job(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let keys = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ];
    errors.not_negative("spec", spec, &keys);
    let indexed = object::text(spec, &["completionMode"]) == "Indexed";
    let mode = object::text(spec, &["completionMode"]);
    errors.one_of("spec.completionMode", mode, &["Indexed", "NonIndexed"]);
    if indexed && object::at(spec, &["completions"]).is_none() {
        errors.required("spec.completions", "when completion mode is Indexed");
    }
    if object::at(spec, &["backoffLimitPerIndex"]).is_some() {
        // Stored unenforced it would promise what nothing keeps.
        errors.forbidden("spec.backoffLimitPerIndex", "is not supported by this server");
    }
    if object::at(spec, &["successPolicy"]).is_some() {
        errors.forbidden("spec.successPolicy", "is not supported by this server");
    }
    // The name becomes a label of the pods.
    let name = object::name(new);
    if 63 < name.len() {
        errors.grammar("spec.template.labels", name, names::label_value(name));
    }
    let Some(template) = object::at(spec, &["template"]) else {
        errors.required("spec.template", "");
        return;
    };
    match object::at(spec, &["selector"]) {
        None => errors.required("spec.selector", ""),
        Some(selector) => {
            match_template(errors, selector, template);
            generated_labels(errors, new, selector);
        }
    }
    pods::template(errors, "spec.template", template);
    restart_policy(errors, template);
    failure_policy(errors, spec, template);
    if let Some(old) = old {
        update(errors, new, old);
    }
}

fn generated_labels(errors: &mut Errors, job: &Value, selector: &Value) {
    if object::at(job, &["spec", "manualSelector"]) == Some(&Value::Bool(true)) {
        return;
    }
    let key = "batch.kubernetes.io/controller-uid";
    let selected = object::text(selector, &["matchLabels", key]);
    let other = object::map(selector, &["matchLabels"]).is_some_and(|labels| labels.len() != 1)
        || !object::list(selector, &["matchExpressions"]).is_empty();
    if selected != object::uid(job) || other {
        errors.invalid("spec.selector", selector.clone(), "`selector` not auto-generated");
    }
}

fn restart_policy(errors: &mut Errors, template: &Value) {
    let path = "spec.template.spec.restartPolicy";
    match object::text(template, &["spec", "restartPolicy"]) {
        "OnFailure" | "Never" => {}
        "" | "Always" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        other => {
            let words = ["Never", "OnFailure"];
            errors.add(FieldError::not_supported(path, &other.into(), &words));
        }
    }
}

fn failure_policy(errors: &mut Errors, spec: &Value, template: &Value) {
    if object::at(spec, &["podFailurePolicy"]).is_none() {
        return;
    }
    let restart = object::text(template, &["spec", "restartPolicy"]);
    if restart != "Never" {
        let text = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.invalid("spec.template.spec.restartPolicy", restart, text);
    }
    let path = "spec.podFailurePolicy.rules";
    let rules = object::list(spec, &["podFailurePolicy", "rules"]);
    if FAILURE_RULES_MAX < rules.len() {
        errors.add(FieldError::too_many(path, rules.len(), FAILURE_RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let action = object::text(rule, &["action"]);
        errors.one_of(
            &format!("{path}.action"),
            action,
            &["Count", "FailIndex", "FailJob", "Ignore"],
        );
        if action == "FailIndex" {
            let text = "requires the backoffLimitPerIndex to be set";
            errors.invalid(format!("{path}.action"), action, text);
        }
        let codes = object::at(rule, &["onExitCodes"]);
        let conditions = object::list(rule, &["onPodConditions"]);
        match (codes, conditions.is_empty()) {
            (None, true) => {
                let text = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.invalid(path, rule.clone(), text);
            }
            (Some(_), false) => {
                let text = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.invalid(path, rule.clone(), text);
            }
            (Some(codes), true) => exit_codes(errors, &format!("{path}.onExitCodes"), codes),
            (None, false) => {}
        }
    }
}

fn exit_codes(errors: &mut Errors, path: &str, codes: &Value) {
    let operator = object::text(codes, &["operator"]);
    errors.one_of(&format!("{path}.operator"), operator, &["In", "NotIn"]);
    let values: Vec<i64> =
        object::list(codes, &["values"]).iter().filter_map(Value::as_i64).collect();
    let path = format!("{path}.values");
    if values.is_empty() {
        errors.invalid(path.clone(), json!([]), "at least one value is required");
    } else if EXIT_CODES_MAX < values.len() {
        errors.add(FieldError::too_many(path.clone(), values.len(), EXIT_CODES_MAX));
    }
    if operator == "In" && values.contains(&0) {
        errors.invalid(format!("{path}[0]"), 0, "must not be 0 for the In operator");
    }
    if values.windows(2).any(|pair| pair[1] < pair[0]) {
        errors.invalid(path.clone(), json!(values), "must be ordered");
    }
    if values.windows(2).any(|pair| pair[0] == pair[1]) {
        errors.add(FieldError::duplicate(path, &json!(values)));
    }
}

fn update(errors: &mut Errors, new: &Value, old: &Value) {
    for path in ["spec.selector", "spec.completionMode", "spec.podFailurePolicy"] {
        errors.immutable(path, new, old);
    }
    let indexed = object::text(new, &["spec", "completionMode"]) == "Indexed";
    let count = |job: &Value, key: &str| object::integer(job, &["spec", key]);
    let elastic = indexed && count(new, "completions") == count(new, "parallelism");
    if !elastic {
        errors.immutable("spec.completions", new, old);
    }
    // A job that has not started yet may still be given a place to run.
    let suspended = object::at(old, &["spec", "suspend"]) == Some(&Value::Bool(true))
        && object::at(old, &["status", "startTime"]).is_none();
    let template = |job: &Value| {
        let mut template = object::at(job, &["spec", "template"]).cloned().unwrap_or_default();
        if suspended {
            for key in ["labels", "annotations"] {
                object::remove(&mut template, &["metadata", key]);
            }
            for key in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                object::remove(&mut template, &["spec", key]);
            }
        }
        template
    };
    if template(new) != template(old) {
        let value = object::at(new, &["spec", "template"]).cloned().unwrap_or_default();
        errors.invalid("spec.template", value, IMMUTABLE);
    }
}
