//! What concerns a pull besides its end: how far it is, when its registry is back, and that a
//! container which fails after its pull does not pull again at once.

use std::time::Duration;

use image_policy::{BACK_OFF_INITIAL, BACK_OFF_MAX, PullPolicy};
use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::{Happening, Worker};
use crate::images::ensure::outages::OutageKey;
use crate::images::store::LocalImage;
use crate::pods::state::{Phase, image_of};

/// An image that was pulled for a container whose configuration is wrong.
///
/// The kubelet asks the registry again at each sync of such a pod (kubernetes#103643,
/// kubelet-images.md 14, last row); here the pulls back off as failed ones do.
pub(super) struct HeldImage {
    text: String,
    image: LocalImage,
    window: Duration,
    until: Instant,
}

impl Worker {
    /// Shows how far a pull is; one that gets on is no failure any more.
    pub(super) fn take_pull_advanced(&mut self, name: &str, message: String) {
        if self.starting.as_deref() != Some(name) {
            return;
        }
        let Some(view) = self.state.containers.get_mut(name) else { return };
        if let Phase::Waiting { reason, .. } = &view.phase {
            let reason = match reason.as_str() {
                "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => "ContainerCreating",
                other => other,
            };
            let reason = reason.to_owned();
            view.wait(&reason, Some(message));
        }
    }

    /// Waits for the end of the outage that failed a pull.
    pub(super) fn watch_outage(&mut self, name: &str, outage: OutageKey) {
        let (shared, happenings) = (self.shared.clone(), self.happenings.clone());
        let container = name.to_owned();
        let watch = self.tasks.spawn(async move {
            shared.images.outages.end_of(&outage).await;
            let _ = happenings.send(Happening::RegistryBack { name: container }).await;
        });
        if let Some(before) = self.outage_watches.insert(name.to_owned(), watch) {
            before.abort();
        }
    }

    /// Lets a waiting pull start at once.
    pub(super) fn take_registry_back(&mut self, name: &str) {
        self.outage_watches.remove(name);
        let waits = self.state.view(name).is_some_and(|view| {
            matches!(&view.phase, Phase::Waiting { reason, .. }
                if matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable"))
        });
        if waits && let Some((container, _)) = self.container(name) {
            self.shared.images.forget_back_off(&self.uid, image_of(&container));
            self.forget_volume_failures();
            self.schedule.retry_at.remove(name);
        }
    }

    /// Keeps the image of a container that cannot be made as its spec says.
    pub(super) fn hold_image(&mut self, name: &str, image: LocalImage) {
        let Some((container, _)) = self.container(name) else { return };
        let text = image_of(&container).to_owned();
        let before = self.held_images.get(name).filter(|held| held.text == text);
        let now = Instant::now();
        let (window, until) = match before {
            Some(held) if now < held.until => (held.window, held.until),
            Some(held) => {
                let window = (held.window * 2).min(BACK_OFF_MAX);
                (window, now + window)
            }
            None => (BACK_OFF_INITIAL, now + BACK_OFF_INITIAL),
        };
        self.held_images.insert(name.to_owned(), HeldImage { text, image, window, until });
    }

    /// The image that was pulled for this start a moment ago, if it need not be pulled again.
    pub(super) fn held_image(&self, container: &Container) -> Option<LocalImage> {
        let image = image_of(container);
        // The other policies ask nobody while the image is here.
        let policy = container.image_pull_policy.as_deref().and_then(|policy| policy.parse().ok());
        if policy.unwrap_or_else(|| PullPolicy::default_for(image)) != PullPolicy::Always {
            return None;
        }
        let held = self.held_images.get(&container.name)?;
        (held.text == image && Instant::now() < held.until).then(|| held.image.clone())
    }

    /// The container runs: the next start begins anew.
    pub(super) fn forget_pull(&mut self, name: &str) {
        self.held_images.remove(name);
        if let Some(watch) = self.outage_watches.remove(name) {
            watch.abort();
        }
    }
}
