//! The PodStatus that a state amounts to, and whether it differs from what was posted
//! (mini-kubernetes.md 8.1, 8.2).

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::phase;
use super::state::{
    ContainerView, Phase, PodState, Termination, as_container, ephemeral_containers,
    init_containers,
};

/// Builds the status to post for `pod`.
pub(crate) fn build(pod: &Pod, state: &PodState, node_ip: IpAddr, now: Timestamp) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let Some(spec) = &pod.spec else { return before };
    let phase = phase::phase(spec, state, before.phase.as_deref());
    let mut apps: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .filter_map(|container| Some(container_status(container, state.view(&container.name)?)))
        .collect();
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    let init: Vec<ContainerStatus> = init_containers(spec)
        .filter_map(|container| Some(container_status(container, state.view(&container.name)?)))
        .collect();
    let ephemeral: Vec<ContainerStatus> = ephemeral_containers(spec)
        .filter_map(|container| {
            let status = container_status(&as_container(container), state.view(&container.name)?);
            // No probe tells how they are.
            Some(ContainerStatus { ready: false, started: None, ..status })
        })
        .collect();
    let ip = node_ip.to_string();
    let has_ip = state.prepared || before.pod_ip.is_some();
    let (reason, message) = match &state.failure {
        Some((reason, message)) => (Some(reason.clone()), Some(message.clone())),
        None => (None, None),
    };
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(phase::conditions(pod, state, phase, now)),
        container_statuses: Some(apps),
        init_container_statuses: if init.is_empty() { None } else { Some(init) },
        ephemeral_container_statuses: if ephemeral.is_empty() { None } else { Some(ephemeral) },
        host_ip: Some(ip.clone()),
        host_ips: Some(vec![HostIP { ip: ip.clone() }]),
        pod_ip: has_ip.then(|| ip.clone()),
        pod_ips: has_ip.then(|| vec![PodIP { ip }]),
        start_time: before.start_time.clone().or(state.start_time.map(Time)),
        reason,
        message,
        observed_generation: pod.metadata.generation,
        ..before
    }
}

fn container_status(container: &Container, view: &ContainerView) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        image: view.image.clone(),
        image_id: view.image_id.clone(),
        container_id: (!view.container_id.is_empty()).then(|| view.container_id.clone()),
        ready: view.ready,
        started: Some(view.started),
        restart_count: view.restart_count,
        state: Some(state_of(&view.phase)),
        last_state: Some(
            view.last
                .as_ref()
                .map(|end| ContainerState {
                    terminated: Some(terminated(end)),
                    ..ContainerState::default()
                })
                .unwrap_or_default(),
        ),
        ..ContainerStatus::default()
    }
}

fn state_of(phase: &Phase) -> ContainerState {
    match phase {
        Phase::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        Phase::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
            ..ContainerState::default()
        },
        Phase::Terminated(end) => {
            ContainerState { terminated: Some(terminated(end)), ..ContainerState::default() }
        }
    }
}

fn terminated(end: &Termination) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: end.exit_code,
        signal: end.signal,
        reason: Some(end.reason.clone()),
        message: end.message.clone(),
        started_at: end.started_at.map(Time),
        finished_at: end.finished_at.map(Time),
        container_id: end.container_id.clone(),
    }
}

/// Whether two statuses say the same; times are compared to the second, as they are stored.
pub(crate) fn same(a: &PodStatus, b: &PodStatus) -> bool {
    let (Ok(mut a), Ok(mut b)) = (serde_json::to_value(a), serde_json::to_value(b)) else {
        return false;
    };
    cut_times(&mut a);
    cut_times(&mut b);
    a == b
}

/// Cuts fractions of seconds and drops nulls and empty containers of nothing.
fn cut_times(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                *text = Timestamp::from_second(time.as_second())
                    .map(|time| time.to_string())
                    .unwrap_or_default();
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(cut_times),
        serde_json::Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(cut_times);
            map.retain(|_, value| !value.as_object().is_some_and(serde_json::Map::is_empty));
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
