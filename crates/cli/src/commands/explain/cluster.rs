//! A cluster as explaining sees it: through kube, with whatever rights the kubeconfig has.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, Secret, ServiceAccount};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use oci_model::Platform;
use operator::explain::{Cluster, Known, NodeImages, Source, Subject};
use serde_json::Value;

use super::node::Machine;
use crate::exit::{Failure, Kind};

/// Longest wait for the API server's connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one of its answers.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one list, as a bound on memory.
const LIST_MAX: u32 = 500;

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// Namespace of objects that name none [default: the context's]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, the pod's own account, `shipway up`]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Explain files without looking into any cluster
    #[arg(long)]
    no_cluster: bool,
}

impl ClusterArgs {
    /// The namespace of objects that name none.
    pub(super) fn namespace(&self, cluster: Option<&KubeCluster>) -> String {
        let of_context = cluster.map(|cluster| cluster.namespace.clone());
        self.namespace.clone().or(of_context).unwrap_or_else(|| "default".to_owned())
    }
}

/// A cluster that can be asked.
pub(super) struct KubeCluster {
    client: kube::Client,
    namespace: String,
    /// `host:port` of the API server.
    authority: String,
}

/// Finds the cluster; the inner error says why there is none, for those who can do without.
pub(super) async fn connect(
    args: &ClusterArgs,
    machine: Option<&Machine>,
    is_needed: bool,
) -> Result<Result<KubeCluster, String>, Failure> {
    if args.no_cluster && !is_needed {
        return Ok(Err("no cluster was asked (--no-cluster)".to_owned()));
    }
    let is_chosen = args.kubeconfig.is_some() || args.context.is_some();
    match config(args, machine).await {
        Ok(Some(config)) => Ok(Ok(KubeCluster::new(config)?)),
        Ok(None) if !is_needed => Ok(Err("there is no kubeconfig".to_owned())),
        Ok(None) => Err(Failure::usage("there is no kubeconfig")
            .hint("--kubeconfig FILE, or KUBECONFIG, or shipway up")),
        Err(reason) if is_needed || is_chosen => Err(Failure::usage(reason)),
        Err(reason) => Ok(Err(reason)),
    }
}

/// As kubectl finds it, then the machine that runs here.
async fn config(
    args: &ClusterArgs,
    machine: Option<&Machine>,
) -> Result<Option<kube::Config>, String> {
    let options = KubeConfigOptions { context: args.context.clone(), ..Default::default() };
    let unusable = |error: kube::config::KubeconfigError| format!("kubeconfig: {error}");
    if let Some(path) = &args.kubeconfig {
        let file = Kubeconfig::read_from(path).map_err(unusable)?;
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        return config.map(Some).map_err(unusable);
    }
    let named = std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty());
    let own = crate::globals::home_dir().map(|home| home.join(".kube/config"));
    if named || own.is_some_and(|path| path.exists()) {
        return kube::Config::from_kubeconfig(&options).await.map(Some).map_err(unusable);
    }
    if let Ok(config) = kube::Config::incluster() {
        return Ok(Some(config));
    }
    let Some(machine) = machine else { return Ok(None) };
    let file = Kubeconfig::read_from(&machine.kubeconfig).map_err(unusable)?;
    kube::Config::from_custom_kubeconfig(file, &options).await.map(Some).map_err(unusable)
}

/// Kinds that run containers: the group's path, the plural, and the names people use.
const KINDS: [(&str, &str, &[&str]); 9] = [
    ("api/v1", "pods", &["pod", "po"]),
    ("apis/apps/v1", "deployments", &["deployment", "deploy"]),
    ("apis/apps/v1", "replicasets", &["replicaset", "rs"]),
    ("apis/apps/v1", "statefulsets", &["statefulset", "sts"]),
    ("apis/apps/v1", "daemonsets", &["daemonset", "ds"]),
    ("apis/batch/v1", "jobs", &["job"]),
    ("apis/batch/v1", "cronjobs", &["cronjob", "cj"]),
    ("api/v1", "replicationcontrollers", &["replicationcontroller", "rc"]),
    ("api/v1", "podtemplates", &["podtemplate"]),
];

fn kind_path(kind: &str) -> Option<(&'static str, &'static str)> {
    // kubectl takes `deployment.apps` too.
    let kind = kind.split('.').next().unwrap_or(kind).to_lowercase();
    let found = KINDS
        .iter()
        .find(|(_, plural, names)| *plural == kind || names.contains(&kind.as_str()))?;
    Some((found.0, found.1))
}

/// Whether a word is a kind that runs containers.
pub(super) fn is_kind(word: &str) -> bool {
    kind_path(word).is_some()
}

impl KubeCluster {
    fn new(mut config: kube::Config) -> Result<Self, Failure> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        let namespace = config.default_namespace.clone();
        let url = &config.cluster_url;
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let client = crate::clusters::client(config)
            .map_err(|error| Failure::usage(format!("kubeconfig: {error}")))?;
        Ok(Self { client, namespace, authority })
    }

    /// Whether this is the cluster of a machine that runs here.
    pub(super) fn is_of(&self, machine: Option<&Machine>) -> bool {
        machine.is_some_and(|machine| machine.api_address == self.authority)
    }

    /// Reads an object, with the pod of it that waits, and the platform of that pod's node.
    pub(super) async fn subject(
        &self,
        kind: &str,
        name: &str,
        namespace: &str,
    ) -> Result<(Subject, Option<Platform>), Failure> {
        let title = format!("{kind}/{name} in namespace {namespace}");
        let Some((group, plural)) = kind_path(kind) else {
            return Err(Failure::usage(format!("{kind} runs no containers")));
        };
        let path = format!("/{group}/namespaces/{namespace}/{plural}/{name}");
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|_| Failure::usage(format!("{title}: not a name")))?;
        let object: Value =
            self.client.request(request).await.map_err(|error| failure(&error, &title))?;
        let mut subject =
            Subject::of_object(&object, namespace, Source::Cluster).map_err(Failure::usage)?;
        let mut node = subject.live.as_ref().and_then(|live| live.node.clone());
        if let Some(pod) = self.pod_of(&object, namespace).await {
            node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            subject.observe(&pod);
        }
        let platform = match node {
            Some(node) => self.platform_of(&node).await,
            None => None,
        };
        Ok((subject, platform))
    }

    /// The pod of a workload that waits, else any; nothing for what is a pod itself.
    async fn pod_of(&self, object: &Value, namespace: &str) -> Option<Pod> {
        let selector = &object["spec"]["selector"];
        let labels = selector["matchLabels"].as_object().or(selector.as_object())?;
        let labels: Vec<String> = labels
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
            .collect();
        if labels.is_empty() {
            return None;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let list = ListParams::default().labels(&labels.join(",")).limit(LIST_MAX);
        let pods = api.list(&list).await.ok()?.items;
        let waits = |pod: &&Pod| {
            let status = pod.status.iter();
            let containers = status
                .flat_map(|status| {
                    let lists = [
                        &status.init_container_statuses,
                        &status.container_statuses,
                        &status.ephemeral_container_statuses,
                    ];
                    lists.into_iter().flatten().flatten()
                })
                .filter_map(|container| container.state.as_ref());
            containers.into_iter().any(|state| state.waiting.is_some())
        };
        pods.iter().find(waits).or(pods.first()).cloned()
    }

    /// What the node runs, if that may be read.
    async fn platform_of(&self, node: &str) -> Option<Platform> {
        let api: Api<Node> = Api::all(self.client.clone());
        let info = api.get(node).await.ok()?.status?.node_info?;
        format!("{}/{}", info.operating_system, info.architecture).parse().ok()
    }
}

/// Whether the API server answered with this status.
fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn failure(error: &kube::Error, title: &str) -> Failure {
    let kind = match error {
        kube::Error::Api(status) if status.code == 404 => Kind::NotFound,
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Kind::Denied,
        kube::Error::Api(_) => Kind::Failed,
        _ => Kind::Unreachable,
    };
    Failure::new(kind, anyhow!("{title}: {}", said(error)))
}

/// An error in the server's words where it has some.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                let more = error.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = error.source();
            }
            text
        }
    }
}

/// Who may not read an object does not know whether it exists.
fn known<T>(read: kube::Result<Option<T>>, what: &str) -> Known<T> {
    match read {
        Ok(Some(found)) => Known::Is(found),
        Ok(None) => Known::Absent,
        Err(error) if is_status(&error, 403) => {
            Known::Unknown { why: format!("no right to read {what}") }
        }
        Err(error) => Known::Unknown { why: format!("cannot read {what}: {}", said(&error)) },
    }
}

impl Cluster for KubeCluster {
    async fn secret(&self, namespace: &str, name: &str) -> Known<Secret> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        known(api.get_opt(name).await, &format!("secrets in namespace {namespace}"))
    }

    async fn namespaces_with_secret(&self, name: &str) -> Known<Vec<String>> {
        let api: Api<Secret> = Api::all(self.client.clone());
        let list = ListParams::default().fields(&format!("metadata.name={name}")).limit(LIST_MAX);
        let found = api.list_metadata(&list).await.map(|found| {
            let names = found.items.into_iter().filter_map(|secret| secret.metadata.namespace);
            let mut names: Vec<String> = names.collect();
            names.sort();
            Some(names)
        });
        known(found, "secrets of all namespaces")
    }

    async fn service_account(&self, namespace: &str, name: &str) -> Known<ServiceAccount> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        known(api.get_opt(name).await, &format!("service accounts in namespace {namespace}"))
    }

    async fn namespace(&self, name: &str) -> Known<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = api.get_metadata_opt(name).await;
        known(found.map(|found| found.map(|_| ())), "namespaces")
    }

    async fn node_images(&self, node: Option<&str>) -> Known<Vec<NodeImages>> {
        let api: Api<Node> = Api::all(self.client.clone());
        let images = |node: Node| NodeImages {
            node: node.metadata.name.unwrap_or_default(),
            names: node
                .status
                .and_then(|status| status.images)
                .unwrap_or_default()
                .into_iter()
                .filter_map(|image| image.names)
                .flatten()
                .collect(),
        };
        // Who may read one node may not be allowed to list them.
        let found = match node {
            Some(node) => api.get_opt(node).await.map(|found| found.map(|one| vec![images(one)])),
            None => api
                .list(&ListParams::default().limit(LIST_MAX))
                .await
                .map(|nodes| Some(nodes.items.into_iter().map(images).collect())),
        };
        known(found, "nodes")
    }

    async fn events(&self, namespace: &str, pod: &str) -> Known<Vec<Event>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let list = ListParams::default()
            .fields(&format!("involvedObject.name={pod},involvedObject.kind=Pod"))
            .limit(LIST_MAX);
        let found = api.list(&list).await.map(|found| Some(found.items));
        known(found, &format!("events in namespace {namespace}"))
    }
}
