//! Phase and conditions of a pod (mini-kubernetes.md 8.1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::state::{
    ContainerKind, Phase, PodState, all_containers, init_containers, init_kind, restart_policy,
};

/// Condition types that the agent owns; all others are kept as they are.
const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The phase that the states of the containers amount to.
///
/// `previous` is the phase last posted: `Succeeded` and `Failed` are final.
pub(crate) fn phase(spec: &PodSpec, state: &PodState, previous: Option<&str>) -> &'static str {
    match previous {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let all_stopped = state.containers.values().all(|view| !view.is_running());
    if state.failure.is_some() && all_stopped {
        return "Failed";
    }
    let policy = restart_policy(spec);
    let mut init_pending = false;
    let mut init_failed = false;
    for container in init_containers(spec) {
        let Some(view) = state.view(&container.name) else {
            init_pending = true;
            continue;
        };
        match init_kind(container) {
            ContainerKind::Sidecar => {
                // A sidecar that never started still holds the others back.
                init_pending |= matches!(view.phase, Phase::Waiting { .. }) && view.last.is_none();
            }
            ContainerKind::Init | ContainerKind::App | ContainerKind::Ephemeral => {
                match &view.phase {
                    Phase::Terminated(end) if end.exit_code == 0 => {}
                    Phase::Terminated(_) if policy == "Never" => init_failed = true,
                    Phase::Terminated(_) | Phase::Running { .. } | Phase::Waiting { .. } => {
                        init_pending = true;
                    }
                }
            }
        }
    }
    if init_failed {
        return "Failed";
    }
    let (mut running, mut waiting, mut succeeded, mut failed) = (0, 0, 0, 0);
    for container in &spec.containers {
        match state.view(&container.name).map(|view| (&view.phase, &view.last)) {
            None => waiting += 1,
            Some((Phase::Running { .. }, _)) => running += 1,
            Some((Phase::Terminated(end), _)) if end.exit_code == 0 => succeeded += 1,
            Some((Phase::Terminated(_), _)) => failed += 1,
            // Waiting between two runs counts as stopped, not as never started.
            Some((Phase::Waiting { .. }, Some(end))) if end.exit_code == 0 => succeeded += 1,
            Some((Phase::Waiting { .. }, Some(_))) => failed += 1,
            Some((Phase::Waiting { .. }, None)) => waiting += 1,
        }
    }
    let anything_began = running + succeeded + failed > 0;
    if init_pending && !anything_began {
        return if state.stopping && all_stopped && policy == "Never" {
            "Failed"
        } else {
            "Pending"
        };
    }
    if waiting > 0 && !state.stopping {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if state.stopping && all_stopped {
        return if failed == 0 && waiting == 0 { "Succeeded" } else { "Failed" };
    }
    match policy {
        "Always" => "Running",
        _ if failed == 0 => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

/// One condition as the agent wants it, before times are filled in.
struct Wanted {
    kind: &'static str,
    /// Holds, or the reason and the message why not.
    result: Result<Option<&'static str>, (&'static str, Option<String>)>,
}

/// The conditions for a phase: the agent's own computed, foreign ones kept, transition times moved
/// only when the status changes.
pub(crate) fn conditions(
    pod: &Pod,
    state: &PodState,
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let existing =
        pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let initialized = initialized(spec, state, phase);
    let containers_ready = containers_ready(spec, state, phase);
    let ready = match &containers_ready {
        Ok(reason) => readiness_gates(spec, existing).map(|()| *reason),
        Err(error) => Err(error.clone()),
    };
    let wanted = [
        Wanted {
            kind: "PodReadyToStartContainers",
            result: if state.prepared && !is_final(phase) { Ok(None) } else { Err(("", None)) },
        },
        Wanted { kind: "Initialized", result: initialized },
        Wanted { kind: "Ready", result: ready },
        Wanted { kind: "ContainersReady", result: containers_ready },
        Wanted { kind: "PodScheduled", result: Ok(None) },
    ];
    let mut conditions: Vec<PodCondition> =
        wanted.into_iter().map(|wanted| stamp(pod, wanted, existing, now)).collect();
    conditions.extend(
        existing.iter().filter(|condition| !OWNED.contains(&condition.type_.as_str())).cloned(),
    );
    conditions
}

/// Replaces the conditions that others own by those of `theirs`.
pub(crate) fn take_foreign_conditions(own: &mut PodStatus, theirs: &PodStatus) {
    let is_owned = |condition: &PodCondition| OWNED.contains(&condition.type_.as_str());
    let mut conditions = own.conditions.take().unwrap_or_default();
    conditions.retain(is_owned);
    let foreign = theirs.conditions.iter().flatten().filter(|condition| !is_owned(condition));
    conditions.extend(foreign.cloned());
    own.conditions = Some(conditions);
}

fn is_final(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn stamp(pod: &Pod, wanted: Wanted, existing: &[PodCondition], now: Timestamp) -> PodCondition {
    let (status, reason, message) = match wanted.result {
        Ok(reason) => ("True", reason.map(str::to_owned), None),
        Err(("", message)) => ("False", None, message),
        Err((reason, message)) => ("False", Some(reason.to_owned()), message),
    };
    let before = existing.iter().find(|condition| condition.type_ == wanted.kind);
    let since = match before {
        Some(before) if before.status == status => before.last_transition_time.clone(),
        _ => Some(Time(now)),
    };
    PodCondition {
        type_: wanted.kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_probe_time: None,
        last_transition_time: since.or(Some(Time(now))),
        observed_generation: pod.metadata.generation,
    }
}

type ConditionResult = Result<Option<&'static str>, (&'static str, Option<String>)>;

fn initialized(spec: &PodSpec, state: &PodState, phase: &str) -> ConditionResult {
    if phase == "Succeeded" {
        return Ok(Some("PodCompleted"));
    }
    let unfinished: Vec<&str> = init_containers(spec)
        .filter(|container| {
            let view = state.view(&container.name);
            match init_kind(container) {
                ContainerKind::Sidecar => {
                    !view.is_some_and(|view| view.started || view.last.is_some())
                }
                ContainerKind::Init | ContainerKind::App | ContainerKind::Ephemeral => !view
                    .is_some_and(
                        |view| matches!(&view.phase, Phase::Terminated(end) if end.exit_code == 0),
                    ),
            }
        })
        .map(|container| container.name.as_str())
        .collect();
    if unfinished.is_empty() {
        return Ok(None);
    }
    if phase == "Failed" {
        return Err(("PodFailed", None));
    }
    Err((
        "ContainersNotInitialized",
        Some(format!("containers with incomplete status: [{}]", unfinished.join(" "))),
    ))
}

fn containers_ready(spec: &PodSpec, state: &PodState, phase: &str) -> ConditionResult {
    match phase {
        "Succeeded" => return Err(("PodCompleted", None)),
        "Failed" => return Err(("PodFailed", None)),
        _ => {}
    }
    let mut unready: Vec<String> = all_containers(spec)
        .filter(|(_, kind)| matches!(kind, ContainerKind::Sidecar | ContainerKind::App))
        .filter(|(container, _)| !state.view(&container.name).is_some_and(|view| view.ready))
        .map(|(container, _)| container.name.clone())
        .collect();
    unready.sort_unstable();
    if unready.is_empty() {
        return Ok(None);
    }
    Err((
        "ContainersNotReady",
        Some(format!("containers with unready status: [{}]", unready.join(" "))),
    ))
}

fn readiness_gates(
    spec: &PodSpec,
    existing: &[PodCondition],
) -> Result<(), (&'static str, Option<String>)> {
    let mut open = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let kind = gate.condition_type.as_str();
        match existing.iter().find(|condition| condition.type_ == kind) {
            None => open.push(format!(
                "corresponding condition of pod readiness gate \"{kind}\" does not exist."
            )),
            Some(condition) if condition.status != "True" => open.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                condition.status
            )),
            Some(_) => {}
        }
    }
    if open.is_empty() { Ok(()) } else { Err(("ReadinessGatesNotReady", Some(open.join(", ")))) }
}

#[cfg(test)]
mod tests;
