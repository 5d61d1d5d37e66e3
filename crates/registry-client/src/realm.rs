//! Where a registry may send us for a token, for clients without a [`crate::Guard`].
//!
//! The realm of a challenge is a registry's word, and every registry is somebody else's machine:
//! what a credential may go to is decided here, from names and addresses, before one is put into
//! a request (CVE-2020-15157, CVE-2026-24845, CVE-2026-48978).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::guard::{embedded_v4, is_local_name};
use crate::owners::shares_domain;

/// Token services of another domain than their registries, by suffix of the registry's name.
const PAIRS: [(&str, &str); 2] = [("scw.cloud", "api.scaleway.com"), ("lscr.io", "ghcr.io")];

/// How the reason of a withheld credential begins.
pub(crate) const WITHHELD: &str = "credentials withheld from token service";

/// What a token request may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// The caller's credential.
    Credential(Route),
    /// Nothing: the service may still give a token to anybody. Why.
    Nothing(String),
}

/// How the service's name may be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// As the registry's own: it is the same host, or one that the user named.
    Open,
    /// Not to this machine, its neighbours or its metadata service.
    Checked,
}

/// What is known about the registry that sent the challenge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The address that answered.
    pub(crate) url: &'a Url,
    /// Whether it runs on this machine, whatever its name is.
    pub(crate) is_local: bool,
    /// Hosts (`host` or `host:port`) that the user trusts with credentials.
    pub(crate) trusted: &'a [String],
}

/// Whether a token may be asked for at `realm`, and with what; the reason if not at all.
pub(crate) fn check(realm: &Url, asked: Asked<'_>) -> Result<Allowed, String> {
    let name = realm.host_str().unwrap_or_default();
    let refuse = |reason: &str| Err(format!("token service {name}: {reason}"));
    if !realm.username().is_empty() || realm.password().is_some() {
        return refuse("its address holds a user");
    }
    if realm.fragment().is_some() {
        return refuse("its address has a fragment");
    }
    if realm.scheme() != "https" && asked.url.scheme() != "http" {
        return refuse("not HTTPS, though the registry is");
    }
    if realm.host() == asked.url.host() || is_trusted(realm, asked.trusted) {
        return Ok(Allowed::Credential(Route::Open));
    }
    let Some(host) = realm.host() else { return refuse("its address has no host") };
    let is_here = is_this_machine(&host);
    if asked.is_local && (is_here || shares_domain(realm, asked.url)) {
        // A registry on this machine may have its token service there under any name.
        return Ok(Allowed::Credential(Route::Open));
    }
    if is_here {
        return refuse("it is this machine");
    }
    if let Some(address) = literal(&host) {
        if is_forbidden(address) {
            return refuse("a registry must not lead to this address");
        }
        if is_private(address) && !asked_is_private(asked.url) {
            return refuse("a private address, though the registry's is not");
        }
    }
    if shares_domain(realm, asked.url) || is_pair(realm, asked.url) {
        return Ok(Allowed::Credential(Route::Checked));
    }
    Ok(Allowed::Nothing(of_another_domain(realm, asked.url)))
}

/// Whether a redirect may lead to a host, as far as its name or address tells; the reason if not.
/// `is_local` tells whether the registry runs on this machine.
pub(crate) fn check_place(url: &Url, is_local: bool) -> Result<(), String> {
    let Some(host) = url.host() else { return Err("the address has no host".to_owned()) };
    if is_this_machine(&host) {
        return if is_local { Ok(()) } else { Err("it is this machine".to_owned()) };
    }
    match literal(&host) {
        Some(address) if is_forbidden(address) => {
            Err("a registry must not lead to this address".to_owned())
        }
        Some(_) | None => Ok(()),
    }
}

fn is_this_machine(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => is_local_name(name),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn literal(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some((*address).into()),
        Host::Ipv6(address) => Some((*address).into()),
    }
}

fn of_another_domain(realm: &Url, registry: &Url) -> String {
    format!(
        "{WITHHELD} {}, which is of another domain than registry {}",
        realm.host_str().unwrap_or_default(),
        registry.host_str().unwrap_or_default()
    )
}

fn is_trusted(url: &Url, trusted: &[String]) -> bool {
    let Some(host) = url.host_str() else { return false };
    let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
    trusted.iter().any(|entry| {
        entry.eq_ignore_ascii_case(host)
            || with_port.as_deref().is_some_and(|name| entry.eq_ignore_ascii_case(name))
    })
}

fn is_pair(realm: &Url, registry: &Url) -> bool {
    let (Some(Host::Domain(realm)), Some(Host::Domain(registry))) = (realm.host(), registry.host())
    else {
        return false;
    };
    PAIRS.iter().any(|(suffix, service)| {
        let below = registry.strip_suffix(suffix);
        realm == *service && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

fn asked_is_private(registry: &Url) -> bool {
    match registry.host() {
        Some(Host::Ipv4(address)) => is_private(address.into()),
        Some(Host::Ipv6(address)) => is_private(address.into()),
        Some(Host::Domain(_)) | None => false,
    }
}

/// RFC 1918 and RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(address) => address.is_private(),
            None => address.is_unique_local(),
        },
    }
}

/// Addresses that no registry has a reason to lead to: this machine, its link, and the metadata
/// services of the clouds.
pub(crate) fn is_forbidden(address: IpAddr) -> bool {
    const METADATA_V4: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200), // Alibaba
        Ipv4Addr::new(168, 63, 129, 16),   // Azure
        Ipv4Addr::new(192, 0, 0, 192),     // Oracle
    ];
    let of_v4 = |address: Ipv4Addr| {
        address.octets()[0] == 0
            || address.is_loopback()
            || address.is_link_local()
            || METADATA_V4.contains(&address)
    };
    match address {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(address) => of_v4(address),
            None => is_forbidden_v6(address),
        },
    }
}

fn is_forbidden_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        // Amazon's and Google's.
        || matches!((first, second), (0xfd00, 0x0ec2) | (0xfd20, 0x00ce))
}

/// A name that resolves, and only to where no registry may lead: nobody is out of order.
#[derive(Debug, thiserror::Error)]
#[error("{name} has no address that a registry may lead to")]
pub(crate) struct RefusedName {
    name: String,
}

/// Resolves names and leaves out addresses that no registry may lead to. Checked here, a name
/// cannot resolve to one thing for a check and to another for the connection.
pub(crate) struct CheckedNames;

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = allowed_addresses(found);
            if allowed.is_empty() {
                return Err(RefusedName { name: name.as_str().to_owned() }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn allowed_addresses(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    found.filter(|address| !is_forbidden(address.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[track_caller]
    fn check(realm: &str, registry: &str, expected: &str) {
        let registry = url(registry);
        let is_local = registry.host_str() == Some("127.0.0.1");
        let trusted = ["login.partner.example".to_owned()];
        let asked = Asked { url: &registry, is_local, trusted: &trusted };
        let actual = match super::check(&url(realm), asked) {
            Ok(Allowed::Credential(Route::Open)) => "open",
            Ok(Allowed::Credential(Route::Checked)) => "checked",
            Ok(Allowed::Nothing(_)) => "anonymous",
            Err(_) => "refused",
        };
        assert_eq!(actual, expected, "{realm} of {registry}");
    }

    const HUB: &str = "https://registry-1.docker.io/v2/";

    /// cloud-credentials.md 14.2, row 70.
    #[test]
    fn realms_on_this_machine_or_its_metadata_service_are_refused() {
        for realm in [
            "https://169.254.169.254/token",
            "https://localhost/token",
            "https://a.localhost/token",
            "https://127.0.0.1:5000/token",
            "https://[::ffff:169.254.169.254]/token",
            "https://[::ffff:127.0.0.1]/token",
            "https://2852039166/token", // 169.254.169.254
            "https://0xa9fea9fe/token",
            "https://0/token",
            "https://[fe80::1]/token",
            "https://[fd00:ec2::254]/token",
            "https://[fd20:ce::254]/token",
            "https://[64:ff9b::a9fe:a9fe]/token",
            "https://100.100.100.200/token",
            "https://168.63.129.16/token",
            "https://192.0.0.192/token",
            "https://10.0.0.1/token",
        ] {
            check(realm, HUB, "refused");
        }
    }

    /// cloud-credentials.md 14.2, row 70: a name that resolves to one of them.
    #[test]
    fn names_do_not_resolve_to_what_is_refused() {
        let found = ["169.254.169.254:0", "127.0.0.1:0", "[::1]:0", "192.0.2.1:0", "10.0.0.1:0"];
        let found = found.map(|text| text.parse::<SocketAddr>().expect("an address"));
        let left: Vec<String> =
            allowed_addresses(found.into_iter()).iter().map(ToString::to_string).collect();
        assert_eq!(left, ["192.0.2.1:0", "10.0.0.1:0"]);
    }

    /// cloud-credentials.md 14.2, row 70: names are looked up by the one that leaves those out.
    #[tokio::test]
    async fn a_name_of_this_machine_does_not_resolve_at_all() {
        let name: Name = "localhost".parse().expect("a name");
        let error = CheckedNames.resolve(name).await.err().expect("no address is left");
        assert_eq!(error.to_string(), "localhost has no address that a registry may lead to");
    }

    /// cloud-credentials.md 14.2, rows 43 and 71.
    #[test]
    fn credentials_go_to_the_registrys_own_domain_only() {
        check("https://registry-1.docker.io/token", HUB, "open");
        check("https://auth.docker.io/token", HUB, "checked");
        check("https://gitlab.example.com/jwt/auth", "https://registry.example.com/v2/", "checked");
        check("https://api.scaleway.com/t", "https://rg.fr-par.scw.cloud/v2/", "checked");
        check("https://api.scaleway.com/t", "https://evilscw.cloud/v2/", "anonymous");
        check("https://login.partner.example/token", HUB, "open");
        check("https://attacker.example/token", HUB, "anonymous");
        check("https://docker.io.attacker.example/token", HUB, "anonymous");
        check("https://other.azurecr.io/oauth2/token", "https://team.azurecr.io/v2/", "anonymous");
        check("https://b.nip.io/token", "https://a.nip.io/v2/", "anonymous");
        check("http://auth.docker.io/token", HUB, "refused");
        check("https://ada:pw@auth.docker.io/token", HUB, "refused");
        check("https://auth.docker.io/token#x", HUB, "refused");
    }

    #[test]
    fn registries_on_this_machine_may_have_their_token_service_there() {
        let local = "http://127.0.0.1:5000/v2/";
        check("http://127.0.0.1:5001/token", local, "open");
        check("http://localhost:5001/token", local, "open");
        check("http://169.254.169.254/token", local, "refused");
        check("https://attacker.example/token", local, "anonymous");
        check("https://10.0.0.6/token", "https://10.0.0.5/v2/", "anonymous");
        check("http://auth.my.lan:5001/token", "http://registry.my.lan:5000/v2/", "checked");
    }
}
