//! A corrected pull secret ends the back-off of a pull at once.
//!
//! The kubelet does not notice and waits for up to five minutes (kubelet-images.md 3.1).
//! However many pods wait, a secret is watched once: each watch is a connection of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

use super::{Happening, Worker};
use crate::pods::state::all_containers;
use crate::volumes::image;

/// Changes that a pod may be behind before it is told only that something changed.
const CHANGES_MAX: usize = 64;

/// The watches of pull secrets that pods wait for.
#[derive(Default)]
pub(crate) struct SecretWatches(Mutex<HashMap<Watched, Weak<SecretWatch>>>);

/// A secret of a namespace, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Watched {
    namespace: String,
    name: Option<String>,
}

/// A watch, which ends when the last pod lets go of it.
struct SecretWatch {
    /// Names of secrets that were changed.
    changes: broadcast::Sender<String>,
    task: AbortHandle,
}

impl Drop for SecretWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SecretWatches {
    /// Joins a watch or begins it.
    fn join(&self, client: &kube::Client, watched: Watched) -> Arc<SecretWatch> {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watches.get(&watched).and_then(Weak::upgrade) {
            return watch;
        }
        watches.retain(|_, watch| watch.strong_count() > 0);
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let task = tokio::spawn(tell_changes(client.clone(), watched.clone(), changes.clone()));
        let watch = Arc::new(SecretWatch { changes, task: task.abort_handle() });
        watches.insert(watched, Arc::downgrade(&watch));
        watch
    }
}

async fn tell_changes(client: kube::Client, watched: Watched, changes: broadcast::Sender<String>) {
    let api: Api<Secret> = Api::namespaced(client, &watched.namespace);
    let config = match &watched.name {
        Some(only) => watcher::Config::default().fields(&format!("metadata.name={only}")),
        None => watcher::Config::default(),
    };
    let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let mut is_listing = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => is_listing = true,
            Ok(Event::InitDone) => is_listing = false,
            Ok(Event::Apply(secret)) if !is_listing => {
                // An error means that nobody waits just now.
                let _ = changes.send(secret.metadata.name.unwrap_or_default());
            }
            Ok(Event::InitApply(_) | Event::Apply(_) | Event::Delete(_)) => {}
            Err(error) => tracing::debug!(%error, "watch of secrets was interrupted"),
        }
    }
}

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
        let name = match names.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        let watched = Watched { namespace: namespace.to_owned(), name };
        let shared_watch = self.shared.secret_watches.join(&self.shared.client, watched);
        let mut changes = shared_watch.changes.subscribe();
        let happenings = self.happenings.clone();
        let watch = self.tasks.spawn(async move {
            // Held for as long as this pod waits.
            let _watch = shared_watch;
            loop {
                let is_ours = match changes.recv().await {
                    Ok(changed) => names.contains(&changed),
                    Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => return,
                };
                if is_ours && happenings.send(Happening::SecretsChanged).await.is_err() {
                    return;
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
        let containers = self.pod.spec.iter().flat_map(all_containers);
        let containers: Vec<_> = containers.map(|(container, _)| container.into_owned()).collect();
        for container in &containers {
            self.pull_at_once(container);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(name: &str) -> Watched {
        Watched { namespace: "ns".to_owned(), name: Some(name.to_owned()) }
    }

    #[tokio::test]
    async fn pods_share_the_watch_of_a_secret_and_the_last_one_ends_it() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Nobody listens there; the watches just try.
        let config = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
        let client = kube::Client::try_from(config).expect("a client");
        let watches = SecretWatches::default();
        let first = watches.join(&client, watched("a"));
        let second = watches.join(&client, watched("a"));
        let other = watches.join(&client, watched("b"));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &other));
        drop(first);
        let task = second.task.clone();
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "one still waits");
        drop(second);
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        drop(watches.join(&client, watched("c")));
        let left = watches.0.lock().expect("watches").len();
        assert_eq!(left, 2, "b and c: what ended is forgotten");
    }
}
