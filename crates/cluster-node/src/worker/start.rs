//! Starting one container: secrets, image, sandbox, program, `postStart`.

use std::collections::BTreeMap;
use std::sync::Arc;

use container_runtime::{Container as Runner, ContainerError, ProcessId, State};
use image_policy::{Event, PullPolicy, event};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::{mpsc, watch};

use super::{CONFIG_ERROR, Happening, Live, StartOutcome, Worker, container_id};
use crate::containers::{self, IMAGE_VOLUME_FAILED, StartContext, StartError};
use crate::directories::RunRecord;
use crate::images::access;
use crate::images::account::PodIdentity;
use crate::images::ensure::Request;
use crate::images::store::{LocalImage, chain};
use crate::pods::state::{ContainerKind, Phase, Termination, ephemeral_containers, image_of};
use crate::prober::{self, Target};
use crate::shared::Shared;
use crate::volumes::image::{ImageTree, ImageVolumes};
use crate::volumes::setup::VolumePlace;

/// Whose processes a container sees.
///
/// Containers and no process numbers: these would be a stranger's when a long pull has ended.
enum Sees {
    Own,
    /// Those of the container that an ephemeral one names, if it runs.
    Target {
        name: String,
        runner: Option<Runner>,
    },
    /// Those of whichever container of the pod lives; its own if none does.
    Pod(Vec<Runner>),
}

impl Sees {
    /// The process whose PID namespace is to be shared, or the target that is gone.
    fn process(&self) -> Result<Option<ProcessId>, &str> {
        let lives = |runner: &Runner| runner.process().ok();
        match self {
            Self::Own => Ok(None),
            Self::Target { name, runner } => runner.as_ref().and_then(lives).map(Some).ok_or(name),
            Self::Pod(runners) => Ok(runners.iter().find_map(lives)),
        }
    }
}

/// Everything that a start takes with it.
struct Start {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    container: Container,
    kind: ContainerKind,
    restart_count: i32,
    volumes: BTreeMap<String, VolumePlace>,
    image_volumes: Arc<ImageVolumes>,
    sees: Sees,
    cancel: watch::Receiver<bool>,
    held: Option<LocalImage>,
    happenings: mpsc::Sender<Happening>,
}

impl Worker {
    pub(super) fn begin_start(
        &mut self,
        container: &Container,
        kind: ContainerKind,
        now: Timestamp,
    ) {
        let name = container.name.clone();
        let runs = self.shared.directories.runs(&self.uid, &name);
        let restart_count = runs.last().map_or(0, |run| run.restart_count + 1);
        let ended =
            self.state.view(&name).and_then(|view| view.last_end()).and_then(|end| end.finished_at);
        if let Some(ended) = ended {
            // An image error on the way to a restart must not advance the back-off again.
            if !self.schedule.retry_at.contains_key(&name) {
                self.schedule.back_off.restarted(&name, ended, now);
            }
        }
        self.forget_old_runs(&name, &runs);
        let start = Start {
            shared: Arc::clone(&self.shared),
            pod: Arc::clone(&self.pod),
            container: container.clone(),
            kind,
            restart_count,
            volumes: self.volumes.clone().unwrap_or_default(),
            image_volumes: Arc::clone(&self.image_volumes),
            sees: self.sees(&name),
            cancel: self.cancel.subscribe(),
            held: self.held_image(container),
            happenings: self.happenings.clone(),
        };
        self.starting = Some(name.clone());
        self.tasks.spawn(async move {
            let happenings = start.happenings.clone();
            let outcome = start.run().await;
            let _ = happenings.send(Happening::StartEnded { name, outcome }).await;
        });
    }

    /// The container whose processes an ephemeral container wants to see, if it names one.
    fn target_of(&self, name: &str) -> Option<String> {
        let spec = self.pod.spec.as_ref()?;
        let own = ephemeral_containers(spec).find(|container| container.name == name)?;
        own.target_container_name.clone().filter(|target| !target.is_empty())
    }

    fn sees(&self, name: &str) -> Sees {
        if let Some(name) = self.target_of(name) {
            let runner = self.live.get(&name).map(|live| live.runner.clone());
            return Sees::Target { name, runner };
        }
        let spec = self.pod.spec.as_ref();
        match spec.and_then(|spec| spec.share_process_namespace) {
            Some(true) => Sees::Pod(self.live.values().map(|live| live.runner.clone()).collect()),
            _ => Sees::Own,
        }
    }

    /// Keeps the newest run, for `--previous`, and removes the others.
    fn forget_old_runs(&self, name: &str, runs: &[RunRecord]) {
        let Some((newest, old)) = runs.split_last() else { return };
        let (shared, uid, name) = (Arc::clone(&self.shared), self.uid.clone(), name.to_owned());
        let (newest, old) = (newest.clone(), old.to_vec());
        tokio::task::spawn_blocking(move || {
            for run in old.iter().chain([&newest]) {
                if let Some(runner) = shared.runtime.container(&run.id)
                    && let Err(error) = runner.delete()
                {
                    tracing::debug!(container = run.id, %error, "old container not deleted");
                    continue;
                }
                let directory = shared.directories.run(&uid, &name, run.restart_count);
                if run.id == newest.id {
                    let _ = std::fs::remove_dir_all(directory.join("upper"));
                    let _ = std::fs::remove_dir_all(directory.join("work"));
                } else {
                    let _ = std::fs::remove_dir_all(directory);
                    for log in crate::logs::format::files(&run.log) {
                        let _ = std::fs::remove_file(log);
                    }
                }
            }
        });
    }

    pub(super) fn take_started(&mut self, name: String, runner: Runner, record: RunRecord) {
        let Some((container, _)) = self.container(&name) else { return };
        let started_at = match runner.state() {
            Ok(State::Running { started_at }) => Timestamp::try_from(started_at).ok(),
            _ => None,
        };
        let live = Live {
            runner: runner.clone(),
            record: record.clone(),
            probes: tokio::task::JoinSet::new(),
            stopping: false,
        };
        self.live.insert(name.clone(), live);
        if let Some(view) = self.state.containers.get_mut(&name) {
            // What came before becomes the last state.
            view.wait("ContainerCreating", None);
            view.phase = Phase::Running { started_at: started_at.unwrap_or_else(Timestamp::now) };
            view.restart_count = record.restart_count;
            view.image.clone_from(&record.image);
            view.image_id.clone_from(&record.image_id);
            view.container_id = container_id(&record.id);
            view.started = container.startup_probe.is_none();
            view.ready = view.started && container.readiness_probe.is_none();
        }
        self.watch_end(&name);
        self.begin_probes(&name, container.startup_probe.is_none());
    }

    /// Reports the end of a running container.
    pub(super) fn watch_end(&mut self, name: &str) {
        let Some(live) = self.live.get(name) else { return };
        let (runner, id) = (live.runner.clone(), live.record.id.clone());
        let (name, happenings) = (name.to_owned(), self.happenings.clone());
        self.tasks.spawn(async move {
            loop {
                match runner.end_watch().map(|end| end.map(crate::descriptors::watch)) {
                    Ok(Some(Ok(end))) => {
                        let _ = end.readable().await;
                    }
                    Ok(None) => {}
                    Ok(Some(Err(error))) => {
                        tracing::error!(container = id, %error, "end not watched")
                    }
                    Err(error) => tracing::error!(container = id, %error, "end not watched"),
                }
                let asked = runner.clone();
                let state = tokio::task::spawn_blocking(move || asked.state()).await;
                match state {
                    Ok(Ok(State::Stopped(ended))) => {
                        let _ = happenings.send(Happening::Exited { name, id, ended }).await;
                        return;
                    }
                    Ok(Ok(State::Created | State::Running { .. })) => {}
                    Ok(Err(error)) => tracing::error!(container = id, %error, "state not read"),
                    Err(error) => tracing::error!(container = id, %error, "state not read"),
                }
                // Only reached when the end could not be watched.
                tokio::time::sleep(super::POST_RETRY).await;
            }
        });
    }
}

impl Start {
    fn field_path(&self) -> Option<String> {
        Some(self.kind.field_path(&self.container.name))
    }

    async fn cancelled(&self) {
        let mut cancel = self.cancel.clone();
        let _ = cancel.wait_for(|cancelled| *cancelled).await;
    }

    async fn run(mut self) -> StartOutcome {
        let images = tokio::select! {
            images = self.images() => images,
            () = self.cancelled() => return StartOutcome::Cancelled,
        };
        let (image, trees) = match images {
            Ok(images) => images,
            Err(outcome) => return outcome,
        };
        let seen = match self.sees.process() {
            Ok(seen) => seen,
            Err(target) => {
                let message = format!("unable to find target container {target}");
                let image = Box::new(image);
                return StartOutcome::Failed { reason: CONFIG_ERROR, message, image };
            }
        };
        let trees = trees.into_iter().map(|(name, tree)| (name, VolumePlace::Image(tree)));
        self.volumes.extend(trees);
        let context = StartContext {
            pod: &self.pod,
            container: &self.container,
            restart_count: self.restart_count,
            image: &image,
            volumes: &self.volumes,
            seen,
        };
        let created = match containers::create(&self.shared, &context).await {
            Ok(created) => created,
            Err(error) => return self.refused(error, None, image),
        };
        for text in created.skipped_variables {
            self.shared.recorder.warning(
                &self.pod,
                self.field_path(),
                "InvalidEnvironmentVariableNames",
                text,
            );
        }
        for line in created.degraded {
            self.shared.recorder.warning(&self.pod, self.field_path(), "DegradedIsolation", line);
        }
        // The words of 1.35 and later, as all others here (kubelet-images.md 2.3).
        let text = "Container created".to_owned();
        self.shared.recorder.normal(&self.pod, self.field_path(), "Created", text);
        let runner = created.runner.clone();
        let started = tokio::task::spawn_blocking(move || runner.start()).await;
        let error = match started {
            Ok(Ok(())) => None,
            Ok(Err(ContainerError::Refused(container_runtime::Failure::Program {
                code,
                message,
            }))) => Some(StartError::Run { message, code: i32::from(code) }),
            Ok(Err(error)) => Some(StartError::Run { message: chain(&error), code: 128 }),
            Err(error) => Some(StartError::Run { message: error.to_string(), code: 128 }),
        };
        if let Some(error) = error {
            return self.refused(error, Some(created.record), image);
        }
        let text = "Container started".to_owned();
        self.shared.recorder.normal(&self.pod, self.field_path(), "Started", text);
        let target = Target {
            runner: created.runner.clone(),
            process: created.record.process.clone(),
            container: Arc::new(self.container.clone()),
            address: self.shared.address,
        };
        let happening = Happening::Started {
            name: self.container.name.clone(),
            runner: created.runner,
            record: Box::new(created.record),
        };
        let _ = self.happenings.send(happening).await;
        self.post_start(&target).await;
        StartOutcome::Done
    }

    /// The image of the container and the image volumes that it mounts.
    async fn images(&self) -> Result<(LocalImage, BTreeMap<String, ImageTree>), StartOutcome> {
        let image = match &self.held {
            Some(image) => image.clone(),
            None => self.pulled().await?,
        };
        let trees = self.image_volumes.trees(&self.shared, &self.container).await;
        match trees {
            Ok(trees) => Ok((image, trees)),
            Err(error) => Err(StartOutcome::Failed {
                reason: "CreateContainerError",
                message: format!("{IMAGE_VOLUME_FAILED}: {error}"),
                image: Box::new(image),
            }),
        }
    }

    /// Pulls the pod's image volumes, then the image of the container.
    async fn pulled(&self) -> Result<LocalImage, StartOutcome> {
        let secrets = access::pull_secrets(&self.shared.client, &self.pod).await;
        if !secrets.missing.is_empty() {
            let event = event::failed_to_retrieve_pull_secrets(&secrets.missing);
            self.shared.recorder.pod(&self.pod, None, event);
        }
        self.image_volumes.ensure(&self.shared, &self.pod, &secrets).await;
        let image = image_of(&self.container);
        let policy = self
            .container
            .image_pull_policy
            .as_deref()
            .and_then(|policy| policy.parse().ok())
            .unwrap_or_else(|| PullPolicy::default_for(image));
        let request =
            Request { pod: &PodIdentity::of(&self.pod), image, policy, secrets: &secrets };
        let emit = |event: Event| {
            if event.reason == event::PULL_PROGRESS {
                let (name, message) = (self.container.name.clone(), event.message.clone());
                // One that finds no room is followed by another one.
                let _ = self.happenings.try_send(Happening::PullAdvanced { name, message });
            }
            self.shared.recorder.pod(&self.pod, self.field_path(), event);
        };
        let local =
            self.shared.images.ensure(&request, &emit).await.map_err(StartOutcome::Image)?;
        self.image_volumes.check(&self.container, &emit).map_err(StartOutcome::Image)?;
        Ok(local)
    }

    /// What an error of the runtime means for the container.
    fn refused(
        &self,
        error: StartError,
        record: Option<RunRecord>,
        image: LocalImage,
    ) -> StartOutcome {
        let failed = |reason, message| {
            let image = Box::new(image);
            StartOutcome::Failed { reason, message, image }
        };
        match error {
            StartError::Config(message) => failed(CONFIG_ERROR, message),
            StartError::Create(message) => failed("CreateContainerError", message),
            StartError::Run { message, code } => {
                let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
                let record = record
                    .or_else(|| self.shared.directories.runs(uid, &self.container.name).pop());
                let Some(record) = record else {
                    return failed("RunContainerError", message);
                };
                let now = Timestamp::now();
                let termination = Termination {
                    exit_code: code,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message: Some(message),
                    started_at: None,
                    finished_at: Some(now),
                    container_id: Some(container_id(&record.id)),
                };
                StartOutcome::NotStarted {
                    record: Box::new(record),
                    termination: Box::new(termination),
                }
            }
        }
    }

    async fn post_start(&self, target: &Target) {
        let handler =
            self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(handler) = handler else { return };
        let result = tokio::select! {
            result = prober::hook(target, handler) => result,
            () = self.cancelled() => return,
        };
        if let Err(error) = result {
            let text = format!("PostStartHook failed: {error}");
            self.shared.recorder.warning(&self.pod, self.field_path(), "FailedPostStartHook", text);
            let text = "FailedPostStartHook".to_owned();
            self.shared.recorder.normal(&self.pod, self.field_path(), "Killing", text);
            if let Err(error) = target.runner.kill_all() {
                tracing::warn!(container = target.runner.id(), %error, "not killed");
            }
        }
    }
}
