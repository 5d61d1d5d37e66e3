//! A cluster of one node in a temporary directory, with a busybox image on it.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blob_store::BlobStore;
use cluster_control_plane::ControlPlane;
use cluster_node::{CredentialOptions, Node, Options, Running, executor_mirror};
use credentials::SearchDirs;
use futures_util::StreamExt as _;
use image_policy::verification::VerificationPolicy;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt as _, watcher};
use layers::{
    Compression, ContentSource, Entry, EntryKind, LayerSink, LayerWriter, Timestamps,
    UnpackedLayers, VirtualLayer,
};
use oci_model::{
    ContainerConfig, Descriptor, ImageConfig, ImageManifest, MediaType, Platform, RawConfig,
    RawManifest, RootFs,
};
use serde_json::{Value, json};

/// How long a condition may take on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The image that every test runs.
pub(crate) const BUSYBOX: &str = "docker.io/library/busybox:1";

const APPLETS: [&str; 16] = [
    "sh", "sleep", "cat", "echo", "true", "false", "ls", "id", "stat", "touch", "rm", "kill",
    "head", "yes", "env", "mkdir",
];

/// Who may use which image, and with what.
#[derive(Clone, Default)]
pub(crate) struct Access {
    pub(crate) verification: VerificationPolicy,
    pub(crate) credentials: CredentialOptions,
}

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    pub(crate) blobs: BlobStore,
    control: Option<cluster_control_plane::Running>,
    node: Option<Running>,
    access: Access,
    kubeconfig: PathBuf,
    api_server: std::net::SocketAddr,
    // Removed last.
    dir: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Result<Self, Box<dyn Error>> {
        Self::start_with(Access::default()).await
    }

    /// Starts a cluster whose node asks for access so.
    pub(crate) async fn start_with(access: Access) -> Result<Self, Box<dyn Error>> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("shipway-node-").tempdir()?;
        let state = dir.path();
        let control = ControlPlane::start(cluster_control_plane::Options {
            state_dir: state.to_owned(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            hosts: Vec::new(),
            node_name: "testnode".to_owned(),
            node_socket: state.join("node/kubelet.sock"),
            switches: Default::default(),
        })
        .await?;
        let blobs = BlobStore::open(state.join("blobs"))?;
        put_busybox(&blobs)?;
        let mut cluster = Cluster {
            client: client(&control.kubeconfig).await?,
            blobs,
            kubeconfig: control.node_kubeconfig.clone(),
            api_server: control.address,
            control: Some(control),
            node: None,
            access,
            dir,
        };
        cluster.start_node().await?;
        Ok(cluster)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Puts an image on the node: files by layer, the lowest first.
    pub(crate) fn put_image(
        &self,
        name: &str,
        layers: &[&[(&str, &str)]],
    ) -> Result<(), Box<dyn Error>> {
        let layers = layers.iter().map(|files| {
            let mut layer = VirtualLayer::new();
            for (path, content) in *files {
                if let Some((directory, _)) = path.rsplit_once('/') {
                    layer.insert(
                        Entry::directory(directory, 0o755),
                        ContentSource::Bytes(Vec::new()),
                    );
                }
                let file = Entry::file(*path, 0o644, content.len() as u64);
                layer.insert(file, ContentSource::Bytes(content.as_bytes().to_vec()));
            }
            layer
        });
        put_image(&self.blobs, name, layers.collect(), ContainerConfig::default())
    }

    pub(crate) async fn start_node(&mut self) -> Result<(), Box<dyn Error>> {
        let node = node(self.dir.path(), &self.kubeconfig, self.api_server, &self.access).await?;
        self.node = Some(node);
        Ok(())
    }

    /// The arguments from which a child process can start the node.
    pub(crate) fn node_arguments(&self) -> [String; 3] {
        [
            self.dir.path().display().to_string(),
            self.kubeconfig.display().to_string(),
            self.api_server.to_string(),
        ]
    }

    pub(crate) async fn stop_node(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown().await;
        }
    }

    /// Deletes all pods, then stops everything.
    pub(crate) async fn stop(mut self) -> Result<(), Box<dyn Error>> {
        let pods = self.pods().list(&ListParams::default()).await?;
        for pod in pods {
            let name = pod.metadata.name.unwrap_or_default();
            let parameters =
                DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
            let _ = self.pods().delete(&name, &parameters).await;
            self.until(&name, "to be gone", |pod| pod.is_none()).await?;
        }
        // An object without running containers goes at once; the node cleans up behind it.
        let left = self.dir.path().join("node/pods");
        while std::fs::read_dir(&left)?.next().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop_node().await;
        if let Some(control) = self.control.take() {
            control.shutdown().await;
        }
        Ok(())
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod of one container `c` that runs a shell script.
    pub(crate) async fn run(
        &self,
        name: &str,
        script: &str,
        more: Value,
    ) -> Result<Pod, Box<dyn Error>> {
        let mut container = json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]});
        let mut spec = more;
        if let Some(extra) = spec.get_mut("container").map(Value::take) {
            merge(&mut container, extra);
        }
        spec.as_object_mut().ok_or("an object")?.remove("container");
        let containers = spec.get_mut("others").map(Value::take).unwrap_or_else(|| json!([]));
        spec.as_object_mut().ok_or("an object")?.remove("others");
        let mut list = vec![container];
        list.extend(containers.as_array().cloned().unwrap_or_default());
        spec["containers"] = json!(list);
        self.create(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}))
            .await
    }

    pub(crate) async fn create(&self, pod: Value) -> Result<Pod, Box<dyn Error>> {
        Ok(self.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await?)
    }

    pub(crate) async fn apply<K>(&self, object: Value) -> Result<(), Box<dyn Error>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    }

    /// Waits until a pod is as wanted; returns it.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(Option<&Pod>) -> bool,
    ) -> Result<Option<Pod>, Box<dyn Error>> {
        let waiting = await_condition(self.pods(), name, |pod: Option<&Pod>| condition(pod));
        match tokio::time::timeout(WAIT_MAX, waiting).await {
            Ok(found) => Ok(found?),
            Err(_) => {
                let pod = self.pods().get_opt(name).await?;
                let status =
                    pod.and_then(|pod| pod.status).map(|status| serde_json::to_string(&status));
                let events = self.events(name).await?.join("\n  ");
                Err(format!("waited for {name} {what}; status {status:?}; events:\n  {events}")
                    .into())
            }
        }
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: &str) -> Result<Pod, Box<dyn Error>> {
        let wanted = phase.to_owned();
        let found =
            self.until(name, phase, move |pod| phase_of(pod) == Some(wanted.as_str())).await?;
        found.ok_or_else(|| "no pod".into())
    }

    pub(crate) async fn logs(&self, name: &str) -> Result<String, Box<dyn Error>> {
        Ok(self.pods().logs(name, &LogParams::default()).await?)
    }

    /// `type reason message` of the events of a pod, in order.
    pub(crate) async fn events(&self, name: &str) -> Result<Vec<String>, Box<dyn Error>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let list =
            api.list(&ListParams::default().fields(&format!("involvedObject.name={name}"))).await?;
        Ok(list.into_iter().map(line_of).collect())
    }

    /// Waits until an event of a pod contains a text.
    pub(crate) async fn until_event(&self, name: &str, text: &str) -> Result<(), Box<dyn Error>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let config = watcher::Config::default().fields(&format!("involvedObject.name={name}"));
        let wait = async {
            let events = watcher(api, config).default_backoff().applied_objects();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                if line_of(event?).contains(text) {
                    return Ok(());
                }
            }
            Err("the watch of events ended".into())
        };
        match tokio::time::timeout(WAIT_MAX, wait).await {
            Ok(result) => result,
            Err(_) => Err(format!("no event with {text:?}: {:?}", self.events(name).await?).into()),
        }
    }
}

/// `type reason message` of an event.
fn line_of(event: Event) -> String {
    format!(
        "{} {} {}",
        event.type_.unwrap_or_default(),
        event.reason.unwrap_or_default(),
        event.message.unwrap_or_default()
    )
}

/// Starts a node over a state directory.
pub(crate) async fn node(
    state: &Path,
    kubeconfig: &Path,
    api_server: std::net::SocketAddr,
    access: &Access,
) -> Result<Running, Box<dyn Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let nowhere = state.join("nowhere");
    let program = state.join("program");
    std::fs::write(&program, "#!/bin/false")?;
    let node = Node::start(Options {
        name: "testnode".to_owned(),
        directory: state.join("node"),
        volumes_directory: state.join("volumes"),
        client: client(kubeconfig).await?,
        api_server: Some(api_server),
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        kubernetes_version: "v1.35.0".to_owned(),
        blobs: BlobStore::open(state.join("blobs"))?,
        layers: UnpackedLayers::open(&state.join("layers"))?,
        credential_files_cache: Duration::ZERO,
        credentials: access.credentials.clone(),
        insecure_registries: Vec::new(),
        registry_access: Default::default(),
        credential_files: SearchDirs {
            root_dir: state.join("kubelet"),
            working_dir: nowhere.clone(),
            home: Some(nowhere.clone()),
            filesystem_root: nowhere,
        },
        mirrors: vec![executor_mirror()],
        verification: access.verification.clone(),
        executor_program: Some(program),
        volume_refresh: Duration::from_secs(1),
        cri: cluster_node::CriOptions { socket: Some(state.join("node/cri.sock")) },
        pull_limits: Default::default(),
        collection: cluster_node::CollectionOptions::default(),
    })
    .await?;
    Ok(node)
}

fn merge(into: &mut Value, extra: Value) {
    if let (Some(into), Value::Object(extra)) = (into.as_object_mut(), extra) {
        into.extend(extra);
    }
}

pub(crate) fn phase_of(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}

/// The status of container `c`, as JSON.
pub(crate) fn container_of(pod: &Pod, name: &str) -> Value {
    let status = serde_json::to_value(pod.status.clone().unwrap_or_default()).unwrap_or_default();
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let found = status[list].as_array().into_iter().flatten().find(|one| one["name"] == name);
        if let Some(found) = found {
            return found.clone();
        }
    }
    Value::Null
}

pub(crate) fn is_ready(pod: Option<&Pod>) -> bool {
    pod.and_then(|pod| pod.status.as_ref())
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|list| list.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

async fn client(kubeconfig: &Path) -> Result<kube::Client, Box<dyn Error>> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn put_busybox(blobs: &BlobStore) -> Result<(), Box<dyn Error>> {
    let program = std::fs::read("/bin/busybox")
        .map_err(|error| format!("/bin/busybox of Debian's busybox-static: {error}"))?;
    let mut layer = VirtualLayer::new();
    let none = || ContentSource::Bytes(Vec::new());
    for directory in ["bin", "etc", "proc", "sys", "dev"] {
        layer.insert(Entry::directory(directory, 0o755), none());
    }
    layer.insert(Entry::directory("tmp", 0o1777), none());
    let size = program.len() as u64;
    layer.insert(Entry::file("bin/busybox", 0o755, size), ContentSource::Bytes(program));
    for applet in APPLETS {
        layer.insert(Entry::symlink(format!("bin/{applet}"), "busybox"), none());
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
    let file = Entry::new("etc/passwd", EntryKind::File { size: passwd.len() as u64 }, 0o644);
    layer.insert(file, ContentSource::Bytes(passwd.as_bytes().to_vec()));

    let config = ContainerConfig {
        env: vec!["PATH=/bin".to_owned(), "FROM_IMAGE=yes".to_owned()],
        cmd: Some(vec!["sh".to_owned()]),
        ..ContainerConfig::default()
    };
    put_image(blobs, BUSYBOX, vec![layer], config)
}

fn put_image(
    blobs: &BlobStore,
    name: &str,
    layers: Vec<VirtualLayer>,
    config: ContainerConfig,
) -> Result<(), Box<dyn Error>> {
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let sink = LayerSink::new(blobs.ingest()?, Compression::GZIP_DEFAULT);
        let mut writer = LayerWriter::new(sink, Timestamps::Set(0));
        layer.write(&mut writer)?;
        let (blob, ingest) = writer.finish()?.finish()?;
        ingest.commit(&blob.digest)?;
        let kind = MediaType::OCI_LAYER_GZIP;
        descriptors.push(Descriptor::new(kind, blob.digest, blob.blob_bytes));
        diff_ids.push(blob.diff_id);
    }
    let platform = Platform::host();
    let config = RawConfig::from_config(ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        config,
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
        ..ImageConfig::default()
    });
    let config_digest = blobs.put(config.bytes())?;
    let mut digests: Vec<_> = descriptors.iter().map(|layer| layer.digest).collect();
    let manifest = RawManifest::from_image(ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config: config.descriptor(MediaType::OCI_CONFIG),
        layers: descriptors,
        subject: None,
        annotations: BTreeMap::new(),
    });
    let root = blobs.put(manifest.bytes())?;
    digests.splice(0..0, [root, config_digest]);
    blobs.set_ref(&format!("images/{name}").parse()?, &digests)?;
    Ok(())
}
