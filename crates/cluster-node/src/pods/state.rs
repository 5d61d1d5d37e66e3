//! What the agent knows about one pod: the state half of (state, input) → (state, output).

use std::borrow::Cow;
use std::collections::BTreeMap;

use image_policy::is_failed_pull;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// Which list of the pod spec a container comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ContainerKind {
    /// `spec.initContainers`, runs to its end before the next one.
    Init,
    /// `spec.initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// `spec.containers`.
    App,
    /// `spec.ephemeralContainers`, runs once, beside whatever else runs.
    Ephemeral,
}

impl ContainerKind {
    /// The event field path of a container of this kind.
    pub(crate) fn field_path(self, name: &str) -> String {
        match self {
            ContainerKind::Init | ContainerKind::Sidecar => {
                format!("spec.initContainers{{{name}}}")
            }
            ContainerKind::App => format!("spec.containers{{{name}}}"),
            ContainerKind::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Termination {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) container_id: Option<String>,
}

impl Termination {
    /// What is reported for a container that vanished without an exit record.
    pub(crate) fn unknown(container_id: Option<String>, now: Timestamp) -> Self {
        Termination {
            exit_code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some(
                "The container could not be located when the pod was terminated".to_owned(),
            ),
            started_at: None,
            finished_at: Some(now),
            container_id,
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not started yet, or waiting to be started again.
    Waiting { reason: String, message: Option<String> },
    /// Its first process runs.
    Running { started_at: Timestamp },
    /// It ended; `Steps` decides whether it starts again.
    Terminated(Termination),
}

/// Everything the status of one container is computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerView {
    pub(crate) phase: Phase,
    /// The termination before the current state.
    pub(crate) last: Option<Termination>,
    pub(crate) restart_count: i32,
    /// Image text: the spec's until created.
    pub(crate) image: String,
    /// Digested reference; empty until created.
    pub(crate) image_id: String,
    /// `<runtime>://<id>`; empty until created.
    pub(crate) container_id: String,
    /// The readiness probe passed (or there is none and the container runs).
    pub(crate) ready: bool,
    /// The startup probe passed (or there is none and the container runs).
    pub(crate) started: bool,
}

impl ContainerView {
    /// A container about which nothing is known yet.
    pub(crate) fn fresh(image: &str, has_init_containers: bool, kind: ContainerKind) -> Self {
        let reason = match (has_init_containers, kind) {
            (true, _) => "PodInitializing",
            (false, _) => "ContainerCreating",
        };
        ContainerView {
            phase: waiting(reason),
            last: None,
            restart_count: 0,
            image: image.to_owned(),
            image_id: String::new(),
            container_id: String::new(),
            ready: false,
            started: false,
        }
    }

    /// Its first process runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// The end that decides about a restart: the current one, or the one before a waiting state.
    pub(crate) fn last_end(&self) -> Option<&Termination> {
        match &self.phase {
            Phase::Terminated(end) => Some(end),
            Phase::Waiting { .. } => self.last.as_ref(),
            Phase::Running { .. } => None,
        }
    }

    /// Whether it waits since a pull failed, so that a pull at once may help.
    pub(crate) fn has_failed_pull(&self) -> bool {
        matches!(&self.phase, Phase::Waiting { reason, .. } if is_failed_pull(reason))
    }

    /// Moves to waiting; a termination becomes the last state.
    pub(crate) fn wait(&mut self, reason: &str, message: Option<String>) {
        let next = Phase::Waiting { reason: reason.to_owned(), message };
        if let Phase::Terminated(end) = std::mem::replace(&mut self.phase, next) {
            self.last = Some(end);
        }
        self.ready = false;
        self.started = false;
    }
}

/// Waiting for `reason`, with no message.
pub(crate) fn waiting(reason: &str) -> Phase {
    Phase::Waiting { reason: reason.to_owned(), message: None }
}

/// What the agent knows about one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodState {
    /// By container name; names are unique over init and app containers.
    pub(crate) containers: BTreeMap<String, ContainerView>,
    /// When the agent first saw the pod.
    pub(crate) start_time: Option<Timestamp>,
    /// Volumes and the pod's directories exist.
    pub(crate) prepared: bool,
    /// Reason and message of a pod-level failure, which is final.
    pub(crate) failure: Option<(String, String)>,
    /// The pod is being stopped; nothing starts any more.
    pub(crate) stopping: bool,
}

impl PodState {
    /// The state of a pod of which no container exists yet.
    pub(crate) fn new(pod: &Pod, now: Timestamp) -> Self {
        let mut state = PodState { start_time: Some(now), ..PodState::default() };
        state.add_missing(pod);
        state
    }

    /// Adds a view for every container of the spec that has none.
    pub(crate) fn add_missing(&mut self, pod: &Pod) {
        let Some(spec) = &pod.spec else { return };
        let init = has_init(spec);
        for (container, kind) in all_containers(spec) {
            self.containers
                .entry(container.name.clone())
                .or_insert_with(|| ContainerView::fresh(image_of(&container), init, kind));
        }
    }

    /// The view of a container of the spec.
    pub(crate) fn view(&self, name: &str) -> Option<&ContainerView> {
        self.containers.get(name)
    }
}

/// The image text of a container.
pub(crate) fn image_of(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

/// The kind of an entry of `spec.initContainers`.
pub(crate) fn init_kind(container: &Container) -> ContainerKind {
    if container.restart_policy.as_deref() == Some("Always") {
        ContainerKind::Sidecar
    } else {
        ContainerKind::Init
    }
}

/// Whether the pod has init containers.
pub(crate) fn has_init(spec: &PodSpec) -> bool {
    spec.init_containers.as_ref().is_some_and(|list| !list.is_empty())
}

/// Init containers, app containers, then ephemeral ones, in spec order.
pub(crate) fn all_containers(
    spec: &PodSpec,
) -> impl Iterator<Item = (Cow<'_, Container>, ContainerKind)> {
    let init = init_containers(spec).map(|c| (Cow::Borrowed(c), init_kind(c)));
    let apps = spec.containers.iter().map(|c| (Cow::Borrowed(c), ContainerKind::App));
    let ephemeral =
        ephemeral_containers(spec).map(|c| (Cow::Owned(as_container(c)), ContainerKind::Ephemeral));
    init.chain(apps).chain(ephemeral)
}

/// Ephemeral containers in spec order.
pub(crate) fn ephemeral_containers(spec: &PodSpec) -> impl Iterator<Item = &EphemeralContainer> {
    spec.ephemeral_containers.iter().flatten()
}

/// An ephemeral container as any other; its target is no part of that. What the API allows no
/// ephemeral container (ports, probes, hooks, resources) is left out.
pub(crate) fn as_container(container: &EphemeralContainer) -> Container {
    let own = container.clone();
    Container {
        args: own.args,
        command: own.command,
        env: own.env,
        env_from: own.env_from,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        name: own.name,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        tty: own.tty,
        volume_devices: own.volume_devices,
        volume_mounts: own.volume_mounts,
        working_dir: own.working_dir,
        ..Container::default()
    }
}

/// Init containers in spec order.
pub(crate) fn init_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten()
}

/// The pod's restart policy; `Always` when unset.
pub(crate) fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_that_waits_since_a_failed_pull_may_pull_at_once() {
        let mut view = ContainerView::fresh("x", false, ContainerKind::App);
        for (reason, expected) in [
            ("ErrImagePull", true),
            ("ImagePullBackOff", true),
            ("RegistryUnavailable", true),
            ("SignatureValidationFailed", true),
            ("ErrImageNeverPull", false),
            ("CrashLoopBackOff", false),
        ] {
            view.wait(reason, None);
            assert_eq!(view.has_failed_pull(), expected, "{reason}");
        }
        view.phase = Phase::Running { started_at: Timestamp::UNIX_EPOCH };
        assert!(!view.has_failed_pull());
    }
}
