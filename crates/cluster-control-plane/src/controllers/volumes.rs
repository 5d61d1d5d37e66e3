//! Claims and volumes: matching, provisioning of the local-path class, protection, reclaiming.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::bootstrap::{PROVISIONER, create};
use super::children::{gone_is_none, is_finished};
use super::queue::Key;
use super::reconcile::{After, Reconciler};
use super::recorder::{Recorder, Severity};
use super::scheduler::{SELECTED_NODE, claim_names};
use crate::api::{ListOptions, PatchBody, WatchEvent};
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{
    PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, Resource, STORAGE_CLASSES,
};
use crate::schema::prepare::{CLAIM_PROTECTION, VOLUME_PROTECTION};
use crate::schema::quantity::Quantity;
use crate::selectors::LabelSelector;

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// The controller. A key with a namespace is a claim, one without is a volume.
pub(super) struct VolumeController {
    client: Client,
    recorder: Recorder,
    volumes_dir: PathBuf,
    node_name: String,
}

impl VolumeController {
    /// A controller that provisions below `volumes_dir` on the node of this name.
    pub(super) fn new(client: &Client, volumes_dir: &Path, node_name: &str) -> Self {
        let client = client.named("kube-controller-manager");
        Self {
            recorder: Recorder::new(&client, "persistentvolume-controller"),
            client,
            volumes_dir: volumes_dir.to_owned(),
            node_name: node_name.to_owned(),
        }
    }

    async fn merge(
        &self,
        resource: &'static Resource,
        about: &Value,
        subresource: &str,
        body: Value,
    ) -> Result<(), ApiError> {
        let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
        let (namespace, name) = (object::namespace(about), object::name(about));
        gone_is_none(self.client.patch(resource, namespace, name, subresource, patch).await)
            .map(drop)
    }

    async fn drop_finalizer(
        &self,
        resource: &'static Resource,
        about: &Value,
        finalizer: &str,
    ) -> Result<(), ApiError> {
        let finalizers = object::finalizers(about);
        if !finalizers.contains(&finalizer) {
            return Ok(());
        }
        let kept: Vec<&str> = finalizers.into_iter().filter(|name| *name != finalizer).collect();
        let body = json!({"metadata": {
            "uid": object::uid(about),
            "resourceVersion": object::text(about, &["metadata", "resourceVersion"]),
            "finalizers": kept,
        }});
        self.merge(resource, about, "", body).await
    }

    async fn tell(&mut self, claim: &Value, severity: Severity, reason: &str, text: &str) {
        self.recorder.event(&PERSISTENT_VOLUME_CLAIMS, claim, severity, reason, text).await;
    }
}

impl Reconciler for VolumeController {
    const NAME: &'static str = "volumes";

    fn watches(&self) -> &'static [&'static Resource] {
        static WATCHED: [&Resource; 4] =
            [&PERSISTENT_VOLUME_CLAIMS, &PERSISTENT_VOLUMES, &PODS, &STORAGE_CLASSES];
        &WATCHED
    }

    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        let object = &event.object;
        let namespace = object::namespace(object);
        if std::ptr::eq(resource, &PODS) {
            // A pod that ended may have been the last user of its claims.
            let ended = is_finished(object) || event.kind == crate::api::WatchEventType::Deleted;
            let names = if ended { claim_names(object) } else { Vec::new() };
            return names.iter().map(|name| Key::new(namespace, name)).collect();
        }
        if std::ptr::eq(resource, &PERSISTENT_VOLUME_CLAIMS) {
            let volume = object::text(object, &["spec", "volumeName"]);
            let volume = (!volume.is_empty()).then(|| Key::new("", volume));
            return std::iter::once(Key::of(object)).chain(volume).collect();
        }
        // A new volume or class may be what a claim waits for.
        let claims = self.client.list(&PERSISTENT_VOLUME_CLAIMS, "", &ListOptions::default());
        let claims = claims.map(|list| list.items).unwrap_or_default();
        let mut keys: Vec<Key> =
            claims.iter().filter(|claim| !is_bound(claim)).map(|claim| Key::of(claim)).collect();
        if std::ptr::eq(resource, &PERSISTENT_VOLUMES) {
            keys.push(Key::of(object));
            let reference = |key: &str| object::text(object, &["spec", "claimRef", key]);
            if !reference("name").is_empty() {
                keys.push(Key::new(reference("namespace"), reference("name")));
            }
        }
        keys
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        if key.namespace.is_empty() {
            if let Some(volume) = gone_is_none(self.client.get(&PERSISTENT_VOLUMES, "", &key.name))?
            {
                self.volume(&volume).await?;
            }
            return Ok(After::Done);
        }
        let found = self.client.get(&PERSISTENT_VOLUME_CLAIMS, &key.namespace, &key.name);
        if let Some(claim) = gone_is_none(found)? {
            self.claim(&claim).await?;
        }
        Ok(After::Done)
    }
}

impl VolumeController {
    async fn claim(&mut self, claim: &Value) -> Result<(), ApiError> {
        if object::is_deleting(claim) {
            if !self.is_used(claim)? {
                let claims = &PERSISTENT_VOLUME_CLAIMS;
                self.drop_finalizer(claims, claim, CLAIM_PROTECTION).await?;
            }
            return Ok(());
        }
        let wanted = object::text(claim, &["spec", "volumeName"]).to_owned();
        if !wanted.is_empty() {
            let volume = gone_is_none(self.client.get(&PERSISTENT_VOLUMES, "", &wanted))?;
            return match volume {
                Some(volume) if is_free_for(&volume, claim) => self.bind(claim, &volume).await,
                Some(_) => Ok(()),
                None if object::annotation(claim, BIND_COMPLETED).is_some() => {
                    let body = json!({"status": {"phase": "Lost"}});
                    if object::text(claim, &["status", "phase"]) == "Lost" {
                        return Ok(());
                    }
                    self.merge(&PERSISTENT_VOLUME_CLAIMS, claim, "status", body).await?;
                    let text =
                        "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                    self.tell(claim, Severity::Warning, "ClaimLost", text).await;
                    Ok(())
                }
                None => Ok(()),
            };
        }
        let class_name = object::text(claim, &["spec", "storageClassName"]).to_owned();
        let class = if class_name.is_empty() {
            None
        } else {
            gone_is_none(self.client.get(&STORAGE_CLASSES, "", &class_name))?
        };
        let waits = class.as_ref().is_some_and(|class| {
            object::text(class, &["volumeBindingMode"]) == "WaitForFirstConsumer"
        });
        if waits && object::annotation(claim, SELECTED_NODE).is_none() {
            let text = "waiting for first consumer to be created before binding";
            self.tell(claim, Severity::Normal, "WaitForFirstConsumer", text).await;
            return Ok(());
        }
        let volumes = self.client.list(&PERSISTENT_VOLUMES, "", &ListOptions::default())?.items;
        if let Some(volume) = best_match(claim, &volumes) {
            return self.bind(claim, volume).await;
        }
        match class {
            None if class_name.is_empty() => {
                let text =
                    "no persistent volumes available for this claim and no storage class is set";
                self.tell(claim, Severity::Normal, "FailedBinding", text).await;
            }
            None => {
                let text = format!("storageclass.storage.k8s.io {class_name:?} not found");
                self.tell(claim, Severity::Warning, "ProvisioningFailed", &text).await;
            }
            Some(class) if object::text(&class, &["provisioner"]) == PROVISIONER => {
                self.provision(claim, &class).await?;
            }
            Some(class) => {
                let provisioner = object::text(&class, &["provisioner"]);
                let text = format!(
                    "Waiting for a volume to be created either by the external provisioner \
                     '{provisioner}' or manually by the system administrator. If volume creation is \
                     delayed, please verify that the provisioner is running and correctly registered."
                );
                self.tell(claim, Severity::Normal, "ExternalProvisioning", &text).await;
            }
        }
        Ok(())
    }

    /// Whether a pod that has not ended names the claim.
    fn is_used(&self, claim: &Value) -> Result<bool, ApiError> {
        let pods = self.client.list(&PODS, object::namespace(claim), &ListOptions::default())?;
        Ok(pods
            .items
            .iter()
            .filter(|pod| !is_finished(pod) && !object::text(pod, &["spec", "nodeName"]).is_empty())
            .any(|pod| claim_names(pod).iter().any(|name| name == object::name(claim))))
    }

    /// Writes the volume of a claim; its directory is made by the node that mounts it.
    async fn provision(&mut self, claim: &Value, class: &Value) -> Result<(), ApiError> {
        let node = object::annotation(claim, SELECTED_NODE).unwrap_or(&self.node_name).to_owned();
        let volume = provisioned(claim, class, &self.volumes_dir, &node);
        let body = json!({"metadata": {"annotations": {STORAGE_PROVISIONER: PROVISIONER}}});
        self.merge(&PERSISTENT_VOLUME_CLAIMS, claim, "", body).await?;
        let name = object::name(&volume).to_owned();
        create(&self.client, &PERSISTENT_VOLUMES, volume).await?;
        let text = format!("Successfully provisioned volume {name}");
        self.tell(claim, Severity::Normal, "ProvisioningSucceeded", &text).await;
        let volume = self.client.get(&PERSISTENT_VOLUMES, "", &name)?;
        self.bind(claim, &volume).await
    }

    /// Ties a claim and a volume together, each step only if it is missing.
    async fn bind(&self, claim: &Value, volume: &Value) -> Result<(), ApiError> {
        let uid = object::uid(claim);
        if object::text(volume, &["spec", "claimRef", "uid"]) != uid {
            let body = json!({
                "metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}},
                "spec": {"claimRef": claim_reference(claim)},
            });
            self.merge(&PERSISTENT_VOLUMES, volume, "", body).await?;
        }
        if object::text(volume, &["status", "phase"]) != "Bound" {
            let body = json!({"status": {"phase": "Bound"}});
            self.merge(&PERSISTENT_VOLUMES, volume, "status", body).await?;
        }
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if object::text(claim, &["spec", "volumeName"]).is_empty() {
            object::set(&mut annotations, &[BOUND_BY_CONTROLLER], "yes");
        }
        let body = json!({
            "metadata": {"uid": uid, "annotations": annotations},
            "spec": {"volumeName": object::name(volume)},
        });
        self.merge(&PERSISTENT_VOLUME_CLAIMS, claim, "", body).await?;
        let body = json!({"status": {
            "phase": "Bound",
            "accessModes": object::list(volume, &["spec", "accessModes"]),
            "capacity": object::at(volume, &["spec", "capacity"]).cloned().unwrap_or_default(),
        }});
        self.merge(&PERSISTENT_VOLUME_CLAIMS, claim, "status", body).await
    }

    async fn volume(&mut self, volume: &Value) -> Result<(), ApiError> {
        let reference = |key: &str| object::text(volume, &["spec", "claimRef", key]);
        let claim = if reference("uid").is_empty() {
            None
        } else {
            let (namespace, name) = (reference("namespace"), reference("name"));
            gone_is_none(self.client.get(&PERSISTENT_VOLUME_CLAIMS, namespace, name))?
                .filter(|claim| object::uid(claim) == reference("uid"))
        };
        let phase = match (&claim, reference("uid").is_empty()) {
            (Some(_), _) => "Bound",
            (None, true) => "Available",
            (None, false) => "Released",
        };
        if object::is_deleting(volume) {
            if phase != "Bound" {
                self.drop_finalizer(&PERSISTENT_VOLUMES, volume, VOLUME_PROTECTION).await?;
            }
            return Ok(());
        }
        if object::text(volume, &["status", "phase"]) != phase {
            let body = json!({"status": {"phase": phase}});
            self.merge(&PERSISTENT_VOLUMES, volume, "status", body).await?;
        }
        // What happens to a released volume of ours is the node's business: it has the directory.
        Ok(())
    }
}

fn is_bound(claim: &Value) -> bool {
    object::text(claim, &["status", "phase"]) == "Bound"
}

fn claim_reference(claim: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": PERSISTENT_VOLUME_CLAIMS.kind,
        "namespace": object::namespace(claim),
        "name": object::name(claim),
        "uid": object::uid(claim),
        "resourceVersion": object::text(claim, &["metadata", "resourceVersion"]),
    })
}

/// The volume that the local-path class makes for a claim.
fn provisioned(claim: &Value, class: &Value, volumes_dir: &Path, node: &str) -> Value {
    let name = format!("pvc-{}", object::uid(claim));
    let (namespace, claim_name) = (object::namespace(claim), object::name(claim));
    let path = volumes_dir.join(format!("{name}_{namespace}_{claim_name}"));
    let requested = object::at(claim, &["spec", "resources", "requests", "storage"]);
    let policy = match object::text(class, &["reclaimPolicy"]) {
        "" => "Delete",
        policy => policy,
    };
    json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": requested.cloned().unwrap_or_default()},
            "accessModes": object::list(claim, &["spec", "accessModes"]),
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": object::name(class),
            "volumeMode": "Filesystem",
            "claimRef": claim_reference(claim),
            "hostPath": {"path": path.to_string_lossy(), "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                "key": HOSTNAME_LABEL, "operator": "In", "values": [node],
            }]}]}},
        },
    })
}

/// Whether a volume that a claim names may be bound to it.
fn is_free_for(volume: &Value, claim: &Value) -> bool {
    let reference = |key: &str| object::text(volume, &["spec", "claimRef", key]);
    if reference("name").is_empty() {
        return true;
    }
    let same_name = reference("name") == object::name(claim)
        && reference("namespace") == object::namespace(claim);
    same_name && (reference("uid").is_empty() || reference("uid") == object::uid(claim))
}

/// The smallest free volume that satisfies a claim; one reserved for it comes first.
fn best_match<'a>(claim: &Value, volumes: &'a [Arc<Value>]) -> Option<&'a Arc<Value>> {
    let storage = |object: &Value, path: &[&str]| Quantity::parse(object::text(object, path));
    let wanted = storage(claim, &["spec", "resources", "requests", "storage"])?;
    let selector = object::at(claim, &["spec", "selector"]).map(LabelSelector::from_object);
    let capacity = |volume: &Value| storage(volume, &["spec", "capacity", "storage"]);
    volumes
        .iter()
        .filter(|volume| !object::is_deleting(volume) && is_free_for(volume, claim))
        .filter(|volume| {
            let text = |object: &Value, key: &str| object::text(object, &["spec", key]).to_owned();
            let modes = object::list(volume, &["spec", "accessModes"]);
            let all = object::list(claim, &["spec", "accessModes"])
                .iter()
                .all(|mode| modes.contains(mode));
            let large = capacity(volume).is_some_and(|has| has.compare(wanted) != Ordering::Less);
            text(volume, "storageClassName") == text(claim, "storageClassName")
                && text(volume, "volumeMode") == text(claim, "volumeMode")
                && selector.as_ref().is_none_or(|selector| selector.matches(volume))
                && all
                && large
        })
        .min_by(|a, b| {
            let reserved = |volume: &Value| object::at(volume, &["spec", "claimRef"]).is_none();
            let size = match (capacity(a), capacity(b)) {
                (Some(a), Some(b)) => a.compare(b),
                _ => Ordering::Equal,
            };
            reserved(a).cmp(&reserved(b)).then(size)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(change: Value) -> Value {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
                "storageClassName": "slow", "resources": {"requests": {"storage": "2Gi"}},
            },
        });
        json_patch::merge(&mut claim, &change);
        claim
    }

    fn volume(name: &str, change: Value) -> Arc<Value> {
        let mut volume = json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "volumeMode": "Filesystem",
                "storageClassName": "slow", "capacity": {"storage": "5Gi"},
            },
        });
        json_patch::merge(&mut volume, &change);
        Arc::new(volume)
    }

    #[test]
    fn claim_takes_the_smallest_volume_that_fits() {
        let volumes = [
            volume("large", json!({"spec": {"capacity": {"storage": "9Gi"}}})),
            volume("fits", json!({})),
            volume("small", json!({"spec": {"capacity": {"storage": "1Gi"}}})),
            volume(
                "taken",
                json!({"spec": {"capacity": {"storage": "3Gi"}, "claimRef": {"name": "x"}}}),
            ),
            volume("fast", json!({"spec": {"storageClassName": "fast"}})),
        ];
        let name =
            |claim: &Value| best_match(claim, &volumes).map(|found| object::name(found).to_owned());
        assert_eq!(name(&claim(json!({}))), Some("fits".to_owned()));
        let many = json!({"spec": {"accessModes": ["ReadWriteMany"]}});
        assert_eq!(name(&claim(many)), None);
        let reserved = json!({"spec": {"capacity": {"storage": "99Gi"}, "claimRef": {"name": "c", "namespace": "ns"}}});
        let volumes = [volumes[1].clone(), volume("mine", reserved)];
        let found =
            best_match(&claim(json!({})), &volumes).map(|found| object::name(found).to_owned());
        assert_eq!(found, Some("mine".to_owned()));
    }

    #[test]
    fn provisioned_volume_is_a_directory_on_the_chosen_node() {
        let class = json!({"metadata": {"name": "local-path"}, "reclaimPolicy": "Delete"});
        let volume = provisioned(&claim(json!({})), &class, Path::new("/state/volumes"), "n");
        assert_eq!(object::name(&volume), "pvc-u");
        assert_eq!(volume["spec"]["hostPath"]["path"], "/state/volumes/pvc-u_ns_c");
        assert_eq!(volume["spec"]["capacity"]["storage"], "2Gi");
        let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
        assert_eq!(term["matchExpressions"][0]["values"], json!(["n"]));
    }
}
