use serde_json::json;

use super::*;
use crate::pods::state::{PodState, Termination, waiting};
use k8s_openapi::api::core::v1::Pod;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
}

/// Containers as `name:state`, init containers before `|`, sidecars with `+`; states as letters:
/// `w` never started, `r` running and started, `s` running but startup not passed, digits exit code.
fn check(policy: &str, text: &str, expected: &str) {
    let (init, apps) = text.split_once('|').unwrap_or(("", text));
    let names = |part: &str| -> Vec<serde_json::Value> {
        part.split_whitespace()
            .map(|word| {
                let name = word.split(':').next().unwrap_or_default();
                match name.strip_prefix('+') {
                    Some(name) => json!({"name": name, "restartPolicy": "Always"}),
                    None => json!({"name": name}),
                }
            })
            .collect()
    };
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {},
        "spec": {"restartPolicy": policy, "initContainers": names(init), "containers": names(apps)},
    }))
    .expect("pod");
    let mut state = PodState::new(&pod, at(0));
    for word in init.split_whitespace().chain(apps.split_whitespace()) {
        let (name, code) = word.trim_start_matches('+').split_once(':').expect("name:state");
        let view = state.containers.get_mut(name).expect("container");
        match code {
            "w" => view.phase = waiting("ContainerCreating"),
            "r" | "s" => {
                view.phase = Phase::Running { started_at: at(0) };
                view.started = code == "r";
            }
            number => {
                view.phase = Phase::Terminated(Termination {
                    exit_code: number.parse().expect("code"),
                    signal: None,
                    reason: "Error".into(),
                    message: None,
                    started_at: Some(at(0)),
                    finished_at: Some(at(0)),
                    container_id: None,
                });
            }
        }
    }
    let spec = pod.spec.as_ref().expect("spec");
    let plan = plan(spec, &state, &Schedule::default(), at(1));
    let shown = match (plan.start, plan.finished) {
        (Some((container, _)), _) => format!("start {}", container.name),
        (None, true) => "finished".to_owned(),
        (None, false) => "idle".to_owned(),
    };
    assert_eq!(shown, expected, "{policy} {text}");
}

/// mini-kubernetes.md 14, row 68: init containers in order, each to exit 0.
#[test]
fn row_68_init_containers_run_one_after_the_other() {
    check("Always", "i:w j:w | a:w", "start i");
    check("Always", "i:r j:w | a:w", "idle");
    check("Always", "i:0 j:w | a:w", "start j");
    check("Always", "i:0 j:0 | a:w b:w", "start a");
    check("Always", "i:0 j:0 | a:r b:w", "start b");
}

#[test]
fn row_68_failed_init_container_is_retried_unless_never() {
    check("Always", "i:1 | a:w", "start i");
    check("OnFailure", "i:1 | a:w", "start i");
    check("Never", "i:1 | a:w", "finished");
}

#[test]
fn row_68_sidecar_starts_before_the_next_and_blocks_until_its_startup_probe_passed() {
    check("Never", "+s:w i:w | a:w", "start s");
    check("Never", "+s:s i:w | a:w", "idle");
    check("Never", "+s:r i:w | a:w", "start i");
    check("Never", "+s:r i:0 | a:w", "start a");
}

#[test]
fn row_68_sidecar_is_restarted_while_apps_run_and_not_after() {
    check("Never", "+s:1 i:0 | a:r", "start s");
    check("Never", "+s:0 i:0 | a:r", "start s");
    check("Never", "+s:1 i:0 | a:0", "finished");
    check("Never", "+s:r i:0 | a:1", "finished");
}

#[test]
fn restart_policy_decides_about_ended_containers() {
    check("Always", "a:0", "start a");
    check("Always", "a:1", "start a");
    check("OnFailure", "a:0", "finished");
    check("OnFailure", "a:1", "start a");
    check("OnFailure", "a:0 b:1", "start b");
    check("Never", "a:0", "finished");
    check("Never", "a:1", "finished");
    check("Never", "a:1 b:r", "idle");
    check("Never", "a:1 b:w", "start b");
}

#[test]
fn container_in_back_off_waits_and_the_next_one_starts() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
    }))
    .expect("pod");
    let mut state = PodState::new(&pod, at(0));
    state.containers.get_mut("a").expect("a").phase =
        Phase::Terminated(Termination::unknown(None, at(10)));
    let mut schedule = Schedule::default();
    schedule.back_off.restarted("a", at(5), at(5));
    schedule.back_off.restarted("a", at(7), at(7));
    let spec = pod.spec.as_ref().expect("spec");
    let plan = plan(spec, &state, &schedule, at(11));
    assert_eq!(plan.start.map(|(container, _)| container.name.as_str()), Some("b"));
    assert_eq!(plan.backing_off.len(), 1);
    assert_eq!(plan.wake, Some(at(30)));
}

#[test]
fn failed_start_is_not_tried_before_its_time() {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}}))
            .expect("pod");
    let state = PodState::new(&pod, at(0));
    let mut schedule = Schedule::default();
    schedule.retry_at.insert("a".into(), at(10));
    let spec = pod.spec.as_ref().expect("spec");
    let early = plan(spec, &state, &schedule, at(9));
    assert_eq!((early.start, early.wake, early.finished), (None, Some(at(10)), false));
    assert!(plan(spec, &state, &schedule, at(10)).start.is_some());
}

#[test]
fn ephemeral_container_runs_once_whatever_the_others_do() {
    let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
        "initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
        "ephemeralContainers": [{"name": "d"}, {"name": "e"}],
    }}))
    .expect("pod");
    let spec = pod.spec.as_ref().expect("spec");
    let mut state = PodState::new(&pod, at(0));
    let next = |state: &PodState| {
        let plan = plan(spec, state, &Schedule::default(), at(1));
        plan.start_ephemeral.map(|container| container.name.clone())
    };
    assert_eq!(next(&state).as_deref(), Some("d"), "while the init container has not run");
    state.containers.get_mut("d").expect("d").phase = Phase::Running { started_at: at(0) };
    assert_eq!(next(&state).as_deref(), Some("e"));
    let ended = Phase::Terminated(Termination::unknown(None, at(0)));
    for name in ["d", "e"] {
        state.containers.get_mut(name).expect(name).phase = ended.clone();
    }
    assert_eq!(next(&state), None, "not again, although the pod restarts its containers");
    state.containers.get_mut("d").expect("d").phase = waiting("ContainerCreating");
    state.stopping = true;
    assert_eq!(next(&state), None);
}

#[test]
fn stopping_pod_starts_nothing() {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}}))
            .expect("pod");
    let mut state = PodState::new(&pod, at(0));
    state.stopping = true;
    let spec = pod.spec.as_ref().expect("spec");
    assert_eq!(plan(spec, &state, &Schedule::default(), at(1)).start, None);
}
