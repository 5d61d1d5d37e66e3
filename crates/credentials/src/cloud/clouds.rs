//! Credentials of clouds that are kept while they are good: one exchange at a time for each host
//! and identity, however many ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oci_model::Digest;

use super::provider::{CloudOptions, PodIdentity};
use super::{CloudCredential, CloudError, CloudProvider, Performer, RegistryHost};

/// How long a failure is kept at least; up to a tenth more, so that not all ask again at once.
const FAILURE_KEPT: Duration = Duration::from_secs(9);

/// How many hosts and identities are remembered.
const SLOTS_MAX: usize = 4096;

type Outcome = Result<Option<CloudCredential>, CloudError>;

/// All clouds behind one question (cloud-credentials.md section 11).
///
/// A credential is kept for [`CloudCredential::keep_for`], as its cloud advises; then the next who
/// asks renews it, while others get the old one as long as it is valid. A failed exchange is
/// answered from memory for ten seconds at most. Time is measured on a clock that nobody sets, so
/// a corrected time of day neither ends a credential nor keeps it.
pub struct Clouds {
    performer: Arc<dyn Performer + Send + Sync>,
    options: CloudOptions,
    slots: Mutex<BTreeMap<Key, Arc<Slot>>>,
}

/// Whose credential for what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: String,
    /// Empty for the machine, else a digest of the pod's token and annotations. The token itself
    /// and not what it claims: nobody has verified it here.
    identity: String,
}

impl std::fmt::Debug for Clouds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clouds").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Clouds {
    /// Nothing is asked until somebody needs a credential.
    pub fn new(performer: Arc<dyn Performer + Send + Sync>, options: CloudOptions) -> Self {
        Self { performer, options, slots: Mutex::default() }
    }

    /// The cloud that would be asked about an image; `None` for a registry of no cloud.
    pub fn provider_of(&self, image: &str) -> Option<CloudProvider> {
        self.options.provider_of(&RegistryHost::of(image)?)
    }

    /// The credential of this machine for the registry of an image, which may be a reference, a
    /// host or a server URL; `None` for a registry of no cloud and for one that needs none.
    ///
    /// Blocks while a cloud is asked: an asynchronous caller runs it on a thread for blocking work.
    ///
    /// # Errors
    /// [`CloudError`] if the cloud gave none.
    pub fn credential(&self, image: &str) -> Outcome {
        self.credential_for(image, None)
    }

    /// As [`Clouds::credential`], with the identity of a pod in place of the machine's.
    ///
    /// # Errors
    /// [`CloudError`] if the cloud gave none.
    pub fn credential_for(&self, image: &str, pod: Option<PodIdentity<'_>>) -> Outcome {
        let Some(host) = RegistryHost::of(image) else { return Ok(None) };
        let Some(provider) = self.options.provider_of(&host) else { return Ok(None) };
        let key = Key { host: host.as_str().to_owned(), identity: digest_of(pod) };
        let slot = self.slot(key);
        match slot.enter(&*self.performer) {
            Entry::Known(outcome) => outcome,
            Entry::Ask(flight) => {
                let outcome = self.options.exchange(&*self.performer, provider, &host, pod);
                flight.land(&*self.performer, outcome)
            }
        }
    }

    /// Forgets a credential that its registry refused, so that the next who asks gets a fresh one.
    /// Whatever replaced it meanwhile stays: however many were refused, one exchange follows.
    pub fn invalidate(&self, refused: &CloudCredential) {
        let slots: Vec<Arc<Slot>> = {
            let slots = locked(&self.slots);
            let same_host = slots.iter().filter(|(key, _)| key.host == refused.host);
            same_host.map(|(_, slot)| Arc::clone(slot)).collect()
        };
        for slot in slots {
            slot.forget(refused);
        }
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        let mut slots = locked(&self.slots);
        if slots.len() >= SLOTS_MAX && !slots.contains_key(&key) {
            // A slot that somebody else holds is being asked for just now.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

fn digest_of(pod: Option<PodIdentity<'_>>) -> String {
    let Some(pod) = pod else { return String::new() };
    // Each part is framed by its length, so that no two identities have the same text.
    let mut text = zeroize::Zeroizing::new(Vec::new());
    let parts = std::iter::once(pod.token.expose())
        .chain(pod.annotations.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
    for part in parts {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    Digest::of(&text).encoded()
}

/// A lock that outlives whoever panicked under it: what it guards is whole at every moment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known for one host and identity.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    landed: Condvar,
}

#[derive(Default)]
struct State {
    last: Option<Kept>,
    /// Whether somebody asks the cloud.
    is_asked: bool,
    /// How many times somebody began to.
    asked: u64,
}

struct Kept {
    outcome: Outcome,
    /// The exchange that it is of.
    number: u64,
    /// Answered from memory until then (uptime).
    fresh_until: Duration,
    /// Better than nothing until then (uptime).
    valid_until: Duration,
}

enum Entry<'a> {
    Known(Outcome),
    Ask(Flight<'a>),
}

/// The exchange under way; one for each slot.
struct Flight<'a> {
    slot: &'a Slot,
}

impl Slot {
    /// What is known, or the duty to find out.
    fn enter(&self, performer: &dyn Performer) -> Entry<'_> {
        let mut state = locked(&self.state);
        let mut awaited = None;
        loop {
            if let Some(last) = &state.last {
                let now = performer.uptime();
                // Who waited for an exchange gets what it gave, even if nobody may keep it.
                let was_awaited = awaited.is_some_and(|number| last.number >= number);
                if was_awaited || now < last.fresh_until {
                    return Entry::Known(last.outcome.clone());
                }
                if state.is_asked && now < last.valid_until {
                    return Entry::Known(last.outcome.clone());
                }
            }
            if !state.is_asked {
                state.is_asked = true;
                state.asked += 1;
                return Entry::Ask(Flight { slot: self });
            }
            awaited.get_or_insert(state.asked);
            state = self.landed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn forget(&self, refused: &CloudCredential) {
        let mut state = locked(&self.state);
        state
            .last
            .take_if(|last| matches!(&last.outcome, Ok(Some(known)) if known.auth == refused.auth));
    }
}

impl Flight<'_> {
    /// Keeps the outcome for as long as it is worth, and says what the caller gets.
    fn land(self, performer: &dyn Performer, outcome: Outcome) -> Outcome {
        let now = performer.uptime();
        let jitter = Duration::from_millis(performer.random() % 900);
        let failure_until = now + FAILURE_KEPT + jitter;
        let mut state = locked(&self.slot.state);
        let number = state.asked;
        let kept = match (outcome, state.last.take()) {
            // What was there is still good, and no worse for the failure.
            (Err(_), Some(last)) if last.outcome.is_ok() && now < last.valid_until => {
                Kept { number, fresh_until: failure_until.min(last.valid_until), ..last }
            }
            (Err(error), _) => Kept {
                outcome: Err(error),
                number,
                fresh_until: failure_until,
                valid_until: Duration::ZERO,
            },
            (Ok(given), _) => {
                let life = |given: &CloudCredential| {
                    let left = given.expires_at.map(|ends| ends.duration_since(performer.now()));
                    left.map_or(given.keep_for, Result::unwrap_or_default)
                };
                let valid = given.as_ref().map(life).unwrap_or_default();
                let fresh = given.as_ref().map(|given| given.keep_for).unwrap_or_default();
                Kept {
                    number,
                    fresh_until: now.saturating_add(fresh.min(valid)),
                    valid_until: now.saturating_add(valid),
                    outcome: Ok(given),
                }
            }
        };
        let outcome = kept.outcome.clone();
        state.last = Some(kept);
        drop(state);
        // Dropping self lets the others in.
        outcome
    }
}

impl Drop for Flight<'_> {
    /// Also when the exchange panicked: the next who waits asks then.
    fn drop(&mut self) {
        locked(&self.slot.state).is_asked = false;
        self.slot.landed.notify_all();
    }
}

#[cfg(test)]
mod tests;
