use serde_json::json;

use super::*;
use crate::pods::state::{Termination, waiting};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
}

fn pod(policy: &str, init: &[&str], apps: &[&str]) -> Pod {
    let list = |names: &[&str]| -> Vec<serde_json::Value> {
        names
            .iter()
            .map(|name| match name.strip_prefix('+') {
                Some(name) => json!({"name": name, "image": "x", "restartPolicy": "Always"}),
                None => json!({"name": name, "image": "x"}),
            })
            .collect()
    };
    serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"restartPolicy": policy, "initContainers": list(init), "containers": list(apps)},
    }))
    .expect("a pod")
}

/// `w` waiting, `r` running, `R` running and ready, `0`..`9` exit code,
/// `b0`/`b1` waiting after that exit.
fn set(state: &mut PodState, name: &str, code: &str) {
    let view = state.containers.get_mut(name).expect("container");
    let end = |code: i32| Termination {
        exit_code: code,
        signal: None,
        reason: "Error".into(),
        message: None,
        started_at: Some(at(0)),
        finished_at: Some(at(1)),
        container_id: None,
    };
    match code {
        "w" => view.phase = waiting("ContainerCreating"),
        "r" | "R" => {
            view.phase = Phase::Running { started_at: at(0) };
            view.ready = code == "R";
            view.started = true;
        }
        "b0" | "b1" => {
            view.phase = waiting("CrashLoopBackOff");
            view.last = Some(end(i32::from(code == "b1")));
        }
        number => view.phase = Phase::Terminated(end(number.parse().expect("exit code"))),
    }
}

fn state(pod: &Pod, codes: &[(&str, &str)]) -> PodState {
    let mut state = PodState::new(pod, at(0));
    for (name, code) in codes {
        set(&mut state, name, code);
    }
    state
}

fn check(policy: &str, init: &[(&str, &str)], apps: &[(&str, &str)], expected: &str) {
    let names = |list: &[(&'static str, &str)]| -> Vec<&'static str> {
        list.iter().map(|(name, _)| *name).collect()
    };
    let init: Vec<(&'static str, &str)> = init.iter().map(|(n, c)| (leak(n), *c)).collect();
    let apps: Vec<(&'static str, &str)> = apps.iter().map(|(n, c)| (leak(n), *c)).collect();
    let pod = pod(policy, &names(&init), &names(&apps));
    let all: Vec<(&str, &str)> = init
        .iter()
        .chain(apps.iter())
        .map(|(name, code)| (name.trim_start_matches('+'), *code))
        .collect();
    let state = state(&pod, &all);
    let spec = pod.spec.as_ref().expect("spec");
    assert_eq!(phase(spec, &state, None), expected, "{policy} {all:?}");
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

#[test]
fn phase_follows_the_table_of_8_1() {
    for policy in ["Always", "OnFailure", "Never"] {
        check(policy, &[], &[("a", "w")], "Pending");
        check(policy, &[], &[("a", "r")], "Running");
        check(policy, &[], &[("a", "r"), ("b", "w")], "Pending");
        check(policy, &[], &[("a", "r"), ("b", "0")], "Running");
        check(policy, &[], &[("a", "r"), ("b", "1")], "Running");
        check(policy, &[("i", "r")], &[("a", "w")], "Pending");
        check(policy, &[("i", "0")], &[("a", "r")], "Running");
    }
    check("Always", &[], &[("a", "0")], "Running");
    check("Always", &[], &[("a", "b1")], "Running");
    check("OnFailure", &[], &[("a", "0")], "Succeeded");
    check("OnFailure", &[], &[("a", "1")], "Running");
    check("OnFailure", &[], &[("a", "b1"), ("b", "0")], "Running");
    check("Never", &[], &[("a", "0"), ("b", "0")], "Succeeded");
    check("Never", &[], &[("a", "0"), ("b", "1")], "Failed");
}

/// mini-kubernetes.md 14, row 68.
#[test]
fn row_68_failed_init_container_ends_the_pod_only_under_never() {
    check("Never", &[("i", "1")], &[("a", "w")], "Failed");
    check("Always", &[("i", "1")], &[("a", "w")], "Pending");
    check("OnFailure", &[("i", "b1")], &[("a", "w")], "Pending");
}

#[test]
fn row_68_running_sidecar_does_not_block_completion() {
    check("Never", &[("+s", "r")], &[("a", "0")], "Succeeded");
    check("Never", &[("+s", "w")], &[("a", "w")], "Pending");
    check("Always", &[("+s", "r")], &[("a", "r")], "Running");
    check("Never", &[("+s", "1")], &[("a", "0")], "Succeeded");
}

#[test]
fn succeeded_and_failed_are_never_left() {
    let pod = pod("Always", &[], &["a"]);
    let state = state(&pod, &[("a", "R")]);
    let spec = pod.spec.as_ref().expect("spec");
    assert_eq!(phase(spec, &state, Some("Succeeded")), "Succeeded");
    assert_eq!(phase(spec, &state, Some("Failed")), "Failed");
    assert_eq!(phase(spec, &state, Some("Pending")), "Running");
}

#[test]
fn pod_level_failure_counts_once_everything_stopped() {
    let pod = pod("Always", &[], &["a"]);
    let spec = pod.spec.as_ref().expect("spec");
    let mut state = state(&pod, &[("a", "r")]);
    state.failure = Some(("DeadlineExceeded".into(), String::new()));
    assert_eq!(phase(spec, &state, Some("Running")), "Running");
    set(&mut state, "a", "9");
    assert_eq!(phase(spec, &state, Some("Running")), "Failed");
}

fn condition<'a>(list: &'a [PodCondition], kind: &str) -> &'a PodCondition {
    list.iter().find(|condition| condition.type_ == kind).expect("condition")
}

#[test]
fn unready_containers_are_named_in_the_condition() {
    let pod = pod("Always", &[], &["b", "a"]);
    let mut state = state(&pod, &[("a", "r"), ("b", "w")]);
    state.prepared = true;
    let list = conditions(&pod, &state, "Pending", at(5));
    let ready = condition(&list, "Ready");
    assert_eq!(ready.status, "False");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a b]"));
    assert_eq!(condition(&list, "Initialized").status, "True");
    assert_eq!(condition(&list, "PodReadyToStartContainers").status, "True");
}

#[test]
fn incomplete_init_containers_are_named_in_the_condition() {
    let pod = pod("Always", &["i", "j"], &["a"]);
    let state = state(&pod, &[("i", "0"), ("j", "r"), ("a", "w")]);
    let list = conditions(&pod, &state, "Pending", at(5));
    let initialized = condition(&list, "Initialized");
    assert_eq!(initialized.reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [j]"));
}

#[test]
fn completed_pod_is_not_ready_because_it_completed() {
    let pod = pod("Never", &[], &["a"]);
    let state = state(&pod, &[("a", "0")]);
    let list = conditions(&pod, &state, "Succeeded", at(5));
    assert_eq!(condition(&list, "Ready").reason.as_deref(), Some("PodCompleted"));
    assert_eq!(condition(&list, "Initialized").status, "True");
}

#[test]
fn transition_time_moves_only_with_the_status_and_foreign_conditions_stay() {
    let mut pod = pod("Always", &[], &["a"]);
    let mut state = state(&pod, &[("a", "r")]);
    let first = conditions(&pod, &state, "Running", at(1));
    let mut posted = first.clone();
    posted.push(PodCondition {
        type_: "example.com/gate".into(),
        status: "True".into(),
        ..PodCondition::default()
    });
    pod.status = Some(PodStatus { conditions: Some(posted), ..Default::default() });
    set(&mut state, "a", "R");
    let second = conditions(&pod, &state, "Running", at(9));
    assert_eq!(condition(&second, "Ready").last_transition_time, Some(Time(at(9))));
    assert_eq!(condition(&second, "PodScheduled").last_transition_time, Some(Time(at(1))));
    assert_eq!(condition(&second, "example.com/gate").status, "True");
}

#[test]
fn readiness_gate_without_condition_keeps_the_pod_unready() {
    let mut pod = pod("Always", &[], &["a"]);
    let spec = pod.spec.as_mut().expect("spec");
    spec.readiness_gates = Some(vec![k8s_openapi::api::core::v1::PodReadinessGate {
        condition_type: "example.com/lb".into(),
    }]);
    let state = state(&pod, &[("a", "R")]);
    let list = conditions(&pod, &state, "Running", at(1));
    assert_eq!(condition(&list, "ContainersReady").status, "True");
    assert_eq!(condition(&list, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
}
