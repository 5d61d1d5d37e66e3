//! What is counted, as Prometheus text. No label holds a tag, a digest or a name that a client
//! could invent; repositories are a label only if asked for, and only so many.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::health::text;
use super::notify::{Outcomes, Queues};
use crate::body::Body;
use crate::upkeep::UpkeepCounters;

/// Bounds of the latency histograms, in seconds: from a cached manifest to a large blob.
const LATENCY_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// Bounds of the histogram of changes per commit.
const BATCH_CHANGES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Version of the text format.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What stands for repositories beyond the limit.
const OTHERS: &str = "(other)";

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsOptions {
    /// Repositories that have a label of their own in `registry_repository_requests_total`; the
    /// rest are counted together. None: the metric does not exist.
    pub repositories_max: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepositoryLabels {
    repository: String,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// A request that is over.
pub(crate) struct Finished<'a> {
    pub(crate) method: &'a Method,
    pub(crate) route: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    /// Whose repository, if the request succeeded.
    pub(crate) repository: Option<&'a str>,
}

/// What commits of the metadata took.
#[derive(Clone, Debug)]
pub(crate) struct CommitMeter {
    changes: Histogram,
    seconds: Histogram,
}

impl Default for CommitMeter {
    fn default() -> Self {
        Self { changes: Histogram::new(BATCH_CHANGES), seconds: Histogram::new(LATENCY_SECONDS) }
    }
}

impl CommitMeter {
    /// A commit of so many changes took so long.
    pub(crate) fn committed(&self, changes: usize, duration: Duration) {
        self.changes.observe(u32::try_from(changes).unwrap_or(u32::MAX).into());
        self.seconds.observe(duration.as_secs_f64());
    }
}

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    bytes_in: Counter,
    bytes_out: Counter,
    in_flight: Gauge,
    uploads: Gauge,
    connections: Gauge,
    refused: Family<ReasonLabels, Counter>,
    /// None unless asked for.
    repositories: Option<PerRepository>,
}

struct PerRepository {
    known: Mutex<HashSet<String>>,
    names_max: usize,
    requests: Family<RepositoryLabels, Counter>,
}

impl Metrics {
    pub(super) fn new(options: &MetricsOptions) -> Self {
        let latencies: fn() -> Histogram = || Histogram::new(LATENCY_SECONDS);
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("registry")),
            requests: Family::default(),
            durations: Family::new_with_constructor(latencies),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            in_flight: Gauge::default(),
            uploads: Gauge::default(),
            connections: Gauge::default(),
            refused: Family::default(),
            repositories: options.repositories_max.map(|names_max| PerRepository {
                known: Mutex::default(),
                names_max,
                requests: Family::default(),
            }),
        };
        metrics.register(|to| metrics.register_own(to));
        metrics
    }

    fn register_own(&self, to: &mut Registry) {
        let seconds = || Unit::Seconds;
        to.register("requests", "Requests answered", self.requests.clone());
        to.register_with_unit(
            "request_duration",
            "From the head of a request to the last byte of its answer",
            seconds(),
            self.durations.clone(),
        );
        let bytes = || Unit::Bytes;
        to.register_with_unit(
            "received",
            "Bytes of bodies received",
            bytes(),
            self.bytes_in.clone(),
        );
        to.register_with_unit("sent", "Bytes of bodies sent", bytes(), self.bytes_out.clone());
        to.register("requests_in_flight", "Requests under way", self.in_flight.clone());
        to.register("uploads_in_flight", "Requests under way that upload", self.uploads.clone());
        to.register("connections", "Open connections", self.connections.clone());
        to.register("refused", "What limits turned away", self.refused.clone());
        if let Some(repositories) = &self.repositories {
            let help = "Successful requests per repository";
            to.register("repository_requests", help, repositories.requests.clone());
        }
    }

    /// Adds metrics that another part of the registry keeps.
    pub(crate) fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds what the commits of the metadata take.
    pub(crate) fn register_commits(&self, meter: &CommitMeter) {
        self.register(|to| {
            to.register("commit_changes", "Changes per commit", meter.changes.clone());
            let help = "What a commit takes";
            to.register_with_unit("commit_duration", help, Unit::Seconds, meter.seconds.clone());
        });
    }

    /// Adds the queues of notifications and what became of them.
    pub(crate) fn register_notifications(&self, queues: Queues, outcomes: &Outcomes) {
        self.register(|to| {
            to.register_collector(Box::new(queues));
            let help = "Tries to notify a receiver, and events given up";
            to.register("notifications", help, outcomes.0.clone());
        });
    }

    /// Adds what another part says of itself when it is asked.
    pub(crate) fn register_state(&self, state: impl Collector) {
        self.register(|to| to.register_collector(Box::new(state)));
    }

    /// Adds what housekeeping did.
    pub(crate) fn register_upkeep(&self, counters: Arc<UpkeepCounters>) {
        self.register(|to| to.register_collector(Box::new(Upkeep(counters))));
    }

    pub(crate) fn connected(&self) {
        self.connections.inc();
    }

    pub(crate) fn disconnected(&self) {
        self.connections.dec();
    }

    pub(crate) fn began(&self, is_upload: bool) {
        self.in_flight.inc();
        if is_upload {
            self.uploads.inc();
        }
    }

    /// Requests under way that upload.
    pub(crate) fn uploads(&self) -> i64 {
        self.uploads.get()
    }

    /// A limit turned something away.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn finished(&self, request: &Finished<'_>, is_upload: bool) {
        self.in_flight.dec();
        if is_upload {
            self.uploads.dec();
        }
        let (method, route) = (method_label(request.method), request.route);
        let code = request.status.as_u16();
        self.requests.get_or_create(&RequestLabels { method, route, code }).inc();
        self.durations
            .get_or_create(&RouteLabels { method, route })
            .observe(request.duration.as_secs_f64());
        self.bytes_in.inc_by(request.bytes_in);
        self.bytes_out.inc_by(request.bytes_out);
        if let (Some(repositories), Some(repository)) = (&self.repositories, request.repository) {
            repositories.count(repository, request.method);
        }
    }

    /// Whether requests are counted per repository.
    pub(crate) const fn wants_repositories(&self) -> bool {
        self.repositories.is_some()
    }

    /// Everything, for a scraper.
    pub(crate) fn answer(&self) -> Response<Body> {
        let mut page = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if encode(&mut page, &registry).is_err() {
            let why = "the metrics cannot be written\n".to_owned();
            return text(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
        drop(registry);
        let mut response = text(StatusCode::OK, page);
        let kind = HeaderValue::from_static(CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// What housekeeping counts by itself.
#[derive(Debug)]
struct Upkeep(Arc<UpkeepCounters>);

impl Collector for Upkeep {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = &self.0;
        let rows: [(&str, &str, &AtomicU64); 5] = [
            ("collections", "Collections of unneeded blobs", &counters.collections),
            ("collected_blobs", "Blobs collected", &counters.collected_blobs),
            ("collected_bytes", "Bytes of blobs collected", &counters.collected_bytes),
            ("scrubbed_bytes", "Bytes of blobs read again", &counters.scrubbed_bytes),
            ("damaged_blobs", "Blobs found damaged", &counters.damaged_blobs),
        ];
        for (name, help, value) in rows {
            let value = ConstCounter::new(value.load(Ordering::Relaxed));
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        Ok(())
    }
}

impl PerRepository {
    fn count(&self, repository: &str, method: &Method) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = known.contains(repository)
            || (known.len() < self.names_max && known.insert(repository.to_owned()));
        drop(known);
        let operation = match *method {
            Method::GET | Method::HEAD => "read",
            Method::DELETE => "delete",
            _ => "write",
        };
        let repository = if own { repository } else { OTHERS }.to_owned();
        self.requests.get_or_create(&RepositoryLabels { repository, operation }).inc();
    }
}

/// Methods that clients make up are one.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Which part of the API a path belongs to, read from the right as the router does.
pub(crate) fn route_label(path: &str) -> &'static str {
    let path = path.trim_end_matches('/');
    match path {
        "/v2" => return "base",
        "/v2/_catalog" => return "catalog",
        "/auth/token" => return "token",
        "/healthz" | "/readyz" | "/startupz" => return "health",
        "/metrics" => return "metrics",
        _ => {}
    }
    if path.starts_with("/v2/_") {
        return "extension";
    }
    let mut parts = path.rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("list"), Some("tags"), _) => "tags",
        (Some("uploads"), Some("blobs"), _) | (_, Some("uploads"), Some("blobs")) => "upload",
        (_, Some("manifests"), _) => "manifest",
        (_, Some("blobs"), _) => "blob",
        (_, Some("referrers"), _) => "referrers",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_by_what_they_ask_for() {
        for (path, expected) in [
            ("/v2/", "base"),
            ("/v2/_catalog", "catalog"),
            ("/v2/_oci/ext/discover", "extension"),
            ("/v2/a/b/manifests/latest", "manifest"),
            ("/v2/a/blobs/sha256:x", "blob"),
            ("/v2/a/blobs/uploads/", "upload"),
            ("/v2/a/blobs/uploads/id", "upload"),
            ("/v2/a/tags/list", "tags"),
            ("/v2/a/referrers/sha256:x", "referrers"),
            ("/auth/token", "token"),
            ("/readyz", "health"),
            ("/wp-login.php", "other"),
        ] {
            assert_eq!(route_label(path), expected, "{path}");
        }
    }

    #[test]
    fn repositories_beyond_the_limit_are_counted_together() {
        let metrics = Metrics::new(&MetricsOptions { repositories_max: Some(2) });
        for repository in ["a", "b", "c", "d", "a"] {
            metrics.began(false);
            let finished = Finished {
                method: &Method::GET,
                route: "blob",
                status: StatusCode::OK,
                bytes_in: 0,
                bytes_out: 5,
                duration: Duration::ZERO,
                repository: Some(repository),
            };
            metrics.finished(&finished, false);
        }
        let repositories = metrics.repositories.as_ref().expect("asked for");
        let count = |repository: &str| {
            let labels = RepositoryLabels { repository: repository.to_owned(), operation: "read" };
            repositories.requests.get(&labels).map_or(0, |counter| counter.get())
        };
        assert_eq!([count("a"), count("b"), count("c"), count(OTHERS)], [2, 1, 0, 2]);
    }
}
