//! Takes the directories of released local-path volumes away, as their provisioner has to.
//!
//! The control plane never touches this disk: it says `Released`, the node removes the directory
//! and then the PersistentVolume. In that order, so that a crash in between repeats instead of
//! leaking.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};

use crate::shared::Shared;

/// Who says that a volume is ours to remove.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner of the local-path class.
const PROVISIONER: &str = "shipway.dev/local-path";

/// Reclaims volumes until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let api: Api<PersistentVolume> = Api::all(shared.client.clone());
    let watch = watcher::watcher(api.clone(), watcher::Config::default());
    let mut events = std::pin::pin!(watch.default_backoff());
    while let Some(event) = events.next().await {
        let volume = match event {
            Ok(Event::InitApply(volume) | Event::Apply(volume)) => volume,
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => continue,
            Err(error) => {
                tracing::debug!(%error, "watch of volumes was interrupted");
                continue;
            }
        };
        let Some(path) = reclaimable(&volume, &shared.volumes_directory) else { continue };
        let name = volume.metadata.name.clone().unwrap_or_default();
        let removed = tokio::task::spawn_blocking({
            let path = path.clone();
            move || remove(&path)
        });
        if let Err(error) = removed.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(volume = name, path = %path.display(), %error, "cannot remove a volume");
            continue;
        }
        let preconditions = Preconditions { uid: volume.metadata.uid, resource_version: None };
        let parameters =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        if let Err(error) = api.delete(&name, &parameters).await {
            tracing::debug!(volume = name, %error, "a reclaimed volume was not deleted");
        }
    }
}

/// The directory to remove: of a released volume that the local-path class made below our root and
/// that nobody wants to keep.
fn reclaimable(volume: &PersistentVolume, root: &Path) -> Option<PathBuf> {
    let spec = volume.spec.as_ref()?;
    let phase = volume.status.as_ref()?.phase.as_deref()?;
    let annotations = volume.metadata.annotations.as_ref()?;
    let ours = annotations.get(PROVISIONED_BY).is_some_and(|by| by == PROVISIONER);
    let unwanted = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    if phase != "Released" || !ours || !unwanted || volume.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let path = PathBuf::from(&spec.host_path.as_ref()?.path);
    // Exactly one plain name below the root: whoever may write volumes may not remove other trees.
    let below = path.strip_prefix(root).ok()?;
    let mut components = below.components();
    let plain = matches!(components.next(), Some(Component::Normal(_)));
    (plain && components.next().is_none()).then_some(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(phase: &str, policy: &str, by: &str, path: &str) -> PersistentVolume {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "v", "annotations": {PROVISIONED_BY: by}},
            "spec": {"persistentVolumeReclaimPolicy": policy, "hostPath": {"path": path}},
            "status": {"phase": phase},
        }))
        .expect("a volume")
    }

    #[test]
    fn only_released_volumes_of_ours_directly_below_the_root_are_removed() {
        let rows = [
            ("Released", "Delete", PROVISIONER, "/s/volumes/pvc-1", true),
            ("Bound", "Delete", PROVISIONER, "/s/volumes/pvc-1", false),
            ("Released", "Retain", PROVISIONER, "/s/volumes/pvc-1", false),
            ("Released", "Delete", "example.com/other", "/s/volumes/pvc-1", false),
            ("Released", "Delete", PROVISIONER, "/etc", false),
            ("Released", "Delete", PROVISIONER, "/s/volumes", false),
            ("Released", "Delete", PROVISIONER, "/s/volumes/../../etc", false),
            ("Released", "Delete", PROVISIONER, "/s/volumes/a/b", false),
        ];
        for (phase, policy, by, path, expected) in rows {
            let found = reclaimable(&volume(phase, policy, by, path), Path::new("/s/volumes"));
            assert_eq!(found.is_some(), expected, "{phase} {policy} {by} {path}");
        }
    }

    #[test]
    fn directory_that_is_gone_already_is_no_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("v");
        fs::create_dir_all(path.join("deep")).expect("made");
        assert!(remove(&path).is_ok());
        assert!(!path.exists());
        assert!(remove(&path).is_ok());
    }
}
