//! Takes queued events to the API server.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};

use super::correlator::{Correlator, Send};
use super::{Lane, Lanes, Note};

/// Tries of one event while the API server cannot be reached or is overloaded.
const TRIES_MAX: u32 = 10;
/// Pause before the second try, doubled from try to try.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long one try may take: a connection may be dead without a word.
const TRY_MAX: Duration = Duration::from_secs(30);
/// After this time no other try of an event is made: it holds its lane.
const EVENT_MAX: Duration = Duration::from_secs(90);

/// Why an event did not arrive.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("the API server did not answer in time")]
    NoAnswer,
    #[error("the API server could not take it: {0}")]
    Unable(kube::Error),
    #[error(transparent)]
    Refused(kube::Error),
}

/// Sends queued events until all recorders are gone.
pub(crate) async fn run(client: kube::Client, node: String, lanes: Lanes) {
    run_with(&Sender { client, node, try_max: TRY_MAX }, lanes).await;
}

async fn run_with(sender: &Sender, lanes: Lanes) {
    join_all(lanes.0.into_iter().map(|lane| sender.run_lane(lane))).await;
}

/// Who sends, and how patiently.
struct Sender {
    client: kube::Client,
    /// Name of the node, which events name as their source.
    node: String,
    try_max: Duration,
}

/// Whether the same request may succeed later.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || 500 <= status.code,
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}

/// What the API server is asked for.
enum Request {
    Create(Box<ApiEvent>),
    Change(String, Patch<serde_json::Value>),
}

impl Sender {
    async fn run_lane(&self, mut lane: Lane) {
        let mut correlator = Correlator::default();
        while let Some(note) = lane.queue.recv().await {
            let object = note.object.name.as_deref().unwrap_or_default();
            match self.send(&mut correlator, &note).await {
                Ok(()) => {}
                // Such as all that is told of a namespace that is being deleted.
                Err(NotSent::Refused(error)) => {
                    tracing::debug!(object, reason = note.reason, %error, "event refused");
                }
                Err(error) => {
                    tracing::warn!(object, reason = note.reason, %error, "event not sent");
                }
            }
            // One line per burst: when the lane has caught up.
            if lane.queue.is_empty() {
                let events = lane.dropped.swap(0, Ordering::Relaxed);
                if 0 < events {
                    tracing::warn!(events, "events dropped: more came than the API server took");
                }
            }
        }
    }

    /// Makes a request until the API server has answered it for good.
    async fn persist(&self, api: &Api<ApiEvent>, request: &Request) -> Result<(), NotSent> {
        let began = tokio::time::Instant::now();
        let mut pause = PAUSE_FIRST;
        for number in 1.. {
            let call = async {
                match request {
                    Request::Create(event) => {
                        api.create(&PostParams::default(), event).await.map(drop)
                    }
                    Request::Change(name, patch) => {
                        api.patch(name, &PatchParams::default(), patch).await.map(drop)
                    }
                }
            };
            let may_pass = match tokio::time::timeout(self.try_max, call).await {
                Ok(Ok(())) => break,
                // The answer to an earlier try got lost.
                Ok(Err(kube::Error::Api(status)))
                    if status.code == 409
                        && 1 < number
                        && matches!(request, Request::Create(_)) =>
                {
                    break;
                }
                Ok(Err(error)) if is_passing(&error) => NotSent::Unable(error),
                Ok(Err(error)) => return Err(NotSent::Refused(error)),
                Err(_) => NotSent::NoAnswer,
            };
            if TRIES_MAX <= number || EVENT_MAX <= began.elapsed() {
                return Err(may_pass);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(())
    }

    async fn send(&self, correlator: &mut Correlator, note: &Note) -> Result<(), NotSent> {
        let namespace = note.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<ApiEvent> = Api::namespaced(self.client.clone(), &namespace);
        let (name, message) = match correlator.observe(note) {
            Send::Create { name, message } => (name, message),
            Send::Count { name, count, message, .. } => {
                let patch = serde_json::json!({
                    "count": count, "lastTimestamp": Time(note.at), "message": message});
                let change = Request::Change(name.clone(), Patch::Merge(patch));
                match self.persist(&api, &change).await {
                    Ok(()) => return Ok(()),
                    Err(NotSent::Refused(kube::Error::Api(status))) if status.code == 404 => {
                        correlator.forget(&name);
                        match correlator.observe(note) {
                            Send::Create { name, message } | Send::Count { name, message, .. } => {
                                (name, message)
                            }
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let event = ApiEvent {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: note.object.clone(),
            reason: Some(note.reason.clone()),
            message: Some(message),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            count: Some(1),
            ..ApiEvent::default()
        };
        self.persist(&api, &Request::Create(Box::new(event))).await
    }
}

#[cfg(test)]
mod tests;
