//! Flags about the surroundings of RUN: docker's limits, hosts and control groups.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Args;
use container_runtime::ResourceLimit;
use image_builder::RunResources;

use crate::exit::Failure;

/// Period that `--cpu-quota` refers to, in microseconds.
const PERIOD_MICROS: u64 = 100_000;

/// Names of `--ulimit` and their numbers (`<asm-generic/resource.h>`).
const LIMITS: [(&str, u32); 15] = [
    ("core", 4),
    ("cpu", 0),
    ("data", 2),
    ("fsize", 1),
    ("locks", 10),
    ("memlock", 8),
    ("msgqueue", 12),
    ("nice", 13),
    ("nofile", 7),
    ("nproc", 6),
    ("rss", 5),
    ("rtprio", 14),
    ("rttime", 15),
    ("sigpending", 11),
    ("stack", 3),
];

/// Limits and surroundings of RUN steps.
#[derive(Args, Debug, Default)]
pub(crate) struct ResourceFlags {
    /// Line of /etc/hosts in RUN steps: NAME:ADDRESS; host-gateway is this machine
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    hosts: Vec<String>,
    /// Limit of processes in RUN steps: NAME=SOFT[:HARD], -1 for none
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    limits: Vec<String>,
    /// Size of /dev/shm in RUN steps [default: 64m]
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Control group, below this process's own, in which RUN steps get theirs
    #[arg(long, value_name = "GROUP")]
    cgroup_parent: Option<PathBuf>,
    /// Memory of a RUN step; above it the kernel kills
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Weight of a RUN step against others, 1024 per CPU
    #[arg(short, long, value_name = "SHARES")]
    cpu_shares: Option<u64>,
    /// CPU time of a RUN step per period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<u64>,
    /// The period, in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
}

impl ResourceFlags {
    /// The flags as values.
    pub(crate) fn read(&self) -> Result<RunResources, Failure> {
        let limits: Result<_, _> = self.limits.iter().map(|text| limit(text)).collect();
        let hosts: Result<_, _> = self.hosts.iter().map(|text| host(text)).collect();
        Ok(RunResources {
            limits: limits?,
            shm_bytes: self
                .shm_size
                .as_deref()
                .map(|text| bytes("--shm-size", text))
                .transpose()?,
            hosts: hosts?,
            cgroup_parent: self.cgroup_parent.clone(),
            memory_bytes_max: self
                .memory
                .as_deref()
                .map(|text| bytes("--memory", text))
                .transpose()?,
            cpu_shares: self.cpu_shares,
            cpu_quota_micros: self.quota()?,
        })
    }

    fn quota(&self) -> Result<Option<u64>, Failure> {
        let period = self.cpu_period.unwrap_or(PERIOD_MICROS);
        if !(1_000..=1_000_000).contains(&period) {
            return Err(Failure::usage(format!("--cpu-period {period}: want 1000 to 1000000")));
        }
        let scaled = |quota: u64| quota.saturating_mul(PERIOD_MICROS) / period;
        match self.cpu_quota.map(scaled) {
            Some(quota) if quota < 1_000 => {
                Err(Failure::usage("--cpu-quota: less than one percent of a CPU"))
            }
            quota => Ok(quota),
        }
    }
}

/// `nofile=1024:2048`.
fn limit(text: &str) -> Result<ResourceLimit, Failure> {
    let bad = |reason: String| Failure::usage(format!("--ulimit {text:?}: {reason}"));
    let (name, values) =
        text.split_once('=').ok_or_else(|| bad("want NAME=SOFT[:HARD]".to_owned()))?;
    let known = LIMITS.iter().find(|(known, _)| *known == name);
    let (_, resource) = known.ok_or_else(|| {
        let names: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).collect();
        bad(format!("no such limit; there are {}", names.join(", ")))
    })?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        _ => text.parse::<u64>().map(Some).map_err(|_| bad(format!("{text:?} is not a number"))),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if hard.is_some_and(|hard| soft.is_none_or(|soft| hard < soft)) {
        return Err(bad("the soft limit is above the hard limit".to_owned()));
    }
    Ok(ResourceLimit { resource: *resource, soft, hard })
}

/// `name:address` or `name=address`; an IPv6 address may be in brackets.
fn host(text: &str) -> Result<(String, IpAddr), Failure> {
    let bad = |reason: &str| Failure::usage(format!("--add-host {text:?}: {reason}"));
    let cut = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = cut.ok_or_else(|| bad("want NAME:ADDRESS"))?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(bad("want a name"));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = match address {
        // RUN steps share the network of this machine.
        "host-gateway" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => address.parse().map_err(|_| bad("that is no IP address"))?,
    };
    Ok((name.to_owned(), address))
}

/// `64m`, `1g`, `1048576`: binary units, as docker has them.
fn bytes(flag: &str, text: &str) -> Result<u64, Failure> {
    let bad = || Failure::usage(format!("{flag} {text:?}: want a number with b, k, m, g or t"));
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.trim_end_matches("ib");
    let lower = if lower.len() < 2 { lower } else { lower.strip_suffix('b').unwrap_or(lower) };
    let (number, shift) = match lower.strip_suffix(['k', 'm', 'g', 't']) {
        Some(number) => (
            number,
            match lower.as_bytes().last() {
                Some(b'k') => 10,
                Some(b'm') => 20,
                Some(b'g') => 30,
                _ => 40,
            },
        ),
        None => (lower, 0),
    };
    let number: u64 = number.trim().parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).filter(|bytes| 0 < *bytes).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("64m", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("128mb", Some(128 << 20)),
            ("2KiB", Some(2048)),
            ("10b", Some(10)),
            ("1048576", Some(1 << 20)),
            ("0", None),
            ("x", None),
            ("1e", None),
            ("99999999t", None),
            ("", None),
        ] {
            assert_eq!(bytes("--memory", text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn limits_are_known_by_name() {
        let limit = |text| limit(text).ok().map(|limit| (limit.resource, limit.soft, limit.hard));
        assert_eq!(limit("nofile=1062:1100"), Some((7, Some(1062), Some(1100))));
        assert_eq!(limit("core=0"), Some((4, Some(0), Some(0))));
        assert_eq!(limit("memlock=-1:-1"), Some((8, None, None)));
        for bad in ["nofile", "files=1", "nofile=x", "nofile=2:1", "nofile=-1:5"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_have_addresses() {
        let host = |text| host(text).ok().map(|(name, address)| format!("{name} {address}"));
        for (text, expected) in [
            ("a:1.2.3.4", Some("a 1.2.3.4")),
            ("a=1.2.3.4", Some("a 1.2.3.4")),
            ("a:[::1]", Some("a ::1")),
            ("a:::1", Some("a ::1")),
            ("a:host-gateway", Some("a 127.0.0.1")),
            ("a", None),
            ("a:b", None),
            (":1.2.3.4", None),
        ] {
            assert_eq!(host(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn quotas_are_scaled_to_the_period() {
        let quota = |cpu_quota, cpu_period| {
            ResourceFlags { cpu_quota, cpu_period, ..ResourceFlags::default() }.quota().ok()
        };
        assert_eq!(quota(Some(50_000), None), Some(Some(50_000)));
        assert_eq!(quota(Some(5_000), Some(10_000)), Some(Some(50_000)));
        assert_eq!(quota(None, None), Some(None));
        assert_eq!(quota(Some(1), None), None);
        assert_eq!(quota(Some(1), Some(5)), None);
    }
}
