//! What is seen in the cluster: the parts of namespaces, secrets and accounts that a sync decides by.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::ResourceExt as _;

use super::content::fingerprint;
use super::{ACCOUNT_ANNOTATION_PREFIX, CONTENT_ANNOTATION, OWNER_LABEL, SECRET_KEY};

/// Which object, and which state of it, a write is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceState {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being deleted: nothing can be made in it.
    pub terminating: bool,
}

/// A secret of the sync's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretState {
    /// Name of the sync that made it; absent when people or other programs did.
    pub owner: Option<String>,
    /// `type`.
    pub kind: String,
    /// `immutable`.
    pub immutable: bool,
    /// Fingerprint of what it holds; absent without the key.
    pub content: Option<[u8; 32]>,
    /// What its annotation says about the content.
    pub mark: Option<String>,
    /// Its state.
    pub version: Version,
}

/// A service account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    /// `imagePullSecrets`, in order.
    pub pull_secrets: Vec<String>,
    /// Whether the sync added its entry (and did not find it there).
    pub added: bool,
    /// Its state.
    pub version: Version,
}

/// Everything that a sync sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By name.
    pub namespaces: BTreeMap<String, NamespaceState>,
    /// Those of the sync's name, by namespace.
    pub secrets: BTreeMap<String, SecretState>,
    /// By namespace and name.
    pub accounts: BTreeMap<(String, String), AccountState>,
}

impl NamespaceState {
    pub(super) fn of(namespace: &Namespace) -> Self {
        let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            labels: namespace.labels().clone(),
            terminating: namespace.metadata.deletion_timestamp.is_some()
                || phase == Some("Terminating"),
        }
    }
}

impl SecretState {
    pub(super) fn of(secret: &Secret) -> Self {
        let held = secret.data.as_ref().and_then(|data| data.get(SECRET_KEY));
        Self {
            owner: secret.labels().get(OWNER_LABEL).cloned(),
            kind: secret.type_.clone().unwrap_or_default(),
            immutable: secret.immutable.unwrap_or_default(),
            content: held.map(|bytes| fingerprint(&bytes.0)),
            mark: secret.annotations().get(CONTENT_ANNOTATION).cloned(),
            version: version(secret),
        }
    }
}

impl AccountState {
    pub(super) fn of(account: &ServiceAccount, sync: &str) -> Self {
        let entries = account.image_pull_secrets.iter().flatten();
        Self {
            pull_secrets: entries.map(|entry| entry.name.clone()).collect(),
            added: account.annotations().contains_key(&account_annotation(sync)),
            version: version(account),
        }
    }
}

/// The annotation of accounts that a sync changed.
pub(super) fn account_annotation(sync: &str) -> String {
    format!("{ACCOUNT_ANNOTATION_PREFIX}{sync}")
}

fn version(object: &impl kube::Resource) -> Version {
    let metadata = object.meta();
    Version {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
    }
}
