//! The Node object and its lease: what the cluster knows about this machine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::watch;

/// Namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// A node whose lease is older than this counts as gone.
const LEASE_SECONDS: i32 = 40;
/// Time between two renewals.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// Time between two posts of an unchanged status.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// Time between two tries while the API server does not answer.
const RETRY_PERIOD: Duration = Duration::from_millis(500);
/// Most pods on one node.
pub(crate) const PODS_MAX: u32 = 110;
/// Most names of one image in the status of the node.
const IMAGE_NAMES_MAX: usize = 5;

/// What the machine is, read once at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
    pub(crate) architecture: &'static str,
}

impl Machine {
    /// Reads `/proc` and the file system of `directory`.
    pub(crate) fn read(directory: &std::path::Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory_bytes = text("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(1024);
        let os_image = text("/etc/os-release")
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned());
        let disk_bytes = rustix::fs::statvfs(directory)
            .map(|stat| stat.f_blocks.saturating_mul(stat.f_frsize))
            .unwrap_or(0);
        let boot_id = text("/proc/sys/kernel/random/boot_id").trim().to_owned();
        let machine_id = match text("/etc/machine-id").trim() {
            "" => boot_id.replace('-', ""),
            id => id.to_owned(),
        };
        Machine {
            cpus: std::thread::available_parallelism()
                .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1)),
            memory_bytes,
            disk_bytes,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image,
            machine_id,
            boot_id,
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
        }
    }
}

/// One image for the status of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageSummary {
    /// The image's identity, which orders images of one size.
    pub(crate) id: String,
    /// Digested names, then tagged names.
    pub(crate) names: Vec<String>,
    pub(crate) bytes: u64,
}

/// What the Node object is made of.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) version: String,
    pub(crate) machine: Machine,
    /// Most images in the status; `None` = no limit (`nodeStatusMaxImages`).
    pub(crate) images_max: Option<usize>,
}

/// What the status of the node says beside what never changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeReport {
    pub(crate) images: Vec<ImageSummary>,
    /// Whether the disk is short.
    pub(crate) disk_pressure: bool,
}

impl Registration {
    /// Metadata and spec, as created.
    fn object(&self) -> Node {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let architecture = self.machine.architecture;
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([
                    label("kubernetes.io/hostname", &self.name),
                    label("kubernetes.io/os", "linux"),
                    label("kubernetes.io/arch", architecture),
                    label("beta.kubernetes.io/os", "linux"),
                    label("beta.kubernetes.io/arch", architecture),
                ])),
                annotations: Some(BTreeMap::from([(
                    "shipway.dev/pod-network".to_owned(),
                    "host: pods share the network of this machine".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec::default()),
            status: None,
        }
    }

    /// The status to post; `since` are the transition times of the conditions posted before.
    fn status(
        &self,
        report: &NodeReport,
        before: Option<&NodeStatus>,
        now: Timestamp,
    ) -> NodeStatus {
        let machine = &self.machine;
        let capacity = BTreeMap::from([
            ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
            ("memory".to_owned(), Quantity(format!("{}Ki", machine.memory_bytes / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", machine.disk_bytes / 1024))),
            ("pods".to_owned(), Quantity(PODS_MAX.to_string())),
        ]);
        let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.address.to_string()),
                // The machine is reached under the same address from outside; scripts that copy
                // files to every node ask for this type.
                address("ExternalIP", self.address.to_string()),
                address("Hostname", self.name.clone()),
            ]),
            allocatable: Some(capacity.clone()),
            capacity: Some(capacity),
            conditions: Some(conditions(report.disk_pressure, before, now)),
            daemon_endpoints: Some(NodeDaemonEndpoints::default()),
            images: Some(image_list(&report.images, self.images_max)),
            node_info: Some(NodeSystemInfo {
                architecture: machine.architecture.to_owned(),
                boot_id: machine.boot_id.clone(),
                container_runtime_version: format!("shipway://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: machine.kernel.clone(),
                kube_proxy_version: String::new(),
                kubelet_version: self.version.clone(),
                machine_id: machine.machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: machine.os_image.clone(),
                system_uuid: machine.machine_id.clone(),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }
    }
}

/// The largest images first, as the kubelet lists them.
fn image_list(images: &[ImageSummary], images_max: Option<usize>) -> Vec<ContainerImage> {
    let mut sorted: Vec<&ImageSummary> = images.iter().collect();
    sorted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| b.id.cmp(&a.id)));
    sorted
        .into_iter()
        .take(images_max.unwrap_or(usize::MAX))
        .map(|image| ContainerImage {
            names: Some(image.names.iter().take(IMAGE_NAMES_MAX).cloned().collect()),
            size_bytes: i64::try_from(image.bytes).ok(),
        })
        .collect()
}

fn conditions(
    disk_pressure: bool,
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let disk = if disk_pressure {
        ("DiskPressure", "True", "KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    let wanted = [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        disk,
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        (
            "NetworkUnavailable",
            "False",
            "PodsShareHostNetwork",
            "pods share the network of this machine: their address is the node's and their ports are the node's ports",
        ),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    wanted
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let since = before
                .and_then(|status| status.conditions.as_ref())
                .and_then(|list| list.iter().find(|condition| condition.type_ == kind))
                .filter(|condition| condition.status == status)
                .and_then(|condition| condition.last_transition_time.clone());
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: since.or(Some(Time(now))),
            }
        })
        .collect()
}

/// Creates or refreshes the Node object once.
///
/// # Errors
/// The API server refuses or does not answer.
pub(crate) async fn register(
    client: &kube::Client,
    registration: &Registration,
    report: &NodeReport,
) -> Result<Node, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let existing = match nodes.create(&PostParams::default(), &registration.object()).await {
        Ok(created) => created,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let object = registration.object();
            let patch = serde_json::json!({"metadata": {
                "labels": object.metadata.labels, "annotations": object.metadata.annotations}});
            nodes.patch(&registration.name, &PatchParams::default(), &Patch::Merge(patch)).await?
        }
        Err(error) => return Err(error),
    };
    let status = registration.status(report, existing.status.as_ref(), Timestamp::now());
    let patch = serde_json::json!({ "status": status });
    nodes.patch_status(&registration.name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// Posts the node's status whenever images or pressure change, and from time to time.
pub(crate) async fn keep_status(
    client: kube::Client,
    registration: Registration,
    mut images: watch::Receiver<Vec<ImageSummary>>,
    mut pressure: watch::Receiver<bool>,
) {
    loop {
        let report = NodeReport {
            images: images.borrow_and_update().clone(),
            disk_pressure: *pressure.borrow_and_update(),
        };
        let pause = match register(&client, &registration, &report).await {
            Ok(_) => STATUS_PERIOD,
            Err(error) => {
                tracing::warn!(node = registration.name, %error, "node status not posted");
                RETRY_PERIOD
            }
        };
        tokio::select! {
            changed = images.changed(), if pause == STATUS_PERIOD => {
                if changed.is_err() {
                    return;
                }
            }
            changed = pressure.changed(), if pause == STATUS_PERIOD => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Renews the node's lease.
pub(crate) async fn keep_lease(client: kube::Client, name: String, uid: Option<String>) {
    let leases: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
    loop {
        let pause = match renew(&leases, &name, uid.as_deref()).await {
            Ok(()) => LEASE_PERIOD,
            Err(error) => {
                tracing::debug!(node = name, %error, "lease not renewed");
                RETRY_PERIOD * 4
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(leases: &Api<Lease>, name: &str, uid: Option<&str>) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    let patch = serde_json::json!({ "spec": spec });
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: uid.map(|uid| {
                vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: name.to_owned(),
                    uid: uid.to_owned(),
                    ..OwnerReference::default()
                }]
            }),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec { acquire_time: spec.renew_time.clone(), ..spec }),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

/// The address of the interface that the default route uses; loopback when there is none.
pub(crate) fn own_address() -> IpAddr {
    // Connecting a datagram socket sends nothing: it asks the kernel for the route.
    let found = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| {
            socket.connect("192.0.2.1:9")?;
            socket.local_addr()
        })
        .map(|address| address.ip());
    match found {
        Ok(address) if !address.is_unspecified() => address,
        _ => IpAddr::from([127, 0, 0, 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        Registration {
            name: "n".into(),
            address: IpAddr::from([10, 0, 0, 7]),
            version: "v1.35.0".into(),
            machine: Machine::read(std::path::Path::new("/")),
            images_max: Some(50),
        }
    }

    #[test]
    fn short_disk_is_a_condition_with_its_own_time() {
        let registration = registration();
        let later = Timestamp::from_second(1000).expect("in range");
        let first = registration.status(&NodeReport::default(), None, Timestamp::UNIX_EPOCH);
        let report = NodeReport { disk_pressure: true, ..NodeReport::default() };
        let second = registration.status(&report, Some(&first), later);
        let disk =
            second.conditions.into_iter().flatten().find(|known| known.type_ == "DiskPressure");
        let disk = disk.expect("a condition");
        assert_eq!(
            (disk.status.as_str(), disk.reason.as_deref()),
            ("True", Some("KubeletHasDiskPressure"))
        );
        assert_eq!(disk.last_transition_time, Some(Time(later)));
    }

    #[test]
    fn node_says_that_pods_share_the_hosts_network() {
        let node = registration().object();
        let annotations = node.metadata.annotations.expect("annotations");
        assert!(annotations["shipway.dev/pod-network"].starts_with("host"));
        let status = registration().status(&NodeReport::default(), None, Timestamp::UNIX_EPOCH);
        let conditions = status.conditions.expect("conditions");
        assert!(conditions.iter().any(|condition| {
            condition.type_ == "NetworkUnavailable"
                && condition.reason.as_deref() == Some("PodsShareHostNetwork")
        }));
    }

    #[test]
    fn transition_times_of_unchanged_conditions_stay() {
        let registration = registration();
        let first = registration.status(&NodeReport::default(), None, Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(1000).expect("in range");
        let second = registration.status(&NodeReport::default(), Some(&first), later);
        for condition in second.conditions.expect("conditions") {
            assert_eq!(condition.last_transition_time, Some(Time(Timestamp::UNIX_EPOCH)));
            assert_eq!(condition.last_heartbeat_time, Some(Time(later)));
        }
    }

    #[test]
    fn images_are_listed_largest_first_and_at_most_fifty() {
        let images: Vec<ImageSummary> = (0..60)
            .map(|n| ImageSummary {
                id: format!("sha256:{n:064x}"),
                names: (0..9).map(|i| format!("i{n}:{i}")).collect(),
                bytes: n,
            })
            .collect();
        assert_eq!(image_list(&images, None).len(), 60);
        let list = image_list(&images, Some(50));
        assert_eq!(list.len(), 50);
        assert_eq!(list[0].size_bytes, Some(59));
        assert_eq!(list[0].names.as_ref().map(Vec::len), Some(5));
    }

    #[test]
    fn own_machine_has_processors_and_memory() {
        let machine = Machine::read(std::path::Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && machine.disk_bytes > 0);
    }
}
