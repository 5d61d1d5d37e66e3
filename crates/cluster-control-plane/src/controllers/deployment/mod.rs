//! Deployments: a ReplicaSet per template, moved from one to the next step by step.

mod rollout;
mod status;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::rollout::Scale;
use super::children::{self, claim, controller_reference, gone_is_none};
use super::queue::Key;
use super::reconcile::{After, Reconciler};
use super::recorder::{Recorder, Severity};
use crate::api::{PatchBody, WatchEvent};
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{DEPLOYMENTS, PODS, REPLICA_SETS, Resource};
use crate::selectors::LabelSelector;

/// Annotation with the number of a rollout.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation with the replicas the deployment asked for when the set was last scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation with the most replicas allowed at that time.
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Label that tells the pods of one template from those of another.
const HASH: &str = "pod-template-hash";
/// kubectl's record of the applied configuration, which belongs to the deployment alone.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Letters of a template hash.
const HASH_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The controller.
pub(super) struct DeploymentController {
    client: Client,
    recorder: Recorder,
}

impl DeploymentController {
    /// A controller that uses this client.
    pub(super) fn new(client: &Client) -> Self {
        let client = client.named("kube-controller-manager");
        Self { recorder: Recorder::new(&client, "deployment-controller"), client }
    }

    /// Creates the ReplicaSet of the present template.
    async fn create_set(
        &mut self,
        deployment: &Value,
        revision: u64,
        replicas: i64,
    ) -> Result<Arc<Value>, ApiError> {
        let collisions = object::integer(deployment, &["status", "collisionCount"]).unwrap_or(0);
        let set = new_set(deployment, &template_hash(deployment, collisions), revision, replicas);
        match self.client.create(&REPLICA_SETS, set.clone()).await {
            Ok(created) => {
                if 0 < replicas {
                    self.tell_scaled(deployment, &created, 0, replicas).await;
                }
                Ok(created)
            }
            Err(error) if error.is_already_exists() => {
                // Another template of the same hash: count the collision and try with it.
                let name = object::name(&set).to_owned();
                let existing = self.client.get(&REPLICA_SETS, object::namespace(&set), &name)?;
                let ours = children::is_controlled_by(&existing, object::uid(deployment))
                    && same_template(deployment, &existing);
                if ours {
                    return Ok(existing);
                }
                let body = json!({"status": {"collisionCount": collisions + 1}});
                let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
                let (namespace, name) = (object::namespace(deployment), object::name(deployment));
                self.client.patch(&DEPLOYMENTS, namespace, name, "status", patch).await?;
                Err(error)
            }
            Err(error) => {
                let text =
                    format!("Failed to create new replica set {:?}: {error}", object::name(&set));
                let warning = Severity::Warning;
                let reason = "ReplicaSetCreateError";
                self.recorder.event(&DEPLOYMENTS, deployment, warning, reason, &text).await;
                Err(error)
            }
        }
    }

    async fn tell_scaled(&mut self, deployment: &Value, set: &Value, from: i64, to: i64) {
        let word = if from < to { "up" } else { "down" };
        let text = format!("Scaled {word} replica set {} from {from} to {to}", object::name(set));
        let normal = Severity::Normal;
        self.recorder.event(&DEPLOYMENTS, deployment, normal, "ScalingReplicaSet", &text).await;
    }

    async fn scale(
        &mut self,
        deployment: &Value,
        set: &Value,
        scale: &Scale,
    ) -> Result<(), ApiError> {
        let annotations = json!({
            DESIRED: rollout::desired(deployment).to_string(),
            MAXIMUM: rollout::maximum(deployment).to_string(),
        });
        let body = json!({
            "metadata": {"uid": object::uid(set), "annotations": annotations},
            "spec": {"replicas": scale.to},
        });
        let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
        let (namespace, name) = (object::namespace(set), object::name(set));
        gone_is_none(self.client.patch(&REPLICA_SETS, namespace, name, "", patch).await)?;
        let from = rollout::replicas(set);
        if from != scale.to {
            self.tell_scaled(deployment, set, from, scale.to).await;
        }
        Ok(())
    }

    /// Writes the revision where clients look for it.
    async fn record_revision(
        &self,
        resource: &'static Resource,
        object: &Value,
        revision: u64,
    ) -> Result<(), ApiError> {
        let revision = revision.to_string();
        if object::annotation(object, REVISION) == Some(&revision) {
            return Ok(());
        }
        let body = json!({"metadata": {"annotations": {REVISION: revision}}});
        let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
        let (namespace, name) = (object::namespace(object), object::name(object));
        gone_is_none(self.client.patch(resource, namespace, name, "", patch).await).map(drop)
    }

    /// Deletes old sets beyond the history limit.
    async fn clean_up(&self, deployment: &Value, old: &[Arc<Value>]) -> Result<(), ApiError> {
        let Some(limit) = object::integer(deployment, &["spec", "revisionHistoryLimit"]) else {
            return Ok(());
        };
        let mut idle: Vec<&Arc<Value>> = old
            .iter()
            .filter(|set| rollout::replicas(set) == 0 && rollout::running(set) == 0)
            .filter(|set| !object::is_deleting(set))
            .collect();
        idle.sort_by_key(|set| revision_of(set));
        let excess = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for set in idle.into_iter().take(excess) {
            children::delete(&self.client, &REPLICA_SETS, set).await?;
        }
        Ok(())
    }
}

impl Reconciler for DeploymentController {
    const NAME: &'static str = "deployment";

    fn watches(&self) -> &'static [&'static Resource] {
        static WATCHED: [&Resource; 3] = [&DEPLOYMENTS, &REPLICA_SETS, &PODS];
        &WATCHED
    }

    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        if std::ptr::eq(resource, &DEPLOYMENTS) {
            return vec![Key::of(&event.object)];
        }
        let namespace = object::namespace(&event.object);
        let owner = |object: &Value, kind: &str| {
            object::controller_of(object)
                .filter(|owner| object::text(owner, &["kind"]) == kind)
                .map(|owner| object::text(owner, &["name"]).to_owned())
        };
        if std::ptr::eq(resource, &REPLICA_SETS) {
            return owner(&event.object, DEPLOYMENTS.kind)
                .map(|name| Key::new(namespace, &name))
                .into_iter()
                .collect();
        }
        // Pods matter only when one has gone: Recreate waits for that.
        let gone = event.kind == crate::api::WatchEventType::Deleted
            || children::is_finished(&event.object);
        owner(&event.object, REPLICA_SETS.kind)
            .filter(|_| gone)
            .and_then(|name| self.client.get(&REPLICA_SETS, namespace, &name).ok())
            .and_then(|set| owner(&set, DEPLOYMENTS.kind))
            .map(|name| Key::new(namespace, &name))
            .into_iter()
            .collect()
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        let found = gone_is_none(self.client.get(&DEPLOYMENTS, &key.namespace, &key.name))?;
        let Some(deployment) = found.filter(|deployment| !object::is_deleting(deployment)) else {
            return Ok(After::Done);
        };
        let selector = object::at(&deployment, &["spec", "selector"]).cloned().unwrap_or_default();
        let selector = LabelSelector::from_object(&selector);
        let owner = (&DEPLOYMENTS, &*deployment);
        let mut sets = claim(&self.client, owner, &REPLICA_SETS, &selector).await?;
        sets.sort_by_key(|set| object::text(set, &["metadata", "creationTimestamp"]).to_owned());
        let mut new = sets.iter().find(|set| same_template(&deployment, set)).cloned();
        let paused = object::at(&deployment, &["spec", "paused"]) == Some(&Value::Bool(true));
        let highest = sets
            .iter()
            .filter(|set| new.as_ref().is_none_or(|new| object::uid(new) != object::uid(set)))
            .map(|set| revision_of(set))
            .max()
            .unwrap_or(0);
        match &new {
            Some(set) if !paused => {
                let revision = revision_of(set).max(highest + 1);
                self.record_revision(&REPLICA_SETS, set, revision).await?;
                self.record_revision(&DEPLOYMENTS, &deployment, revision).await?;
            }
            None if !paused => {
                let first = rollout::first_replicas(&deployment, &sets, &self.old_pods(&sets)?);
                let set = self.create_set(&deployment, highest + 1, first).await?;
                self.record_revision(&DEPLOYMENTS, &deployment, highest + 1).await?;
                sets.push(Arc::clone(&set));
                new = Some(set);
            }
            Some(_) | None => {}
        }
        let old: Vec<Arc<Value>> = sets
            .iter()
            .filter(|set| new.as_ref().is_none_or(|new| object::uid(new) != object::uid(set)))
            .cloned()
            .collect();
        let pods = self.old_pods(&old)?;
        let mut scaled = false;
        for scale in rollout::steps(&deployment, new.as_deref(), &old, &pods, paused) {
            if let Some(set) = sets.iter().find(|set| object::uid(set) == scale.uid) {
                self.scale(&deployment, set, &scale).await?;
                scaled = true;
            }
        }
        if !scaled && !paused && status::is_complete(&deployment, new.as_deref(), &sets) {
            self.clean_up(&deployment, &old).await?;
        }
        self.report(&deployment, new.as_deref(), &sets).await
    }
}

impl DeploymentController {
    /// Names of the pods of some sets that have not ended.
    fn old_pods(&self, sets: &[Arc<Value>]) -> Result<Vec<String>, ApiError> {
        let Some(first) = sets.first() else { return Ok(Vec::new()) };
        let namespace = object::namespace(first);
        let pods = self.client.list(&PODS, namespace, &crate::api::ListOptions::default())?;
        let owned =
            |pod: &Value| sets.iter().any(|set| children::is_controlled_by(pod, object::uid(set)));
        Ok(pods
            .items
            .iter()
            .filter(|pod| owned(pod) && !children::is_finished(pod))
            .map(|pod| object::name(pod).to_owned())
            .collect())
    }

    async fn report(
        &self,
        deployment: &Value,
        new: Option<&Value>,
        sets: &[Arc<Value>],
    ) -> Result<After, ApiError> {
        let now = Timestamp::now();
        let (namespace, name) = (object::namespace(deployment), object::name(deployment));
        let found = gone_is_none(self.client.get(&DEPLOYMENTS, namespace, name))?;
        // What was done was done for one generation: saying that a later one was observed would
        // tell `kubectl rollout status` of a success that has not begun. Its event is queued.
        let Some(current) =
            found.filter(|current| object::generation(current) == object::generation(deployment))
        else {
            return Ok(After::Done);
        };
        let fresh: Vec<Arc<Value>> = sets
            .iter()
            .filter_map(|set| self.client.get(&REPLICA_SETS, namespace, object::name(set)).ok())
            .collect();
        let new = new.and_then(|new| fresh.iter().find(|set| object::uid(set) == object::uid(new)));
        let status = status::of(&current, new.map(AsRef::as_ref), &fresh, now);
        if object::at(&current, &["status"]) != Some(&status) {
            let mut next = Value::clone(&current);
            object::remove(&mut next, &["metadata", "resourceVersion"]);
            object::set(&mut next, &["status"], status.clone());
            gone_is_none(self.client.update_status(&DEPLOYMENTS, next).await)?;
        }
        let wait = status::progress_deadline(&current, &status)
            .and_then(|deadline| Duration::try_from(deadline.duration_since(now)).ok());
        Ok(wait.map_or(After::Done, |wait| After::In(wait + Duration::from_secs(1))))
    }
}

fn revision_of(set: &Value) -> u64 {
    object::annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether a set runs the deployment's present template.
fn same_template(deployment: &Value, set: &Value) -> bool {
    let template = |object: &Value| {
        let mut template = object::at(object, &["spec", "template"]).cloned().unwrap_or_default();
        object::remove(&mut template, &["metadata", "labels", HASH]);
        if object::map(&template, &["metadata", "labels"]).is_some_and(serde_json::Map::is_empty) {
            object::remove(&mut template, &["metadata", "labels"]);
        }
        template
    };
    template(deployment) == template(set)
}

/// A short name for a template (FNV-1a over its JSON, whose keys are sorted).
fn template_hash(deployment: &Value, collisions: i64) -> String {
    let template = object::at(deployment, &["spec", "template"]).cloned().unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in format!("{template}{collisions}").bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string()
        .bytes()
        .map(|digit| char::from(HASH_LETTERS[usize::from(digit) % HASH_LETTERS.len()]))
        .collect()
}

fn new_set(deployment: &Value, hash: &str, revision: u64, replicas: i64) -> Value {
    let mut template = object::at(deployment, &["spec", "template"]).cloned().unwrap_or_default();
    object::set(&mut template, &["metadata", "labels", HASH], hash);
    let mut selector = object::at(deployment, &["spec", "selector"]).cloned().unwrap_or_default();
    object::set(&mut selector, &["matchLabels", HASH], hash);
    let labels = object::at(&template, &["metadata", "labels"]).cloned().unwrap_or_default();
    let mut annotations =
        object::at(deployment, &["metadata", "annotations"]).cloned().unwrap_or_else(|| json!({}));
    for own in [LAST_APPLIED, REVISION] {
        object::remove(&mut annotations, &[own]);
    }
    object::set(&mut annotations, &[REVISION], revision.to_string());
    object::set(&mut annotations, &[DESIRED], rollout::desired(deployment).to_string());
    object::set(&mut annotations, &[MAXIMUM], rollout::maximum(deployment).to_string());
    let mut set = json!({
        "metadata": {
            "name": format!("{}-{hash}", object::name(deployment)),
            "namespace": object::namespace(deployment),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [controller_reference(&DEPLOYMENTS, deployment)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    });
    if let Some(seconds) = object::integer(deployment, &["spec", "minReadySeconds"]) {
        object::set(&mut set, &["spec", "minReadySeconds"], seconds);
    }
    set
}
