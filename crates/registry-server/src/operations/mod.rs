//! What whoever runs a registry needs: every request is identified, counted, limited and told of;
//! the registry says how it is and goes down in order.
//!
//! | file | job |
//! |---|---|
//! | `exchange` | what is known of one request, from its first byte to its last |
//! | `observe` | around every request: admission, counting, headers, the line in the log |
//! | `trace_context` | W3C `traceparent` in and out |
//! | `rates` | token buckets and counts per principal and address |
//! | `audit/` | who did what, in files of chained lines |
//! | `notify/` | receivers of notifications |
//! | `outbound/` | the HTTP client for them, and where it may not go |
//! | `metrics` | Prometheus text |
//! | `state_metrics` | what other parts say of themselves when somebody looks: upstreams, namespaces |
//! | `health` | `/healthz`, `/readyz`, `/startupz`, draining |
//! | `tls` | certificates of the server and its clients, read again when they change |

pub(crate) mod audit;
pub(crate) mod exchange;
mod health;
pub(crate) mod metrics;
pub(crate) mod notify;
pub(crate) mod observe;
mod outbound;
pub(crate) mod rates;
pub(crate) mod state_metrics;
pub(crate) mod tls;
mod trace_context;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::audit::{AuditError, AuditOptions, AuditRecord, Verified, read_audit_log};
pub use self::metrics::MetricsOptions;
pub use self::notify::{EventFormat, Receiver, ReceiverError};
pub use self::rates::{Rate, Rates};
pub use self::tls::{ClientCertificates, TlsError, TlsFiles};

use self::audit::AuditSender;
use self::health::Health;
use self::metrics::Metrics;
use self::notify::Outcomes;
use self::rates::Admission;

/// How a registry is run.
#[derive(Clone, Debug)]
pub struct OperationsOptions {
    /// How fast and how much at once clients may ask.
    pub rates: Rates,
    /// Connections served at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// How long a registry that is to stop says so on `/readyz` and goes on as before, so that
    /// load balancers send their requests elsewhere.
    pub drain_notice: Duration,
    /// How long uploads under way may go on after the registry stopped accepting.
    pub uploads_drain_max: Duration,
    /// What is counted.
    pub metrics: MetricsOptions,
    /// A second address, for metrics and health in plain HTTP without authentication: for a
    /// network of operators.
    pub address: Option<SocketAddr>,
    /// Who did what is written down; not without.
    pub audit: Option<AuditOptions>,
    /// Who is told what happens.
    pub receivers: Vec<Receiver>,
    /// Directory whose disk must be writable for the registry to be ready.
    pub(crate) probed: PathBuf,
}

impl OperationsOptions {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            rates: Rates::default(),
            connections_max: 4096,
            drain_notice: Duration::ZERO,
            uploads_drain_max: Duration::from_secs(300),
            metrics: MetricsOptions::default(),
            address: None,
            audit: None,
            receivers: Vec::new(),
            probed: directory,
        }
    }
}

/// What all requests share.
pub(crate) struct Operations {
    pub(crate) metrics: Metrics,
    pub(crate) admission: Arc<Admission>,
    pub(crate) health: Health,
    pub(crate) audit: Option<AuditSender>,
    /// Names of those who are told what happens.
    pub(crate) receivers: Arc<Vec<String>>,
    /// What became of what they were told.
    pub(crate) told: Outcomes,
}

impl Operations {
    pub(crate) fn new(options: &OperationsOptions, audit: Option<AuditSender>) -> Self {
        Self {
            audit,
            receivers: Arc::new(options.receivers.iter().map(|one| one.name.clone()).collect()),
            told: Outcomes::default(),
            metrics: Metrics::new(&options.metrics),
            admission: Arc::new(Admission::new(options.rates)),
            health: Health::new(options.probed.clone()),
        }
    }
}
