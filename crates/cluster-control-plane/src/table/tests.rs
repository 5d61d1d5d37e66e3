//! Rows by kind and state.

use super::*;
use crate::resources::{self, ALL};

fn cells(resource: &Resource, object: &Value) -> Vec<String> {
    let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("time");
    row(resource, object, IncludeObject::None, now)["cells"]
        .as_array()
        .expect("cells")
        .iter()
        .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
        .collect()
}

fn pod(spec: Value, status: Value) -> Value {
    json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec,
        "status": status,
    })
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    for resource in ALL {
        let definitions = definitions(resource);
        let cells = cells(resource, &json!({"metadata": {"name": "x"}}));
        assert_eq!(definitions.as_array().expect("list").len(), cells.len(), "{}", resource.kind);
    }
}

#[test]
fn pod_status_follows_the_upstream_printer() {
    let one = json!({"containers": [{"name": "a"}]});
    let state = |state: Value| json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": state}]});
    let with_init =
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let init = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state}]});
    let rows = [
        (one.clone(), json!({"phase": "Pending"}), "Pending"),
        (one.clone(), json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (
            one.clone(),
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            "SchedulingGated",
        ),
        (
            one.clone(),
            state(json!({"waiting": {"reason": "ImagePullBackOff"}})),
            "ImagePullBackOff",
        ),
        (
            one.clone(),
            state(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
            "Completed",
        ),
        (one.clone(), state(json!({"terminated": {"exitCode": 3}})), "ExitCode:3"),
        (one.clone(), state(json!({"terminated": {"exitCode": 137, "signal": 9}})), "Signal:9"),
        (one, state(json!({"running": {}})), "Running"),
        (with_init.clone(), init(json!({"running": {}})), "Init:0/2"),
        (with_init.clone(), init(json!({"waiting": {"reason": "PodInitializing"}})), "Init:0/2"),
        (
            with_init.clone(),
            init(json!({"waiting": {"reason": "ErrImagePull"}})),
            "Init:ErrImagePull",
        ),
        (
            with_init.clone(),
            init(json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
            "Init:Error",
        ),
        (with_init, init(json!({"terminated": {"exitCode": 1}})), "Init:ExitCode:1"),
    ];
    for (spec, status, expected) in rows {
        assert_eq!(cells(&resources::PODS, &pod(spec, status.clone()))[2], expected, "{status}");
    }
}

#[test]
fn pod_with_one_finished_container_is_not_ready() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let mut status = json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
        {"name": "b", "ready": true, "state": {"running": {}}},
    ]});
    let row = cells(&resources::PODS, &pod(spec.clone(), status.clone()));
    assert_eq!((row[1].as_str(), row[2].as_str()), ("1/2", "NotReady"));
    status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(cells(&resources::PODS, &pod(spec, status))[2], "Running");
}

#[test]
fn restarts_show_when_the_last_one_was() {
    let status = json!({"phase": "Running", "containerStatuses": [{
        "name": "a", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}},
    }]});
    let row = cells(&resources::PODS, &pod(json!({"containers": [{"name": "a"}]}), status));
    assert_eq!(row[2..5], ["CrashLoopBackOff", "2 (60s ago)", "60m"]);
}

#[test]
fn deleted_pod_is_terminating_unless_it_ended() {
    let mut running = pod(json!({"containers": [{"name": "a"}]}), json!({"phase": "Running"}));
    running["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(cells(&resources::PODS, &running)[2], "Terminating");
    running["status"] = json!({"phase": "Succeeded"});
    assert_eq!(cells(&resources::PODS, &running)[2], "Succeeded");
}

#[test]
fn job_shows_state_completions_and_duration() {
    let mut job = json!({
        "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"completions": 1, "parallelism": 1, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"startTime": "2026-01-01T00:00:00Z"},
    });
    assert_eq!(
        cells(&resources::JOBS, &job),
        ["j", "Running", "0/1", "60m", "60m", "c", "i", "a=b"]
    );
    job["status"]["succeeded"] = json!(1);
    job["status"]["completionTime"] = json!("2026-01-01T00:00:09Z");
    job["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
    assert_eq!(cells(&resources::JOBS, &job)[1..4], ["Complete", "1/1", "9s"]);
}

#[test]
fn event_names_its_object_and_counts_from_one() {
    let event = json!({
        "metadata": {"name": "e"}, "type": "Warning", "reason": "Failed", "message": " no \n",
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
        "source": {"component": "kubelet", "host": "n"},
        "lastTimestamp": "2026-01-01T00:59:50Z", "firstTimestamp": "2026-01-01T00:59:00Z",
    });
    assert_eq!(
        cells(&resources::EVENTS, &event),
        [
            "10s",
            "Warning",
            "Failed",
            "pod/p",
            "spec.containers{a}",
            "kubelet, n",
            "no",
            "60s",
            "1",
            "e"
        ]
    );
}
