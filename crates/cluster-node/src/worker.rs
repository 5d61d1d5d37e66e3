//! One task per pod: everything that happens to a pod goes through its loop, in order.
//!
//! Long work (volumes, image and start, stop, probes) runs beside the loop and reports back as a
//! [`Happening`]; the loop alone changes the state, decides with [`steps::plan`] and posts the
//! status.

mod adopt;
mod probing;
mod pulling;
pub(crate) mod secrets;
mod start;
mod stop;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use container_runtime::{Container as Runner, Ended};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::pulling::HeldImages;
use crate::containers;
use crate::directories::RunRecord;
use crate::images::ensure::NotYet;
use crate::images::store::LocalImage;
use crate::pods::probes::{Passed, ProbeKind};
use crate::pods::restart::back_off_message;
use crate::pods::state::{
    ContainerKind, Phase, PodState, Termination, all_containers, as_container, image_of,
};
use crate::pods::steps::{self, Schedule};
use crate::pods::{phase, status};
use crate::process::security::full_name;
use crate::shared::Shared;
use crate::volumes::content;
use crate::volumes::image::ImageVolumes;
use crate::volumes::setup::{self, TokenCache, VolumeError, VolumePlace};

/// Reports that may wait for the loop.
const HAPPENINGS_MAX: usize = 64;
/// First delay after volumes could not be made.
const VOLUME_RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest delay after volumes could not be made.
const VOLUME_RETRY_MAX: Duration = Duration::from_secs(122);
/// Delay before an unanswered status is posted again.
const POST_RETRY: Duration = Duration::from_secs(1);
/// Delay after which a start that failed for its configuration is tried again.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Waiting reason of a container that cannot be made as its spec says.
const CONFIG_ERROR: &str = "CreateContainerConfigError";
/// Grace period of a pod that names none.
const GRACE_DEFAULT_SECONDS: i64 = 30;

/// What the dispatcher tells a worker; only the newest counts.
#[derive(Clone, Debug)]
pub(crate) struct PodInput {
    pub(crate) pod: Arc<Pod>,
    /// The API server no longer has the pod.
    pub(crate) gone: bool,
}

/// What others may see of a pod.
#[derive(Clone, Debug)]
pub(crate) struct PodView {
    pub(crate) pod: Arc<Pod>,
}

/// Something that happened beside the loop.
pub(crate) enum Happening {
    /// Volumes were made, or not.
    Volumes { tokens: TokenCache, result: Result<BTreeMap<String, VolumePlace>, VolumeError> },
    /// A container runs.
    Started { name: String, runner: Runner, record: Box<RunRecord> },
    /// The work of starting a container has ended.
    StartEnded { name: String, outcome: StartOutcome },
    /// A container has ended.
    Exited { name: String, id: String, ended: Ended },
    /// A probe crossed a threshold.
    Probed { name: String, id: String, kind: ProbeKind, passed: Passed },
    /// The work of stopping a container has ended.
    StopEnded { name: String },
    /// One of the pull secrets was written.
    SecretsChanged,
    /// A pull says how far it is.
    PullAdvanced { name: String, message: String },
    /// The registry that a pull failed at answers again.
    RegistryBack { name: String },
}

/// How a start went.
pub(crate) enum StartOutcome {
    /// It runs, or has run.
    Done,
    /// The image is not usable yet.
    Image(NotYet),
    /// The container cannot be made as the spec says.
    Failed { reason: &'static str, message: String, image: Box<LocalImage> },
    /// The program could not be started; this counts as a run.
    NotStarted { record: Box<RunRecord>, termination: Box<Termination> },
    /// The pod is being stopped.
    Cancelled,
}

/// A container that runs.
struct Live {
    runner: Runner,
    record: RunRecord,
    probes: JoinSet<()>,
    stopping: bool,
}

/// The state of one pod's task.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    uid: String,
    input: watch::Receiver<PodInput>,
    view: watch::Sender<PodView>,
    state: PodState,
    schedule: Schedule,
    live: BTreeMap<String, Live>,
    volumes: Option<BTreeMap<String, VolumePlace>>,
    image_volumes: Arc<ImageVolumes>,
    tokens: Option<TokenCache>,
    volume_retry: Duration,
    volumes_at: Option<Instant>,
    starting: Option<String>,
    cancel: watch::Sender<bool>,
    /// When containers of a pod that is being deleted are killed.
    kill_at: watch::Sender<Instant>,
    tasks: JoinSet<()>,
    happenings: mpsc::Sender<Happening>,
    inbox: mpsc::Receiver<Happening>,
    posted: Option<PodStatus>,
    post_at: Option<Instant>,
    gone: bool,
    deadline_set: bool,
    /// Tells when a pull secret changes, while a pull is in back-off.
    secret_watch: Option<AbortHandle>,
    /// Tell when a registry answers again, by container.
    outage_watches: BTreeMap<String, AbortHandle>,
    held_images: HeldImages<LocalImage>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        input: watch::Receiver<PodInput>,
    ) -> (Self, watch::Receiver<PodView>) {
        let first = input.borrow().clone();
        let pod = first.pod;
        let (happenings, inbox) = mpsc::channel(HAPPENINGS_MAX);
        let (view, viewer) = watch::channel(PodView { pod: Arc::clone(&pod) });
        let worker = Worker {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            state: PodState::new(&pod, Timestamp::now()),
            posted: pod.status.clone(),
            shared,
            pod,
            input,
            view,
            schedule: Schedule::default(),
            live: BTreeMap::new(),
            volumes: None,
            image_volumes: Arc::default(),
            tokens: Some(TokenCache::default()),
            volume_retry: VOLUME_RETRY_FIRST,
            volumes_at: None,
            starting: None,
            cancel: watch::Sender::new(false),
            kill_at: watch::Sender::new(Instant::now()),
            tasks: JoinSet::new(),
            happenings,
            inbox,
            post_at: None,
            gone: first.gone,
            deadline_set: false,
            secret_watch: None,
            outage_watches: BTreeMap::new(),
            held_images: HeldImages::new(Instant::now()),
        };
        (worker, viewer)
    }

    /// Runs until the pod is gone. Dropping the future leaves the containers alone.
    pub(crate) async fn run(mut self) {
        if let Err(error) = self.shared.directories.store_pod(&self.uid, &self.pod) {
            tracing::error!(pod = full_name(&self.pod), %error, "pod directory not written");
        }
        self.adopt();
        loop {
            let wake = self.act();
            self.post_status().await;
            if self.is_over() {
                if self.finish().await {
                    return;
                }
                tokio::time::sleep(POST_RETRY).await;
                continue;
            }
            self.next_happening(wake).await;
        }
    }

    async fn next_happening(&mut self, wake: Option<Instant>) {
        let wake = [wake, self.post_at, self.volumes_at].into_iter().flatten().min();
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            happening = self.inbox.recv() => {
                if let Some(happening) = happening {
                    self.take(happening);
                }
                // Everything else that is known by now goes into the same decision.
                while let Ok(happening) = self.inbox.try_recv() {
                    self.take(happening);
                }
            }
            changed = self.input.changed() => {
                match changed {
                    Ok(()) => self.take_input(),
                    // The dispatcher is gone: the node is shutting down.
                    Err(_) => std::future::pending().await,
                }
            }
            () = sleep => {}
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn take_input(&mut self) {
        let input = self.input.borrow_and_update().clone();
        self.gone |= input.gone;
        let mut pod = (*input.pod).clone();
        // The newest status is our own; only what others own is taken over.
        if let (Some(own), Some(theirs)) = (&self.pod.status, &pod.status) {
            let mut own = own.clone();
            phase::take_foreign_conditions(&mut own, theirs);
            own.qos_class = theirs.qos_class.clone().or(own.qos_class);
            pod.status = Some(own);
        }
        self.state.add_missing(&pod);
        for (container, _) in pod.spec.iter().flat_map(all_containers_of) {
            let changed = self
                .pod
                .spec
                .iter()
                .flat_map(all_containers_of)
                .any(|(old, _)| old.name == container.name && old.image != container.image);
            if changed {
                self.schedule.retry_at.remove(&container.name);
            }
        }
        self.pod = Arc::new(pod);
        self.publish();
        if let Err(error) = self.shared.directories.store_pod(&self.uid, &self.pod) {
            tracing::error!(pod = full_name(&self.pod), %error, "pod directory not written");
        }
        self.stop_changed();
    }

    fn publish(&self) {
        self.view.send_replace(PodView { pod: Arc::clone(&self.pod) });
    }

    fn is_deleted(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn is_final(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Decides and begins what is to be done; returns when to decide again at the latest.
    fn act(&mut self) -> Option<Instant> {
        let now = Timestamp::now();
        if self.is_deleted() {
            self.stop_for_deletion(now);
            return None;
        }
        let deadline = self.check_deadline(now);
        if self.state.failure.is_some() || self.is_final() {
            self.stop_rest(self.grace());
            return None;
        }
        self.refresh_volumes();
        let pod = Arc::clone(&self.pod);
        let Some(spec) = &pod.spec else { return None };
        let plan = steps::plan(spec, &self.state, &self.schedule, now);
        for (container, kind, delay) in &plan.backing_off {
            self.back_off(&container.name, *kind, *delay);
        }
        let wake = [plan.wake, deadline].into_iter().flatten().min().map(|at| instant(at, now));
        if plan.finished {
            self.stop_rest(self.grace());
            return wake;
        }
        let ephemeral =
            plan.start_ephemeral.map(|c| (Cow::Owned(as_container(c)), ContainerKind::Ephemeral));
        let next = ephemeral.or(plan.start.map(|(c, kind)| (Cow::Borrowed(c), kind)));
        if let (Some((container, kind)), None) = (next, &self.starting)
            && self.volumes.is_some()
            && !self.live.contains_key(&container.name)
        {
            self.begin_start(&container, kind, now);
        }
        wake
    }

    /// Shows that a container waits for its restart; tells it once per run.
    fn back_off(&mut self, name: &str, kind: ContainerKind, delay: SignedDuration) {
        let full = full_name(&self.pod);
        let Some(view) = self.state.containers.get_mut(name) else { return };
        if !matches!(view.phase, Phase::Terminated(_)) {
            return;
        }
        view.wait("CrashLoopBackOff", Some(back_off_message(delay, name, &full)));
        self.shared.recorder.warning(
            &self.pod,
            Some(kind.field_path(name)),
            "BackOff",
            format!("Back-off restarting failed container {name} in pod {full}"),
        );
    }

    /// `activeDeadlineSeconds`: fails the pod when it has been active for too long.
    fn check_deadline(&mut self, now: Timestamp) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        if self.is_final() || self.state.failure.is_some() {
            return None;
        }
        let began = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref().map(|time| time.0))
            .or(self.state.start_time)?;
        let deadline = began.saturating_add(SignedDuration::from_secs(seconds)).ok()?;
        if now < deadline {
            return Some(deadline);
        }
        let text = "Pod was active on the node longer than the specified deadline";
        self.state.failure = Some(("DeadlineExceeded".to_owned(), text.to_owned()));
        self.shared.recorder.normal(&self.pod, None, "DeadlineExceeded", text.to_owned());
        None
    }

    /// Begins to make the volumes, or to bring them up to date, when it is time.
    fn refresh_volumes(&mut self) {
        let due = self.volumes_at.is_none_or(|at| at <= Instant::now());
        if !due {
            return;
        }
        let Some(mut tokens) = self.tokens.take() else { return };
        self.volumes_at = None;
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let happenings = self.happenings.clone();
        let first = self.volumes.is_none();
        self.tasks.spawn(async move {
            let mut result = setup::set_up(&shared, &pod, &mut tokens).await;
            if first
                && result.is_ok()
                && let Err(error) = containers::write_network_files(&shared, &pod)
            {
                result = Err(VolumeError { volume: "etc".to_owned(), detail: error.to_string() });
            }
            let _ = happenings.send(Happening::Volumes { tokens, result }).await;
        });
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Volumes { tokens, result } => self.take_volumes(tokens, result),
            Happening::Started { name, runner, record } => self.take_started(name, runner, *record),
            Happening::StartEnded { name, outcome } => self.take_start_ended(&name, outcome),
            Happening::Exited { name, id, ended } => self.take_exit(&name, &id, &ended),
            Happening::Probed { name, id, kind, passed } => {
                self.take_probe(&name, &id, kind, passed)
            }
            Happening::SecretsChanged => self.take_secrets_changed(),
            Happening::PullAdvanced { name, message } => self.take_pull_advanced(&name, message),
            Happening::RegistryBack { name } => self.take_registry_back(&name),
            Happening::StopEnded { name } => {
                if let Some(live) = self.live.get_mut(&name) {
                    live.stopping = false;
                }
            }
        }
    }

    fn take_volumes(
        &mut self,
        tokens: TokenCache,
        result: Result<BTreeMap<String, VolumePlace>, VolumeError>,
    ) {
        self.tokens = Some(tokens);
        match result {
            Ok(places) => {
                self.volumes = Some(places);
                self.state.prepared = true;
                self.volume_retry = VOLUME_RETRY_FIRST;
                let projected = self
                    .pod
                    .spec
                    .iter()
                    .flat_map(|spec| spec.volumes.iter().flatten())
                    .any(content::is_projected);
                self.volumes_at = Some(if projected {
                    Instant::now() + self.shared.volume_refresh
                } else {
                    // Nothing changes any more: never again, as far as a pod lives.
                    Instant::now() + Duration::from_secs(365 * 24 * 3600)
                });
            }
            Err(error) => {
                if self.volumes.is_none() {
                    self.shared.recorder.warning(&self.pod, None, "FailedMount", error.to_string());
                }
                self.volumes_at = Some(Instant::now() + self.volume_retry);
                self.volume_retry = (self.volume_retry * 2).min(VOLUME_RETRY_MAX);
            }
        }
    }

    fn take_exit(&mut self, name: &str, id: &str, ended: &Ended) {
        let Some(live) = self.live.get(name).filter(|live| live.record.id == id) else { return };
        let Some((container, kind)) = self.container(name) else { return };
        let end = containers::termination(ended, &live.record, &container, container_id(id));
        self.live.remove(name);
        if let Some(view) = self.state.containers.get_mut(name) {
            view.ready = kind == ContainerKind::Init && end.exit_code == 0;
            view.started = false;
            view.phase = Phase::Terminated(end);
        }
    }

    fn container(
        &self,
        name: &str,
    ) -> Option<(k8s_openapi::api::core::v1::Container, ContainerKind)> {
        self.pod
            .spec
            .iter()
            .flat_map(all_containers_of)
            .find(|(container, _)| container.name == name)
            .map(|(container, kind)| (container.into_owned(), kind))
    }

    fn take_start_ended(&mut self, name: &str, outcome: StartOutcome) {
        if self.starting.as_deref() == Some(name) {
            self.starting = None;
        }
        let now = Timestamp::now();
        let kind = self.container(name).map_or(ContainerKind::App, |(_, kind)| kind);
        let Some(view) = self.state.containers.get_mut(name) else { return };
        match outcome {
            StartOutcome::Done => {
                self.schedule.retry_at.remove(name);
                self.forget_secrets();
                self.forget_pull(name);
            }
            StartOutcome::Cancelled => {}
            StartOutcome::Image(not_yet) => {
                let message = Some(not_yet.waiting.message).filter(|text| !text.is_empty());
                view.wait(&not_yet.waiting.reason, message);
                let wait = SignedDuration::try_from(not_yet.retry_in).unwrap_or(CONFIG_RETRY);
                let at = now.saturating_add(wait).unwrap_or(now);
                self.schedule.retry_at.insert(name.to_owned(), at);
                self.watch_secrets();
                if let Some(outage) = not_yet.outage {
                    self.watch_outage(name, outage);
                }
            }
            StartOutcome::Failed { reason, message, image } => {
                view.wait(reason, Some(message.clone()));
                let at = now.saturating_add(CONFIG_RETRY).unwrap_or(now);
                self.schedule.retry_at.insert(name.to_owned(), at);
                let text = format!("Error: {message}");
                self.shared.recorder.warning(
                    &self.pod,
                    Some(kind.field_path(name)),
                    "Failed",
                    text,
                );
                if reason == CONFIG_ERROR {
                    self.hold_image(name, *image);
                }
            }
            StartOutcome::NotStarted { record, termination } => {
                self.schedule.retry_at.remove(name);
                view.restart_count = record.restart_count;
                view.image.clone_from(&record.image);
                view.image_id.clone_from(&record.image_id);
                view.container_id = container_id(&record.id);
                let text = format!("Error: {}", termination.message.as_deref().unwrap_or_default());
                view.phase = Phase::Terminated(*termination);
                view.ready = false;
                self.shared.recorder.warning(
                    &self.pod,
                    Some(kind.field_path(name)),
                    "Failed",
                    text,
                );
            }
        }
    }

    /// Posts the status if it says something new.
    async fn post_status(&mut self) {
        if self.gone {
            return;
        }
        let now = Timestamp::now();
        let fresh = status::build(&self.pod, &self.state, self.shared.address, now);
        if self.posted.as_ref().is_some_and(|posted| status::same(posted, &fresh)) {
            self.post_at = None;
            return;
        }
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = self.pod.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let patch = serde_json::json!({"metadata": {"uid": self.uid}, "status": fresh});
        // A client that sees the new status may ask for logs before the answer is back here.
        let mut upcoming = (*self.pod).clone();
        upcoming.status = Some(fresh.clone());
        self.view.send_replace(PodView { pod: Arc::new(upcoming) });
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(answer) => {
                self.post_at = None;
                self.posted = Some(fresh.clone());
                let mut pod = (*self.pod).clone();
                let mut own = fresh;
                if let Some(theirs) = &answer.status {
                    phase::take_foreign_conditions(&mut own, theirs);
                }
                pod.status = Some(own);
                self.pod = Arc::new(pod);
                self.publish();
            }
            Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => {
                // The pod is gone, or another one has its name: the dispatcher will say so.
                self.posted = Some(fresh);
            }
            Err(error) => {
                tracing::debug!(pod = full_name(&self.pod), %error, "status not posted");
                self.post_at = Some(Instant::now() + POST_RETRY);
            }
        }
    }

    /// Whether nothing is left to do for a deleted pod but to take it away.
    fn is_over(&self) -> bool {
        self.is_deleted() && self.live.is_empty() && self.starting.is_none()
    }

    /// Removes everything of the pod, last of all the object; false to try again.
    async fn finish(&mut self) -> bool {
        self.tasks.shutdown().await;
        let (shared, pod, uid) =
            (Arc::clone(&self.shared), Arc::clone(&self.pod), self.uid.clone());
        let removed = tokio::task::spawn_blocking(move || remove(&shared, &pod, &uid)).await;
        match removed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(pod = full_name(&self.pod), %error, "pod not removed from disk");
                return false;
            }
            Err(error) => tracing::error!(pod = full_name(&self.pod), %error, "removal panicked"),
        }
        if self.gone {
            return true;
        }
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = self.pod.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(name, &parameters).await {
            Ok(_) => true,
            Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => true,
            Err(error) => {
                tracing::debug!(pod = full_name(&self.pod), %error, "pod not deleted");
                false
            }
        }
    }

    /// Grace period of the pod's spec.
    fn grace(&self) -> Duration {
        let seconds = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(GRACE_DEFAULT_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

fn all_containers_of(
    spec: &k8s_openapi::api::core::v1::PodSpec,
) -> Vec<(Cow<'_, k8s_openapi::api::core::v1::Container>, ContainerKind)> {
    all_containers(spec).collect()
}

/// `containerID` of a status.
fn container_id(id: &str) -> String {
    format!("shipway://{id}")
}

/// The instant that a time of the clock is at.
fn instant(at: Timestamp, now: Timestamp) -> Instant {
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    Instant::now() + wait
}

/// Removes containers, volumes, directories and logs of a pod.
fn remove(shared: &Shared, pod: &Pod, uid: &str) -> std::io::Result<()> {
    for (container, _) in pod.spec.iter().flat_map(all_containers_of) {
        for run in shared.directories.runs(uid, &container.name) {
            if let Some(runner) = shared.runtime.container(&run.id) {
                runner.delete().map_err(std::io::Error::other)?;
            }
        }
    }
    let meta = &pod.metadata;
    let logs = shared.directories.pod_logs(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        uid,
    );
    match std::fs::remove_dir_all(logs) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    setup::tear_down(shared, uid)
}

/// Whether a running container no longer is what the spec says.
fn is_changed(container: &k8s_openapi::api::core::v1::Container, record: &RunRecord) -> bool {
    image_of(container) != record.image
}
