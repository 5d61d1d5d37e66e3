//! Column definitions, by kind.

use crate::resources::Resource;

/// One column.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub(super) priority: u8,
    pub(super) description: &'static str,
}

const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", priority: 0, description }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", priority: 1, description }
}

const fn number(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", priority: 0, description }
}

const NAME: Column = text("Name", "Name of the object, unique within its namespace.");
const AGE: Column = text("Age", "Time since the object was created.");
const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");
const SELECTOR: Column = wide("Selector", "Label selector of the pods.");

static POD: &[Column] = &[
    NAME,
    text("Ready", "Ready containers of all containers."),
    text("Status", "Aggregate state of the containers."),
    text("Restarts", "Restarts of all containers and when the last one was."),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node the pod is on."),
    wide("Nominated Node", "Node the pod may get once others are preempted."),
    wide("Readiness Gates", "Readiness gates that are met, of all."),
];
static JOB: &[Column] = &[
    NAME,
    text("Status", "State of the job."),
    text("Completions", "Pods that succeeded, of those wanted."),
    text("Duration", "Time from start to completion."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
static SECRET: &[Column] =
    &[NAME, text("Type", "Kind of data."), number("Data", "Number of keys."), AGE];
static CONFIG_MAP: &[Column] = &[NAME, number("Data", "Number of keys."), AGE];
static SERVICE_ACCOUNT: &[Column] = &[NAME, number("Secrets", "Number of secrets."), AGE];
static EVENT: &[Column] = &[
    text("Last Seen", "Time since the event last happened."),
    text("Type", "Normal or Warning."),
    text("Reason", "Short, machine-readable reason."),
    text("Object", "What the event is about."),
    wide("Subobject", "Part of the object the event is about."),
    wide("Source", "Component that reports the event."),
    text("Message", "What happened."),
    wide("First Seen", "Time since the event first happened."),
    wide("Count", "How often it happened."),
    wide("Name", "Name of the event."),
];
static NODE: &[Column] = &[
    NAME,
    text("Status", "Whether the node is ready."),
    text("Roles", "Roles of the node."),
    AGE,
    text("Version", "Version of the node agent."),
    wide("Internal-IP", "Address within the cluster."),
    wide("External-IP", "Address outside of the cluster."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Kernel."),
    wide("Container-Runtime", "Container runtime and its version."),
];
static NAMESPACE: &[Column] = &[NAME, text("Status", "Whether the namespace is active."), AGE];
static CLAIM: &[Column] = &[
    NAME,
    text("Status", "Phase of the claim."),
    text("Volume", "Volume the claim is bound to."),
    text("Capacity", "Capacity of the volume."),
    text("Access Modes", "Access modes of the volume."),
    text("StorageClass", "Class that was asked for."),
    text("VolumeAttributesClass", "Attributes class of the claim."),
    AGE,
    wide("VolumeMode", "Filesystem or Block."),
];
static VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "Size of the volume."),
    text("Access Modes", "Ways the volume can be mounted."),
    text("Reclaim Policy", "What happens when its claim is deleted."),
    text("Status", "Phase of the volume."),
    text("Claim", "Claim the volume is bound to."),
    text("StorageClass", "Class of the volume."),
    text("VolumeAttributesClass", "Attributes class of the volume."),
    text("Reason", "Why the volume is in this phase."),
    AGE,
    wide("VolumeMode", "Filesystem or Block."),
];
static STORAGE_CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Who makes volumes."),
    text("ReclaimPolicy", "What happens to volumes without a claim."),
    text("VolumeBindingMode", "When a claim is bound."),
    text("AllowVolumeExpansion", "Whether claims may grow."),
    AGE,
];
static DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Ready pods of those wanted."),
    number("Up-to-date", "Pods of the newest template."),
    number("Available", "Pods that have been ready long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
static REPLICAS: &[Column] = &[
    NAME,
    number("Desired", "Pods wanted."),
    number("Current", "Pods that exist."),
    number("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
static LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];
static PLAIN: &[Column] = &[NAME, AGE];

/// The columns of a kind, in order.
pub(super) fn of(resource: &Resource) -> &'static [Column] {
    match resource.kind {
        "Pod" => POD,
        "Job" => JOB,
        "Secret" => SECRET,
        "ConfigMap" => CONFIG_MAP,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "Event" => EVENT,
        "Node" => NODE,
        "Namespace" => NAMESPACE,
        "PersistentVolumeClaim" => CLAIM,
        "PersistentVolume" => VOLUME,
        "StorageClass" => STORAGE_CLASS,
        "Deployment" => DEPLOYMENT,
        "ReplicaSet" | "ReplicationController" => REPLICAS,
        "Lease" => LEASE,
        _ => PLAIN,
    }
}
