//! Which addresses the registry may be led to by a URL that is not its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::Network;

/// What may be connected to: the public internet, and these networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guard(pub(crate) Vec<Network>);

impl Guard {
    /// Whether the address may be connected to.
    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.0.iter().any(|network| network.contains(address))
    }
}

/// Whether an address belongs to the public internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_loopback()
        || address.is_private()
        // Metadata services of clouds are here.
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Translated addresses are as public as what they stand for (RFC 6052, RFC 3056).
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo hides the address; documentation is nowhere.
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] => false,
        // Global unicast and nothing else.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_and_what_is_allowed_may_be_reached() {
        let allowed = vec!["10.1.0.0/16".parse().expect("a network")];
        let guard = Guard(allowed);
        for (address, expected) in [
            ("93.184.216.34", true),
            ("2606:4700::1111", true),
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("127.0.0.1", false),
            ("127.255.0.1", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("198.18.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("64:ff9b::5db8:d822", true),
            ("2002:7f00:1::", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(guard.admits(address.parse().expect("an address")), expected, "{address}");
        }
    }
}
