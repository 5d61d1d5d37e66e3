//! Metrics that are asked for when somebody looks: how upstreams fare and what namespaces hold.
//! Labels are names of the configuration.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::metadata::{Metadata, Usage};
use crate::proxy::{Proxy, UpstreamStatus};

/// Namespaces that have series, those with a quota first.
const NAMESPACES_MAX: usize = 500;

/// The upstreams of the proxy.
pub(crate) struct Upstreams(pub(crate) Arc<Proxy>);

/// What namespaces hold and may hold.
pub(crate) struct Holdings(pub(crate) Metadata);

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

impl fmt::Debug for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holdings").finish_non_exhaustive()
    }
}

/// A number of an upstream.
type OfUpstream = fn(&UpstreamStatus) -> u64;

/// A number of a namespace, from its counters and its quota.
type OfNamespace = fn(&Usage, Option<u64>) -> Option<u64>;

const COUNTED: [(&str, &str, OfUpstream); 8] = [
    ("proxy_hits", "Requests served from the cache", |one| one.hits),
    ("proxy_misses", "Requests that needed content of the upstream", |one| one.misses),
    ("proxy_stale", "Requests served from the cache as the upstream was silent", |one| one.stale),
    ("proxy_upstream_requests", "Requests sent to the upstream", |one| one.requests),
    ("proxy_fetched_bytes", "Bytes of blobs received from the upstream", |one| one.bytes),
    ("proxy_mismatches", "Content of the upstream with a wrong digest", |one| one.mismatches),
    ("proxy_failures", "Times that the upstream failed", |one| one.failures),
    ("proxy_rate_limited", "Times that the upstream asked for patience", |one| one.rate_limited),
];

const NOW: [(&str, &str, OfUpstream); 2] = [
    ("proxy_broken", "Whether the upstream is left alone for now", |one| u64::from(one.broken)),
    ("proxy_limited_credentials", "Credentials that wait for a rate limit to pass", |one| {
        one.limited_credentials as u64
    }),
];

impl Collector for Upstreams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let upstreams = self.0.status();
        if upstreams.is_empty() {
            return Ok(());
        }
        for (name, help, value) in COUNTED {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for one in &upstreams {
                let labels = [("upstream", one.host.as_str())];
                ConstCounter::new(value(one)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in NOW {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for one in &upstreams {
                let labels = [("upstream", one.host.as_str())];
                gauge(value(one)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Requests that the upstream lets a credential make until its window ends";
        let name = "proxy_allowance_remaining";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for one in &upstreams {
            for (at, quota) in one.quotas.iter().enumerate() {
                let Some(quota) = quota else { continue };
                // The credential by its position: its name is nobody else's business.
                let at = at.to_string();
                let labels = [("upstream", one.host.as_str()), ("credential", at.as_str())];
                gauge(quota.remaining).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Collector for Holdings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // What cannot be read is left out; the log of the metadata says why.
        let Ok(policies) = self.0.policies() else { return Ok(()) };
        let policies = policies.unwrap_or_default();
        let all = policies.all();
        let (limited, free): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.quota.is_some());
        let mut rows = Vec::new();
        for namespace in limited.into_iter().chain(free).take(NAMESPACES_MAX) {
            let Ok(usage) = self.0.usage(&namespace.prefix) else { continue };
            rows.push((namespace.title(), namespace.quota.map(|quota| quota.0), usage));
        }
        let families: [(&str, &str, Option<Unit>, OfNamespace); 4] = [
            ("namespace_used", "What the namespace holds", Some(Unit::Bytes), |usage, _| {
                Some(usage.bytes)
            }),
            ("namespace_reserved", "Reserved for uploads", Some(Unit::Bytes), |usage, _| {
                Some(usage.reserved)
            }),
            ("namespace_quota", "What it may hold", Some(Unit::Bytes), |_, quota| quota),
            ("namespace_repositories", "Repositories with manifests", None, |usage, _| {
                Some(usage.repositories)
            }),
        ];
        for (name, help, unit, value) in families {
            let unit = unit.as_ref();
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (namespace, quota, usage) in &rows {
                if let Some(value) = value(usage, *quota) {
                    let labels = [("namespace", *namespace)];
                    gauge(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
