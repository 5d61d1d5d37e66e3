//! How a registry is run: the keys, and what they mean.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use registry_server::{ClientCertificates, MetricsOptions, OperationsOptions, Rate};

use super::config::shape::{Time, settings};
use crate::exit::Failure;

/// How long a registry that is to stop says so before it stops accepting.
const DRAIN: Duration = Duration::from_secs(10);

settings! {
    /// How fast and how much at once one client may ask. Without a rate there is no limit; above
    /// it the answer is 429 with Retry-After.
    struct RatesConfig {
        /// Reads (GET, HEAD) per second from one address; IPv6 counts by /64.
        reads_per_address: Option<u32>,
        /// Other requests per second from one address.
        writes_per_address: Option<u32>,
        /// Reads per second of one user.
        reads_per_user: Option<u32>,
        /// Other requests per second of one user.
        writes_per_user: Option<u32>,
        /// Requests at once after a pause, as a multiple of the rate.
        burst_seconds: Option<u32> = "10",
        /// Requests of one address under way at once.
        requests_per_address: Option<u32>,
        /// Connections of one address at once.
        connections_per_address: Option<u32>,
        /// Connections at once; more wait.
        connections: Option<usize> = "4096",
    }
}

settings! {
    /// What whoever runs the registry needs.
    struct OperationsConfig {
        /// A second address with /metrics, /healthz, /readyz and /startupz, in plain HTTP and
        /// without authentication.
        address: Option<SocketAddr>,
        /// How long /readyz fails before a registry that got SIGTERM stops accepting.
        drain: Option<Time> = "10s",
        /// How long requests may go on after it stopped accepting.
        drain_requests: Option<Time> = "10s",
        /// How long uploads may go on after it stopped accepting.
        drain_uploads: Option<Time> = "5m",
        /// Repositories with a label of their own in the metrics.
        metrics_repositories: Option<usize> = "0: no such metric",
        /// How often the configuration and the files that it names are looked at for changes.
        watch: Option<Time> = "2s",
    }
}

settings! {
    /// Certificates of clients.
    struct ClientTlsConfig {
        /// Authorities that sign certificates of clients (PEM), read again when it changes.
        client_ca: Option<PathBuf>,
        /// Turn clients without a certificate away in the handshake.
        client_required: bool = "false",
    }
}

impl RatesConfig {
    fn rate(&self, per_second: Option<u32>) -> Option<Rate> {
        let seconds = self.burst_seconds.unwrap_or(10).max(1);
        let rate = |per_second: u32| Rate { per_second, burst: per_second.saturating_mul(seconds) };
        per_second.filter(|rate| *rate > 0).map(rate)
    }
}

impl ClientTlsConfig {
    /// What they say about the certificates of clients.
    pub(super) fn client_certificates(self) -> Result<Option<ClientCertificates>, Failure> {
        let required = self.client_required;
        match self.client_ca {
            Some(authorities) => Ok(Some(ClientCertificates { authorities, required })),
            None if required => {
                Err(Failure::usage("--tls-client-required needs --tls-client-ca FILE"))
            }
            None => Ok(None),
        }
    }
}

/// Puts the keys into the options.
pub(super) fn apply(
    operations: &OperationsConfig,
    rates: &RatesConfig,
    options: &mut OperationsOptions,
) {
    let time = |time: Option<Time>, default| time.map_or(default, |time| time.0);
    options.address = operations.address;
    options.drain_notice = time(operations.drain, DRAIN);
    options.uploads_drain_max = time(operations.drain_uploads, options.uploads_drain_max);
    let repositories_max = operations.metrics_repositories.filter(|most| *most > 0);
    options.metrics = MetricsOptions { repositories_max };
    options.connections_max = rates.connections.unwrap_or(options.connections_max).max(1);
    options.rates = registry_server::Rates {
        reads_per_address: rates.rate(rates.reads_per_address),
        writes_per_address: rates.rate(rates.writes_per_address),
        reads_per_principal: rates.rate(rates.reads_per_user),
        writes_per_principal: rates.rate(rates.writes_per_user),
        requests_per_address_max: rates.requests_per_address,
        connections_per_address_max: rates.connections_per_address,
    };
}
