//! A corrected pull secret ends the back-off of a pull at once.
//!
//! The kubelet does not notice and waits for up to five minutes (kubelet-images.md 3.1).

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};

use super::{Happening, Worker};
use crate::pods::state::{Phase, all_containers, image_of};
use crate::volumes::image;

impl Worker {
    /// Watches the namespace's secrets while a pull waits; does nothing without pull secrets.
    pub(super) fn watch_secrets(&mut self) {
        let names: Vec<String> = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.image_pull_secrets.iter().flatten())
            .map(|reference| reference.name.clone())
            .filter(|name| !name.is_empty())
            .collect();
        if names.is_empty() || self.secret_watch.is_some() {
            return;
        }
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.shared.client.clone(), namespace);
        let happenings = self.happenings.clone();
        let watch = self.tasks.spawn(async move {
            let config = match names.as_slice() {
                [only] => watcher::Config::default().fields(&format!("metadata.name={only}")),
                _ => watcher::Config::default(),
            };
            let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
            let mut is_listing = true;
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => is_listing = true,
                    Ok(Event::InitDone) => is_listing = false,
                    Ok(Event::Apply(secret)) if !is_listing => {
                        let is_ours =
                            secret.metadata.name.is_some_and(|name| names.contains(&name));
                        if is_ours && happenings.send(Happening::SecretsChanged).await.is_err() {
                            return;
                        }
                    }
                    Ok(Event::InitApply(_) | Event::Apply(_) | Event::Delete(_)) => {}
                    Err(error) => tracing::debug!(%error, "watch of secrets was interrupted"),
                }
            }
        });
        self.secret_watch = Some(watch);
    }

    /// Ends the watch once a container has started.
    pub(super) fn forget_secrets(&mut self) {
        if let Some(watch) = self.secret_watch.take() {
            watch.abort();
        }
    }

    /// Lets the next start pull image volumes at once.
    pub(super) fn forget_volume_failures(&self) {
        for (_, volume) in image::of(&self.pod) {
            let reference = volume.reference.as_deref().unwrap_or_default();
            self.shared.images.forget_back_off(&self.uid, reference);
        }
        self.image_volumes.forget_failures();
    }

    /// Lets waiting pulls start at once.
    pub(super) fn take_secrets_changed(&mut self) {
        for (container, _) in self.pod.spec.iter().flat_map(all_containers) {
            let waits = self.state.view(&container.name).is_some_and(|view| {
                matches!(&view.phase, Phase::Waiting { reason, .. }
                    if matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff"))
            });
            if waits {
                self.shared.images.forget_back_off(&self.uid, image_of(container));
                self.forget_volume_failures();
                self.schedule.retry_at.remove(&container.name);
            }
        }
    }
}
