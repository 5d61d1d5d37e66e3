//! The kinds, as rows of the table.

use super::{Generation, Resource, Scope, StatusPart, Subresource};

/// Verbs of a kind that is stored.
const STORED: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Verbs of namespaces, which cannot be deleted as a collection.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
/// Verbs of a review.
const CREATE: &[&str] = &["create"];

const SCALE: Subresource = Subresource {
    name: "scale",
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    verbs: &["get", "patch", "update"],
};

const fn status(group: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", group, version: "v1", kind, verbs: &["get", "patch", "update"] }
}

/// `v1` Namespace.
pub static NAMESPACES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: NO_COLLECTION,
    status: StatusPart::Subresource,
    generation: Generation::Absent,
    subresources: &[
        Subresource {
            name: "finalize",
            group: "",
            version: "v1",
            kind: "Namespace",
            verbs: &["update"],
        },
        status("", "Namespace"),
    ],
    field_labels: &["status.phase"],
    storage: "namespaces",
};

/// `v1` Node.
pub static NODES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Absent,
    subresources: &[status("", "Node")],
    field_labels: &["spec.unschedulable"],
    storage: "nodes",
};

/// Subresource of pods through which containers are added to a running one.
pub const EPHEMERAL_CONTAINERS: &str = "ephemeralcontainers";

/// `v1` Pod.
pub static PODS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Tracked,
    subresources: &[
        Subresource {
            name: "attach",
            group: "",
            version: "v1",
            kind: "PodAttachOptions",
            verbs: &["create", "get"],
        },
        Subresource {
            name: "binding",
            group: "",
            version: "v1",
            kind: "Binding",
            verbs: &["create"],
        },
        Subresource {
            name: EPHEMERAL_CONTAINERS,
            group: "",
            version: "v1",
            kind: "Pod",
            verbs: &["get", "patch", "update"],
        },
        Subresource {
            name: "eviction",
            group: "policy",
            version: "v1",
            kind: "Eviction",
            verbs: &["create"],
        },
        Subresource {
            name: "exec",
            group: "",
            version: "v1",
            kind: "PodExecOptions",
            verbs: &["create", "get"],
        },
        Subresource { name: "log", group: "", version: "v1", kind: "Pod", verbs: &["get"] },
        status("", "Pod"),
    ],
    field_labels: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    storage: "pods",
};

/// `v1` Secret.
pub static SECRETS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &["type"],
    storage: "secrets",
};

/// `v1` ConfigMap.
pub static CONFIG_MAPS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "configmaps",
};

/// `v1` ServiceAccount.
pub static SERVICE_ACCOUNTS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[Subresource {
        name: "token",
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        verbs: &["create"],
    }],
    field_labels: &[],
    storage: "serviceaccounts",
};

/// `v1` Event.
pub static EVENTS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    storage: "events",
};

/// `v1` PersistentVolume.
pub static PERSISTENT_VOLUMES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Absent,
    subresources: &[status("", "PersistentVolume")],
    field_labels: &[],
    storage: "persistentvolumes",
};

/// `v1` PersistentVolumeClaim.
pub static PERSISTENT_VOLUME_CLAIMS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Absent,
    subresources: &[status("", "PersistentVolumeClaim")],
    field_labels: &[],
    storage: "persistentvolumeclaims",
};

/// `v1` ReplicationController.
pub static REPLICATION_CONTROLLERS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Tracked,
    subresources: &[SCALE, status("", "ReplicationController")],
    field_labels: &["status.replicas"],
    storage: "replicationcontrollers",
};

/// `apps/v1` Deployment.
pub static DEPLOYMENTS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Tracked,
    subresources: &[SCALE, status("apps", "Deployment")],
    field_labels: &[],
    storage: "deployments",
};

/// `apps/v1` ReplicaSet.
pub static REPLICA_SETS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Tracked,
    subresources: &[SCALE, status("apps", "ReplicaSet")],
    field_labels: &["status.replicas"],
    storage: "replicasets",
};

/// `batch/v1` Job.
pub static JOBS: Resource = Resource {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short_names: &[],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Subresource,
    generation: Generation::Tracked,
    subresources: &[status("batch", "Job")],
    field_labels: &["status.successful"],
    storage: "jobs",
};

/// `coordination.k8s.io/v1` Lease.
pub static LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "leases",
};

/// `events.k8s.io/v1` Event.
pub static EVENTS_V1: Resource = Resource {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    storage: "events",
};

/// `storage.k8s.io/v1` StorageClass.
pub static STORAGE_CLASSES: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: STORED,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "storageclasses",
};

/// `authentication.k8s.io/v1` TokenReview.
pub static TOKEN_REVIEWS: Resource = Resource {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: CREATE,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "",
};

/// `authentication.k8s.io/v1` SelfSubjectReview.
pub static SELF_SUBJECT_REVIEWS: Resource = Resource {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: CREATE,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "",
};

/// `authorization.k8s.io/v1` SubjectAccessReview.
pub static SUBJECT_ACCESS_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: CREATE,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "",
};

/// `authorization.k8s.io/v1` LocalSubjectAccessReview.
pub static LOCAL_SUBJECT_ACCESS_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: CREATE,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "",
};

/// `authorization.k8s.io/v1` SelfSubjectAccessReview.
pub static SELF_SUBJECT_ACCESS_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: CREATE,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "",
};

/// `authorization.k8s.io/v1` SelfSubjectRulesReview.
pub static SELF_SUBJECT_RULES_REVIEWS: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: CREATE,
    status: StatusPart::Absent,
    generation: Generation::Absent,
    subresources: &[],
    field_labels: &[],
    storage: "",
};

/// Every resource, in the order discovery shows them.
pub static ALL: &[&Resource] = &[
    &NAMESPACES,
    &NODES,
    &PODS,
    &SECRETS,
    &CONFIG_MAPS,
    &SERVICE_ACCOUNTS,
    &EVENTS,
    &PERSISTENT_VOLUMES,
    &PERSISTENT_VOLUME_CLAIMS,
    &REPLICATION_CONTROLLERS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &JOBS,
    &LEASES,
    &EVENTS_V1,
    &STORAGE_CLASSES,
    &TOKEN_REVIEWS,
    &SELF_SUBJECT_REVIEWS,
    &SUBJECT_ACCESS_REVIEWS,
    &LOCAL_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_RULES_REVIEWS,
];
