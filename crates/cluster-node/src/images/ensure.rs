//! One container start's question: may I have this image now? (kubelet `EnsureImageExists`,
//! kubelet-images.md 2.2.) The rules are `image-policy`'s; this carries them out.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use credentials::RegistryAuth;
use image_policy::event;
use image_policy::verification::{UsedCredential, Verdict, VerificationPolicy, must_pull};
use image_policy::{
    BackOff, Decision, Event, EventType, Presence, PullPolicy, Refusal, Waiting, decide,
};
use jiff::Timestamp;
use oci_model::{Digest, Reference};
use tokio::sync::watch;

use super::LOCAL_REGISTRY;
use super::access::{CredentialSources, PullSecrets};
use super::account::PodIdentity;
use super::progress::PullState;
use super::records::PullRecords;
use super::store::{ImageStore, LocalImage};
use crate::options::ImageMirror;
use crate::registration::ImageSummary;

/// When a refused start is tried again, unless a back-off says otherwise.
const RETRY: Duration = Duration::from_secs(10);
/// After a failed pull the next look, which finds the back-off, comes this soon.
const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Fetches an image from its registry; a seam, so that the rules are tested without one.
pub(crate) trait Puller: Send + Sync {
    /// Pulls what `reference` stands for.
    ///
    /// The error is the text that ends up in events.
    fn pull(
        &self,
        reference: Reference,
        auth: Option<RegistryAuth>,
    ) -> Pin<Box<dyn Future<Output = Result<Arrived, String>> + Send + '_>>;
}

/// An image that was fetched.
pub(crate) struct Arrived {
    /// Digest of the manifest or index.
    pub(crate) root: Digest,
    /// Keeps its blobs until the image has a name.
    pub(crate) guard: Option<blob_store::Lease>,
}

/// Why a container cannot start yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotYet {
    pub(crate) waiting: Waiting,
    pub(crate) retry_in: Duration,
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
    began: Instant,
    back_off: Mutex<(BackOff<String>, HashMap<String, Waiting>)>,
    summaries: watch::Sender<Vec<ImageSummary>>,
    /// Turns true when preloading has ended.
    preloaded: watch::Receiver<bool>,
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
            began: Instant::now(),
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

    fn back_off(&self) -> MutexGuard<'_, (BackOff<String>, HashMap<String, Waiting>)> {
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
                Ok(reference) => self.presence(request, &reference).await?,
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
            Decision::Refuse(refusal) => Err(refuse(refusal, RETRY, emit)),
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
        let image_ref = found.root.to_string();
        let provenance = self.records.provenance(&image_ref, request.image);
        // A broken secret shows itself in the pull that follows.
        let shown = self.credentials.shown(&name, &provenance, request.pod, request.secrets).await;
        let shown = shown.unwrap_or_default();
        match must_pull(&self.verification, request.image, &provenance, &shown) {
            Verdict::Usable => {}
            Verdict::UsableAfterRecording(used) => {
                if let Err(error) =
                    self.records.note(&image_ref, request.image, used, Timestamp::now())
                {
                    tracing::warn!(image = request.image, %error, "pull record not written");
                }
            }
            Verdict::MustPull => return Ok((Presence::MustProveAccess, Some(found))),
        }
        Ok((Presence::Usable { verified }, Some(found)))
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
        if let Err(error) = self.records.begin(request.image) {
            let text = format!(
                "Failed to record image pull intent for container image \"{}\": {error}",
                request.image
            );
            return Err(raw_error(&text, emit));
        }
        emit(event::pulling(request.image));
        let began = Instant::now();
        let auths: Vec<RegistryAuth> =
            candidates.iter().map(|candidate| candidate.auth.clone()).collect();
        let result = self.attempt(&reference, &auths).await;
        let outcome = match result {
            Ok((image, used)) => {
                let note = self.records.note(
                    &image.root.to_string(),
                    request.image,
                    used.and_then(|at| candidates.get(at))
                        .map_or(UsedCredential::Node, |offer| offer.used.clone()),
                    Timestamp::now(),
                );
                if reference.registry() != LOCAL_REGISTRY
                    && let Err(error) = note
                {
                    // The intent stays, so that nobody gets the image without a pull.
                    tracing::warn!(image = request.image, %error, "pull record not written");
                    return Ok(image);
                }
                let took = began.elapsed();
                emit(event::pulled(request.image, took, took, image.bytes));
                self.refresh_summaries();
                Ok(image)
            }
            Err(errors) => {
                let failure = image_policy::pull_failure(request.image, &errors);
                let now = self.began.elapsed();
                let mut guard = self.back_off();
                guard.0.fail(key.clone(), now);
                guard.0.collect_garbage(now);
                guard.1.insert(key, failure.refusal.waiting.clone());
                drop(guard);
                Err(refuse(failure.refusal, RETRY_AFTER_FAILURE, emit))
            }
        };
        self.records.end(request.image);
        outcome
    }

    fn check_back_off(
        &self,
        key: &String,
        request: &Request<'_>,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<(), NotYet> {
        let guard = self.back_off();
        let Some(left) = guard.0.remaining(key, self.began.elapsed()) else { return Ok(()) };
        let refusal = image_policy::back_off_waiting(request.image, guard.1.get(key));
        drop(guard);
        Err(refuse(refusal, left, emit))
    }

    /// Lets the next pull for a pod start at once: something that it depends on has changed.
    pub(crate) fn forget_back_off(&self, pod_uid: &str, image: &str) {
        let key = format!("{pod_uid}_{image}");
        let mut guard = self.back_off();
        guard.0.reset(&key);
        guard.1.remove(&key);
    }

    /// Pulls an image for nobody in particular: CRI clients, `node pull`, images that are kept.
    ///
    /// No policy, no back-off, no events and no record of who may use it: it counts as preloaded
    /// (kubelet-images.md 8.1). `auths` are tried in order; without any, once anonymously.
    /// `progress` is called now and then while this waits.
    ///
    /// # Errors
    /// The text of what went wrong, as a pod's event would have it.
    pub(crate) async fn pull_for_node(
        self: &Arc<Self>,
        reference: &Reference,
        auths: &[RegistryAuth],
        progress: &(dyn Fn(&PullState) + Sync),
    ) -> Result<LocalImage, String> {
        progress(&PullState::default());
        match self.attempt(reference, auths).await {
            Ok((image, _)) => {
                self.refresh_summaries();
                Ok(image)
            }
            Err(errors) => Err(image_policy::aggregate_errors(&errors)),
        }
    }

    /// One try per credential, in order; without any, one anonymous try. Tells the position of
    /// the credential that opened it.
    async fn attempt(
        self: &Arc<Self>,
        reference: &Reference,
        auths: &[RegistryAuth],
    ) -> Result<(LocalImage, Option<usize>), Vec<String>> {
        if reference.registry() == LOCAL_REGISTRY {
            return match self.find(reference).await {
                Ok(Some(image)) => Ok((image, None)),
                Ok(None) => Err(vec![format!("{reference}: not found on this node")]),
                Err(error) => Err(vec![error]),
            };
        }
        let tries: Vec<Option<usize>> =
            if auths.is_empty() { vec![None] } else { (0..auths.len()).map(Some).collect() };
        let mut errors = Vec::new();
        for at in tries {
            let auth = at.and_then(|at| auths.get(at)).cloned();
            match self.puller.pull(reference.clone(), auth).await {
                Ok(arrived) => match self.adopt(reference, arrived).await {
                    Ok(image) => return Ok((image, at)),
                    Err(error) => errors.push(error),
                },
                Err(error) => errors.push(error),
            }
        }
        Err(errors)
    }

    /// Gives a pulled image its name and unpacks it.
    async fn adopt(
        self: &Arc<Self>,
        reference: &Reference,
        arrived: Arrived,
    ) -> Result<LocalImage, String> {
        let images = Arc::clone(self);
        let reference = reference.clone();
        blocking(move || {
            let text = |error: super::store::ImageError| error.to_string();
            let image = images
                .store
                .read(&reference, arrived.root)
                .map_err(text)?
                .ok_or_else(|| format!("{reference}: the pulled image is incomplete"))?;
            images.store.remember(&reference, &image).map_err(text)?;
            drop(arrived.guard);
            images.store.root_directories(&image).map_err(text)?;
            Ok(image)
        })
        .await
    }
}

/// The name that the first matching mirror gives an image.
fn mirrored(
    mirrors: &[ImageMirror],
    reference: &Reference,
) -> Option<Result<Reference, oci_model::ReferenceError>> {
    let name = reference.name();
    let mirror = mirrors.iter().find(|mirror| match mirror.from.strip_suffix("/*") {
        Some(prefix) => name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')),
        None => mirror.from == name,
    })?;
    let target = match mirror.from.strip_suffix("/*") {
        Some(prefix) => format!("{}{}", mirror.to.trim_end_matches('/'), &name[prefix.len()..]),
        None => mirror.to.clone(),
    };
    Some(target.parse::<Reference>().map(|target| {
        if target.tag().is_some() || target.digest().is_some() {
            return target;
        }
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => target.with_digest(*digest),
            (None, Some(tag)) => target.with_tag(tag.clone()),
            (None, None) => target,
        }
    }))
}

fn refuse(refusal: Refusal, retry_in: Duration, emit: &(dyn Fn(Event) + Sync)) -> NotYet {
    refusal.events.into_iter().for_each(emit);
    NotYet { waiting: refusal.waiting, retry_in }
}

/// An error whose text becomes the waiting reason itself, as in the kubelet (kubelet-images.md 2.6).
fn raw_error(text: &str, emit: &(dyn Fn(Event) + Sync)) -> NotYet {
    emit(event::failed(text));
    NotYet { waiting: Waiting { reason: text.to_owned(), message: String::new() }, retry_in: RETRY }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests;
