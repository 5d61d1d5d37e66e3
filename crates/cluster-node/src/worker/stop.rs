//! Stopping containers: `preStop`, the stop signal, then KILL (mini-kubernetes.md 8.8).

use std::sync::Arc;
use std::time::Duration;

use container_runtime::Signal;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Happening, Worker, all_containers_of, instant, is_changed};
use crate::pods::state::ContainerKind;
use crate::prober::{self, Target};

/// Time that a container gets after a slow `preStop`.
const GRACE_AFTER_HOOK: Duration = Duration::from_secs(2);

impl Worker {
    /// Stops everything for a pod that is being deleted; a shortened grace period counts at once.
    pub(super) fn stop_for_deletion(&mut self, now: Timestamp) {
        self.state.stopping = true;
        self.cancel.send_replace(true);
        // The deletion timestamp is the moment of the end: request plus grace period.
        let deadline = match &self.pod.metadata.deletion_timestamp {
            Some(at) => instant(at.0, now),
            None if !self.deadline_set => Instant::now() + self.grace(),
            None => *self.kill_at.borrow(),
        };
        self.deadline_set = true;
        self.kill_at.send_if_modified(|current| {
            let changed = *current != deadline;
            *current = deadline;
            changed
        });
        self.stop_in_order(None);
    }

    /// Stops what still runs of a pod that has finished or failed.
    pub(super) fn stop_rest(&mut self, grace: Duration) {
        if self.live.is_empty() && self.starting.is_none() {
            return;
        }
        self.cancel.send_replace(true);
        self.stop_in_order(Some(Instant::now() + grace));
    }

    /// App containers at once; then sidecars one by one, last started first.
    fn stop_in_order(&mut self, deadline: Option<Instant>) {
        let Some(spec) = self.pod.spec.clone() else { return };
        let running: Vec<(Container, ContainerKind)> = all_containers_of(&spec)
            .into_iter()
            .filter(|(container, _)| self.live.contains_key(&container.name))
            .map(|(container, kind)| (container.into_owned(), kind))
            .collect();
        let others = running.iter().any(|(_, kind)| *kind != ContainerKind::Sidecar);
        if others {
            for (container, kind) in
                running.iter().filter(|(_, kind)| *kind != ContainerKind::Sidecar)
            {
                self.begin_stop(
                    container,
                    *kind,
                    deadline,
                    format!("Stopping container {}", container.name),
                );
            }
        } else if let Some((container, kind)) = running.last() {
            self.begin_stop(
                container,
                *kind,
                deadline,
                format!("Stopping container {}", container.name),
            );
        }
    }

    /// Stops containers whose image the spec has changed.
    pub(super) fn stop_changed(&mut self) {
        let Some(spec) = self.pod.spec.clone() else { return };
        for (container, kind) in all_containers_of(&spec) {
            let changed = self
                .live
                .get(&container.name)
                .is_some_and(|live| is_changed(&container, &live.record));
            if changed {
                let text =
                    format!("Container {} definition changed, will be restarted", container.name);
                let deadline = Instant::now() + self.grace();
                self.begin_stop(&container, kind, Some(deadline), text);
            }
        }
    }

    /// Begins to stop one container; without a deadline of its own that of the pod counts.
    pub(super) fn begin_stop(
        &mut self,
        container: &Container,
        kind: ContainerKind,
        deadline: Option<Instant>,
        event: String,
    ) {
        let Some(live) = self.live.get_mut(&container.name) else { return };
        if live.stopping {
            return;
        }
        live.stopping = true;
        live.probes.abort_all();
        let path = Some(kind.field_path(&container.name));
        self.shared.recorder.normal(&self.pod, path.clone(), "Killing", event);
        let target = Target {
            runner: live.runner.clone(),
            process: live.record.process.clone(),
            container: Arc::new(container.clone()),
            address: self.shared.address,
        };
        let signal = live.record.stop_signal.parse().unwrap_or(Signal::TERM);
        let deadlines = match deadline {
            Some(deadline) => watch::Sender::new(deadline).subscribe(),
            None => self.kill_at.subscribe(),
        };
        let (shared, pod, happenings) =
            (Arc::clone(&self.shared), Arc::clone(&self.pod), self.happenings.clone());
        self.tasks.spawn(async move {
            if let Err(error) = stop(&target, signal, deadlines).await {
                shared.recorder.warning(
                    &pod,
                    path,
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {error}"),
                );
            }
            let name = target.container.name.clone();
            let _ = happenings.send(Happening::StopEnded { name }).await;
        });
    }
}

/// Stops one container; the error is that of its `preStop` hook.
async fn stop(
    target: &Target,
    signal: Signal,
    mut deadlines: watch::Receiver<Instant>,
) -> Result<(), String> {
    let handler =
        target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let mut hook = Ok(());
    let mut after_hook = None;
    if let Some(handler) = handler {
        tokio::select! {
            result = prober::hook(target, handler) => hook = result,
            () = passed(&mut deadlines, None) => {}
            () = ended(target) => {}
        }
        after_hook = Some(Instant::now() + GRACE_AFTER_HOOK);
    }
    let no_time = *deadlines.borrow() <= Instant::now() && after_hook.is_none();
    if !no_time {
        if let Err(error) = target.runner.signal(signal) {
            tracing::debug!(container = target.runner.id(), %error, "not signalled");
        }
        tokio::select! {
            () = ended(target) => return hook,
            () = passed(&mut deadlines, after_hook) => {}
        }
    }
    if let Err(error) = target.runner.kill_all() {
        tracing::warn!(container = target.runner.id(), %error, "not killed");
    }
    ended(target).await;
    hook
}

/// Returns when the newest deadline, or `at_least`, has passed.
async fn passed(deadlines: &mut watch::Receiver<Instant>, at_least: Option<Instant>) {
    loop {
        let deadline = *deadlines.borrow_and_update();
        let deadline = at_least.map_or(deadline, |least| deadline.max(least));
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return,
            changed = deadlines.changed() => {
                if changed.is_err() {
                    tokio::time::sleep_until(deadline).await;
                    return;
                }
            }
        }
    }
}

/// Returns when the container has ended.
async fn ended(target: &Target) {
    match target.runner.end_watch().map(|end| end.map(crate::descriptors::watch)) {
        Ok(Some(Ok(end))) => {
            let _ = end.readable().await;
        }
        Ok(None) => {}
        Ok(Some(Err(error))) => {
            tracing::error!(container = target.runner.id(), %error, "end not watched")
        }
        Err(error) => tracing::error!(container = target.runner.id(), %error, "end not watched"),
    }
}
