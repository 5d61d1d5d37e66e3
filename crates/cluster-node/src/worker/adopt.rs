//! Finding the containers of a pod again after the agent was restarted or killed.

use container_runtime::{Ended, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};

use super::{Live, Worker, all_containers_of, container_id};
use crate::containers;
use crate::directories::RunRecord;
use crate::pods::state::{ContainerKind, ContainerView, Phase, Termination};

impl Worker {
    /// Takes over what runs, and what is known about what ran.
    pub(super) fn adopt(&mut self) {
        let Some(spec) = self.pod.spec.clone() else { return };
        for (container, kind) in all_containers_of(&spec) {
            let name = &container.name;
            let posted = self.posted_status(name).cloned();
            let Some(view) = self.state.containers.get_mut(name) else { continue };
            if let Some(posted) = &posted {
                restore(view, posted);
            }
            let Some(run) = self.shared.directories.runs(&self.uid, name).pop() else {
                if let Phase::Running { .. } = view.phase {
                    let id = Some(view.container_id.clone()).filter(|id| !id.is_empty());
                    view.phase = Phase::Terminated(Termination::unknown(id, Timestamp::now()));
                    view.ready = false;
                }
                continue;
            };
            let run_id = container_id(&run.id);
            let same_run =
                posted.as_ref().and_then(|status| status.container_id.as_deref()) == Some(&run_id);
            let state =
                self.shared.runtime.container(&run.id).map(|runner| (runner.state(), runner));
            match state {
                Some((Ok(State::Running { started_at }), runner)) => {
                    let started_at =
                        Timestamp::try_from(started_at).unwrap_or_else(|_| Timestamp::now());
                    view.phase = Phase::Running { started_at };
                    take_run(view, &run);
                    let before = posted.filter(|_| same_run);
                    view.started = container.startup_probe.is_none()
                        || before.as_ref().and_then(|status| status.started) == Some(true);
                    view.ready = match &before {
                        Some(status) => status.ready,
                        None => view.started && container.readiness_probe.is_none(),
                    };
                    let started = view.started;
                    let live = Live {
                        runner,
                        record: run,
                        probes: tokio::task::JoinSet::new(),
                        stopping: false,
                    };
                    self.live.insert(name.clone(), live);
                    self.state.prepared = true;
                    self.watch_end(name);
                    self.begin_probes(name, started);
                }
                Some((
                    Ok(State::Created | State::Stopped(Ended { exit: None, started_at: None, .. })),
                    runner,
                )) => {
                    // Killed between creation and start: as if it had never been.
                    if let Err(error) = runner.delete() {
                        tracing::warn!(container = run.id, %error, "half-made container not deleted");
                    }
                    let directory = self.shared.directories.run(&self.uid, name, run.restart_count);
                    let _ = std::fs::remove_dir_all(directory);
                }
                Some((Ok(State::Stopped(ended)), _)) => {
                    // A start that was refused is known to the status only.
                    let known = matches!(view.phase, Phase::Terminated(_)) && same_run;
                    take_run(view, &run);
                    if !known {
                        let end = containers::termination(
                            &ended,
                            &run,
                            &container,
                            container_id(&run.id),
                        );
                        view.ready = kind == ContainerKind::Init && end.exit_code == 0;
                        view.phase = Phase::Terminated(end);
                    }
                }
                Some((Err(error), _)) => {
                    tracing::error!(container = run.id, %error, "container not readable");
                }
                // Killed between record and creation, or the container is gone.
                None if same_run && matches!(view.phase, Phase::Terminated(_)) => {}
                None => {
                    let directory = self.shared.directories.run(&self.uid, name, run.restart_count);
                    let _ = std::fs::remove_dir_all(directory);
                }
            }
        }
    }

    fn posted_status(&self, name: &str) -> Option<&ContainerStatus> {
        let status = self.pod.status.as_ref()?;
        let init = status.init_container_statuses.iter().flatten();
        let apps = status.container_statuses.iter().flatten();
        let ephemeral = status.ephemeral_container_statuses.iter().flatten();
        init.chain(apps).chain(ephemeral).find(|status| status.name == name)
    }
}

/// Takes over what the record of a run says.
fn take_run(view: &mut ContainerView, run: &RunRecord) {
    view.restart_count = run.restart_count;
    view.image.clone_from(&run.image);
    view.image_id.clone_from(&run.image_id);
    view.container_id = container_id(&run.id);
}

/// Takes over what the status that was posted last says.
fn restore(view: &mut ContainerView, posted: &ContainerStatus) {
    view.restart_count = posted.restart_count;
    view.container_id = posted.container_id.clone().unwrap_or_default();
    view.image_id.clone_from(&posted.image_id);
    view.ready = posted.ready;
    view.started = posted.started == Some(true);
    view.last = posted.last_state.as_ref().and_then(terminated);
    let Some(state) = &posted.state else { return };
    if let Some(end) = terminated(state) {
        view.phase = Phase::Terminated(end);
    } else if let Some(running) = &state.running {
        let started_at = running.started_at.as_ref().map_or_else(Timestamp::now, |time| time.0);
        view.phase = Phase::Running { started_at };
    } else if let Some(waiting) = &state.waiting {
        view.phase = Phase::Waiting {
            reason: waiting.reason.clone().unwrap_or_default(),
            message: waiting.message.clone(),
        };
    }
}

fn terminated(state: &ContainerState) -> Option<Termination> {
    let ContainerStateTerminated {
        exit_code,
        signal,
        reason,
        message,
        started_at,
        finished_at,
        container_id,
        ..
    } = state.terminated.clone()?;
    Some(Termination {
        exit_code,
        signal,
        reason: reason.unwrap_or_default(),
        message,
        started_at: started_at.map(|time| time.0),
        finished_at: finished_at.map(|time| time.0),
        container_id,
    })
}
