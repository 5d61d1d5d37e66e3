//! Events on pods and on the node, merged as the upstream recorder does (mini-kubernetes.md 7.2).
//!
//! A recorder puts them into lanes by the object that they are about; [`sending`] takes them out.
//! So the events of one pod keep their order, and those of many do not wait for each other.

mod correlator;
mod sending;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

pub(crate) use self::sending::run;

/// Events that are sent at the same time.
const LANES: usize = 8;
/// Events that may wait in one lane; later ones are dropped and counted in the log. All lanes
/// together hold what 1000 pods tell when they start at once.
const LANE_EVENTS_MAX: usize = 2048;

/// An event to send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    pub(crate) object: ObjectReference,
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

/// Takes events without waiting.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    lanes: Arc<[LaneSender]>,
}

#[derive(Debug)]
struct LaneSender {
    queue: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
}

/// What a recorder took, to be sent by [`run`].
pub(crate) struct Lanes(Vec<Lane>);

/// The events of some objects, in their order.
struct Lane {
    queue: mpsc::Receiver<Note>,
    /// Events that found no place since this was last told.
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder and what it fills.
    pub(crate) fn new() -> (Self, Lanes) {
        let (senders, lanes): (Vec<_>, Vec<_>) = (0..LANES)
            .map(|_| {
                let (sender, queue) = mpsc::channel(LANE_EVENTS_MAX);
                let dropped = Arc::new(AtomicU64::new(0));
                let sender = LaneSender { queue: sender, dropped: Arc::clone(&dropped) };
                (sender, Lane { queue, dropped })
            })
            .unzip();
        (Recorder { lanes: senders.into() }, Lanes(lanes))
    }

    /// Queues an event.
    pub(crate) fn send(&self, note: Note) {
        let Some(lane) = self.lanes.get(lane_of(&note.object)) else { return };
        // A closed queue is that of a node that ends.
        if let Err(TrySendError::Full(_)) = lane.queue.try_send(note) {
            lane.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues an event on a pod, or on a part of it.
    pub(crate) fn pod(&self, pod: &Pod, field_path: Option<String>, event: image_policy::Event) {
        self.send(Note {
            object: pod_reference(pod, field_path),
            warning: event.event_type == image_policy::EventType::Warning,
            reason: event.reason.to_owned(),
            message: event.message,
            at: Timestamp::now(),
        });
    }

    /// Queues a normal event on a pod or container.
    pub(crate) fn normal(
        &self,
        pod: &Pod,
        field_path: Option<String>,
        reason: &'static str,
        message: String,
    ) {
        let event_type = image_policy::EventType::Normal;
        self.pod(pod, field_path, image_policy::Event { event_type, reason, message });
    }

    /// Queues a warning on a pod or container.
    pub(crate) fn warning(
        &self,
        pod: &Pod,
        field_path: Option<String>,
        reason: &'static str,
        message: String,
    ) {
        let event_type = image_policy::EventType::Warning;
        self.pod(pod, field_path, image_policy::Event { event_type, reason, message });
    }
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    let meta = &pod.metadata;
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path,
    }
}

/// A reference to the node; events on nodes live in namespace `default`.
pub(crate) fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        // `kubectl describe node` looks for the name in place of the UID as well.
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// All events of one object go through one lane.
fn lane_of(object: &ObjectReference) -> usize {
    let mut hasher = DefaultHasher::new();
    (&object.kind, &object.namespace, &object.name, &object.uid).hash(&mut hasher);
    // The remainder is smaller than the number of lanes.
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default()
}

#[cfg(test)]
impl Lanes {
    /// An event that waits; of one object the oldest.
    pub(crate) fn take(&mut self) -> Option<Note> {
        self.0.iter_mut().find_map(|lane| lane.queue.try_recv().ok())
    }
}
