//! Image volumes: an image of the registry as a read-only directory (KEP-4639,
//! kubelet-images.md 2.8).
//!
//! All are pulled in the order of the spec before any container starts; what failed holds back
//! only the containers that mount it. What a volume stands for is decided once per pod and written
//! down, so that a restart of a container or of the node never changes it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use image_policy::{Event, PullPolicy, event};
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};
use oci_model::Reference;
use tokio::time::Instant;

use crate::images::access::PullSecrets;
use crate::images::account::PodIdentity;
use crate::images::ensure::{NotYet, Request};
use crate::images::store::LocalImage;
use crate::shared::Shared;

/// A failure that has just run out is tried again after this, never at once.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// An image that is ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageTree {
    /// Unpacked layers, the topmost first.
    pub(crate) lowers: Vec<PathBuf>,
    /// The same layers by their diff ids.
    pub(crate) layers: Vec<String>,
}

/// The image volumes of one pod.
#[derive(Debug, Default)]
pub(crate) struct ImageVolumes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ready: BTreeMap<String, LocalImage>,
    /// Why not, and until when nobody tries again.
    failed: BTreeMap<String, (NotYet, Instant)>,
}

/// Name and source of the image volumes of a pod, in the order of the spec.
pub(crate) fn of(pod: &Pod) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

impl ImageVolumes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next start try again what failed.
    pub(crate) fn forget_failures(&self) {
        self.state().failed.clear();
    }

    /// Pulls what is not there, in order; a failure is kept for those who mount it.
    pub(crate) async fn ensure(&self, shared: &Shared, pod: &Pod, secrets: &PullSecrets) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut decided = shared.directories.load_image_volumes(uid);
        for (name, source) in of(pod) {
            let is_settled = {
                let state = self.state();
                state.ready.contains_key(name)
                    || state.failed.get(name).is_some_and(|(_, until)| Instant::now() < *until)
            };
            if is_settled {
                continue;
            }
            let known = match decided.get(name) {
                Some(id) => known(shared, id).await,
                None => None,
            };
            let result = match known {
                Some(image) => Ok(image),
                None => pull(shared, pod, source, secrets).await,
            };
            let mut state = self.state();
            match result {
                Ok(image) => {
                    state.failed.remove(name);
                    decided.insert(name.to_owned(), image.id.clone());
                    state.ready.insert(name.to_owned(), image);
                    if let Err(error) = shared.directories.store_image_volumes(uid, &decided) {
                        tracing::warn!(pod = uid, %error, "image volumes not written down");
                    }
                }
                Err(not_yet) => {
                    let until = Instant::now() + not_yet.retry_in;
                    state.failed.insert(name.to_owned(), (not_yet, until));
                }
            }
        }
    }

    /// Why a container cannot start for the volumes that it mounts: the last of them counts, each
    /// gives an event.
    ///
    /// # Errors
    /// A volume that the container mounts has failed.
    pub(crate) fn check(&self, container: &Container, emit: &dyn Fn(Event)) -> Result<(), NotYet> {
        let state = self.state();
        let mut failure = None;
        for mount in container.volume_mounts.iter().flatten() {
            let Some((not_yet, until)) = state.failed.get(&mount.name) else { continue };
            emit(event::failed(&not_yet.waiting.reason));
            let retry_in = until.saturating_duration_since(Instant::now());
            failure = Some(NotYet { retry_in: retry_in.max(RETRY_MIN), ..not_yet.clone() });
        }
        failure.map_or(Ok(()), Err)
    }

    /// What a container mounts, unpacked.
    ///
    /// # Errors
    /// A layer is damaged or does not fit on the disk; the text names the volume.
    pub(crate) async fn trees(
        &self,
        shared: &Shared,
        container: &Container,
    ) -> Result<BTreeMap<String, ImageTree>, String> {
        let mounted: Vec<(String, LocalImage)> = {
            let state = self.state();
            let mounts = container.volume_mounts.iter().flatten();
            mounts
                .filter_map(|mount| {
                    Some((mount.name.clone(), state.ready.get(&mount.name)?.clone()))
                })
                .collect()
        };
        let mut trees = BTreeMap::new();
        for (name, image) in mounted {
            if trees.contains_key(&name) {
                continue;
            }
            let images = std::sync::Arc::clone(&shared.images);
            let unpacked = tokio::task::spawn_blocking(move || {
                let lowers = images.store.root_directories(&image)?;
                let layers = image.config.rootfs.diff_ids.iter().map(|id| id.0.to_string());
                Ok(ImageTree { lowers, layers: layers.collect() })
            });
            let unpacked = unpacked.await.map_err(|error| error.to_string()).and_then(
                |result: Result<_, crate::images::store::ImageError>| {
                    result.map_err(|error| error.to_string())
                },
            );
            let tree = unpacked.map_err(|error| format!("volume \"{name}\": {error}"))?;
            trees.insert(name, tree);
        }
        Ok(trees)
    }
}

/// The image that was decided on before, if it is still complete.
async fn known(shared: &Shared, id: &str) -> Option<LocalImage> {
    let reference: Reference = id.parse().ok()?;
    let root = *reference.digest()?;
    let images = std::sync::Arc::clone(&shared.images);
    tokio::task::spawn_blocking(move || images.store.read(&reference, root).ok().flatten())
        .await
        .ok()
        .flatten()
}

async fn pull(
    shared: &Shared,
    pod: &Pod,
    source: &ImageVolumeSource,
    secrets: &PullSecrets,
) -> Result<LocalImage, NotYet> {
    let image = source.reference.as_deref().unwrap_or_default();
    let policy = source
        .pull_policy
        .as_deref()
        .and_then(|policy| policy.parse().ok())
        .unwrap_or_else(|| PullPolicy::default_for(image));
    let request = Request { pod: &PodIdentity::of(pod), image, policy, secrets };
    // Events of a volume have no field path, and the error of the start belongs to the containers.
    let emit = |event: Event| {
        if event.reason != "Failed" || !event.message.starts_with("Error: ") {
            shared.recorder.pod(pod, None, event);
        }
    };
    shared.images.ensure(&request, &emit).await
}

#[cfg(test)]
mod tests {
    use image_policy::Waiting;

    use super::*;

    fn failed(reason: &str) -> (NotYet, Instant) {
        let waiting = Waiting { reason: reason.to_owned(), message: format!("{reason} text") };
        let retry_in = Duration::from_secs(10);
        (NotYet { waiting, retry_in, outage: None }, Instant::now() + retry_in)
    }

    fn container(volumes: &[&str]) -> Container {
        serde_json::from_value(serde_json::json!({"name": "c", "volumeMounts": volumes.iter()
            .map(|name| serde_json::json!({"name": name, "mountPath": format!("/{name}")}))
            .collect::<Vec<_>>()}))
        .expect("a container")
    }

    /// kubelet-images.md 15.7, P18.
    #[tokio::test]
    async fn failure_of_a_volume_holds_back_those_who_mount_it() {
        let volumes = ImageVolumes::default();
        volumes.state().failed.insert("a".to_owned(), failed("ErrImagePull"));
        volumes.state().failed.insert("b".to_owned(), failed("ImagePullBackOff"));
        for (mounts, expected, told) in [
            (&[][..], None, &[][..]),
            (&["other"], None, &[]),
            (&["a", "other"], Some("ErrImagePull"), &["Error: ErrImagePull"]),
            (
                &["a", "b"],
                Some("ImagePullBackOff"),
                &["Error: ErrImagePull", "Error: ImagePullBackOff"],
            ),
        ] {
            let events = Mutex::new(Vec::new());
            let emit = |event: Event| events.lock().expect("events").push(event.message);
            let result = volumes.check(&container(mounts), &emit);
            let reason = result.err().map(|not_yet| not_yet.waiting.reason);
            assert_eq!(reason.as_deref(), expected, "{mounts:?}");
            assert_eq!(*events.lock().expect("events"), told, "{mounts:?}");
        }
        volumes.forget_failures();
        assert_eq!(volumes.check(&container(&["a"]), &|_| {}), Ok(()));
    }

    #[test]
    fn volumes_come_in_the_order_of_the_spec() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [],
            "volumes": [{"name": "z", "image": {"reference": "r.example/z:1"}},
                {"name": "e", "emptyDir": {}},
                {"name": "a", "image": {"reference": "r.example/a:1"}}]}}))
        .expect("a pod");
        let names: Vec<&str> = of(&pod).map(|(name, _)| name).collect();
        assert_eq!(names, ["z", "a"]);
    }
}
