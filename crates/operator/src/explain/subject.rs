//! What is explained: the images of one pod, or of the pods that an object will make.

use k8s_openapi::api::core::v1::{Event, Pod, PodSpec};
use serde_json::Value;

/// Something that runs, or will run, containers.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Kind of the object, such as `Deployment`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it was read.
    pub source: Source,
    /// The service account of its pods.
    pub service_account: String,
    /// Names in `imagePullSecrets`, in order; those without a name are left out.
    pub pull_secrets: Vec<String>,
    /// Its images: volumes, then init containers, containers and ephemeral containers.
    pub images: Vec<ImageUse>,
    /// The pod of it that exists, if there is one.
    pub live: Option<Live>,
}

/// Where a subject was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or standard input: it may not exist in any cluster.
    File {
        /// The path as the user wrote it.
        path: String,
    },
    /// A cluster.
    Cluster,
    /// The command line named an image.
    CommandLine,
}

/// One use of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// What uses it.
    pub role: Role,
    /// Name of the container or volume.
    pub name: String,
    /// Path of the field, such as `spec.containers[0].image`.
    pub field: String,
    /// The path that events name, such as `spec.containers{app}`; none for volumes.
    pub event_path: Option<String>,
    /// The image as written.
    pub image: String,
    /// The policy as it stands in the object; empty means that it is still to be defaulted.
    pub policy: Option<String>,
    /// The policy that whoever applied the object wrote, where the object remembers it.
    pub applied: Applied,
}

/// What `kubectl apply` left about a container's policy (the last-applied annotation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing is known.
    Unknown,
    /// The field was empty.
    Empty,
    /// The field had this value.
    Written(String),
}

/// What uses an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `spec.volumes[].image`.
    ImageVolume,
    /// `spec.initContainers`.
    InitContainer,
    /// `spec.containers`.
    Container,
    /// `spec.ephemeralContainers`.
    EphemeralContainer,
    /// Nothing: an image of the command line.
    Bare,
}

impl Role {
    /// The word for it in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ImageVolume => "imageVolume",
            Self::InitContainer => "initContainer",
            Self::Container => "container",
            Self::EphemeralContainer => "ephemeralContainer",
            Self::Bare => "image",
        }
    }
}

/// A pod that exists.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its name.
    pub pod: String,
    /// The uids that its events may name: a static pod has one of its own beside its mirror's.
    pub uids: Vec<String>,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
    /// The state of each container that has one.
    pub states: Vec<ContainerState>,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Name of the container.
    pub container: String,
    /// `waiting.reason` and `waiting.message`.
    pub waiting: Option<(String, String)>,
    /// Whether it runs or has run.
    pub started: bool,
}

/// Why an object cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Its kind makes no pods.
    #[error("{kind} {name:?} runs no containers")]
    NoPods {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
    },
    /// Its pod spec is not one.
    #[error("{kind} {name:?}: {place}: {reason}")]
    Malformed {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
        /// Where the pod spec should be.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where the pod spec of a kind is; `None` for kinds without one.
fn pod_spec_path(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Pod" => Some(&["spec"]),
        "PodTemplate" => Some(&["template", "spec"]),
        "Deployment"
        | "ReplicaSet"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "ReplicationController" => Some(&["spec", "template", "spec"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

impl Subject {
    /// Reads an object; `namespace` is for those that name none.
    ///
    /// # Errors
    /// [`SubjectError`].
    pub fn of_object(
        object: &Value,
        namespace: &str,
        source: Source,
    ) -> Result<Self, SubjectError> {
        let kind = object["kind"].as_str().unwrap_or("object").to_owned();
        let metadata = &object["metadata"];
        let name = metadata["name"]
            .as_str()
            .or_else(|| metadata["generateName"].as_str())
            .unwrap_or_default()
            .to_owned();
        let Some(path) = pod_spec_path(&kind) else {
            return Err(SubjectError::NoPods { kind, name });
        };
        let place = path.join(".");
        let found = path.iter().fold(object, |value, part| &value[*part]);
        let spec: PodSpec = serde_json::from_value(found.clone()).map_err(|error| {
            let reason = error.to_string();
            SubjectError::Malformed {
                kind: kind.clone(),
                name: name.clone(),
                place: place.clone(),
                reason,
            }
        })?;
        let applied = last_applied(object, path);
        let live = (kind == "Pod" && source == Source::Cluster)
            .then(|| serde_json::from_value::<Pod>(object.clone()).ok())
            .flatten()
            .map(|pod| Live::of_pod(&pod));
        let named = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone());
        let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref());
        Ok(Self {
            namespace: metadata["namespace"].as_str().unwrap_or(namespace).to_owned(),
            service_account: image_policy::admission::service_account_of(account).to_owned(),
            pull_secrets: named.filter(|name| !name.is_empty()).collect(),
            images: images_of(&spec, &place, applied.as_ref()),
            kind,
            name,
            source,
            live,
        })
    }

    /// An image without any pod: only what the command line brings can open it.
    pub fn of_image(image: &str, namespace: &str) -> Self {
        let policy = None;
        let (name, field) = (String::new(), "image".to_owned());
        let (image, applied) = (image.to_owned(), Applied::Unknown);
        let role = Role::Bare;
        Self {
            kind: "Image".to_owned(),
            namespace: namespace.to_owned(),
            name: image.clone(),
            source: Source::CommandLine,
            service_account: String::new(),
            pull_secrets: Vec::new(),
            images: vec![ImageUse { role, name, field, event_path: None, image, policy, applied }],
            live: None,
        }
    }

    /// Takes a pod of this object as the present state. A policy that the pod has and the template
    /// has not was set on the way.
    pub fn observe(&mut self, pod: &Pod) {
        self.live = Some(Live::of_pod(pod));
        let spec = pod.spec.clone().unwrap_or_default();
        for found in images_of(&spec, "spec", None) {
            let own =
                self.images.iter_mut().find(|own| own.role == found.role && own.name == found.name);
            let Some(own) = own.filter(|own| own.image == found.image) else { continue };
            if found.policy.is_some() && own.policy != found.policy {
                own.applied = match own.policy.take().filter(|policy| !policy.is_empty()) {
                    Some(policy) => Applied::Written(policy),
                    None => Applied::Empty,
                };
                own.policy = found.policy;
            }
        }
    }
}

/// The pod spec of the last-applied annotation, if `kubectl apply` wrote one.
fn last_applied(object: &Value, path: &[&str]) -> Option<Value> {
    let text =
        object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
            .as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    Some(path.iter().fold(&applied, |value, part| &value[*part]).clone())
}

fn images_of(spec: &PodSpec, place: &str, applied: Option<&Value>) -> Vec<ImageUse> {
    let mut images = Vec::new();
    for (at, volume) in spec.volumes.iter().flatten().enumerate() {
        let Some(image) = &volume.image else { continue };
        images.push(ImageUse {
            role: Role::ImageVolume,
            name: volume.name.clone(),
            field: format!("{place}.volumes[{at}].image.reference"),
            event_path: None,
            image: image.reference.clone().unwrap_or_default(),
            policy: image.pull_policy.clone(),
            applied: Applied::Unknown,
        });
    }
    let mut add = |role, list: &'static str, at: usize, name: &str, image, policy| {
        let applied = applied.map_or(Applied::Unknown, |spec| applied_policy(&spec[list], name));
        images.push(ImageUse {
            role,
            name: name.to_owned(),
            field: format!("{place}.{list}[{at}].image"),
            event_path: Some(format!("spec.{list}{{{name}}}")),
            image: Option::unwrap_or_default(image),
            policy,
            applied,
        });
    };
    for (at, container) in spec.init_containers.iter().flatten().enumerate() {
        let (image, policy) = (container.image.clone(), container.image_pull_policy.clone());
        add(Role::InitContainer, "initContainers", at, &container.name, image, policy);
    }
    for (at, container) in spec.containers.iter().enumerate() {
        let (image, policy) = (container.image.clone(), container.image_pull_policy.clone());
        add(Role::Container, "containers", at, &container.name, image, policy);
    }
    for (at, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let (image, policy) = (container.image.clone(), container.image_pull_policy.clone());
        add(Role::EphemeralContainer, "ephemeralContainers", at, &container.name, image, policy);
    }
    images
}

fn applied_policy(containers: &Value, name: &str) -> Applied {
    let container = containers.as_array().into_iter().flatten().find(|c| c["name"] == name);
    match container.map(|container| container["imagePullPolicy"].as_str()) {
        None => Applied::Unknown,
        Some(None | Some("")) => Applied::Empty,
        Some(Some(policy)) => Applied::Written(policy.to_owned()),
    }
}

impl Live {
    /// Whether an event about a pod of this name is about this one, and not about an earlier one.
    pub(crate) fn is_meant_by(&self, event: &Event) -> bool {
        let uid = event.involved_object.uid.as_ref().filter(|uid| !uid.is_empty());
        uid.is_none_or(|uid| self.uids.is_empty() || self.uids.contains(uid))
    }

    /// What is known about a pod of the cluster.
    pub fn of_pod(pod: &Pod) -> Self {
        let mut states = Vec::new();
        if let Some(status) = &pod.status {
            let lists = [
                &status.init_container_statuses,
                &status.container_statuses,
                &status.ephemeral_container_statuses,
            ];
            for container in lists.into_iter().flatten().flatten() {
                let state = container.state.as_ref();
                let waiting = state.and_then(|state| state.waiting.as_ref()).map(|waiting| {
                    let text = |text: &Option<String>| text.clone().unwrap_or_default();
                    (text(&waiting.reason), text(&waiting.message))
                });
                let started = container.restart_count > 0
                    || state.is_some_and(|s| s.running.is_some() || s.terminated.is_some());
                states.push(ContainerState { container: container.name.clone(), waiting, started });
            }
        }
        let annotations = pod.metadata.annotations.as_ref();
        let of_static = annotations.and_then(|all| all.get("kubernetes.io/config.hash"));
        Self {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            uids: pod.metadata.uid.iter().chain(of_static).cloned().collect(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            states,
        }
    }
}
