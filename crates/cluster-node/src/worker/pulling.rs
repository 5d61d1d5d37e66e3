//! What concerns a pull besides its end: how far it is, when its registry is back, and that a
//! container which fails after its pull does not pull again at once.

use std::collections::BTreeMap;

use image_policy::{BackOff, PullPolicy};
use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::{Happening, Worker};
use crate::images::ensure::outages::{Ending, OutageKey};
use crate::images::store::LocalImage;
use crate::pods::state::{ContainerView, Phase, image_of};

/// Images that were pulled for containers whose configuration is wrong, by container.
///
/// The kubelet asks the registry again at each sync of such a pod (kubernetes#103643,
/// kubelet-images.md 14, last row); here the pulls back off as failed ones do.
pub(super) struct HeldImages<T> {
    /// What the times of the back-off count from.
    began: Instant,
    windows: BackOff<String>,
    images: BTreeMap<String, Held<T>>,
}

struct Held<T> {
    /// The image as the spec names it.
    text: String,
    image: T,
}

impl<T: Clone> HeldImages<T> {
    pub(super) fn new(began: Instant) -> Self {
        HeldImages { began, windows: BackOff::default(), images: BTreeMap::new() }
    }

    /// Keeps an image whose container failed at `now`.
    fn hold(&mut self, container: &str, text: &str, image: T, now: Instant) {
        let held = Held { text: text.to_owned(), image };
        let before = self.images.insert(container.to_owned(), held);
        if before.is_some_and(|before| before.text != text) {
            self.windows.reset(container);
        }
        if !self.is_waiting(container, now) {
            self.windows.fail(container.to_owned(), now.duration_since(self.began));
        }
    }

    /// The image, if it need not be pulled again at `now`.
    fn get(&self, container: &str, text: &str, now: Instant) -> Option<T> {
        let held = self.images.get(container).filter(|held| held.text == text)?;
        self.is_waiting(container, now).then(|| held.image.clone())
    }

    fn is_waiting(&self, container: &str, now: Instant) -> bool {
        self.windows.remaining(container, now.duration_since(self.began)).is_some()
    }

    fn forget(&mut self, container: &str) {
        self.images.remove(container);
        self.windows.reset(container);
    }
}

impl Worker {
    /// Shows how far a pull is; one that gets on is no failure any more.
    pub(super) fn take_pull_advanced(&mut self, name: &str, message: String) {
        if self.starting.as_deref() != Some(name) {
            return;
        }
        let Some(view) = self.state.containers.get_mut(name) else { return };
        if let Phase::Waiting { reason, .. } = &view.phase {
            let creating = || "ContainerCreating".to_owned();
            let reason = if view.has_failed_pull() { creating() } else { reason.clone() };
            view.wait(&reason, Some(message));
        }
    }

    /// Waits for the end of the outage that failed a pull.
    pub(super) fn watch_outage(&mut self, name: &str, outage: OutageKey) {
        let (shared, happenings) = (self.shared.clone(), self.happenings.clone());
        let container = name.to_owned();
        let watch = self.tasks.spawn(async move {
            if shared.images.outages.end_of(&outage).await == Ending::Recovery {
                let _ = happenings.send(Happening::RegistryBack { name: container }).await;
            }
        });
        if let Some(before) = self.outage_watches.insert(name.to_owned(), watch) {
            before.abort();
        }
    }

    /// Lets a waiting pull start at once.
    pub(super) fn take_registry_back(&mut self, name: &str) {
        self.outage_watches.remove(name);
        if let Some((container, _)) = self.container(name) {
            self.pull_at_once(&container);
        }
    }

    /// Ends the back-off of a container whose pull has failed; other containers are left alone.
    pub(super) fn pull_at_once(&mut self, container: &Container) {
        if self.state.view(&container.name).is_some_and(ContainerView::has_failed_pull) {
            self.shared.images.forget_back_off(&self.uid, image_of(container));
            self.forget_volume_failures();
            self.schedule.retry_at.remove(&container.name);
        }
    }

    /// Keeps the image of a container that cannot be made as its spec says.
    pub(super) fn hold_image(&mut self, name: &str, image: LocalImage) {
        let Some((container, _)) = self.container(name) else { return };
        self.held_images.hold(name, image_of(&container), image, Instant::now());
    }

    /// The image that was pulled for this start a moment ago, if it need not be pulled again.
    pub(super) fn held_image(&self, container: &Container) -> Option<LocalImage> {
        let image = image_of(container);
        // The other policies ask nobody while the image is here.
        let policy = container.image_pull_policy.as_deref().and_then(|policy| policy.parse().ok());
        if policy.unwrap_or_else(|| PullPolicy::default_for(image)) != PullPolicy::Always {
            return None;
        }
        self.held_images.get(&container.name, image, Instant::now())
    }

    /// The container runs: the next start begins anew.
    pub(super) fn forget_pull(&mut self, name: &str) {
        self.held_images.forget(name);
        if let Some(watch) = self.outage_watches.remove(name) {
            watch.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// kubelet-images.md 14, last row: syncs come every ten seconds, pulls back off.
    #[test]
    fn container_with_a_wrong_configuration_pulls_in_the_windows_of_the_back_off() {
        let began = Instant::now();
        let mut held = HeldImages::new(began);
        let mut pulls = Vec::new();
        for seconds in (0..320).step_by(10) {
            let now = began + Duration::from_secs(seconds);
            if held.get("c", "r.example/app", now).is_none() {
                pulls.push(seconds);
            }
            held.hold("c", "r.example/app", "image", now);
        }
        assert_eq!(pulls, [0, 10, 30, 70, 150, 310]);
    }

    #[test]
    fn corrected_image_and_a_start_begin_anew() {
        let now = Instant::now();
        let mut held = HeldImages::new(now);
        held.hold("c", "r.example/app", "image", now);
        assert_eq!(held.get("c", "r.example/app", now), Some("image"));
        assert_eq!(held.get("c", "r.example/other", now), None);
        held.forget("c");
        assert_eq!(held.get("c", "r.example/app", now), None);
    }
}
