//! Where a registry's answers may lead: realms of challenges, and redirects.
//!
//! A pull-through cache speaks for others with credentials of its own, from inside a network that
//! the registries it asks should not reach through it (CVE-2026-33540, CVE-2020-15157,
//! CVE-2026-2376). The decisions here are functions of addresses; no sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::owners::shares_domain;

/// Most redirects of one request.
pub(crate) const REDIRECTS_MAX: usize = 5;

/// Limits on where a registry may lead this client.
///
/// With it: credentials go to token services of the registry's own host or domain only; no
/// request is led from HTTPS to plain HTTP; nothing is led to an address that is not public.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Hosts (`host` or `host:port`) that are trusted beside the registry: they may have
    /// addresses which are not public, and may receive credentials as token services. The
    /// registry itself belongs here if its address is not public.
    pub hosts: Vec<String>,
}

impl Guard {
    fn trusts(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        self.hosts.iter().any(|entry| {
            entry.eq_ignore_ascii_case(host)
                || with_port.as_deref().is_some_and(|name| entry.eq_ignore_ascii_case(name))
        })
    }

    fn trusts_name(&self, name: &str) -> bool {
        self.hosts.iter().any(|entry| {
            let host = match entry.rsplit_once(':') {
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
                _ => entry,
            };
            host.eq_ignore_ascii_case(name)
        })
    }

    /// Whether an address may be asked because a registry said so; the reason if not. What names
    /// resolve to is checked when they do.
    fn check_place(&self, url: &Url) -> Result<(), String> {
        if self.trusts(url) {
            return Ok(());
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(name)) if !is_local_name(name) => return Ok(()),
            Some(Host::Domain(name)) => return Err(format!("{name} is this machine")),
            None => return Err("the address has no host".to_owned()),
        };
        if is_public(address) { Ok(()) } else { Err(format!("{address} is not a public address")) }
    }

    /// Whether a request may follow a redirect; the reason if not.
    pub(crate) fn check_redirect(&self, previous: &[Url], next: &Url) -> Result<(), String> {
        if REDIRECTS_MAX <= previous.len() {
            return Err("too many redirects".to_owned());
        }
        let first = previous.first();
        if previous.iter().any(|url| url.scheme() == "https") && next.scheme() != "https" {
            return Err(format!("redirected from HTTPS to {}", next.scheme()));
        }
        if first.is_some_and(|first| is_same_place(first, next)) {
            return Ok(());
        }
        self.check_place(next)
            .map_err(|reason| format!("redirected to where it must not: {reason}"))
    }

    /// Whether a token may be asked for at a realm that `registry` named; the reason if not.
    /// `with_credential` tells whether a credential would go there.
    pub(crate) fn check_realm(
        &self,
        realm: &Url,
        registry: &Url,
        with_credential: Credential,
    ) -> Result<(), String> {
        let text = format!("token service {}", realm.host_str().unwrap_or_default());
        if is_same_place(realm, registry) || self.trusts(realm) {
            return Ok(());
        }
        if realm.scheme() != "https" {
            return Err(format!("{text}: not HTTPS"));
        }
        self.check_place(realm).map_err(|reason| format!("{text}: {reason}"))?;
        match with_credential {
            Credential::None => Ok(()),
            Credential::Sent if shares_domain(realm, registry) => Ok(()),
            Credential::Sent => Err(format!(
                "{text} is of another domain than {}: it gets no credentials",
                registry.host_str().unwrap_or_default()
            )),
        }
    }
}

/// Whether a request to a token service carries a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    None,
    Sent,
}

/// Scheme, host and port are the same.
pub(crate) fn is_same_place(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

pub(crate) fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether an address is one of the public internet (IANA special-purpose registries).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Carrier-grade NAT (RFC 6598), protocol assignments (RFC 6890), benchmarks (RFC 2544).
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    // Global unicast is 2000::/3; of it, 2001:db8::/32 is for documents.
    first & 0xe000 == 0x2000 && !(first == 0x2001 && address.segments()[1] == 0xdb8)
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64, 6to4.
pub(crate) fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let last = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(last(high, low))
        }
        [0x2002, high, low, ..] => Some(last(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(last(high, low)),
        _ => None,
    }
}

/// Resolves names and leaves out addresses that are not public, unless the guard trusts the name.
/// Checked here, a name cannot resolve to one thing for a check and to another for a connection.
pub(crate) struct GuardedNames {
    guard: Arc<Guard>,
    /// Made at the first look-up: it needs a runtime.
    resolver: Arc<OnceLock<TokioResolver>>,
}

impl GuardedNames {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, resolver: Arc::default() }
    }
}

impl Resolve for GuardedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, resolver) = (Arc::clone(&self.guard), Arc::clone(&self.resolver));
        Box::pin(async move {
            let made = match resolver.get() {
                Some(made) => made,
                None => {
                    let made = TokioResolver::builder_tokio()?.build()?;
                    resolver.get_or_init(|| made)
                }
            };
            let found = made.lookup_ip(name.as_str()).await?;
            let trusted = guard.trusts_name(name.as_str());
            let addresses: Vec<SocketAddr> = found
                .iter()
                .filter(|address| trusted || is_public(*address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if addresses.is_empty() {
                return Err(format!("{} has no public address", name.as_str()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    // Security rows 14 and 33: no private, link-local or metadata address.
    #[test]
    fn only_public_addresses_are_public() {
        for address in ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:db8::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
    }

    // Security row 5 (CVE-2026-33540).
    #[test]
    fn credentials_go_to_the_registrys_own_token_service_only() {
        let guard = Guard { hosts: vec!["login.partner.example".to_owned()] };
        let check = |realm: &str, registry: &str, credential| {
            guard.check_realm(&url(realm), &url(registry), credential).is_ok()
        };
        let hub = "https://registry-1.docker.io/";
        for (realm, registry) in [
            ("https://auth.docker.io/token", hub),
            ("https://registry-1.docker.io/token", hub),
            ("https://gitlab.example.com/jwt", "https://registry.example.com/"),
            ("https://login.partner.example/token", hub),
            ("http://127.0.0.1:5000/token", "http://127.0.0.1:5000/"),
        ] {
            assert!(check(realm, registry, Credential::Sent), "{realm} of {registry}");
        }
        for (realm, registry) in [
            ("https://attacker.example/token", hub),
            ("https://docker.io.attacker.example/token", hub),
            ("https://attacker-docker.io/token", hub),
            ("http://auth.docker.io/token", hub),
            ("https://evil.co.uk/token", "https://good.co.uk/"),
            ("https://10.0.0.1/token", hub),
            ("https://127.0.0.1/token", hub),
            ("https://localhost/token", hub),
            ("https://[::1]/token", hub),
            ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000/"),
            ("http://registry.example/token", "https://registry.example/"),
        ] {
            assert!(!check(realm, registry, Credential::Sent), "{realm} of {registry}");
        }
        assert!(check("https://attacker.example/token", hub, Credential::None));
        assert!(!check("https://169.254.169.254/token", hub, Credential::None));
    }

    // Security rows 27 and 33.
    #[test]
    fn redirects_lead_to_public_places_and_never_out_of_https() {
        let guard = Guard { hosts: vec!["10.1.1.1:9000".to_owned()] };
        let check = |from: &str, to: &str| guard.check_redirect(&[url(from)], &url(to)).is_ok();
        let hub = "https://registry-1.docker.io/v2/";
        assert!(check(hub, "https://cdn.example/x"));
        assert!(check(hub, "https://10.1.1.1:9000/x"), "it is configured");
        assert!(check("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5000/x"), "its own");
        for to in [
            "http://cdn.example/x",
            "https://10.1.1.1/x",
            "https://169.254.169.254/latest/meta-data",
            "https://[::ffff:169.254.169.254]/",
            "https://localhost/x",
            "https://a.localhost/x",
            "https://2130706433/x",
            "file:///etc/passwd",
        ] {
            assert!(!check(hub, to), "{to}");
        }
        assert!(!check("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/x"));
        let many = vec![url(hub); REDIRECTS_MAX];
        assert!(guard.check_redirect(&many, &url(hub)).is_err());
    }
}
