//! The one task that knows all pods of the node: it turns the watch into one worker per pod.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::shared::Shared;
use crate::tasks::StopSignal;
use crate::worker::{PodInput, PodView, Worker};

/// All pods by namespace and name, for the kubelet API.
pub(crate) type Roster = BTreeMap<(String, String), RosterEntry>;

/// One pod of the node.
#[derive(Clone, Debug)]
pub(crate) struct RosterEntry {
    pub(crate) uid: String,
    pub(crate) view: watch::Receiver<PodView>,
}

struct Seat {
    input: watch::Sender<PodInput>,
    entry: RosterEntry,
}

struct Dispatcher {
    shared: Arc<Shared>,
    seats: BTreeMap<String, Seat>,
    workers: JoinSet<String>,
    roster: watch::Sender<Arc<Roster>>,
    /// UIDs named by the list that is being received.
    listed: Vec<String>,
    orphans_done: bool,
}

/// Runs until the node stops; workers are dropped then and containers go on.
pub(crate) async fn run(shared: Arc<Shared>, roster: watch::Sender<Arc<Roster>>, stop: StopSignal) {
    let api: Api<Pod> = Api::all(shared.client.clone());
    let selector = format!("spec.nodeName={}", shared.node_name);
    let config = watcher::Config::default().fields(&selector);
    let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let mut dispatcher = Dispatcher {
        shared,
        seats: BTreeMap::new(),
        workers: JoinSet::new(),
        roster,
        listed: Vec::new(),
        orphans_done: false,
    };
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => dispatcher.take(event),
                Some(Err(error)) => tracing::warn!(%error, "watch of pods was interrupted"),
                None => return,
            },
            Some(ended) = dispatcher.workers.join_next(), if !dispatcher.workers.is_empty() => {
                match ended {
                    Ok(uid) => {
                        dispatcher.seats.remove(&uid);
                        dispatcher.publish();
                    }
                    Err(error) => tracing::error!(%error, "worker of a pod panicked"),
                }
            }
            () = stop.stopped() => return,
        }
    }
}

impl Dispatcher {
    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.seat(pod, false);
            }
            Event::InitDone => self.listing_done(),
            Event::Apply(pod) => self.seat(pod, false),
            Event::Delete(pod) => {
                let known =
                    pod.metadata.uid.as_ref().is_some_and(|uid| self.seats.contains_key(uid));
                if known {
                    self.seat(pod, true);
                }
            }
        }
    }

    /// Gives a pod its worker, or its worker the news.
    fn seat(&mut self, pod: Pod, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let input = PodInput { pod: Arc::new(pod), gone };
        if let Some(seat) = self.seats.get(&uid) {
            seat.input.send_replace(input);
            return;
        }
        let (sender, receiver) = watch::channel(input);
        let (worker, view) = Worker::new(Arc::clone(&self.shared), receiver);
        let entry = RosterEntry { uid: uid.clone(), view };
        self.seats.insert(uid.clone(), Seat { input: sender, entry });
        self.workers.spawn(async move {
            // A worker that panics must not take its pod's place for ever: the next news of the
            // pod gives it a new one, which finds the containers again.
            if AssertUnwindSafe(worker.run()).catch_unwind().await.is_err() {
                tracing::error!(uid, "worker of a pod panicked");
            }
            uid
        });
        self.publish();
    }

    /// Pods that are no longer listed are gone; so are those that only the disk knows.
    fn listing_done(&mut self) {
        let gone: Vec<Arc<Pod>> = self
            .seats
            .iter()
            .filter(|(uid, _)| !self.listed.contains(uid))
            .map(|(_, seat)| Arc::clone(&seat.input.borrow().pod))
            .collect();
        for pod in gone {
            self.seat((*pod).clone(), true);
        }
        if self.orphans_done {
            return;
        }
        self.orphans_done = true;
        for uid in self.shared.directories.pods() {
            if self.seats.contains_key(&uid) {
                continue;
            }
            match self.shared.directories.load_pod(&uid) {
                Some(pod) => {
                    tracing::info!(uid, "pod was deleted while the node was down");
                    self.seat(pod, true);
                }
                None => {
                    if let Err(error) = crate::volumes::setup::tear_down(&self.shared, &uid) {
                        tracing::warn!(uid, %error, "directory of an unknown pod not removed");
                    }
                }
            }
        }
        self.remove_unknown_containers();
    }

    /// Containers that belong to no record were left by a crash of the node.
    fn remove_unknown_containers(&self) {
        let shared = Arc::clone(&self.shared);
        let known = shared.directories.known_containers();
        let Ok(containers) = shared.runtime.list() else { return };
        let unknown: Vec<_> =
            containers.into_iter().filter(|container| !known.contains(container.id())).collect();
        if unknown.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            for container in unknown {
                if let Err(error) = container.delete() {
                    tracing::warn!(container = container.id(), %error, "unknown container not deleted");
                }
            }
        });
    }

    fn publish(&self) {
        let roster = self
            .seats
            .values()
            .map(|seat| {
                let pod = &seat.input.borrow().pod;
                let key = (
                    pod.metadata.namespace.clone().unwrap_or_default(),
                    pod.metadata.name.clone().unwrap_or_default(),
                );
                (key, seat.entry.clone())
            })
            .collect();
        self.roster.send_replace(Arc::new(roster));
    }
}
