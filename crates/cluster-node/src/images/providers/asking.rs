//! One provider: what it answered, and who is asking it just now.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use credentials::ConfigEntry;
use credentials::provider::{
    AccountClaim, AccountKey, Answer, Provider, ProviderCache, request, stderr_line,
};

use super::program;
use crate::images::shared_work::SharedWork;

/// Failures kept at once.
const FAILURES_MAX: usize = 1024;

/// What a provider is told of a pod's service account, and what its answer is kept by.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) claim: AccountClaim,
    pub(super) key: AccountKey,
    /// Hash of the token: runs are shared by those who show the same.
    pub(super) token_hash: String,
}

/// What a provider has for an image.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) entries: Vec<ConfigEntry>,
    /// Whether it was kept from before.
    pub(super) is_kept: bool,
}

/// How long things take or stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Longest run of a program.
    pub(super) run_max: Duration,
    /// How long a failure stands before the program is run again.
    pub(super) failure_kept: Duration,
}

/// Runs are shared per image, token and annotations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FlightKey {
    image: String,
    token_hash: String,
    annotations: Vec<(String, String)>,
}

type Outcome = Result<Vec<ConfigEntry>, String>;

/// One provider of the configuration.
pub(super) struct Asked {
    pub(super) provider: Provider,
    program: PathBuf,
    times: Times,
    kept: Mutex<Kept>,
    /// Runs under way.
    flights: SharedWork<FlightKey, (), Outcome>,
}

#[derive(Default)]
struct Kept {
    cache: ProviderCache,
    failures: HashMap<FlightKey, (Instant, String)>,
}

impl Asked {
    pub(super) fn new(provider: Provider, program: PathBuf, times: Times) -> Self {
        let (kept, flights) = (Mutex::default(), SharedWork::default());
        Asked { provider, program, times, kept, flights }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each map stays whole whatever a panicking holder did.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the provider has for an image: kept, or from a run that all who ask now share.
    pub(super) async fn ask(
        self: &Arc<Self>,
        image: &str,
        claimed: Option<&Claimed>,
    ) -> Result<Found, String> {
        let flight = {
            let mut kept = self.kept();
            let now = Instant::now();
            if let Some(entries) = kept.cache.get(image, claimed.map(|c| &c.key), now) {
                return Ok(Found { entries, is_kept: true });
            }
            let key = FlightKey::of(image, claimed);
            if let Some((until, text)) = kept.failures.get(&key)
                && now < *until
            {
                return Err(text.clone());
            }
            // While what is kept is held: no run ends between the look at that and this.
            let (asked, image, claimed) = (Arc::clone(self), image.to_owned(), claimed.cloned());
            let run = || ((), asked.fly(key.clone(), image, claimed));
            self.flights.join_or_begin(key.clone(), run).done
        };
        flight.await.map(|entries| Found { entries, is_kept: false })
    }

    /// Drops a kept answer that a registry refused, unless a newer one has come.
    pub(super) fn forget(
        &self,
        image: &str,
        account: Option<&AccountKey>,
        refused: &[ConfigEntry],
    ) {
        self.kept().cache.forget(image, account, refused);
    }

    /// One run, for all who ask for it.
    async fn fly(
        self: Arc<Self>,
        key: FlightKey,
        image: String,
        claimed: Option<Claimed>,
    ) -> Outcome {
        let outcome = self.run(&image, claimed.as_ref()).await;
        let mut kept = self.kept();
        let now = Instant::now();
        match outcome {
            Ok(answer) => {
                kept.cache.put(&image, claimed.as_ref().map(|c| &c.key), &answer, now);
                Ok(answer.entries)
            }
            Err(text) => {
                kept.failures.retain(|_, (until, _)| now < *until);
                if kept.failures.len() < FAILURES_MAX {
                    let until = now + self.times.failure_kept;
                    kept.failures.insert(key, (until, text.clone()));
                }
                Err(text)
            }
        }
    }

    async fn run(&self, image: &str, claimed: Option<&Claimed>) -> Result<Answer, String> {
        let claim = claimed.map(|claimed| &claimed.claim);
        let provider = &self.provider;
        let input = request(provider, image, claim);
        let stdout = program::run(&self.program, provider, &input, self.times.run_max)
            .await
            .map_err(|error| {
                let env: Vec<credentials::Secret> = provider
                    .env
                    .iter()
                    .map(|(_, value)| credentials::Secret::new(value.clone()))
                    .collect();
                let secrets: Vec<&credentials::Secret> =
                    env.iter().chain(claim.map(|claim| &claim.token)).collect();
                let said = stderr_line(&error.stderr, &secrets);
                let said = if said.is_empty() { said } else { format!(": {said}") };
                format!(
                    "error execing credential provider plugin {} for image {image}: {}{said}",
                    provider.name, error.reason
                )
            })?;
        Answer::parse(provider, image, claim, &stdout).map_err(|error| error.to_string())
    }
}

impl FlightKey {
    fn of(image: &str, claimed: Option<&Claimed>) -> Self {
        let annotations = claimed.map(|claimed| claimed.claim.annotations.clone());
        FlightKey {
            image: image.to_owned(),
            token_hash: claimed.map(|claimed| claimed.token_hash.clone()).unwrap_or_default(),
            annotations: annotations.unwrap_or_default().into_iter().collect(),
        }
    }
}
