use serde_json::json;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "b", "image": "x"}, {"name": "a", "image": "y"}],
                 "initContainers": [{"name": "z", "image": "i"}, {"name": "k", "image": "i"}]},
        "status": {"qosClass": "BestEffort", "phase": "Pending"},
    }))
    .expect("pod")
}

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

#[test]
fn main_containers_are_sorted_by_name_and_init_containers_keep_spec_order() {
    let pod = pod();
    let status = build(&pod, &PodState::new(&pod, at(0)), IP, at(0));
    let names = |list: Option<Vec<ContainerStatus>>| -> Vec<String> {
        list.unwrap_or_default().into_iter().map(|status| status.name).collect()
    };
    assert_eq!(names(status.container_statuses), ["a", "b"]);
    assert_eq!(names(status.init_container_statuses), ["z", "k"]);
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.host_ip.as_deref(), Some("10.0.0.7"));
    assert_eq!(status.pod_ip, None);
}

#[test]
fn containers_of_a_pod_with_init_containers_wait_as_pod_initializing() {
    let pod = pod();
    let status = build(&pod, &PodState::new(&pod, at(0)), IP, at(0));
    let first = status.container_statuses.and_then(|list| list.into_iter().next()).expect("one");
    let waiting = first.state.and_then(|state| state.waiting).expect("waiting");
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
}

#[test]
fn waiting_after_a_crash_keeps_the_end_as_last_state() {
    let pod = pod();
    let mut state = PodState::new(&pod, at(0));
    let view = state.containers.get_mut("a").expect("a");
    view.phase =
        Phase::Terminated(Termination { exit_code: 3, ..Termination::unknown(None, at(4)) });
    view.wait("CrashLoopBackOff", Some("back-off".into()));
    let status = build(&pod, &state, IP, at(5));
    let a = status.container_statuses.and_then(|list| list.into_iter().next()).expect("a");
    assert_eq!(a.last_state.and_then(|s| s.terminated).map(|t| t.exit_code), Some(3));
    assert_eq!(
        a.state.and_then(|s| s.waiting).and_then(|w| w.reason).as_deref(),
        Some("CrashLoopBackOff")
    );
}

#[test]
fn pod_ip_is_the_nodes_once_prepared_and_start_time_never_moves() {
    let mut pod = pod();
    let mut state = PodState::new(&pod, at(3));
    state.prepared = true;
    let status = build(&pod, &state, IP, at(5));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.7"));
    assert_eq!(status.start_time, Some(Time(at(3))));
    pod.status = Some(status);
    state.start_time = Some(at(99));
    assert_eq!(build(&pod, &state, IP, at(100)).start_time, Some(Time(at(3))));
}

#[test]
fn unchanged_state_gives_the_same_status() {
    let mut pod = pod();
    let state = PodState::new(&pod, at(0));
    let first = build(&pod, &state, IP, at(1));
    // What the server returns: whole seconds, no empty objects.
    let stored: PodStatus =
        serde_json::from_value(serde_json::to_value(&first).expect("json")).expect("status");
    pod.status = Some(stored.clone());
    let later = build(&pod, &state, IP, at(50));
    assert!(same(&stored, &later));
    let mut other = state.clone();
    other.containers.get_mut("a").expect("a").ready = true;
    assert!(!same(&stored, &build(&pod, &other, IP, at(50))));
}

#[test]
fn ephemeral_container_has_a_status_of_its_own_and_is_never_ready() {
    let mut pod = pod();
    let none = build(&pod, &PodState::new(&pod, at(0)), IP, at(0));
    assert_eq!(none.ephemeral_container_statuses, None);
    let debug = json!([{"name": "debug", "image": "busybox"}]);
    let spec = pod.spec.as_mut().expect("a spec");
    spec.ephemeral_containers = Some(serde_json::from_value(debug).expect("containers"));
    let mut state = PodState::new(&pod, at(0));
    let view = state.containers.get_mut("debug").expect("a view");
    view.phase = Phase::Running { started_at: at(1) };
    (view.ready, view.started) = (true, true);
    let status = build(&pod, &state, IP, at(2));
    let shown = serde_json::to_value(&status.ephemeral_container_statuses).expect("json");
    assert_eq!(shown[0]["name"], "debug");
    assert_eq!(shown[0]["state"]["running"]["startedAt"], at(1).to_string());
    assert_eq!((&shown[0]["ready"], &shown[0]["started"]), (&json!(false), &json!(null)));
    assert_eq!(
        status.container_statuses.map(|list| list.len()),
        Some(2),
        "and is in no other list"
    );
}
