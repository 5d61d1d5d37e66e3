//! The controllers against a real server, with a node that only reports what it is told to.

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ControllerOptions, bootstrap, run};
use crate::admission::Switches;
use crate::api::{Api, DeleteOptions, ListOptions, PatchBody, Propagation};
use crate::client::Client;
use crate::identity::{MASTERS, User};
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{
    CONFIG_MAPS, DEPLOYMENTS, EVENTS, JOBS, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, Resource, SERVICE_ACCOUNTS,
};
use crate::storage::{StorageError, Store};

/// How long a state may take to come; only a bound, watches end the wait.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::open(dir).await
    }

    async fn open(dir: tempfile::TempDir) -> Self {
        let path = dir.path().join("state.redb");
        // After a restart the old writer may take a moment to let go of the file.
        let opened = async {
            loop {
                match Store::open(&path) {
                    Err(StorageError::InUse { .. }) => tokio::task::yield_now().await,
                    opened => return opened.expect("a store"),
                }
            }
        };
        let store = bounded(opened).await;
        let api = Api::new(store, Switches::default());
        let user = User::authenticated("test", &[MASTERS]);
        let client = Client::new(api, user, "test");
        let options = ControllerOptions {
            node_name: "n".to_owned(),
            ca_certificate_pem: "CA".to_owned(),
            volumes_dir: dir.path().join("volumes"),
        };
        bootstrap(&client, &options).await.expect("bootstrap");
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(run(client.clone(), options, stop.clone()));
        tasks.spawn(node(client.clone(), stop.clone()));
        tasks.spawn(reclaimer(client.clone(), stop.clone()));
        let cluster = Self { client, stop, tasks, dir };
        cluster.register_node().await;
        cluster
    }

    /// Stops everything and opens the same state again, as after a crash of the process.
    async fn restart(mut self) -> Self {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let Self { dir, client, .. } = self;
        drop(client);
        Self::open(dir).await
    }

    async fn register_node(&self) {
        let node = json!({
            "metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}},
        });
        bootstrap::create(&self.client, &NODES, node).await.expect("the node");
        let status = json!({"status": {
            "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        merge(&self.client, &NODES, "", "n", "status", status).await;
    }

    async fn create(&self, resource: &'static Resource, object: Value) {
        let mut object = object;
        if resource.is_namespaced() && object::namespace(&object).is_empty() {
            object::set(&mut object, &["metadata", "namespace"], "default");
        }
        self.client.create(resource, object).await.expect("created");
    }

    fn get(&self, resource: &'static Resource, name: &str) -> Option<Value> {
        let namespace = if resource.is_namespaced() { "default" } else { "" };
        self.client.get(resource, namespace, name).ok().map(|found| Value::clone(&found))
    }

    fn list(&self, resource: &'static Resource) -> Vec<Value> {
        let listed = self.client.list(resource, "", &ListOptions::default()).expect("a list");
        listed.items.iter().map(|item| Value::clone(item)).collect()
    }

    /// Waits until a kind is as a condition says; every change of the kind is looked at.
    async fn until<T>(
        &self,
        resource: &'static Resource,
        condition: impl Fn(&Self) -> Option<T>,
    ) -> T {
        let mut stream = self.client.watch(resource, "", &ListOptions::default()).expect("a watch");
        let reached = async {
            loop {
                if let Some(value) = condition(self) {
                    return value;
                }
                stream.next().await.expect("an event");
            }
        };
        bounded(reached).await
    }

    async fn delete(&self, resource: &'static Resource, name: &str, propagation: Propagation) {
        let namespace = if resource.is_namespaced() { "default" } else { "" };
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        self.client.delete(resource, namespace, name, &options).await.expect("deleted");
    }

    fn reasons(&self, name: &str) -> Vec<String> {
        self.list(&EVENTS)
            .iter()
            .filter(|event| object::text(event, &["involvedObject", "name"]) == name)
            .map(|event| object::text(event, &["reason"]).to_owned())
            .collect()
    }
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the state comes in time")
}

async fn merge(
    client: &Client,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
    subresource: &str,
    body: Value,
) {
    let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
    // The object may be gone by now, which is as good.
    let _ = client.patch(resource, namespace, name, subresource, patch).await;
}

/// A node without containers: the image's name says how a pod ends.
async fn node(client: Client, stop: CancellationToken) {
    let mut stream = client.watch(&PODS, "", &ListOptions::default()).expect("a watch");
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = stream.next() => event.expect("an event"),
        };
        let pod = &event.object;
        let (namespace, name) = (object::namespace(pod), object::name(pod));
        if object::text(pod, &["spec", "nodeName"]).is_empty() {
            continue;
        }
        if object::is_deleting(pod) {
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                precondition_uid: Some(object::uid(pod).to_owned()),
                ..DeleteOptions::default()
            };
            let _ = client.delete(&PODS, namespace, name, &options).await;
            continue;
        }
        let image = object::text(&pod["spec"]["containers"][0], &["image"]);
        let phase = match image {
            "succeeds" => "Succeeded",
            "fails" => "Failed",
            "hangs" => continue,
            _ => "Running",
        };
        if object::text(pod, &["status", "phase"]) == phase {
            continue;
        }
        let now = object::format_time(jiff::Timestamp::now());
        let ready = if phase == "Running" { "True" } else { "False" };
        let status = json!({"status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
            "containerStatuses": [{"name": "c", "image": image, "imageID": "", "ready": true,
                "restartCount": 0, "state": {"terminated": {"exitCode": 0, "finishedAt": now}}}],
        }});
        merge(&client, &PODS, namespace, name, "status", status).await;
    }
}

/// The node's other duty: released volumes of the local-path class are its to delete.
async fn reclaimer(client: Client, stop: CancellationToken) {
    let mut stream =
        client.watch(&PERSISTENT_VOLUMES, "", &ListOptions::default()).expect("a watch");
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = stream.next() => event.expect("an event"),
        };
        if object::text(&event.object, &["status", "phase"]) == "Released" {
            let name = object::name(&event.object);
            let _ = client.delete(&PERSISTENT_VOLUMES, "", name, &DeleteOptions::default()).await;
        }
    }
}

fn template(image: &str, policy: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": image}]},
    })
}

fn job(name: &str, image: &str, spec: Value) -> Value {
    let mut job =
        json!({"metadata": {"name": name}, "spec": {"template": template(image, "Never")}});
    json_patch::merge(&mut job["spec"], &spec);
    job
}

fn deployment(replicas: i64, image: &str) -> Value {
    json!({"metadata": {"name": "d"}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "a"}},
        "template": template(image, "Always"),
    }})
}

fn types(object: &Value) -> Vec<String> {
    let conditions = object::list(object, &["status", "conditions"]).iter();
    conditions.map(|condition| object::text(condition, &["type"]).to_owned()).collect()
}

async fn finished(cluster: &Cluster, name: &str) -> Value {
    cluster
        .until(&JOBS, |cluster| cluster.get(&JOBS, name).filter(|job| types(job).len() == 2))
        .await
}

// mini-kubernetes.md 14, rows 60 and 61; kubelet-images.md 15.10, J1.
#[tokio::test]
async fn job_runs_its_completions_and_says_so_in_order() {
    let cluster = Cluster::start().await;
    let spec = json!({"parallelism": 3, "completions": 5});
    cluster.create(&JOBS, job("j", "succeeds", spec)).await;
    let done = finished(&cluster, "j").await;
    assert_eq!(types(&done), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!(done["status"]["succeeded"], 5);
    assert_eq!(done["status"]["uncountedTerminatedPods"], json!({}));
    let pods = cluster.list(&PODS);
    assert_eq!(pods.len(), 5);
    assert!(pods.iter().all(|pod| object::finalizers(pod).is_empty()));
    let told = |cluster: &Cluster| {
        let reasons = cluster.reasons("j");
        reasons.contains(&"Completed".to_owned()).then_some(reasons)
    };
    let reasons = cluster.until(&EVENTS, told).await;
    assert_eq!(reasons.iter().filter(|reason| *reason == "SuccessfulCreate").count(), 5);
}

// kubelet-images.md 15.10, J2.
#[tokio::test]
async fn job_over_its_limit_fails_after_its_pods_are_gone() {
    let cluster = Cluster::start().await;
    cluster.create(&JOBS, job("j", "fails", json!({"backoffLimit": 0}))).await;
    let failed = finished(&cluster, "j").await;
    assert_eq!(types(&failed), ["FailureTarget", "Failed"]);
    assert_eq!(failed["status"]["failed"], 1);
    assert_eq!(failed["status"]["conditions"][1]["reason"], "BackoffLimitExceeded");
    let told = |cluster: &Cluster| {
        cluster.reasons("j").contains(&"BackoffLimitExceeded".to_owned()).then_some(())
    };
    cluster.until(&EVENTS, told).await;
}

#[tokio::test]
async fn job_goes_on_after_a_restart_and_counts_nothing_twice() {
    let cluster = Cluster::start().await;
    let spec = json!({"parallelism": 1, "completions": 4});
    cluster.create(&JOBS, job("j", "succeeds", spec)).await;
    let one = |cluster: &Cluster| {
        cluster
            .get(&JOBS, "j")
            .filter(|job| 0 < object::integer(job, &["status", "succeeded"]).unwrap_or(0))
    };
    cluster.until(&JOBS, one).await;
    let cluster = cluster.restart().await;
    let done = finished(&cluster, "j").await;
    assert_eq!(done["status"]["succeeded"], 4);
    assert_eq!(cluster.list(&PODS).len(), 4);
}

// mini-kubernetes.md 14, row 50.
#[tokio::test]
async fn deleted_job_takes_its_pods_along_and_an_orphaned_one_leaves_them() {
    let cluster = Cluster::start().await;
    cluster.create(&JOBS, job("a", "runs", json!({}))).await;
    let bound = |cluster: &Cluster| {
        let pods = cluster.list(&PODS);
        pods.iter().any(|pod| object::text(pod, &["status", "phase"]) == "Running").then_some(())
    };
    cluster.until(&PODS, bound).await;
    cluster.delete(&JOBS, "a", Propagation::Background).await;
    cluster.until(&PODS, |cluster| cluster.list(&PODS).is_empty().then_some(())).await;

    cluster.create(&JOBS, job("b", "runs", json!({}))).await;
    cluster.until(&PODS, bound).await;
    cluster.delete(&JOBS, "b", Propagation::Orphan).await;
    let released = |cluster: &Cluster| {
        let pods = cluster.list(&PODS);
        let free = pods.iter().all(|pod| {
            object::list(pod, &["metadata", "ownerReferences"]).is_empty()
                && object::finalizers(pod).is_empty()
        });
        (pods.len() == 1 && free).then_some(())
    };
    cluster.until(&PODS, released).await;
    cluster.until(&JOBS, |cluster| cluster.get(&JOBS, "b").is_none().then_some(())).await;
}

#[tokio::test]
async fn deployment_rolls_to_a_new_image_and_back() {
    let cluster = Cluster::start().await;
    cluster.create(&DEPLOYMENTS, deployment(3, "one")).await;
    let complete = |cluster: &Cluster| {
        cluster.get(&DEPLOYMENTS, "d").filter(|d| {
            let number = |key: &str| object::integer(d, &["status", key]).unwrap_or(0);
            object::generation(d) == number("observedGeneration")
                && number("updatedReplicas") == 3
                && number("replicas") == 3
                && number("availableReplicas") == 3
        })
    };
    let first = cluster.until(&DEPLOYMENTS, complete).await;
    assert_eq!(object::annotation(&first, "deployment.kubernetes.io/revision"), Some("1"));
    let spec = |image: &str| json!({"spec": {"template": template(image, "Always")}});
    merge(&cluster.client, &DEPLOYMENTS, "default", "d", "", spec("two")).await;
    let second = cluster.until(&DEPLOYMENTS, complete).await;
    assert_eq!(object::annotation(&second, "deployment.kubernetes.io/revision"), Some("2"));
    let images: Vec<String> = cluster
        .list(&PODS)
        .iter()
        .filter(|pod| !object::is_deleting(pod))
        .map(|pod| object::text(&pod["spec"]["containers"][0], &["image"]).to_owned())
        .collect();
    assert_eq!(images, ["two", "two", "two"]);
    merge(&cluster.client, &DEPLOYMENTS, "default", "d", "", spec("one")).await;
    let third = cluster.until(&DEPLOYMENTS, complete).await;
    assert_eq!(object::annotation(&third, "deployment.kubernetes.io/revision"), Some("3"));
    assert_eq!(cluster.list(&REPLICA_SETS).len(), 2);

    cluster.delete(&DEPLOYMENTS, "d", Propagation::Foreground).await;
    cluster
        .until(&DEPLOYMENTS, |cluster| cluster.get(&DEPLOYMENTS, "d").is_none().then_some(()))
        .await;
    assert!(cluster.list(&REPLICA_SETS).is_empty());
    assert!(cluster.list(&PODS).is_empty());
}

#[tokio::test]
async fn replication_controller_replaces_adopts_and_scales() {
    let cluster = Cluster::start().await;
    let mut orphan = template("runs", "Always");
    object::set(&mut orphan, &["metadata", "name"], "orphan");
    cluster.create(&PODS, orphan).await;
    let spec = json!({"replicas": 2, "template": template("runs", "Always")});
    let rc = json!({"metadata": {"name": "rc"}, "spec": spec});
    cluster.create(&REPLICATION_CONTROLLERS, rc).await;
    let ready = |wanted: usize| {
        move |cluster: &Cluster| {
            let rc = cluster.get(&REPLICATION_CONTROLLERS, "rc")?;
            let ready = object::integer(&rc, &["status", "readyReplicas"]).unwrap_or(0);
            (usize::try_from(ready) == Ok(wanted)).then_some(())
        }
    };
    // Each kind is waited for by its own events.
    let pods = |wanted: usize| {
        move |cluster: &Cluster| (cluster.list(&PODS).len() == wanted).then_some(())
    };
    cluster.until(&REPLICATION_CONTROLLERS, ready(2)).await;
    cluster.until(&PODS, pods(2)).await;
    let adopted = cluster.get(&PODS, "orphan").expect("the orphan stays");
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["name"], "rc");
    cluster.delete(&PODS, "orphan", Propagation::Background).await;
    let replaced = |cluster: &Cluster| cluster.get(&PODS, "orphan").is_none().then_some(());
    cluster.until(&PODS, replaced).await;
    cluster.until(&PODS, pods(2)).await;
    cluster.until(&REPLICATION_CONTROLLERS, ready(2)).await;
    let none = json!({"spec": {"replicas": 0}});
    merge(&cluster.client, &REPLICATION_CONTROLLERS, "default", "rc", "", none).await;
    cluster.until(&PODS, |cluster| cluster.list(&PODS).is_empty().then_some(())).await;
}

// mini-kubernetes.md 14, row 72.
#[tokio::test]
async fn claim_is_bound_for_its_first_pod_and_kept_while_in_use() {
    let cluster = Cluster::start().await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    let mut pod = template("runs", "Always");
    object::set(&mut pod, &["metadata", "name"], "p");
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    cluster.create(&PODS, pod).await;
    let refused = |cluster: &Cluster| {
        let pod = cluster.get(&PODS, "p")?;
        let condition = object::condition(&pod, "PodScheduled")?;
        object::text(condition, &["message"])
            .contains("persistentvolumeclaim \"c\" not found")
            .then_some(())
    };
    cluster.until(&PODS, refused).await;
    cluster.create(&PERSISTENT_VOLUME_CLAIMS, claim).await;
    let running = |cluster: &Cluster| {
        let pod = cluster.get(&PODS, "p")?;
        (object::text(&pod, &["status", "phase"]) == "Running").then_some(())
    };
    cluster.until(&PODS, running).await;
    let claim = cluster.get(&PERSISTENT_VOLUME_CLAIMS, "c").expect("the claim");
    assert_eq!(claim["status"]["phase"], "Bound");
    assert_eq!(claim["status"]["capacity"]["storage"], "1Gi");
    assert_eq!(claim["spec"]["storageClassName"], "local-path");
    cluster.delete(&PERSISTENT_VOLUME_CLAIMS, "c", Propagation::Background).await;
    let claim = cluster.get(&PERSISTENT_VOLUME_CLAIMS, "c").expect("the claim is protected");
    assert!(object::is_deleting(&claim));
    cluster.delete(&PODS, "p", Propagation::Background).await;
    let gone = |cluster: &Cluster| cluster.list(&PERSISTENT_VOLUMES).is_empty().then_some(());
    cluster.until(&PERSISTENT_VOLUMES, gone).await;
    assert!(cluster.get(&PERSISTENT_VOLUME_CLAIMS, "c").is_none());
}

// mini-kubernetes.md 14, rows 53 and 54.
#[tokio::test]
async fn namespace_is_furnished_refurnished_and_emptied() {
    let cluster = Cluster::start().await;
    cluster.create(&NAMESPACES, json!({"metadata": {"name": "tom"}})).await;
    let furnished = |cluster: &Cluster| {
        let account = cluster.client.get(&SERVICE_ACCOUNTS, "tom", "default").ok()?;
        let map = cluster.client.get(&CONFIG_MAPS, "tom", "kube-root-ca.crt").ok()?;
        assert_eq!(map["data"]["ca.crt"], "CA");
        Some(object::uid(&account).to_owned())
    };
    let first = cluster.until(&CONFIG_MAPS, furnished).await;
    let options = DeleteOptions::default();
    cluster.client.delete(&SERVICE_ACCOUNTS, "tom", "default", &options).await.expect("deleted");
    let again = |cluster: &Cluster| furnished(cluster).filter(|uid| *uid != first);
    cluster.until(&SERVICE_ACCOUNTS, again).await;

    let mut pod = template("runs", "Always");
    object::set(&mut pod, &["metadata", "name"], "p");
    object::set(&mut pod, &["metadata", "namespace"], "tom");
    cluster.create(&PODS, pod).await;
    cluster.delete(&NAMESPACES, "tom", Propagation::Background).await;
    cluster
        .until(&NAMESPACES, |cluster| cluster.get(&NAMESPACES, "tom").is_none().then_some(()))
        .await;
    assert!(cluster.list(&PODS).is_empty());
    assert!(cluster.client.get(&CONFIG_MAPS, "tom", "kube-root-ca.crt").is_err());
}

// mini-kubernetes.md 14, row 51.
#[tokio::test]
async fn object_of_an_owner_that_never_existed_is_collected() {
    let cluster = Cluster::start().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "u"});
    let map = json!({"metadata": {"name": "m", "ownerReferences": [owner]}});
    cluster.create(&CONFIG_MAPS, map).await;
    cluster
        .until(&CONFIG_MAPS, |cluster| cluster.get(&CONFIG_MAPS, "m").is_none().then_some(()))
        .await;
}
