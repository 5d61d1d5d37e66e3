//! One container start's question: may I have this image now? (kubelet `EnsureImageExists`,
//! kubelet-images.md 2.2.) The rules are `image-policy`'s; this carries them out.

mod flights;
pub(crate) mod outages;
mod recording;
mod renewal;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use credentials::RegistryAuth;
use image_policy::event;
use image_policy::verification::{
    PodCredentials, UsedCredential, Verdict, VerificationPolicy, must_pull, verdict_for_all,
};
use image_policy::{
    BackOff, Decision, Event, EventType, ImageMirror, Presence, PullPolicy, Refusal, Waiting,
    decide, mirrored,
};
use oci_model::Reference;
use tokio::sync::watch;

use self::flights::{Failed, Flights};
use self::outages::{OutageKey, Outages};
use self::recording::Intent;
use super::access::{CredentialSources, PullSecrets};
use super::account::PodIdentity;
use super::failure::NodePullError;
use super::progress::PullState;
use super::queue::{PullLimits, Queue};
use super::records::PullRecords;
use super::registry::Puller;
use super::store::{ImageStore, LocalImage};
use super::{Clock, LOCAL_REGISTRY};
use crate::registration::ImageSummary;

/// When a refused start is tried again, unless a back-off says otherwise.
const RETRY: Duration = Duration::from_secs(10);
/// After a failed pull the next look, which finds the back-off, comes this soon.
const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(2);
/// What the kubelet answers beyond its rate of pulls.
const RATE_EXCEEDED: &str = "pull QPS exceeded";

/// Why a container cannot start yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotYet {
    pub(crate) waiting: Waiting,
    pub(crate) retry_in: Duration,
    /// The outage of a registry after whose end it may be tried earlier.
    pub(crate) outage: Option<OutageKey>,
}

/// One question.
pub(crate) struct Request<'a> {
    /// Who asks: back-off is per pod and image.
    pub(crate) pod: &'a PodIdentity,
    /// The text of the spec.
    pub(crate) image: &'a str,
    pub(crate) policy: PullPolicy,
    pub(crate) secrets: &'a PullSecrets,
}

/// The images of the node and the rules for them.
pub(crate) struct Images {
    pub(crate) store: ImageStore,
    pub(crate) records: PullRecords,
    puller: Box<dyn Puller>,
    mirrors: Vec<ImageMirror>,
    verification: VerificationPolicy,
    credentials: CredentialSources,
    limits: PullLimits,
    clock: Clock,
    queue: Arc<Queue>,
    flights: Flights,
    pub(crate) outages: Outages,
    back_off: Mutex<PullBackOff>,
    summaries: watch::Sender<Vec<ImageSummary>>,
    /// Turns true when preloading has ended.
    preloaded: watch::Receiver<bool>,
}

/// Failures of pulls by pod and image.
#[derive(Default)]
struct PullBackOff {
    windows: BackOff<String>,
    last: HashMap<String, LastFailure>,
}

/// What is shown while the next pull waits for its time.
struct LastFailure {
    waiting: Waiting,
    outage: Option<OutageKey>,
}

/// What [`Images::new`] is made of.
pub(crate) struct ImagesParts {
    pub(crate) store: ImageStore,
    pub(crate) records: PullRecords,
    pub(crate) puller: Box<dyn Puller>,
    pub(crate) mirrors: Vec<ImageMirror>,
    pub(crate) verification: VerificationPolicy,
    pub(crate) credentials: CredentialSources,
    pub(crate) preloaded: watch::Receiver<bool>,
    /// Limits of pulls, validated.
    pub(crate) limits: PullLimits,
    pub(crate) clock: Clock,
}

impl Images {
    pub(crate) fn new(parts: ImagesParts) -> Self {
        Images {
            store: parts.store,
            records: parts.records,
            puller: parts.puller,
            mirrors: parts.mirrors,
            verification: parts.verification,
            credentials: parts.credentials,
            queue: Arc::new(Queue::new(&parts.limits, Arc::clone(&parts.clock))),
            limits: parts.limits,
            clock: parts.clock,
            flights: Flights::default(),
            outages: Outages::default(),
            back_off: Mutex::default(),
            summaries: watch::Sender::new(Vec::new()),
            preloaded: parts.preloaded,
        }
    }

    /// The images to report, whenever they change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Vec<ImageSummary>> {
        self.summaries.subscribe()
    }

    /// Looks at the store anew and reports a difference.
    pub(crate) fn refresh_summaries(&self) {
        let fresh = self.store.summaries();
        self.summaries.send_if_modified(|known| {
            let changed = *known != fresh;
            *known = fresh;
            changed
        });
    }

    fn back_off(&self) -> MutexGuard<'_, PullBackOff> {
        self.back_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the image of a container usable, or says why not yet; `emit` gets the events.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        request: &Request<'_>,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<LocalImage, NotYet> {
        let mut decision = decide(request.image, request.policy, None);
        let mut local = None;
        if let Decision::LookFor(tagged) = &decision {
            let reference = self.effective(tagged, emit);
            let (presence, found) = match reference {
                Ok(reference) => self.presence(request, &reference, emit).await?,
                Err(error) => (Presence::Error(error), None),
            };
            decision = decide(request.image, request.policy, Some(&presence));
            local = found;
        }
        match decision {
            Decision::Use(event) => {
                emit(event);
                local.ok_or_else(|| raw_error("the image vanished", emit))
            }
            Decision::Refuse(refusal) => Err(refuse(refusal, RETRY, None, emit)),
            Decision::Pull(tagged) => self.pull(request, &tagged, emit).await,
            Decision::LookFor(_) => Err(raw_error("the image cannot be looked up", emit)),
        }
    }

    /// The name that is really used: the first mirror that matches rewrites it.
    fn effective(&self, tagged: &str, emit: &(dyn Fn(Event) + Sync)) -> Result<Reference, String> {
        let reference: Reference = tagged.parse().map_err(|error| format!("{error}"))?;
        let Some(rewritten) = mirrored(&self.mirrors, &reference) else { return Ok(reference) };
        let rewritten = rewritten.map_err(|error| error.to_string())?;
        let note = if reference.tag().is_some_and(|tag| tag.as_str().contains("debug")) {
            " (it holds no busybox shell)"
        } else {
            ""
        };
        emit(Event {
            event_type: EventType::Normal,
            reason: "ImageMirrored",
            message: format!(
                "Image \"{tagged}\" is served as \"{rewritten}\" by a mirror of this node{note}"
            ),
        });
        Ok(rewritten)
    }

    async fn presence(
        self: &Arc<Self>,
        request: &Request<'_>,
        reference: &Reference,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<(Presence, Option<LocalImage>), NotYet> {
        let found = match self.find(reference).await {
            Ok(Some(image)) => image,
            Ok(None) => return Ok((Presence::Absent, None)),
            Err(error) => return Ok((Presence::Error(error), None)),
        };
        let name = reference.name();
        // The text of the event is the one of a kubelet that verifies, unless that is off.
        let verified = self.verification != VerificationPolicy::NeverVerify;
        if reference.registry() == LOCAL_REGISTRY {
            return Ok((Presence::Usable { verified }, Some(found)));
        }
        let mut broken = None;
        // A part of an index is here because of the whole: whoever may use that may use the part.
        for image_ref in self.image_refs(reference, &found).await {
            let provenance = match self.provenance(request.image, reference, &image_ref).await {
                Ok(provenance) => provenance,
                Err(error) => return Ok((Presence::Error(error), None)),
            };
            let verdict = match verdict_for_all(&self.verification, request.image, &provenance) {
                Some(verdict) => verdict,
                None => {
                    let shown =
                        self.credentials.shown(&name, &provenance, request.pod, request.secrets);
                    let shown = shown.await.unwrap_or_else(|error| {
                        broken = Some(error.to_string());
                        PodCredentials::default()
                    });
                    must_pull(&self.verification, request.image, &provenance, &shown)
                }
            };
            match verdict {
                Verdict::MustPull => continue,
                Verdict::Usable => {}
                Verdict::UsableAfterRecording(used) => {
                    let noted = self.note(image_ref, vec![request.image.to_owned()], used).await;
                    if let Err(error) = noted {
                        tracing::warn!(image = request.image, error, "pull record not written");
                    }
                }
            }
            return Ok((Presence::Usable { verified }, Some(found)));
        }
        match broken {
            Some(error) => Err(raw_error(&error, emit)),
            None => Ok((Presence::MustProveAccess, Some(found))),
        }
    }

    async fn find(self: &Arc<Self>, reference: &Reference) -> Result<Option<LocalImage>, String> {
        if reference.registry() == LOCAL_REGISTRY {
            let mut preloaded = self.preloaded.clone();
            // An error means that preloading died: then the image is simply absent.
            let _ = preloaded.wait_for(|ended| *ended).await;
        }
        let images = Arc::clone(self);
        let reference = reference.clone();
        blocking(move || images.store.find(&reference).map_err(|error| error.to_string())).await
    }

    async fn pull(
        self: &Arc<Self>,
        request: &Request<'_>,
        tagged: &str,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<LocalImage, NotYet> {
        // Under the other policies the look at the store has told of the mirror already.
        let tell: &(dyn Fn(Event) + Sync) =
            if request.policy == PullPolicy::Always { emit } else { &|_| {} };
        let reference = self.effective(tagged, tell).map_err(|error| raw_error(&error, emit))?;
        let candidates = self
            .credentials
            .candidates(&reference.name(), Some(request.pod), request.secrets, emit)
            .await
            .map_err(|error| raw_error(&error.to_string(), emit))?;
        let key = format!("{}_{}", request.pod.uid, request.image);
        self.check_back_off(&key, request, emit)?;
        // After the look at the back-off, where the kubelet writes it before: a pull that does not
        // begin leaves nothing on disk.
        let intent = Intent::begin(self, request.image).await.map_err(|error| {
            let message = format!(
                "Failed to record image pull intent for container image \"{}\": {error}",
                request.image
            );
            let refused = raw_error(&error, emit);
            NotYet { waiting: Waiting { message, ..refused.waiting }, ..refused }
        })?;
        emit(event::pulling(request.image));
        let began = (self.clock)();
        let result = if reference.registry() == LOCAL_REGISTRY {
            self.local_image(&reference).await.map(|landed| (landed, UsedCredential::Node))
        } else if self.queue.admits() {
            self.fetch(request, &reference, &candidates, emit).await
        } else {
            Err(Failed::of_node(RATE_EXCEEDED))
        };
        let (landed, used) = match result {
            Ok(landed) => landed,
            Err(failed) => return Err(self.pull_failed(key, request, failed, emit)),
        };
        let image = landed.image;
        // Somebody may ask for it by the name that the mirror made, too.
        let effective = reference.to_string();
        let names = vec![request.image.to_owned(), effective];
        if let Err(error) = intent.fulfil(image.root.to_string(), names, used).await
            && reference.registry() != LOCAL_REGISTRY
        {
            tracing::warn!(image = request.image, error, "pull record not written");
            return Ok(image);
        }
        // Who joined a pull late waited less than it took.
        let waited = (self.clock)().saturating_sub(began);
        emit(event::pulled(request.image, landed.took.min(waited), waited, image.bytes));
        self.refresh_summaries();
        Ok(image)
    }

    fn pull_failed(
        &self,
        key: String,
        request: &Request<'_>,
        failed: Failed,
        emit: &(dyn Fn(Event) + Sync),
    ) -> NotYet {
        let failure = image_policy::pull_failure(request.image, &failed.errors);
        let now = (self.clock)();
        let waiting = failure.refusal.waiting.clone();
        let mut guard = self.back_off();
        let PullBackOff { windows, last } = &mut *guard;
        windows.fail(key.clone(), now);
        windows.collect_garbage(now);
        last.retain(|key, _| windows.contains(key));
        last.insert(key, LastFailure { waiting, outage: failed.outage.clone() });
        drop(guard);
        refuse(failure.refusal, RETRY_AFTER_FAILURE, failed.outage, emit)
    }

    fn check_back_off(
        &self,
        key: &String,
        request: &Request<'_>,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<(), NotYet> {
        let guard = self.back_off();
        let Some(left) = guard.windows.remaining(key, (self.clock)()) else { return Ok(()) };
        let last = guard.last.get(key);
        let refusal = image_policy::back_off_waiting(request.image, last.map(|last| &last.waiting));
        let outage = last.and_then(|last| last.outage.clone());
        drop(guard);
        Err(refuse(refusal, left, outage, emit))
    }

    /// Lets the next pull for a pod start at once: something that it depends on has changed.
    pub(crate) fn forget_back_off(&self, pod_uid: &str, image: &str) {
        let key = format!("{pod_uid}_{image}");
        let mut guard = self.back_off();
        guard.windows.reset(&key);
        guard.last.remove(&key);
    }

    /// The credentials that the node has for an image itself, without any pod's.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) async fn credentials_of_node(
        &self,
        reference: &Reference,
    ) -> Result<Vec<RegistryAuth>, NodePullError> {
        let none = PullSecrets::default();
        let offers = self.credentials.candidates(&reference.name(), None, &none, &|_| {}).await;
        let offers = offers.map_err(|error| NodePullError::of_node(error.to_string()))?;
        Ok(offers.into_iter().map(|offer| offer.auth).collect())
    }

    /// Pulls an image for nobody in particular: CRI clients, `node pull`, images that are kept.
    ///
    /// No policy, no back-off, no events and no record of who may use it: it counts as preloaded
    /// (kubelet-images.md 8.1). `auths` are tried in order; without any, once anonymously.
    /// `progress` is called now and then while this waits.
    ///
    /// # Errors
    /// What went wrong, in the text that a pod's event would have.
    pub(crate) async fn pull_for_node(
        self: &Arc<Self>,
        reference: &Reference,
        auths: &[RegistryAuth],
        progress: &(dyn Fn(&PullState) + Sync),
    ) -> Result<LocalImage, NodePullError> {
        let outcome = if reference.registry() == LOCAL_REGISTRY {
            self.local_image(reference).await
        } else if self.queue.admits() {
            self.flight(reference, auths.to_vec()).watched(progress).await
        } else {
            return Err(NodePullError::of_node(RATE_EXCEEDED));
        };
        match outcome {
            Ok(landed) => {
                self.give(reference, &landed.image).await;
                self.refresh_summaries();
                Ok(landed.image)
            }
            Err(failed) => {
                let text = image_policy::aggregate_errors(&failed.errors);
                Err(NodePullError { kind: failed.kind, text })
            }
        }
    }
}

impl Images {
    /// Notes that an image was pulled for every pod; without the note a pod has to prove itself.
    async fn give(self: &Arc<Self>, reference: &Reference, image: &LocalImage) {
        if reference.registry() == LOCAL_REGISTRY {
            return;
        }
        let (images, name, root) = (Arc::clone(self), reference.clone(), image.root);
        let given =
            blocking(move || images.store.give(&name, &root).map_err(|e| e.to_string())).await;
        if let Err(error) = given {
            tracing::warn!(%reference, error, "pull for the node not noted");
        }
    }
}

fn refuse(
    refusal: Refusal,
    retry_in: Duration,
    outage: Option<OutageKey>,
    emit: &(dyn Fn(Event) + Sync),
) -> NotYet {
    refusal.events.into_iter().for_each(emit);
    NotYet { waiting: refusal.waiting, retry_in, outage }
}

/// An error whose text becomes the waiting reason itself, and its message too, as in the kubelet (kubelet-images.md 2.6).
fn raw_error(text: &str, emit: &(dyn Fn(Event) + Sync)) -> NotYet {
    emit(event::failed(text));
    let waiting = Waiting { reason: text.to_owned(), message: text.to_owned() };
    NotYet { waiting, retry_in: RETRY, outage: None }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests;
