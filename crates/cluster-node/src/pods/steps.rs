//! What to do next for a pod that is not being deleted: a pure decision over spec and state.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use super::restart::{CrashBackOff, Restart};
use super::state::{
    ContainerKind, ContainerView, Phase, PodState, ephemeral_containers, init_containers,
    init_kind, restart_policy,
};

/// Retry times that outlive one decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Crash back-off by container.
    pub(crate) back_off: CrashBackOff,
    /// Containers whose start failed before they were created, and when to try again.
    pub(crate) retry_at: BTreeMap<String, Timestamp>,
}

/// The next thing to do.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan<'a> {
    /// Start this container now.
    pub(crate) start: Option<(&'a Container, ContainerKind)>,
    /// Start this ephemeral container now; it waits for no other container.
    pub(crate) start_ephemeral: Option<&'a EphemeralContainer>,
    /// Containers held back by crash back-off, with the length of the window.
    pub(crate) backing_off: Vec<(&'a Container, ContainerKind, SignedDuration)>,
    /// Decide again at this time at the latest.
    pub(crate) wake: Option<Timestamp>,
    /// Nothing of this pod will run again: sidecars may stop.
    pub(crate) finished: bool,
}

impl Plan<'_> {
    fn wake_at(&mut self, when: Timestamp) {
        self.wake = Some(self.wake.map_or(when, |other| other.min(when)));
    }
}

/// What one container asks for.
enum Need {
    Start,
    Nothing,
    BackOff(Timestamp, SignedDuration),
    Retry(Timestamp),
}

/// Decides what to do next.
pub(crate) fn plan<'a>(
    spec: &'a PodSpec,
    state: &PodState,
    schedule: &Schedule,
    now: Timestamp,
) -> Plan<'a> {
    let mut plan = plan_containers(spec, state, schedule, now);
    if plan.finished {
        return plan;
    }
    for container in ephemeral_containers(spec) {
        // One that has ended once is never started again.
        let view = state.view(&container.name).filter(|view| view.last_end().is_none());
        match view.map(|view| need(&container.name, view, schedule, now)) {
            Some(Need::Start) => {
                plan.start_ephemeral.get_or_insert(container);
            }
            Some(Need::Retry(at) | Need::BackOff(at, _)) => plan.wake_at(at),
            Some(Need::Nothing) | None => {}
        }
    }
    plan
}

/// The same without ephemeral containers.
fn plan_containers<'a>(
    spec: &'a PodSpec,
    state: &PodState,
    schedule: &Schedule,
    now: Timestamp,
) -> Plan<'a> {
    let mut plan = Plan::default();
    if state.stopping || state.failure.is_some() {
        plan.finished = true;
        return plan;
    }
    let apps_began = spec.containers.iter().any(|container| {
        state
            .view(&container.name)
            .is_some_and(|view| view.is_running() || view.last_end().is_some())
    });
    if !init_step(spec, state, schedule, now, apps_began, &mut plan) {
        return plan;
    }
    let mut all_done = true;
    for container in &spec.containers {
        let Some(view) = state.view(&container.name) else { continue };
        let again = wants_to_run(view, restart_policy(spec));
        all_done &= !again && !view.is_running();
        if again {
            apply(
                need(&container.name, view, schedule, now),
                container,
                ContainerKind::App,
                &mut plan,
            );
        }
    }
    if all_done {
        plan.finished = true;
        plan.start = None;
    }
    plan
}

/// Handles the init containers; returns whether the app containers may run.
fn init_step<'a>(
    spec: &'a PodSpec,
    state: &PodState,
    schedule: &Schedule,
    now: Timestamp,
    apps_began: bool,
    plan: &mut Plan<'a>,
) -> bool {
    for container in init_containers(spec) {
        let Some(view) = state.view(&container.name) else { continue };
        let kind = init_kind(container);
        match kind {
            ContainerKind::Sidecar => {
                if !view.is_running() {
                    apply(need(&container.name, view, schedule, now), container, kind, plan);
                }
                let passed = view.started || view.last_end().is_some() || apps_began;
                if !passed {
                    return false;
                }
            }
            ContainerKind::Init | ContainerKind::App | ContainerKind::Ephemeral => {
                if apps_began {
                    continue;
                }
                match view.last_end() {
                    Some(end)
                        if end.exit_code == 0 && matches!(view.phase, Phase::Terminated(_)) =>
                    {
                        continue;
                    }
                    Some(_)
                        if restart_policy(spec) == "Never"
                            && matches!(view.phase, Phase::Terminated(_)) =>
                    {
                        plan.finished = true;
                        plan.start = None;
                        return false;
                    }
                    _ => {}
                }
                if !view.is_running() {
                    apply(need(&container.name, view, schedule, now), container, kind, plan);
                }
                return false;
            }
        }
    }
    true
}

/// Whether a container that does not run has to run (again).
fn wants_to_run(view: &ContainerView, policy: &str) -> bool {
    if view.is_running() {
        return false;
    }
    match (view.last_end(), policy) {
        (None, _) | (Some(_), "Always") => true,
        (Some(end), "OnFailure") => end.exit_code != 0,
        (Some(_), _) => false,
    }
}

fn need(name: &str, view: &ContainerView, schedule: &Schedule, now: Timestamp) -> Need {
    if let Some(at) = schedule.retry_at.get(name)
        && *at > now
    {
        return Need::Retry(*at);
    }
    let Some(ended) = view.last_end().and_then(|end| end.finished_at) else {
        return if view.is_running() { Need::Nothing } else { Need::Start };
    };
    match schedule.back_off.check(name, ended, now) {
        Restart::Now => Need::Start,
        Restart::At { until, delay } => Need::BackOff(until, delay),
    }
}

fn apply<'a>(need: Need, container: &'a Container, kind: ContainerKind, plan: &mut Plan<'a>) {
    match need {
        Need::Start if plan.start.is_none() => plan.start = Some((container, kind)),
        Need::Start | Need::Nothing => {}
        Need::Retry(at) => plan.wake_at(at),
        Need::BackOff(until, delay) => {
            plan.backing_off.push((container, kind, delay));
            plan.wake_at(until);
        }
    }
}

#[cfg(test)]
mod tests;
