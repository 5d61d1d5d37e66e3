//! Jobs: run pods to completion, count each exactly once, give up when told to.
//!
//! `verdict` decides from a job and its pods (no I/O, no clock), `tracking` counts, `indexes` knows
//! completion indexes; this file carries out what they say.

mod indexes;
mod policy;
mod tracking;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::verdict::{End, Plan};
use super::children::{self, claim, from_template, gone_is_none, is_active};
use super::queue::Key;
use super::reconcile::{After, Reconciler};
use super::recorder::{Recorder, Severity};
use crate::api::{DeleteOptions, PatchBody, Propagation, WatchEvent};
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{JOBS, PODS, Resource};
use crate::selectors::LabelSelector;

/// Finalizer that keeps a finished pod until it is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod's completion index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Most pods created in one look; the rest follows at once.
const CREATE_AT_ONCE_MAX: i64 = 100;

/// The controller.
pub(super) struct JobController {
    client: Client,
    recorder: Recorder,
}

impl JobController {
    /// A controller that uses this client.
    pub(super) fn new(client: &Client) -> Self {
        let client = client.named("kube-controller-manager");
        Self { recorder: Recorder::new(&client, "job-controller"), client }
    }

    async fn write_status(&self, job: &Value, status: &Value) -> Result<Arc<Value>, ApiError> {
        let mut new = job.clone();
        object::set(&mut new, &["status"], status.clone());
        self.client.update_status(&JOBS, new).await
    }

    async fn remove_tracking(&self, pod: &Value) -> Result<(), ApiError> {
        if !tracking::is_tracked(pod) {
            return Ok(());
        }
        let kept: Vec<&str> =
            object::finalizers(pod).into_iter().filter(|name| *name != TRACKING).collect();
        let body = json!({"metadata": {
            "uid": object::uid(pod),
            "resourceVersion": object::text(pod, &["metadata", "resourceVersion"]),
            "finalizers": kept,
        }});
        let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
        let (namespace, name) = (object::namespace(pod), object::name(pod));
        gone_is_none(self.client.patch(&PODS, namespace, name, "", patch).await).map(drop)
    }

    /// Creates pods; the first refusal is recorded and ends the round.
    async fn create_pods(
        &mut self,
        job: &Value,
        pods: &[Arc<Value>],
        count: i64,
    ) -> Result<(), ApiError> {
        let template = object::at(job, &["spec", "template"]).cloned().unwrap_or_default();
        let wanted = if indexes::is_indexed(job) {
            indexes::next(job, pods, count).into_iter().map(Some).collect()
        } else {
            vec![None; usize::try_from(count).unwrap_or(0)]
        };
        for index in wanted {
            let mut pod = from_template(&JOBS, job, &template);
            let mut finalizers = object::list(&pod, &["metadata", "finalizers"]).to_vec();
            finalizers.push(json!(TRACKING));
            object::set(&mut pod, &["metadata", "finalizers"], finalizers);
            if let Some(index) = index {
                indexes::mark(job, &mut pod, index);
            }
            match self.client.create(&PODS, pod).await {
                Ok(created) => {
                    let text = format!("Created pod: {}", object::name(&created));
                    self.recorder
                        .event(&JOBS, job, Severity::Normal, "SuccessfulCreate", &text)
                        .await;
                }
                Err(error) => {
                    let text = format!("Error creating: {error}");
                    self.recorder.event(&JOBS, job, Severity::Warning, "FailedCreate", &text).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Deletes pods that are not wanted any more; they do not count as failures.
    async fn discard_pods(&mut self, job: &Value, pods: &[&Arc<Value>]) -> Result<(), ApiError> {
        for pod in pods {
            self.remove_tracking(pod).await?;
            children::delete(&self.client, &PODS, pod).await?;
            let text = format!("Deleted pod: {}", object::name(pod));
            self.recorder.event(&JOBS, job, Severity::Normal, "SuccessfulDelete", &text).await;
        }
        Ok(())
    }

    async fn announce(&mut self, job: &Value, old: &Value, new: &Value) {
        let had = |status: &Value, kind: &str| {
            object::list(status, &["conditions"]).iter().any(|condition| {
                object::text(condition, &["type"]) == kind
                    && object::text(condition, &["status"]) == "True"
            })
        };
        if had(new, "Complete") && !had(old, "Complete") {
            self.recorder.event(&JOBS, job, Severity::Normal, "Completed", "Job completed").await;
        }
        for condition in object::list(new, &["conditions"]) {
            let text = |key: &str| object::text(condition, &[key]).to_owned();
            if text("type") == "Failed" && !had(old, "Failed") {
                let (reason, message) = (text("reason"), text("message"));
                self.recorder.event(&JOBS, job, Severity::Warning, &reason, &message).await;
            }
        }
        let (was, is) = (had(old, "Suspended"), had(new, "Suspended"));
        if is && !was {
            self.recorder.event(&JOBS, job, Severity::Normal, "Suspended", "Job suspended").await;
        }
        if was && !is {
            self.recorder.event(&JOBS, job, Severity::Normal, "Resumed", "Job resumed").await;
        }
    }

    /// Removes a finished job whose time to live is over.
    async fn expire(&self, job: &Value, now: Timestamp) -> Result<After, ApiError> {
        let Some(seconds) = object::integer(job, &["spec", "ttlSecondsAfterFinished"]) else {
            return Ok(After::Done);
        };
        let finished = verdict::finished(job)
            .and_then(|condition| object::time(condition, &["lastTransitionTime"]))
            .unwrap_or(now);
        let age = now.duration_since(finished).as_secs();
        if let Ok(left @ 1..) = u64::try_from(seconds - age) {
            return Ok(After::In(Duration::from_secs(left)));
        }
        let options = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            precondition_uid: Some(object::uid(job).to_owned()),
            ..DeleteOptions::default()
        };
        let (namespace, name) = (object::namespace(job), object::name(job));
        gone_is_none(self.client.delete(&JOBS, namespace, name, &options).await)?;
        Ok(After::Done)
    }
}

impl Reconciler for JobController {
    const NAME: &'static str = "job";

    fn watches(&self) -> &'static [&'static Resource] {
        static WATCHED: [&Resource; 2] = [&JOBS, &PODS];
        &WATCHED
    }

    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        if std::ptr::eq(resource, &JOBS) {
            return vec![Key::of(&event.object)];
        }
        let owner = object::controller_of(&event.object)
            .filter(|owner| object::text(owner, &["kind"]) == JOBS.kind)
            .map(|owner| object::text(owner, &["name"]));
        // A pod that was released or created by hand may match the job it is labelled for.
        let labelled = || object::label(&event.object, "batch.kubernetes.io/job-name");
        let name = owner.or_else(labelled);
        name.map(|name| Key::new(object::namespace(&event.object), name)).into_iter().collect()
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        let found = gone_is_none(self.client.get(&JOBS, &key.namespace, &key.name))?;
        let Some(job) = found else {
            return self.release_strangers(key, "").await;
        };
        self.release_strangers(key, object::uid(&job)).await?;
        let now = Timestamp::now();
        let selector = object::at(&job, &["spec", "selector"]).cloned().unwrap_or_default();
        let selector = LabelSelector::from_object(&selector);
        let pods = claim(&self.client, (&JOBS, &job), &PODS, &selector).await?;
        if object::is_deleting(&job) {
            for pod in &pods {
                self.remove_tracking(pod).await?;
            }
            return Ok(After::Done);
        }
        if verdict::finished(&job).is_some() {
            // What was counted may leave, and so may a pod that came too late to count.
            for pod in &pods {
                if is_active(pod) {
                    children::delete(&self.client, &PODS, pod).await?;
                }
                self.remove_tracking(pod).await?;
            }
            return self.expire(&job, now).await;
        }
        let plan = verdict::decide(&job, &pods, now);
        self.carry_out(&job, &pods, plan, now).await
    }
}

impl JobController {
    async fn carry_out(
        &mut self,
        job: &Value,
        pods: &[Arc<Value>],
        plan: Plan,
        now: Timestamp,
    ) -> Result<After, ApiError> {
        let old_status = object::at(job, &["status"]).cloned().unwrap_or_default();
        let mut current = job.clone();
        if plan.status != old_status {
            current = Value::clone(&*self.write_status(job, &plan.status).await?);
            self.announce(&current, &old_status, &plan.status).await;
        }
        // Only now that the status names them may counted pods lose their finalizer.
        let counted =
            |pod: &Value| tracking::is_uncounted(&plan.status, pod) || !policy::counts(job, pod);
        for pod in pods.iter().filter(|pod| counted(pod)) {
            self.remove_tracking(pod).await?;
        }
        match plan.end {
            Some(End::Stopping) => {
                for pod in pods.iter().filter(|pod| is_active(pod)) {
                    children::delete(&self.client, &PODS, pod).await?;
                    let text = format!("Deleted pod: {}", object::name(pod));
                    let normal = Severity::Normal;
                    self.recorder.event(&JOBS, job, normal, "SuccessfulDelete", &text).await;
                }
                Ok(After::Done)
            }
            Some(End::Finished) => self.expire(&current, now).await,
            None => {
                let discarded: Vec<&Arc<Value>> =
                    plan.discard.iter().map(|at| &pods[*at]).collect();
                self.discard_pods(job, &discarded).await?;
                self.create_pods(job, pods, plan.create.min(CREATE_AT_ONCE_MAX)).await?;
                let wait = plan.look_again.map_or(After::Done, After::In);
                Ok(if CREATE_AT_ONCE_MAX < plan.create { After::In(Duration::ZERO) } else { wait })
            }
        }
    }

    /// Pods of a job that is gone keep no finalizer, or they could never be removed; a new job of
    /// the same name (`uid`) does not know them.
    async fn release_strangers(&self, key: &Key, uid: &str) -> Result<After, ApiError> {
        let listed =
            self.client.list(&PODS, &key.namespace, &crate::api::ListOptions::default())?;
        for pod in listed.items.iter().filter(|pod| tracking::is_tracked(pod)) {
            let stranger = match object::controller_of(pod) {
                Some(owner) => {
                    object::text(owner, &["kind"]) == JOBS.kind
                        && object::text(owner, &["name"]) == key.name
                        && object::text(owner, &["uid"]) != uid
                }
                None => {
                    uid.is_empty()
                        && object::label(pod, "batch.kubernetes.io/job-name") == Some(&key.name)
                }
            };
            if stranger {
                self.remove_tracking(pod).await?;
            }
        }
        Ok(After::Done)
    }
}
