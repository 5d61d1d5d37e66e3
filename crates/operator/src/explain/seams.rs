//! What explaining needs from outside: a cluster to read, a registry to ask. The caller brings both.

use std::future::Future;

use credentials::RegistryAuth;
use k8s_openapi::api::core::v1::{Event, Secret, ServiceAccount};
use oci_model::{Platform, Reference};

use super::answer::Answer;

/// What somebody who may not see everything knows about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Known<T> {
    /// It exists.
    Is(T),
    /// It does not exist.
    Absent,
    /// Nobody could tell: no cluster, no right to read it, no answer.
    Unknown {
        /// Text for people.
        why: String,
    },
}

/// What a node says that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeImages {
    /// Name of the node.
    pub node: String,
    /// Names of its images, each with tag or digest.
    pub names: Vec<String>,
}

/// A cluster, read with whatever rights there are.
pub trait Cluster: Sync {
    /// Whether there is a cluster at all.
    fn is_there(&self) -> bool {
        true
    }

    /// One secret.
    fn secret(&self, namespace: &str, name: &str) -> impl Future<Output = Known<Secret>> + Send;

    /// The namespaces that have a secret of this name, sorted.
    fn namespaces_with_secret(&self, name: &str)
    -> impl Future<Output = Known<Vec<String>>> + Send;

    /// One service account.
    fn service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Known<ServiceAccount>> + Send;

    /// Whether a namespace exists.
    fn namespace(&self, name: &str) -> impl Future<Output = Known<()>> + Send;

    /// The images that nodes report in their statuses, of the one that is named or else of all. A
    /// kubelet reports 50 images at most: what is not in the list may be there all the same.
    /// `Absent` where there are no such nodes, as where no cluster is looked at.
    fn node_images(
        &self,
        node: Option<&str>,
    ) -> impl Future<Output = Known<Vec<NodeImages>>> + Send;

    /// The events about one pod.
    fn events(&self, namespace: &str, pod: &str) -> impl Future<Output = Known<Vec<Event>>> + Send;
}

/// How a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// As the node will ask: the manifest, and whether it has an image for the platform.
    Pull,
    /// Only whether it would answer (HEAD), which counts for no pull allowance.
    Glance,
}

/// The registries, asked for manifests and never for layers.
pub trait Registry: Sync {
    /// What the registry says about `reference` to one credential, or to nobody in particular.
    fn ask(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        platform: &Platform,
        question: Question,
    ) -> impl Future<Output = Answer> + Send;
}

/// No cluster at hand: everything in it is unknown.
#[derive(Clone, Debug)]
pub struct NoCluster {
    /// Why there is none.
    pub why: String,
}

impl NoCluster {
    fn unknown<T>(&self) -> Known<T> {
        Known::Unknown { why: self.why.clone() }
    }
}

impl Cluster for NoCluster {
    fn is_there(&self) -> bool {
        false
    }

    async fn namespace(&self, _: &str) -> Known<()> {
        self.unknown()
    }

    async fn secret(&self, _: &str, _: &str) -> Known<Secret> {
        self.unknown()
    }

    async fn namespaces_with_secret(&self, _: &str) -> Known<Vec<String>> {
        self.unknown()
    }

    async fn service_account(&self, _: &str, _: &str) -> Known<ServiceAccount> {
        self.unknown()
    }

    /// A file alone is explained for a node that is yet to see it: its prediction says so.
    async fn node_images(&self, _: Option<&str>) -> Known<Vec<NodeImages>> {
        Known::Absent
    }

    async fn events(&self, _: &str, _: &str) -> Known<Vec<Event>> {
        self.unknown()
    }
}
