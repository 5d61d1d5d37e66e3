//! The probes of running containers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Probe};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Happening, Worker};
use crate::pods::probes::{Cadence, Passed, ProbeKind, ProbeMachine};
use crate::prober::{self, Target};
use crate::shared::Shared;

/// One probe that runs again and again.
struct Probing {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    target: Target,
    field_path: String,
    kind: ProbeKind,
    probe: Probe,
    happenings: mpsc::Sender<Happening>,
}

impl Worker {
    /// Begins the startup probe, or, once it has passed, the others.
    pub(super) fn begin_probes(&mut self, name: &str, startup_passed: bool) {
        let Some((container, kind)) = self.container(name) else { return };
        let Some(live) = self.live.get_mut(name) else { return };
        let probes = if startup_passed {
            [
                (ProbeKind::Readiness, container.readiness_probe.clone()),
                (ProbeKind::Liveness, container.liveness_probe.clone()),
            ]
        } else {
            [(ProbeKind::Startup, container.startup_probe.clone()), (ProbeKind::Startup, None)]
        };
        let container = Arc::new(container);
        for (probe_kind, probe) in probes {
            let Some(probe) = probe else { continue };
            let probing = Probing {
                shared: Arc::clone(&self.shared),
                pod: Arc::clone(&self.pod),
                target: Target {
                    runner: live.runner.clone(),
                    process: live.record.process.clone(),
                    container: Arc::clone(&container),
                    address: self.shared.address,
                },
                field_path: kind.field_path(name),
                kind: probe_kind,
                probe,
                happenings: self.happenings.clone(),
            };
            live.probes.spawn(probing.run());
        }
    }

    pub(super) fn take_probe(&mut self, name: &str, id: &str, kind: ProbeKind, passed: Passed) {
        let Some((container, container_kind)) = self.container(name) else { return };
        let stopping = match self.live.get(name) {
            Some(live) if live.record.id == id => live.stopping,
            _ => return,
        };
        let Some(view) = self.state.containers.get_mut(name) else { return };
        match (kind, passed) {
            (ProbeKind::Readiness, passed) => view.ready = passed == Passed::Yes && view.started,
            (ProbeKind::Startup, Passed::Yes) => {
                view.started = true;
                view.ready = container.readiness_probe.is_none();
                self.begin_probes(name, true);
            }
            (ProbeKind::Liveness, Passed::Yes) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, Passed::No) if !stopping => {
                view.ready = false;
                let probe = match kind {
                    ProbeKind::Startup => container.startup_probe.as_ref(),
                    ProbeKind::Liveness | ProbeKind::Readiness => container.liveness_probe.as_ref(),
                };
                let grace = probe
                    .and_then(|probe| probe.termination_grace_period_seconds)
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .map_or_else(|| self.grace(), std::time::Duration::from_secs);
                let word = kind.word().to_lowercase();
                let text = format!("Container {name} failed {word} probe, will be restarted");
                self.begin_stop(&container, container_kind, Some(Instant::now() + grace), text);
            }
            (ProbeKind::Startup | ProbeKind::Liveness, Passed::No) => {}
        }
    }
}

impl Probing {
    async fn run(self) {
        let cadence = Cadence::of(&self.probe);
        let mut machine = ProbeMachine::new(cadence);
        tokio::time::sleep(cadence.initial_delay).await;
        let mut ticks = tokio::time::interval(cadence.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = prober::probe(&self.target, &self.probe, cadence.timeout).await;
            if outcome.passed == Passed::No {
                let text = format!("{} probe failed: {}", self.kind.word(), outcome.output);
                let path = Some(self.field_path.clone());
                self.shared.recorder.warning(&self.pod, path, "Unhealthy", text);
            }
            let Some(passed) = machine.observe(outcome.passed) else { continue };
            let happening = Happening::Probed {
                name: self.target.container.name.clone(),
                id: self.target.runner.id().to_owned(),
                kind: self.kind,
                passed,
            };
            if self.happenings.send(happening).await.is_err() {
                return;
            }
            let over = match self.kind {
                ProbeKind::Startup => true,
                ProbeKind::Liveness => passed == Passed::No,
                ProbeKind::Readiness => false,
            };
            if over {
                return;
            }
        }
    }
}
