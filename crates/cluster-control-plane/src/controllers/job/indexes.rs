//! Completion indexes of `completionMode: Indexed`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::INDEX;
use super::tracking::{Ended, ended};
use crate::controllers::children::is_active;
use crate::object;

/// Longest base of an indexed pod's name, so that index and suffix fit.
const NAME_BASE_MAX: usize = 50;

/// Whether a job's pods have indexes.
pub(super) fn is_indexed(job: &Value) -> bool {
    object::text(job, &["spec", "completionMode"]) == "Indexed"
}

/// A pod's index.
pub(super) fn of(pod: &Value) -> Option<i64> {
    object::annotation(pod, INDEX)?.parse().ok()
}

/// The indexes that have completed: those of the status and those of succeeded pods.
pub(super) fn completed(job: &Value, pods: &[Arc<Value>]) -> BTreeSet<i64> {
    let mut done = parse(object::text(job, &["status", "completedIndexes"]));
    let succeeded = pods.iter().filter(|pod| ended(job, pod) == Some(Ended::Succeeded));
    done.extend(succeeded.filter_map(|pod| of(pod)));
    let completions = object::integer(job, &["spec", "completions"]).unwrap_or(0);
    done.retain(|index| *index < completions);
    done
}

/// The next indexes to start: neither completed nor running.
pub(super) fn next(job: &Value, pods: &[Arc<Value>], count: i64) -> Vec<i64> {
    let done = completed(job, pods);
    let running: BTreeSet<i64> =
        pods.iter().filter(|pod| is_active(pod)).filter_map(|pod| of(pod)).collect();
    let completions = object::integer(job, &["spec", "completions"]).unwrap_or(0);
    (0..completions)
        .filter(|index| !done.contains(index) && !running.contains(index))
        .take(usize::try_from(count).unwrap_or(0))
        .collect()
}

/// Gives a new pod its index: name, annotation, label and environment.
pub(super) fn mark(job: &Value, pod: &mut Value, index: i64) {
    let base: String = object::name(job).chars().take(NAME_BASE_MAX).collect();
    object::set(pod, &["metadata", "generateName"], format!("{base}-{index}-"));
    object::set(pod, &["metadata", "annotations", INDEX], index.to_string());
    object::set(pod, &["metadata", "labels", INDEX], index.to_string());
    object::set(pod, &["spec", "hostname"], format!("{base}-{index}"));
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {
        "fieldPath": format!("metadata.labels['{INDEX}']"),
    }}});
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut("spec").and_then(|spec| spec.get_mut(list));
        for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
            let mut env = object::list(container, &["env"]).to_vec();
            if env.iter().all(|one| object::text(one, &["name"]) != "JOB_COMPLETION_INDEX") {
                env.push(variable.clone());
                object::set(container, &["env"], env);
            }
        }
    }
}

/// Reads `0-2,4`.
pub(super) fn parse(text: &str) -> BTreeSet<i64> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend((first..=last).map(i64::from));
        }
    }
    indexes
}

/// Writes `0-2,4`; two neighbours are written `0,1`.
pub(super) fn format(indexes: &BTreeSet<i64>) -> String {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let texts: Vec<String> = runs
        .iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_ranges_round_trip() {
        for text in ["", "0", "0,1", "0-2", "0-2,4", "1,3,5-9,11,12"] {
            assert_eq!(format(&parse(text)), text);
        }
    }

    #[test]
    fn next_indexes_skip_completed_and_running_ones() {
        let job = json!({
            "spec": {"completionMode": "Indexed", "completions": 5},
            "status": {"completedIndexes": "0"},
        });
        let pod = |index: &str, phase: &str| {
            Arc::new(
                json!({"metadata": {"annotations": {INDEX: index}}, "status": {"phase": phase}}),
            )
        };
        let pods = [pod("1", "Running"), pod("2", "Succeeded"), pod("3", "Failed")];
        assert_eq!(next(&job, &pods, 2), [3, 4]);
        assert_eq!(next(&job, &pods, 1), [3]);
    }
}
