//! The pull-through cache: repositories of other registries, served here.
//!
//! A request's name leads to a repository of an upstream (`names`). Rights are checked for its one
//! canonical local name, as for any other repository. Manifests are verified before they are
//! answered (`manifests`), blobs while they stream (`blobs`, `fill`). What is cached is metadata
//! like everything else, marked as cached, and goes when it was not used for long (`expiry`).
//! Upstreams are asked through a seam (`upstream`), at most as often as they bear (`health`).

mod blobs;
mod expiry;
mod fill;
mod flights;
mod health;
mod listing;
mod manifests;
mod memory;
mod names;
mod options;
mod tasks;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blob_store::BlobStore;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use oci_model::{Digest, ErrorCode, Repository};

use self::fill::Fill;
use self::flights::Flights;
use self::health::{Counts, Health};
use self::manifests::{Check, FetchError};
use self::memory::{Negatives, Recent, Uses};
use self::names::Names;
use self::options::{Network, UpstreamOptions};
use self::tasks::Tasks;
use crate::bytes::BucketBytes;
use crate::metadata::Metadata;
use crate::refusal::Refusal;
use crate::route::Target;
use crate::service::{Answer, Call, header_value};

pub use self::health::UpstreamStatus;
pub(crate) use self::names::Named;
pub use self::options::{
    Network as UpstreamNetwork, ProxyOptions, ProxyOptionsError, TAG_LIFE, UNUSED_MAX,
    UpstreamOptions as ProxiedRegistry,
};
pub use self::upstream::{
    BlobPieces, FetchedManifest, ManifestHead, ManifestName, Observed, OpenedBlob, TagsPage,
    Upstream, UpstreamError, UpstreamFuture, UpstreamQuota,
};

/// Says that the registry took the `ns` of the request into account (distribution-spec main,
/// "Registry Proxying").
const NAMESPACE_HEADER: HeaderName = HeaderName::from_static("oci-namespace");

/// Registries behind this one, with what is known of them.
pub(crate) struct Proxy {
    names: Names,
    upstreams: Vec<Behind>,
    store: BlobStore,
    /// Where blobs are kept if not in the store.
    bucket: Option<BucketBytes>,
    metadata: Metadata,
    tasks: Tasks,
    /// Tags being checked, by repository and tag.
    checks: Flights<(Repository, String), Result<Check, FetchError>>,
    /// Manifests being fetched, by repository and digest.
    fetches: Flights<(Repository, Digest), Result<(), FetchError>>,
    /// Blobs coming in.
    fills: Mutex<HashMap<Digest, Arc<Fill>>>,
    /// What tags named when they were last checked.
    recent: Recent,
    negatives: Negatives,
    uses: Uses,
    /// Bytes of cached blobs, as far as is known since the last sweep.
    bytes: AtomicU64,
    bytes_max: Option<u64>,
    unused_max: Duration,
    sweep_interval: Duration,
    sweep: tokio::sync::Notify,
}

/// One upstream.
#[derive(Debug)]
struct Behind {
    options: UpstreamOptions,
    health: Health,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

impl Proxy {
    pub(crate) fn new(
        options: &ProxyOptions,
        store: BlobStore,
        bucket: Option<BucketBytes>,
        metadata: Metadata,
    ) -> Result<Self, ProxyOptionsError> {
        let names = Names::new(&options.upstreams)?;
        let behind = |options: &UpstreamOptions| Behind {
            health: Health::new(options.upstream.credentials()),
            options: options.clone(),
        };
        Ok(Self {
            names,
            upstreams: options.upstreams.iter().map(behind).collect(),
            store,
            bucket,
            metadata,
            tasks: Tasks::default(),
            checks: Flights::default(),
            fetches: Flights::default(),
            fills: Mutex::default(),
            recent: Recent::default(),
            negatives: Negatives::default(),
            uses: Uses::default(),
            bytes: AtomicU64::new(0),
            bytes_max: options.bytes_max,
            unused_max: options.unused_max,
            sweep_interval: options.sweep_interval,
            sweep: tokio::sync::Notify::new(),
        })
    }

    /// Begins to look after the cache.
    pub(crate) fn start(self: &Arc<Self>) {
        if !self.upstreams.is_empty() {
            let proxy = Arc::clone(self);
            self.tasks.spawn(async move { proxy.keep().await });
        }
    }

    /// Ends everything that is under way, and notes what was used.
    pub(crate) async fn close(&self) {
        self.tasks.end().await;
        if let Err(error) = self.note_uses().await {
            tracing::debug!(%error, "last uses of cached content were not noted");
        }
    }

    /// How the upstreams fare.
    pub(crate) fn status(&self) -> Vec<UpstreamStatus> {
        let now = Instant::now();
        let status = |behind: &Behind| behind.health.status(&behind.options.host, now);
        self.upstreams.iter().map(status).collect()
    }

    /// The repository of an upstream that a request is about, see [`Names::find`]. `realm` is our
    /// own URL.
    ///
    /// # Errors
    /// As [`Names::find`].
    pub(crate) fn find(
        &self,
        asked: &Repository,
        ns: Option<&str>,
        realm: &str,
    ) -> Result<Option<Named>, Refusal> {
        let own = realm.split_once("://").map_or(realm, |(_, own)| own);
        self.names.find(asked, ns, own)
    }

    fn behind(&self, named: &Named) -> &Behind {
        &self.upstreams[named.upstream]
    }
}

impl Behind {
    fn count(&self, counter: impl Fn(&Counts) -> &AtomicU64) {
        Counts::add(counter(&self.health.counts), 1);
    }

    /// Asks the upstream, with each credential that has not reached its limit in turn.
    async fn ask<'a, T>(
        &'a self,
        request: impl Fn(&'a dyn Upstream, usize) -> UpstreamFuture<'a, Observed<T>>,
    ) -> Result<T, UpstreamError> {
        if self.options.network == Network::Offline {
            let reason = "this registry is offline".to_owned();
            return Err(UpstreamError::Unavailable { reason });
        }
        loop {
            let credential = self.health.admit(Instant::now())?;
            self.count(|counts| &counts.requests);
            let answer = request(&*self.options.upstream, credential);
            let answer = match tokio::time::timeout(self.options.answer_max, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    Err(UpstreamError::Unavailable { reason: "no answer in time".to_owned() })
                }
            };
            match answer {
                Ok(Observed { value, quota }) => {
                    self.health.answered(credential, quota);
                    return Ok(value);
                }
                Err(UpstreamError::RateLimited { retry_after }) => {
                    // Another credential may have something left; if none has, `admit` says so.
                    self.health.limited(credential, retry_after, Instant::now());
                }
                Err(error @ (UpstreamError::NotFound | UpstreamError::Denied { .. })) => {
                    self.health.answered(credential, None);
                    return Err(error);
                }
                Err(error) => {
                    self.health.failed(Instant::now());
                    tracing::debug!(host = self.options.host, %error, "upstream failed");
                    return Err(error);
                }
            }
        }
    }

    /// As [`Behind::ask`], for answers that tell nothing of limits.
    async fn ask_plain<'a, T: Send + 'a>(
        &'a self,
        request: impl Fn(&'a dyn Upstream, usize) -> UpstreamFuture<'a, T>,
    ) -> Result<T, UpstreamError> {
        self.ask(move |upstream, credential| {
            let answer = request(upstream, credential);
            Box::pin(async move { Ok(Observed { value: answer.await?, quota: None }) })
        })
        .await
    }

    /// It sent something else than what its name says: nothing of it is to be trusted blindly.
    fn suspect(&self, what: &str) {
        self.count(|counts| &counts.mismatches);
        tracing::warn!(host = self.options.host, what, "an upstream sent wrong content");
    }

    /// What a client is told.
    fn refusal(&self, error: &UpstreamError, unknown: impl FnOnce() -> Refusal) -> Refusal {
        let host = &self.options.host;
        let text = format!("{host}: {error}");
        match error {
            UpstreamError::NotFound => unknown(),
            UpstreamError::Denied { .. } => Refusal::new(ErrorCode::Denied, text),
            UpstreamError::RateLimited { retry_after } => {
                let seconds =
                    retry_after.map_or(60, |wait| wait.as_secs_f64().ceil().max(1.0) as u64);
                Refusal::new(ErrorCode::TooManyRequests, text)
                    .with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
            }
            UpstreamError::Unavailable { .. } => Refusal::new(ErrorCode::Unknown, text)
                .with_status(StatusCode::SERVICE_UNAVAILABLE)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            UpstreamError::Malformed { .. } => {
                Refusal::new(ErrorCode::Unknown, text).with_status(StatusCode::BAD_GATEWAY)
            }
        }
    }

    /// Tells the client that what it gets may be out of date.
    fn warn_stale(&self, call: &Call<'_>, error: &UpstreamError) {
        self.count(|counts| &counts.stale);
        let host = &self.options.host;
        call.warnings.add(&format!("stale: {host} could not be asked: {error}"));
    }
}

/// Answers a request for a repository of an upstream; rights were checked.
pub(crate) async fn answer(
    call: &Call<'_>,
    method: &Method,
    target: Target,
    named: &Named,
) -> Answer {
    let namespace = named.ns.as_deref().map(header_value);
    match dispatch(call, method, target, named).await {
        Ok(mut response) => {
            if let Some(namespace) = namespace {
                response.headers_mut().insert(NAMESPACE_HEADER, namespace);
            }
            Ok(response)
        }
        Err(refusal) => Err(match namespace {
            Some(namespace) => refusal.with_header(NAMESPACE_HEADER, namespace),
            None => refusal,
        }),
    }
}

async fn dispatch(call: &Call<'_>, method: &Method, target: Target, named: &Named) -> Answer {
    let proxy = &call.service.proxy;
    if !matches!(*method, Method::GET | Method::HEAD) {
        let host = &proxy.behind(named).options.host;
        let text = format!(
            "{} is a cache of {host}: push to {host} or to another repository",
            named.asked
        );
        return Err(Refusal::new(ErrorCode::Unsupported, text));
    }
    match target {
        Target::Manifest(reference) => manifests::get(proxy, call, named, &reference).await,
        Target::Blob(digest) => blobs::get(proxy, call, named, &digest).await,
        Target::Tags => listing::tags(proxy, call, named).await,
        Target::Referrers(subject) => listing::referrers(proxy, call, named, &subject).await,
        Target::Uploads | Target::Upload(_) => Err(Refusal::method()),
    }
}
