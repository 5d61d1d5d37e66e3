//! Cells of jobs and of the kinds that keep replicas.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::age;
use crate::object::{at, human_duration, integer, is_deleting, list, map, name, text, time};

fn number(object: &Value, path: &[&str]) -> i64 {
    integer(object, path).unwrap_or(0)
}

/// Containers, images and selector, the wide columns of every workload.
fn template_cells(object: &Value) -> [Value; 3] {
    let containers = list(object, &["spec", "template", "spec", "containers"]);
    let join = |key: &str| {
        let all: Vec<&str> = containers.iter().map(|container| text(container, &[key])).collect();
        json!(all.join(","))
    };
    [join("name"), join("image"), json!(selector(at(object, &["spec", "selector"])))]
}

/// A selector as text: `a=b,c in (d,e)`.
fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".to_owned() };
    let structured =
        selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if structured { map(selector, &["matchLabels"]) } else { selector.as_object() };
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in list(selector, &["matchExpressions"]) {
        let key = text(expression, &["key"]);
        let values: Vec<&str> =
            list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        terms.push(match text(expression, &["operator"]) {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
        });
    }
    if terms.is_empty() { "<none>".to_owned() } else { terms.join(",") }
}

pub(super) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| {
        crate::object::condition(object, kind)
            .is_some_and(|condition| text(condition, &["status"]) == "True")
    };
    let status = if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if is_deleting(object) {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    };
    let succeeded = number(object, &["status", "succeeded"]);
    let completions = match integer(object, &["spec", "completions"]) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match number(object, &["spec", "parallelism"]) {
            parallel if 1 < parallel => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let duration =
        match (time(object, &["status", "startTime"]), time(object, &["status", "completionTime"]))
        {
            (Some(start), Some(end)) => human_duration(end.duration_since(start)),
            (Some(start), None) => human_duration(now.duration_since(start)),
            (None, _) => String::new(),
        };
    let mut cells = vec![
        json!(name(object)),
        json!(status),
        json!(completions),
        json!(duration),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = number(object, &["status", "readyReplicas"]);
    let wanted = number(object, &["spec", "replicas"]);
    let mut cells = vec![
        json!(name(object)),
        json!(format!("{ready}/{wanted}")),
        json!(number(object, &["status", "updatedReplicas"])),
        json!(number(object, &["status", "availableReplicas"])),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

pub(super) fn replicas(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        json!(name(object)),
        json!(number(object, &["spec", "replicas"])),
        json!(number(object, &["status", "replicas"])),
        json!(number(object, &["status", "readyReplicas"])),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}
