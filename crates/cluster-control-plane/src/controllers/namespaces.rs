//! The life of a namespace: what it is given, and how it is emptied.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::bootstrap::create;
use super::children::{gone_is_none, with_condition};
use super::queue::Key;
use super::reconcile::{After, Reconciler};
use crate::api::{DeleteOptions, ListOptions, PatchBody, Propagation, WatchEvent, WatchEventType};
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{ALL, CONFIG_MAPS, EVENTS_V1, NAMESPACES, PODS, Resource, SERVICE_ACCOUNTS};
use crate::schema::prepare::NAMESPACE_CONTENT;

/// The account pods run as unless they say otherwise.
const DEFAULT_ACCOUNT: &str = "default";
/// The map that holds the API's certificate authority.
const ROOT_CA: &str = "kube-root-ca.crt";
/// How often an ending namespace is looked at while its content goes away.
const CONTENT_PAUSE: Duration = Duration::from_millis(200);

/// Creates the default account and the certificate map of a namespace, or repairs them.
pub(super) async fn furnish(client: &Client, namespace: &str, ca: &str) -> Result<(), ApiError> {
    let metadata = |name: &str| json!({"name": name, "namespace": namespace});
    if gone_is_none(client.get(&SERVICE_ACCOUNTS, namespace, DEFAULT_ACCOUNT))?.is_none() {
        let account = json!({"metadata": metadata(DEFAULT_ACCOUNT)});
        create(client, &SERVICE_ACCOUNTS, account).await?;
    }
    let data = json!({"ca.crt": ca});
    match gone_is_none(client.get(&CONFIG_MAPS, namespace, ROOT_CA))? {
        None => {
            let mut metadata = metadata(ROOT_CA);
            let note = "Contains a CA bundle that can be used to verify the kube-apiserver when \
                        using internal endpoints such as the internal service IP or \
                        kubernetes.default.svc. No other usage is guaranteed across distributions \
                        of Kubernetes clusters.";
            object::set(&mut metadata, &["annotations", "kubernetes.io/description"], note);
            create(client, &CONFIG_MAPS, json!({"metadata": metadata, "data": data})).await
        }
        Some(map) if object::at(&map, &["data"]) == Some(&data) => Ok(()),
        Some(map) => {
            let mut map = Value::clone(&map);
            object::set(&mut map, &["data"], data);
            gone_is_none(client.update(&CONFIG_MAPS, map).await).map(drop)
        }
    }
}

/// Keeps every active namespace furnished.
pub(super) struct Furnisher {
    client: Client,
    ca_certificate_pem: String,
}

impl Furnisher {
    /// A controller that publishes this certificate.
    pub(super) fn new(client: &Client, ca_certificate_pem: &str) -> Self {
        Self {
            client: client.named("kube-controller-manager"),
            ca_certificate_pem: ca_certificate_pem.to_owned(),
        }
    }
}

impl Reconciler for Furnisher {
    const NAME: &'static str = "namespace-furniture";

    fn watches(&self) -> &'static [&'static Resource] {
        static WATCHED: [&Resource; 3] = [&NAMESPACES, &SERVICE_ACCOUNTS, &CONFIG_MAPS];
        &WATCHED
    }

    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        let name = object::name(&event.object);
        if std::ptr::eq(resource, &NAMESPACES) {
            return vec![Key::new("", name)];
        }
        let lost = event.kind == WatchEventType::Deleted && name == DEFAULT_ACCOUNT;
        if lost || name == ROOT_CA {
            return vec![Key::new("", object::namespace(&event.object))];
        }
        Vec::new()
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        let found = gone_is_none(self.client.get(&NAMESPACES, "", &key.name))?;
        if found.is_some_and(|namespace| !object::is_deleting(&namespace)) {
            furnish(&self.client, &key.name, &self.ca_certificate_pem).await?;
        }
        Ok(After::Done)
    }
}

/// Empties namespaces that are being deleted and lets them go.
pub(super) struct Terminator {
    client: Client,
}

impl Terminator {
    /// A controller that uses this client.
    pub(super) fn new(client: &Client) -> Self {
        Self { client: client.named("kube-controller-manager") }
    }

    /// Deletes everything in a namespace; returns what is left, by kind.
    async fn empty(&self, namespace: &str) -> Result<Vec<Left>, ApiError> {
        let mut left = Vec::new();
        for resource in content_kinds() {
            let items = self.client.list(resource, namespace, &ListOptions::default())?.items;
            for item in &items {
                if !object::is_deleting(item) {
                    let options = DeleteOptions {
                        propagation: Some(Propagation::Background),
                        precondition_uid: Some(object::uid(item).to_owned()),
                        ..DeleteOptions::default()
                    };
                    let name = object::name(item);
                    match self.client.delete(resource, namespace, name, &options).await {
                        Err(error) if error.is_not_found() || error.is_conflict() => {}
                        Err(error) => return Err(error),
                        Ok(_) => {}
                    }
                }
            }
            let items = self.client.list(resource, namespace, &ListOptions::default())?.items;
            if !items.is_empty() {
                let finalizers = items
                    .iter()
                    .flat_map(|item| object::finalizers(item))
                    .map(str::to_owned)
                    .collect();
                left.push(Left { resource, count: items.len(), finalizers });
            }
        }
        Ok(left)
    }
}

/// What a namespace still holds of one kind.
struct Left {
    resource: &'static Resource,
    count: usize,
    finalizers: Vec<String>,
}

/// Every namespaced kind once, pods last so that no controller makes new ones meanwhile.
fn content_kinds() -> impl Iterator<Item = &'static Resource> {
    let stored = ALL.iter().copied().filter(|resource| {
        resource.is_namespaced() && resource.is_stored() && !std::ptr::eq(*resource, &EVENTS_V1)
    });
    stored.filter(|resource| !std::ptr::eq(*resource, &PODS)).chain(std::iter::once(&PODS))
}

impl Reconciler for Terminator {
    const NAME: &'static str = "namespace-deletion";

    fn watches(&self) -> &'static [&'static Resource] {
        static WATCHED: [&Resource; 1] = [&NAMESPACES];
        &WATCHED
    }

    fn keys(&mut self, _: &'static Resource, event: &WatchEvent) -> Vec<Key> {
        let ends = object::is_deleting(&event.object) && event.kind != WatchEventType::Deleted;
        if ends { vec![Key::of(&event.object)] } else { Vec::new() }
    }

    async fn reconcile(&mut self, key: &Key) -> Result<After, ApiError> {
        let Some(namespace) = gone_is_none(self.client.get(&NAMESPACES, "", &key.name))? else {
            return Ok(After::Done);
        };
        let holds = object::list(&namespace, &["spec", "finalizers"])
            .iter()
            .any(|finalizer| finalizer.as_str() == Some(NAMESPACE_CONTENT));
        if !object::is_deleting(&namespace) || !holds {
            return Ok(After::Done);
        }
        let left = self.empty(&key.name).await?;
        let conditions = conditions(&namespace, &left, Timestamp::now());
        if conditions != object::list(&namespace, &["status", "conditions"]) {
            let body = json!({"status": {"phase": "Terminating", "conditions": conditions}});
            let patch = PatchBody::Patch { format: PatchFormat::Merge, body };
            gone_is_none(self.client.patch(&NAMESPACES, "", &key.name, "status", patch).await)?;
        }
        if !left.is_empty() {
            return Ok(After::In(CONTENT_PAUSE));
        }
        let Some(namespace) = gone_is_none(self.client.get(&NAMESPACES, "", &key.name))? else {
            return Ok(After::Done);
        };
        let mut finished = Value::clone(&namespace);
        let kept: Vec<Value> = object::list(&namespace, &["spec", "finalizers"])
            .iter()
            .filter(|finalizer| finalizer.as_str() != Some(NAMESPACE_CONTENT))
            .cloned()
            .collect();
        object::set(&mut finished, &["spec", "finalizers"], kept);
        gone_is_none(self.client.update_subresource(&NAMESPACES, "finalize", finished).await)?;
        Ok(After::Done)
    }
}

/// The five conditions of an ending namespace, texts as upstream.
fn conditions(namespace: &Value, left: &[Left], now: Timestamp) -> Vec<Value> {
    let remaining: Vec<String> = left
        .iter()
        .map(|kind| {
            format!("{} has {} resource instances", kind.resource.qualified_plural(), kind.count)
        })
        .collect();
    let mut finalizers: Vec<&str> =
        left.iter().flat_map(|kind| kind.finalizers.iter().map(String::as_str)).collect();
    finalizers.sort_unstable();
    let mut counted: Vec<String> = Vec::new();
    for group in finalizers.chunk_by(|a, b| a == b) {
        if let Some(name) = group.first() {
            counted.push(format!("{name} in {} resource instances", group.len()));
        }
    }
    let content = if remaining.is_empty() {
        ("False", "ContentRemoved", "All content successfully removed".to_owned())
    } else {
        let list = remaining.join(", ");
        ("True", "SomeResourcesRemain", format!("Some resources are remaining: {list}"))
    };
    let held = if counted.is_empty() {
        ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    } else {
        let list = counted.join(", ");
        let text = format!("Some content in the namespace has finalizers remaining: {list}");
        ("True", "SomeFinalizersRemain", text)
    };
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("False", "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            (
                "False",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".to_owned(),
            ),
        ),
        (
            "NamespaceDeletionContentFailure",
            (
                "False",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".to_owned(),
            ),
        ),
        ("NamespaceContentRemaining", content),
        ("NamespaceFinalizersRemaining", held),
    ];
    let mut conditions = object::list(namespace, &["status", "conditions"]).to_vec();
    for (kind, (status, reason, message)) in rows {
        conditions = with_condition(&conditions, kind, status, (reason, &message), now);
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_remains_and_who_holds_it() {
        let left = [Left {
            resource: &PODS,
            count: 2,
            finalizers: vec!["a/b".to_owned(), "a/b".to_owned()],
        }];
        let conditions = conditions(&json!({}), &left, Timestamp::UNIX_EPOCH);
        assert_eq!(conditions.len(), 5);
        assert_eq!(
            conditions[3]["message"],
            "Some resources are remaining: pods has 2 resource instances"
        );
        assert_eq!(
            conditions[4]["message"],
            "Some content in the namespace has finalizers remaining: a/b in 2 resource instances"
        );
    }

    #[test]
    fn pods_are_deleted_after_what_makes_them() {
        let kinds: Vec<&str> = content_kinds().map(|resource| resource.kind).collect();
        assert_eq!(kinds.last(), Some(&"Pod"));
        assert_eq!(kinds.iter().filter(|kind| **kind == "Event").count(), 1);
    }
}
