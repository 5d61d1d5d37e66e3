//! Pulls under way: whoever wants the same image with the same credentials at the same time
//! shares one, and it ends when the last of them goes.

use std::sync::Arc;
use std::time::Duration;

use credentials::RegistryAuth;
use image_policy::event;
use oci_model::Reference;

use super::outages::{Held, OutageKey};
use super::{Images, blocking};
use crate::images::failure::PullFailureKind;
use crate::images::progress::{Meter, PullState};
use crate::images::registry::{Arrived, PullError, Trouble};
use crate::images::shared_work::{Part, SharedWork};
use crate::images::store::{ImageError, LocalImage};

/// How often somebody who watches is told how far a pull is.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// A pull that succeeded.
#[derive(Clone)]
pub(crate) struct Landed {
    pub(crate) image: LocalImage,
    /// Position of the credential that opened it; nothing if none was asked for.
    pub(crate) used: Option<usize>,
    /// How long the pull itself took, without the time in the queue.
    pub(crate) took: Duration,
}

/// A pull that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    /// One text per credential that was tried.
    pub(crate) errors: Vec<String>,
    pub(crate) kind: PullFailureKind,
    /// The outage that is to blame: the pull may be tried again when it ends.
    pub(crate) outage: Option<OutageKey>,
    /// Positions of the credentials that the registry does not take.
    pub(crate) refused: Vec<usize>,
}

impl Failed {
    pub(super) fn of_node(error: impl Into<String>) -> Self {
        let kind = PullFailureKind::Other;
        Failed { errors: vec![error.into()], kind, outage: None, refused: Vec::new() }
    }
}

type Outcome = Result<Landed, Failed>;

/// Which pulls are the same: what is asked for, and with which credentials in which order. They
/// are known by the hashes that pull records have (kubelet-images.md 4.7).
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    reference: String,
    credentials: Vec<String>,
}

/// A pull that somebody waits for.
pub(crate) struct Flight(Part<Arc<Meter>, Outcome>);

/// The pulls under way.
pub(super) type Flights = SharedWork<Key, Arc<Meter>, Outcome>;

impl Flight {
    /// How far it is.
    pub(crate) fn state(&self) -> PullState {
        self.0.about.state()
    }

    /// Waits for the end; `tell` is called after `first`, and then after pauses that `next` makes
    /// of the last one.
    pub(crate) async fn end(
        self,
        first: Duration,
        next: impl Fn(Duration) -> Duration,
        tell: impl Fn(&PullState),
    ) -> Outcome {
        let mut pause = first;
        let mut done = self.0.done.clone();
        loop {
            match tokio::time::timeout(pause, &mut done).await {
                Ok(outcome) => return outcome,
                Err(_) => tell(&self.state()),
            }
            pause = next(pause);
        }
    }

    /// Waits for the end and tells what happens each second.
    pub(crate) async fn watched(self, tell: impl Fn(&PullState)) -> Outcome {
        tell(&self.state());
        self.end(WATCH_PERIOD, |pause| pause, tell).await
    }
}

impl Images {
    /// Joins the pull of `reference` with these credentials, or begins it.
    pub(super) fn flight(
        self: &Arc<Self>,
        reference: &Reference,
        auths: Vec<RegistryAuth>,
    ) -> Flight {
        let credentials: Vec<String> = auths.iter().map(RegistryAuth::identity_hash).collect();
        let key = Key { reference: reference.to_string(), credentials: credentials.clone() };
        Flight(self.flights.join_or_begin(key, || {
            let meter = Arc::new(Meter::new(self.queue.enter(), Arc::clone(&self.clock)));
            let (images, reference) = (Arc::clone(self), reference.clone());
            let flight = images.fly(reference, auths, credentials, Arc::clone(&meter));
            (meter, flight)
        }))
    }

    async fn fly(
        self: Arc<Self>,
        reference: Reference,
        auths: Vec<RegistryAuth>,
        credentials: Vec<String>,
        meter: Arc<Meter>,
    ) -> Outcome {
        self.pass(&reference, &credentials).await?;
        let _turn = meter.ticket().turn().await;
        let began = (self.clock)();
        let (image, used) = self.attempt(&reference, &auths, &credentials, &meter).await?;
        let took = (self.clock)().saturating_sub(began);
        Ok(Landed { image, used, took })
    }

    /// Refuses to ask a registry that is known not to answer.
    async fn pass(&self, reference: &Reference, credentials: &[String]) -> Result<(), Failed> {
        let registry = reference.registry();
        let passed = self.outages.pass(registry, credentials, (self.clock)()).await;
        passed.map_err(|Held { key, cause }| Failed {
            errors: vec![format!("failed to resolve reference \"{reference}\": {cause}")],
            kind: if key.is_of_all() {
                PullFailureKind::Unreachable
            } else {
                PullFailureKind::Other
            },
            outage: Some(key),
            refused: Vec::new(),
        })
    }

    /// One try per credential, in order; without any, one anonymous try.
    async fn attempt(
        self: &Arc<Self>,
        reference: &Reference,
        auths: &[RegistryAuth],
        credentials: &[String],
        meter: &Meter,
    ) -> Result<(LocalImage, Option<usize>), Failed> {
        let tries: Vec<Option<usize>> =
            if auths.is_empty() { vec![None] } else { (0..auths.len()).map(Some).collect() };
        // The registry may have gone while this waited for its turn.
        self.pass(reference, credentials).await?;
        let mut errors = Vec::new();
        let mut kinds = Vec::new();
        let mut troubles = Vec::new();
        let mut refused = Vec::new();
        for at in tries {
            meter.begin();
            let auth = at.and_then(|at| auths.get(at)).cloned();
            let pull = self.puller.pull(reference.clone(), auth, meter);
            let error = match self.unless_silent(pull, meter).await {
                Ok(arrived) => match self.adopt(reference, arrived).await {
                    Ok(image) => return Ok((image, at)),
                    Err(error) => PullError::of_image(error),
                },
                Err(error) => error,
            };
            errors.push(error.text);
            kinds.push(error.kind);
            let is_down = matches!(error.trouble, Trouble::Registry(_));
            refused.extend(at.filter(|_| error.trouble == Trouble::Credential));
            troubles.push(error.trouble);
            if is_down {
                // With another credential it would be down as well.
                break;
            }
        }
        // Whoever has a credential left that is not limited is not held back by the others.
        let limited = troubles.iter().all(|trouble| matches!(trouble, Trouble::Patience(..)));
        let blamed = troubles
            .iter()
            .rfind(|trouble| limited || matches!(trouble, Trouble::Registry(_)))
            .and_then(|trouble| self.note_trouble(reference.registry(), credentials, trouble));
        let kind = PullFailureKind::of_tries(kinds);
        Err(Failed { errors, kind, outage: blamed, refused })
    }

    /// Ends a pull that receives nothing for too long.
    async fn unless_silent(
        &self,
        pull: impl Future<Output = Result<Arrived, PullError>>,
        meter: &Meter,
    ) -> Result<Arrived, PullError> {
        let longest = self.limits.stall_time;
        if longest.is_zero() {
            return pull.await;
        }
        let mut pull = std::pin::pin!(pull);
        loop {
            let left = longest.saturating_sub(meter.silence());
            if left.is_zero() {
                let state = meter.state();
                let text = event::stalled_message(longest, state.bytes, state.bytes_total);
                return Err(PullError::of_image(text));
            }
            if let Ok(done) = tokio::time::timeout(left, &mut pull).await {
                return done;
            }
        }
    }

    /// Gives a pulled image its name and unpacks what is not unpacked yet.
    async fn adopt(
        self: &Arc<Self>,
        reference: &Reference,
        arrived: Arrived,
    ) -> Result<LocalImage, String> {
        let images = Arc::clone(self);
        let reference = reference.clone();
        blocking(move || {
            let text = |error: ImageError| error.to_string();
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

    /// An image of the registry that is this node.
    pub(super) async fn local_image(self: &Arc<Self>, reference: &Reference) -> Outcome {
        match self.find(reference).await {
            Ok(Some(image)) => Ok(Landed { image, used: None, took: Duration::ZERO }),
            Ok(None) => Err(Failed {
                kind: PullFailureKind::NotFound,
                ..Failed::of_node(format!("{reference}: not found on this node"))
            }),
            Err(error) => Err(Failed::of_node(error)),
        }
    }
}
