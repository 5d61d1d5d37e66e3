//! ReplicaSets and ReplicationControllers: as many pods as asked for, no more and no less.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::children::{
    self, claim, from_template, gone_is_none, is_active, is_ready, ready_since, with_condition,
};
use super::queue::Key;
use super::reconcile::{After, Reconciler};
use super::recorder::{Recorder, Severity};
use crate::api::WatchEvent;
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::resources::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, Resource};
use crate::selectors::LabelSelector;

/// Most pods created or deleted in one look (upstream's burst).
const BURST_MAX: usize = 500;

/// The controller for one of the two kinds.
pub(super) struct ReplicaController {
    client: Client,
    recorder: Recorder,
    resource: &'static Resource,
}

impl ReplicaController {
    /// The controller of ReplicaSets.
    pub(super) fn of_replica_sets(client: &Client) -> Self {
        Self::new(client, &REPLICA_SETS, "replicaset-controller")
    }

    /// The controller of ReplicationControllers.
    pub(super) fn of_replication_controllers(client: &Client) -> Self {
        Self::new(client, &REPLICATION_CONTROLLERS, "replication-controller")
    }

    fn new(client: &Client, resource: &'static Resource, component: &'static str) -> Self {
        let client = client.named("kube-controller-manager");
        Self { recorder: Recorder::new(&client, component), client, resource }
    }

    async fn create_pods(&mut self, owner: &Value, count: usize) -> Result<(), ApiError> {
        let template = object::at(owner, &["spec", "template"]).cloned().unwrap_or_default();
        for _ in 0..count {
            let pod = from_template(self.resource, owner, &template);
            match self.client.create(&PODS, pod).await {
                Ok(created) => {
                    let text = format!("Created pod: {}", object::name(&created));
                    self.tell(owner, Severity::Normal, "SuccessfulCreate", &text).await;
                }
                Err(error) => {
                    let text = format!("Error creating: {error}");
                    self.tell(owner, Severity::Warning, "FailedCreate", &text).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn delete_pods(&mut self, owner: &Value, pods: &[Arc<Value>]) -> Result<(), ApiError> {
        for pod in pods {
            children::delete(&self.client, &PODS, pod).await?;
            let text = format!("Deleted pod: {}", object::name(pod));
            self.tell(owner, Severity::Normal, "SuccessfulDelete", &text).await;
        }
        Ok(())
    }

    async fn tell(&mut self, owner: &Value, severity: Severity, reason: &str, text: &str) {
        self.recorder.event(self.resource, owner, severity, reason, text).await;
    }
}

impl Reconciler for ReplicaController {
    const NAME: &'static str = "replicas";

    fn watches(&self) -> &'static [&'static Resource] {
        static SETS: [&Resource; 2] = [&REPLICA_SETS, &PODS];
        static CONTROLLERS: [&Resource; 2] = [&REPLICATION_CONTROLLERS, &PODS];
        if std::ptr::eq(self.resource, &REPLICA_SETS) { &SETS } else { &CONTROLLERS }
    }

    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        if std::ptr::eq(resource, self.resource) {
            return vec![Key::of(&event.object)];
        }
        let namespace = object::namespace(&event.object);
        match object::controller_of(&event.object) {
            Some(owner) if object::text(owner, &["kind"]) == self.resource.kind => {
                vec![Key::new(namespace, object::text(owner, &["name"]))]
            }
            Some(_) => Vec::new(),
            // An orphan may match any of them.
            None => self
                .client
                .list(self.resource, namespace, &crate::api::ListOptions::default())
                .map(|list| {
                    let owners = list.items.iter();
                    owners
                        .filter(|owner| selector(owner).matches(&event.object))
                        .map(|owner| Key::of(owner))
                        .collect()
                })
                .unwrap_or_default(),
        }
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        let found = gone_is_none(self.client.get(self.resource, &key.namespace, &key.name))?;
        let Some(owner) = found else { return Ok(After::Done) };
        let selector = selector(&owner);
        let claimed = claim(&self.client, (self.resource, &owner), &PODS, &selector).await?;
        let mut active: Vec<Arc<Value>> =
            claimed.into_iter().filter(|pod| is_active(pod)).collect();
        let wanted = object::integer(&owner, &["spec", "replicas"]).unwrap_or(1);
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let mut managed = Ok(());
        if !object::is_deleting(&owner) {
            if active.len() < wanted {
                let missing = (wanted - active.len()).min(BURST_MAX);
                managed = self.create_pods(&owner, missing).await;
            } else if wanted < active.len() {
                active.sort_by_cached_key(|pod| deletion_rank(pod));
                let excess: Vec<Arc<Value>> =
                    active.drain(..(active.len() - wanted).min(BURST_MAX)).collect();
                managed = self.delete_pods(&owner, &excess).await;
            }
        }
        let pods = self.client.list(&PODS, &key.namespace, &crate::api::ListOptions::default())?;
        let own: Vec<&Value> = pods
            .items
            .iter()
            .map(AsRef::as_ref)
            .filter(|pod| children::is_controlled_by(pod, object::uid(&owner)) && is_active(pod))
            .collect();
        let now = Timestamp::now();
        let status = status(&owner, &own, managed.as_ref().err(), now);
        if object::at(&owner, &["status"]) != Some(&status) {
            let mut new = Value::clone(&owner);
            object::remove(&mut new, &["metadata", "resourceVersion"]);
            object::set(&mut new, &["status"], status);
            gone_is_none(self.client.update_status(self.resource, new).await)?;
        }
        managed?;
        Ok(next_available(&owner, &own, now).map_or(After::Done, After::In))
    }
}

fn selector(owner: &Value) -> LabelSelector {
    let selector = object::at(owner, &["spec", "selector"]).cloned().unwrap_or_default();
    if object::text(owner, &["kind"]) == REPLICATION_CONTROLLERS.kind {
        // A ReplicationController has plain labels.
        return LabelSelector::from_object(&json!({"matchLabels": selector}));
    }
    LabelSelector::from_object(&selector)
}

/// Which pods go first: those without a node, not running, not ready, then the youngest.
fn deletion_rank(pod: &Value) -> (bool, u8, bool, std::cmp::Reverse<String>) {
    let phase = match object::text(pod, &["status", "phase"]) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let created = object::text(pod, &["metadata", "creationTimestamp"]).to_owned();
    let assigned = !object::text(pod, &["spec", "nodeName"]).is_empty();
    (assigned, phase, is_ready(pod), std::cmp::Reverse(created))
}

fn is_available(owner: &Value, pod: &Value, now: Timestamp) -> bool {
    let needed = object::integer(owner, &["spec", "minReadySeconds"]).unwrap_or(0);
    ready_since(pod)
        .is_some_and(|since| now.duration_since(since) >= SignedDuration::from_secs(needed))
        || (needed == 0 && is_ready(pod))
}

/// When the next ready pod becomes available.
fn next_available(owner: &Value, pods: &[&Value], now: Timestamp) -> Option<Duration> {
    let needed =
        object::integer(owner, &["spec", "minReadySeconds"]).filter(|needed| 0 < *needed)?;
    pods.iter()
        .filter_map(|pod| ready_since(pod))
        .filter_map(|since| {
            Duration::try_from(SignedDuration::from_secs(needed) - now.duration_since(since)).ok()
        })
        .filter(|left| !left.is_zero())
        .min()
}

fn status(owner: &Value, pods: &[&Value], failed: Option<&ApiError>, now: Timestamp) -> Value {
    let labels = object::map(owner, &["spec", "template", "metadata", "labels"]);
    let labelled = |pod: &Value| {
        labels.into_iter().flatten().all(|(key, value)| object::label(pod, key) == value.as_str())
    };
    let count = |wanted: &dyn Fn(&Value) -> bool| pods.iter().filter(|pod| wanted(pod)).count();
    let mut status = json!({
        "replicas": pods.len(),
        "observedGeneration": object::generation(owner),
    });
    for (key, number) in [
        ("fullyLabeledReplicas", count(&labelled)),
        ("readyReplicas", count(&is_ready)),
        ("availableReplicas", count(&|pod| is_available(owner, pod, now))),
    ] {
        if 0 < number {
            object::set(&mut status, &[key], number);
        }
    }
    let old = object::list(owner, &["status", "conditions"]);
    let conditions: Vec<Value> = match failed {
        Some(error) => {
            let text = ("FailedCreate", error.message.as_str());
            with_condition(old, "ReplicaFailure", "True", text, now)
        }
        None => old
            .iter()
            .filter(|condition| object::text(condition, &["type"]) != "ReplicaFailure")
            .cloned()
            .collect(),
    };
    if !conditions.is_empty() {
        object::set(&mut status, &["conditions"], conditions);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, ready: &str, since: &str) -> Value {
        json!({
            "metadata": {"labels": {"a": "b"}, "creationTimestamp": since},
            "spec": {"nodeName": "n"},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": since},
            ]},
        })
    }

    #[test]
    fn pods_that_do_least_are_deleted_first() {
        let early = "2026-01-01T00:00:00Z";
        let late = "2026-01-01T00:00:09Z";
        let mut pods = [
            pod("Running", "True", early),
            pod("Running", "True", late),
            pod("Running", "False", early),
            pod("Pending", "False", early),
        ];
        pods.sort_by_cached_key(deletion_rank);
        let order: Vec<&str> =
            pods.iter().map(|pod| object::text(pod, &["status", "phase"])).collect();
        assert_eq!(order, ["Pending", "Running", "Running", "Running"]);
        assert!(!is_ready(&pods[1]));
        assert_eq!(object::text(&pods[2], &["metadata", "creationTimestamp"]), late);
    }

    #[test]
    fn pods_are_available_after_min_ready_seconds() {
        let owner = json!({"metadata": {"generation": 2}, "spec": {
            "minReadySeconds": 10, "template": {"metadata": {"labels": {"a": "b"}}},
        }});
        let pods = [pod("Running", "True", "2026-01-01T00:00:00Z"), pod("Pending", "False", "")];
        let pods: Vec<&Value> = pods.iter().collect();
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let early = status(&owner, &pods, None, at("2026-01-01T00:00:04Z"));
        let expected = json!({
            "replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 1, "observedGeneration": 2,
        });
        assert_eq!(early, expected);
        let left = next_available(&owner, &pods, at("2026-01-01T00:00:04Z"));
        assert_eq!(left, Some(Duration::from_secs(6)));
        let later = status(&owner, &pods, None, at("2026-01-01T00:00:10Z"));
        assert_eq!(later["availableReplicas"], 1);
    }
}
