//! Binds pods to nodes that can take them, and says why when none can.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::children::{gone_is_none, is_finished, with_condition};
use super::queue::Key;
use super::reconcile::{After, Reconciler};
use super::recorder::{Recorder, Severity};
use crate::api::{ListOptions, PatchBody, WatchEvent};
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{
    NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, Resource, STORAGE_CLASSES,
};
use crate::schema::quantity::Quantity;

/// The scheduler's name, in pods and events.
const NAME: &str = "default-scheduler";
/// Annotation that tells the provisioner where the first consumer runs.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// What upstream appends when evicting others would not help either.
const PREEMPTION: &str = "Preemption is not helpful for scheduling.";

/// The controller.
pub(super) struct Scheduler {
    client: Client,
    recorder: Recorder,
}

/// Where a pod may go.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// To this node.
    Bind(String),
    /// Nowhere, for this reason.
    Unschedulable(String),
    /// To this node, once the claims are bound there.
    Provision { node: String, claims: Vec<String> },
}

impl Scheduler {
    /// A scheduler that uses this client.
    pub(super) fn new(client: &Client) -> Self {
        let client = client.named("kube-scheduler");
        Self { recorder: Recorder::new(&client, NAME), client }
    }

    fn pending_keys(&self, namespace: &str) -> Vec<Key> {
        let pods = self.client.list(&PODS, namespace, &ListOptions::default());
        let pods = pods.map(|list| list.items).unwrap_or_default();
        pods.iter().filter(|pod| is_waiting(pod)).map(|pod| Key::of(pod)).collect()
    }

    fn list(&self, resource: &'static Resource) -> Result<Vec<Arc<Value>>, ApiError> {
        Ok(self.client.list(resource, "", &ListOptions::default())?.items)
    }

    async fn refuse(&mut self, pod: &Value, message: &str) -> Result<(), ApiError> {
        let told = object::condition(pod, "PodScheduled")
            .is_some_and(|condition| object::text(condition, &["message"]) == message);
        if told {
            return Ok(());
        }
        self.recorder.event(&PODS, pod, Severity::Warning, "FailedScheduling", message).await;
        let old = object::list(pod, &["status", "conditions"]);
        let now = jiff::Timestamp::now();
        let conditions =
            with_condition(old, "PodScheduled", "False", ("Unschedulable", message), now);
        let body = json!({"status": {"conditions": conditions}});
        let patch = PatchBody::Patch { format: PatchFormat::StrategicMerge, body };
        let (namespace, name) = (object::namespace(pod), object::name(pod));
        gone_is_none(self.client.patch(&PODS, namespace, name, "status", patch).await).map(drop)
    }
}

impl Reconciler for Scheduler {
    const NAME: &'static str = "scheduler";

    fn watches(&self) -> &'static [&'static Resource] {
        static WATCHED: [&Resource; 4] =
            [&PODS, &NODES, &PERSISTENT_VOLUME_CLAIMS, &PERSISTENT_VOLUMES];
        &WATCHED
    }

    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        if std::ptr::eq(resource, &PODS) {
            if is_waiting(&event.object) && event.kind != crate::api::WatchEventType::Deleted {
                return vec![Key::of(&event.object)];
            }
            // A pod that ended gives room to those that wait.
            return if is_finished(&event.object) || object::is_deleting(&event.object) {
                self.pending_keys("")
            } else {
                Vec::new()
            };
        }
        if std::ptr::eq(resource, &PERSISTENT_VOLUME_CLAIMS) {
            return self.pending_keys(object::namespace(&event.object));
        }
        self.pending_keys("")
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        let found = gone_is_none(self.client.get(&PODS, &key.namespace, &key.name))?;
        let Some(pod) = found.filter(|pod| is_waiting(pod)) else { return Ok(After::Done) };
        let nodes = self.list(&NODES)?;
        let pods = self.list(&PODS)?;
        let claims = match self.claims(&pod)? {
            Ok(claims) => claims,
            Err(missing) => {
                let message = format!(
                    "0/{0} nodes are available: {missing}. preemption: 0/{0} nodes are available: \
                     {0} {PREEMPTION}",
                    nodes.len()
                );
                self.refuse(&pod, &message).await?;
                return Ok(After::Done);
            }
        };
        match decide(&pod, &nodes, &pods, &claims) {
            Verdict::Unschedulable(message) => self.refuse(&pod, &message).await?,
            Verdict::Provision { node, claims } => {
                for claim in claims {
                    let body = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                    let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
                    let claims = &PERSISTENT_VOLUME_CLAIMS;
                    let patched =
                        self.client.patch(claims, &key.namespace, &claim, "", patch).await;
                    gone_is_none(patched)?;
                }
            }
            Verdict::Bind(node) => {
                match self.client.bind(&key.namespace, &key.name, &node).await {
                    // It is gone, or somebody else was faster: the watch brings the new state.
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    Err(error) => return Err(error),
                    Ok(()) => {
                        let message = format!(
                            "Successfully assigned {}/{} to {node}",
                            key.namespace, key.name
                        );
                        let normal = Severity::Normal;
                        self.recorder.event(&PODS, &pod, normal, "Scheduled", &message).await;
                    }
                }
            }
        }
        Ok(After::Done)
    }
}

/// What a pod's claim means for its placement.
#[derive(Debug)]
enum Claim {
    /// Bound to a volume, which may be tied to nodes.
    Bound(Option<Arc<Value>>),
    /// Waits for this pod to choose a node.
    Waiting(String),
    /// Waits for something else.
    Unbound,
}

impl Scheduler {
    /// The pod's claims, or why one of them cannot be used.
    fn claims(&self, pod: &Value) -> Result<Result<Vec<Claim>, String>, ApiError> {
        let mut claims = Vec::new();
        for name in claim_names(pod) {
            let namespace = object::namespace(pod);
            let found = self.client.get(&PERSISTENT_VOLUME_CLAIMS, namespace, &name);
            let Some(claim) = gone_is_none(found)? else {
                return Ok(Err(format!("persistentvolumeclaim {name:?} not found")));
            };
            if object::is_deleting(&claim) {
                return Ok(Err(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            let volume = object::text(&claim, &["spec", "volumeName"]);
            if !volume.is_empty() && object::text(&claim, &["status", "phase"]) == "Bound" {
                let volume = gone_is_none(self.client.get(&PERSISTENT_VOLUMES, "", volume))?;
                claims.push(Claim::Bound(volume));
                continue;
            }
            let class = object::text(&claim, &["spec", "storageClassName"]);
            let class = gone_is_none(self.client.get(&STORAGE_CLASSES, "", class))?;
            let waits = class.is_some_and(|class| {
                object::text(&class, &["volumeBindingMode"]) == "WaitForFirstConsumer"
            });
            claims.push(if waits && volume.is_empty() {
                Claim::Waiting(name)
            } else {
                Claim::Unbound
            });
        }
        Ok(Ok(claims))
    }
}

/// Whether a pod waits for a node of this scheduler.
fn is_waiting(pod: &Value) -> bool {
    object::text(pod, &["spec", "nodeName"]).is_empty()
        && object::text(pod, &["spec", "schedulerName"]) == NAME
        && object::list(pod, &["spec", "schedulingGates"]).is_empty()
        && !object::is_deleting(pod)
        && !is_finished(pod)
}

/// The claims a pod names in its volumes.
pub(super) fn claim_names(pod: &Value) -> Vec<String> {
    object::list(pod, &["spec", "volumes"])
        .iter()
        .filter_map(|volume| {
            if volume.get("ephemeral").is_some() {
                return Some(format!("{}-{}", object::name(pod), object::text(volume, &["name"])));
            }
            let claim = object::at(volume, &["persistentVolumeClaim", "claimName"])?;
            claim.as_str().map(str::to_owned)
        })
        .collect()
}

/// Chooses a node: of those that can take the pod the one with the fewest pods.
fn decide(pod: &Value, nodes: &[Arc<Value>], pods: &[Arc<Value>], claims: &[Claim]) -> Verdict {
    if nodes.is_empty() {
        return Verdict::Unschedulable("no nodes available to schedule pods".to_owned());
    }
    if claims.iter().any(|claim| matches!(claim, Claim::Unbound)) {
        return unschedulable(
            nodes.len(),
            &BTreeMap::from([("pod has unbound immediate PersistentVolumeClaims".to_owned(), 0)]),
        );
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in nodes {
        let own: Vec<&Value> = pods
            .iter()
            .map(AsRef::as_ref)
            .filter(|other| object::text(other, &["spec", "nodeName"]) == object::name(node))
            .filter(|other| !is_finished(other))
            .collect();
        let found = obstacles(pod, node, &own, claims);
        if found.is_empty() {
            fitting.push((own.len(), node));
        }
        for reason in found {
            *reasons.entry(reason).or_insert(0) += 1;
        }
    }
    let Some((_, node)) = fitting.into_iter().min_by_key(|(pods, node)| {
        (*pods, Reverse(object::text(node, &["metadata", "creationTimestamp"]).to_owned()))
    }) else {
        return unschedulable(nodes.len(), &reasons);
    };
    let node = object::name(node).to_owned();
    let waiting: Vec<String> = claims
        .iter()
        .filter_map(|claim| match claim {
            Claim::Waiting(name) => Some(name.clone()),
            Claim::Bound(_) | Claim::Unbound => None,
        })
        .collect();
    if waiting.is_empty() {
        Verdict::Bind(node)
    } else {
        Verdict::Provision { node, claims: waiting }
    }
}

fn unschedulable(nodes: usize, reasons: &BTreeMap<String, usize>) -> Verdict {
    let texts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| match count {
            // A reason that lies with the pod, not with a node.
            0 => reason.clone(),
            count => format!("{count} {reason}"),
        })
        .collect();
    Verdict::Unschedulable(format!(
        "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {nodes} \
         {PREEMPTION}",
        texts.join(", ")
    ))
}

/// Why a node cannot take a pod; empty when it can.
fn obstacles(pod: &Value, node: &Value, others: &[&Value], claims: &[Claim]) -> Vec<String> {
    let mut found = Vec::new();
    if object::at(node, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        found.push("node(s) were unschedulable".to_owned());
    }
    let ready = object::condition(node, "Ready").map(|ready| object::text(ready, &["status"]));
    if ready != Some("True") {
        let taint = if ready == Some("False") { "not-ready" } else { "unreachable" };
        found.push(format!("node(s) had untolerated taint {{node.kubernetes.io/{taint}: }}"));
    }
    for taint in object::list(node, &["spec", "taints"]) {
        let effect = object::text(taint, &["effect"]);
        let (key, value) = (object::text(taint, &["key"]), object::text(taint, &["value"]));
        let known = ["node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready"];
        if effect != "PreferNoSchedule" && !known.contains(&key) && !tolerates(pod, taint) {
            found.push(format!("node(s) had untolerated taint {{{key}: {value}}}"));
        }
    }
    let selector = object::map(pod, &["spec", "nodeSelector"]).into_iter().flatten();
    let mismatch =
        selector.into_iter().any(|(key, value)| object::label(node, key) != value.as_str());
    if mismatch || !matches_affinity(pod, node) {
        found.push("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let misplaced = claims.iter().any(|claim| match claim {
        Claim::Bound(Some(volume)) => !terms_match(
            object::list(volume, &["spec", "nodeAffinity", "required", "nodeSelectorTerms"]),
            node,
        ),
        Claim::Bound(None) | Claim::Waiting(_) | Claim::Unbound => false,
    });
    if misplaced {
        found.push("node(s) had volume node affinity conflict".to_owned());
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let capacity = Quantity::parse(object::text(node, &["status", "allocatable", name]));
        let wanted = requested(pod, name);
        if let (Some(capacity), true) = (capacity, 0 < wanted) {
            let used: i128 = others.iter().map(|other| requested(other, name)).sum();
            if capacity.millis() < used + wanted {
                found.push(format!("Insufficient {name}"));
            }
        }
    }
    if let Some(most) = Quantity::parse(object::text(node, &["status", "allocatable", "pods"]))
        && most.value() <= i128::try_from(others.len()).unwrap_or(i128::MAX)
    {
        found.push("Too many pods".to_owned());
    }
    found
}

fn matches_affinity(pod: &Value, node: &Value) -> bool {
    let path = [
        "spec",
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
    ];
    terms_match(object::list(pod, &path), node)
}

/// Node selector terms: any term may match, all expressions of a term must.
fn terms_match(terms: &[Value], node: &Value) -> bool {
    terms.is_empty()
        || terms.iter().any(|term| {
            let labels = object::list(term, &["matchExpressions"]).iter().all(|expression| {
                let key = object::text(expression, &["key"]);
                expression_matches(expression, object::label(node, key))
            });
            let fields = object::list(term, &["matchFields"])
                .iter()
                .all(|expression| expression_matches(expression, Some(object::name(node))));
            labels && fields
        })
}

fn expression_matches(expression: &Value, value: Option<&str>) -> bool {
    let listed = object::list(expression, &["values"])
        .iter()
        .any(|one| one.as_str().is_some_and(|one| value == Some(one)));
    match object::text(expression, &["operator"]) {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    object::list(pod, &["spec", "tolerations"]).iter().any(|toleration| {
        let text = |key: &str| object::text(toleration, &[key]);
        let effect =
            text("effect").is_empty() || text("effect") == object::text(taint, &["effect"]);
        let key = text("key").is_empty() || text("key") == object::text(taint, &["key"]);
        let value =
            text("operator") == "Exists" || text("value") == object::text(taint, &["value"]);
        effect && key && value
    })
}

/// What a pod asks of a resource, in thousandths: its containers together, or its largest init
/// container, whichever is more.
fn requested(pod: &Value, name: &str) -> i128 {
    let of = |container: &Value| {
        Quantity::parse(object::text(container, &["resources", "requests", name]))
            .map_or(0, Quantity::millis)
    };
    let main: i128 = object::list(pod, &["spec", "containers"]).iter().map(of).sum();
    let init = object::list(pod, &["spec", "initContainers"]).iter().map(of).max().unwrap_or(0);
    main.max(init)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(change: Value) -> Arc<Value> {
        let mut node = json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "status": {
                "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        json_patch::merge(&mut node, &change);
        Arc::new(node)
    }

    fn verdict(pod: Value, node: Arc<Value>) -> Verdict {
        decide(&pod, &[node], &[], &[])
    }

    #[test]
    fn pod_goes_to_the_ready_node() {
        assert_eq!(verdict(json!({}), node(json!({}))), Verdict::Bind("n".to_owned()));
    }

    #[test]
    fn refusal_names_the_obstacle_and_counts_nodes() {
        let cpu = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "3"}}}]}});
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let rows = [
            (json!({}), json!({"spec": {"unschedulable": true}}), "1 node(s) were unschedulable"),
            (
                json!({}),
                not_ready,
                "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
            ),
            (cpu, json!({}), "1 Insufficient cpu"),
            (
                json!({"spec": {"nodeSelector": {"disk": "hdd"}}}),
                json!({}),
                "1 node(s) didn't match Pod's node affinity/selector",
            ),
            (
                json!({}),
                json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}}),
                "1 node(s) had untolerated taint {a: b}",
            ),
        ];
        for (pod, change, text) in rows {
            let expected = format!(
                "0/1 nodes are available: {text}. preemption: 0/1 nodes are available: 1 Preemption \
                 is not helpful for scheduling."
            );
            assert_eq!(verdict(pod, node(change)), Verdict::Unschedulable(expected));
        }
        assert_eq!(
            decide(&json!({}), &[], &[], &[]),
            Verdict::Unschedulable("no nodes available to schedule pods".to_owned())
        );
    }

    #[test]
    fn running_pods_take_their_requests_from_the_node() {
        let of = |cpu: &str| json!({"spec": {"nodeName": "n", "containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
        let others = [Arc::new(of("1500m"))];
        let decide = |cpu: &str| decide(&of(cpu), &[node(json!({}))], &others, &[]);
        assert_eq!(decide("500m"), Verdict::Bind("n".to_owned()));
        assert!(matches!(decide("501m"), Verdict::Unschedulable(_)));
    }

    #[test]
    fn waiting_claims_are_provisioned_on_the_chosen_node_first() {
        let claims = [Claim::Bound(None), Claim::Waiting("c".to_owned())];
        assert_eq!(
            decide(&json!({}), &[node(json!({}))], &[], &claims),
            Verdict::Provision { node: "n".to_owned(), claims: vec!["c".to_owned()] }
        );
        assert!(matches!(
            decide(&json!({}), &[node(json!({}))], &[], &[Claim::Unbound]),
            Verdict::Unschedulable(text) if text.contains("unbound immediate")
        ));
    }
}
