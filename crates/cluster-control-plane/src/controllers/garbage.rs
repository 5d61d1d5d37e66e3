//! The garbage collector: objects whose owners are gone go too; foreground and orphan deletion.
//!
//! A key names an object of any kind: its storage and its name in one string.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::children::gone_is_none;
use super::queue::Key;
use super::reconcile::{After, Reconciler};
use crate::api::{DeleteOptions, ListOptions, PatchBody, Propagation, WatchEvent, WatchEventType};
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{self, ALL, EVENTS, EVENTS_V1, Resource};

/// Finalizer of an owner whose dependants go first.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependants stay.
const ORPHAN: &str = "orphan";

/// The controller.
pub(super) struct Collector {
    client: Client,
    kinds: &'static [&'static Resource],
    /// Owner uid to the keys of objects that name it.
    dependants: HashMap<String, HashSet<Key>>,
}

/// What an owner reference points at.
enum Owner {
    /// An object that stays.
    Solid,
    /// An object that waits for its dependants to go.
    Waiting,
    /// Nothing.
    Absent,
}

impl Collector {
    /// A collector that uses this client.
    pub(super) fn new(client: &Client) -> Self {
        Self {
            client: client.named("kube-controller-manager"),
            kinds: collected_kinds(),
            dependants: HashMap::new(),
        }
    }

    fn owner(&self, namespace: &str, reference: &Value) -> Result<Owner, ApiError> {
        let text = |key: &str| object::text(reference, &[key]);
        let Some(resource) = resources::by_kind(text("apiVersion"), text("kind")) else {
            // A kind that is not served here cannot be looked up; its dependants are left alone.
            return Ok(Owner::Solid);
        };
        let namespace = if resource.is_namespaced() { namespace } else { "" };
        let found = gone_is_none(self.client.get(resource, namespace, text("name")))?;
        Ok(match found.filter(|owner| object::uid(owner) == text("uid")) {
            None => Owner::Absent,
            Some(owner) if is_ending(&owner, FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
        })
    }

    /// Looks at an object as a dependant.
    async fn collect(
        &self,
        resource: &'static Resource,
        dependant: &Value,
    ) -> Result<(), ApiError> {
        let references = object::list(dependant, &["metadata", "ownerReferences"]);
        if references.is_empty() || object::is_deleting(dependant) {
            return Ok(());
        }
        let namespace = object::namespace(dependant);
        let (mut solid, mut waiting) = (Vec::new(), false);
        for reference in references {
            match self.owner(namespace, reference)? {
                Owner::Solid => solid.push(reference.clone()),
                Owner::Waiting => waiting = true,
                Owner::Absent => {}
            }
        }
        if solid.len() == references.len() {
            return Ok(());
        }
        if !solid.is_empty() {
            return self.set_metadata(resource, dependant, "ownerReferences", json!(solid)).await;
        }
        let blocks = waiting && !self.dependants_of(object::uid(dependant))?.is_empty();
        let finalizers = object::finalizers(dependant);
        let propagation = if finalizers.contains(&ORPHAN) {
            Propagation::Orphan
        } else if blocks || finalizers.contains(&FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        let options = DeleteOptions {
            propagation: Some(propagation),
            precondition_uid: Some(object::uid(dependant).to_owned()),
            ..DeleteOptions::default()
        };
        let name = object::name(dependant);
        match self.client.delete(resource, namespace, name, &options).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Looks at an object as an owner that is being deleted.
    async fn finish(&self, resource: &'static Resource, owner: &Value) -> Result<(), ApiError> {
        let uid = object::uid(owner);
        if is_ending(owner, ORPHAN) {
            for (kind, dependant) in self.dependants_of(uid)? {
                let kept: Vec<Value> = object::list(&dependant, &["metadata", "ownerReferences"])
                    .iter()
                    .filter(|reference| object::text(reference, &["uid"]) != uid)
                    .cloned()
                    .collect();
                self.set_metadata(kind, &dependant, "ownerReferences", json!(kept)).await?;
            }
            return self.drop_finalizer(resource, owner, ORPHAN).await;
        }
        if is_ending(owner, FOREGROUND) {
            let mut blocked = false;
            for (kind, dependant) in self.dependants_of(uid)? {
                blocked |= object::list(&dependant, &["metadata", "ownerReferences"])
                    .iter()
                    .filter(|reference| object::text(reference, &["uid"]) == uid)
                    .any(|reference| {
                        reference.get("blockOwnerDeletion") == Some(&Value::Bool(true))
                    });
                self.collect(kind, &dependant).await?;
            }
            if !blocked || self.dependants_of(uid)?.is_empty() {
                return self.drop_finalizer(resource, owner, FOREGROUND).await;
            }
        }
        Ok(())
    }

    /// The objects that name an owner, as they are now.
    fn dependants_of(&self, uid: &str) -> Result<Vec<(&'static Resource, Arc<Value>)>, ApiError> {
        let mut found = Vec::new();
        for key in self.dependants.get(uid).into_iter().flatten() {
            let Some((resource, name)) = self.parse(key) else { continue };
            let object = gone_is_none(self.client.get(resource, &key.namespace, name))?;
            let object = object.filter(|object| {
                object::list(object, &["metadata", "ownerReferences"])
                    .iter()
                    .any(|reference| object::text(reference, &["uid"]) == uid)
            });
            found.extend(object.map(|object| (resource, object)));
        }
        Ok(found)
    }

    async fn drop_finalizer(
        &self,
        resource: &'static Resource,
        owner: &Value,
        finalizer: &str,
    ) -> Result<(), ApiError> {
        let kept: Vec<&str> =
            object::finalizers(owner).into_iter().filter(|name| *name != finalizer).collect();
        self.set_metadata(resource, owner, "finalizers", json!(kept)).await
    }

    async fn set_metadata(
        &self,
        resource: &'static Resource,
        object: &Value,
        key: &str,
        value: Value,
    ) -> Result<(), ApiError> {
        let body = json!({"metadata": {
            "uid": object::uid(object),
            "resourceVersion": object::text(object, &["metadata", "resourceVersion"]),
            key: value,
        }});
        let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
        let (namespace, name) = (object::namespace(object), object::name(object));
        gone_is_none(self.client.patch(resource, namespace, name, "", patch).await).map(drop)
    }

    fn parse<'a>(&self, key: &'a Key) -> Option<(&'static Resource, &'a str)> {
        let (storage, name) = key.name.split_once('/')?;
        let resource = self.kinds.iter().find(|resource| resource.storage == storage)?;
        Some((resource, name))
    }
}

impl Reconciler for Collector {
    const NAME: &'static str = "garbage-collector";

    fn watches(&self) -> &'static [&'static Resource] {
        self.kinds
    }

    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        let object = &event.object;
        let own = key_of(resource, object);
        let references = object::list(object, &["metadata", "ownerReferences"]);
        if event.kind != WatchEventType::Deleted {
            for reference in references {
                let uid = object::text(reference, &["uid"]).to_owned();
                self.dependants.entry(uid).or_default().insert(own.clone());
            }
            let ends = is_ending(object, FOREGROUND) || is_ending(object, ORPHAN);
            return if !references.is_empty() || ends { vec![own] } else { Vec::new() };
        }
        let mut keys: Vec<Key> =
            self.dependants.remove(object::uid(object)).into_iter().flatten().collect();
        for reference in references {
            let text = |key: &str| object::text(reference, &[key]);
            if let Some(known) = self.dependants.get_mut(text("uid")) {
                known.remove(&own);
            }
            // An owner may have waited for this one.
            if let Some(owner) = resources::by_kind(text("apiVersion"), text("kind")) {
                let namespace = if owner.is_namespaced() { object::namespace(object) } else { "" };
                keys.push(Key::new(namespace, &format!("{}/{}", owner.storage, text("name"))));
            }
        }
        keys
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        let Some((resource, name)) = self.parse(key) else { return Ok(After::Done) };
        let found = gone_is_none(self.client.get(resource, &key.namespace, name))?;
        let Some(object) = found else { return Ok(After::Done) };
        self.finish(resource, &object).await?;
        self.collect(resource, &object).await?;
        Ok(After::Done)
    }
}

fn key_of(resource: &Resource, object: &Value) -> Key {
    Key::new(object::namespace(object), &format!("{}/{}", resource.storage, object::name(object)))
}

fn is_ending(object: &Value, finalizer: &str) -> bool {
    object::is_deleting(object) && object::finalizers(object).contains(&finalizer)
}

/// Every stored kind but events, which own nothing and are owned by nothing.
fn collected_kinds() -> &'static [&'static Resource] {
    static KINDS: std::sync::LazyLock<Vec<&'static Resource>> = std::sync::LazyLock::new(|| {
        let events = [&EVENTS, &EVENTS_V1];
        let stored = ALL.iter().copied().filter(|resource| resource.is_stored());
        stored
            .filter(|resource| events.iter().all(|event| !std::ptr::eq(*resource, *event)))
            .collect()
    });
    &KINDS
}

/// Deletes pods of a node that does not exist any more; nothing else would.
pub(super) struct PodCollector {
    client: Client,
}

impl PodCollector {
    /// A collector that uses this client.
    pub(super) fn new(client: &Client) -> Self {
        Self { client: client.named("kube-controller-manager") }
    }
}

/// How long a node may be missing before its pods are given up (upstream's quarantine).
const NODE_MISSING: std::time::Duration = std::time::Duration::from_secs(40);

impl Reconciler for PodCollector {
    const NAME: &'static str = "pod-garbage-collector";

    fn watches(&self) -> &'static [&'static Resource] {
        static WATCHED: [&Resource; 1] = [&resources::NODES];
        &WATCHED
    }

    fn keys(&mut self, _: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        vec![Key::of(&event.object)]
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        if gone_is_none(self.client.get(&resources::NODES, "", &key.name))?.is_some() {
            return Ok(After::Done);
        }
        let now = jiff::Timestamp::now();
        let pods = self.client.list(&resources::PODS, "", &ListOptions::default())?;
        let orphans: Vec<&Arc<Value>> = pods
            .items
            .iter()
            .filter(|pod| object::text(pod, &["spec", "nodeName"]) == key.name)
            .collect();
        let mut after = After::Done;
        for pod in orphans {
            let deleting = object::time(pod, &["metadata", "deletionTimestamp"]);
            // The first look marks, a later one removes; a node that returns in between keeps them.
            let age = deleting.map(|since| now.duration_since(since));
            let expired =
                age.is_some_and(|age| age.as_secs() >= NODE_MISSING.as_secs().cast_signed());
            let options = DeleteOptions {
                grace_period_seconds: expired.then_some(0),
                precondition_uid: Some(object::uid(pod).to_owned()),
                ..DeleteOptions::default()
            };
            if expired || deleting.is_none() {
                let (namespace, name) = (object::namespace(pod), object::name(pod));
                let deleted = self.client.delete(&resources::PODS, namespace, name, &options).await;
                gone_is_none(deleted)?;
            }
            if !expired {
                after = after.or(After::In(NODE_MISSING));
            }
        }
        Ok(after)
    }
}
