//! Where a request comes from.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::bytes::Network;

/// Proxies that one request may have passed; more are not looked at.
const PROXIES_MAX: usize = 32;

/// The client's address: the peer's, or if that is a trusted proxy, the one that the proxy saw,
/// and so on back through `X-Forwarded-For`. What strangers write into that header counts for
/// nothing, because it stands to the left of what the first proxy adds.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let mut client = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(client) {
        return client;
    }
    let lines: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
    for hop in hops.take(PROXIES_MAX) {
        let hop = hop.trim();
        let parsed = hop
            .parse::<IpAddr>()
            .or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()))
            .or_else(|_| hop.trim_matches(['[', ']']).parse());
        let Ok(address) = parsed else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let trusted = ["10.0.0.0/8", "::1"].map(|text| text.parse().expect("a network"));
        for (peer, lines, expected) in [
            ("203.0.113.9", vec!["192.0.2.1"], "203.0.113.9"),
            ("10.0.0.1", vec!["192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["127.0.0.1, 192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", vec!["127.0.0.1", "192.0.2.1, 10.9.9.9"], "192.0.2.1"),
            ("10.0.0.1", vec!["192.0.2.1:4711"], "192.0.2.1"),
            ("::1", vec!["[2001:db8::1]:80"], "2001:db8::1"),
            ("::1", vec!["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", vec!["nonsense"], "10.0.0.1"),
            ("10.0.0.1", vec!["192.0.2.1, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("::ffff:10.0.0.1", vec!["192.0.2.1"], "192.0.2.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append("x-forwarded-for", line.parse().expect("a value"));
            }
            let found = client_address(peer.parse().expect("it"), &headers, &trusted);
            assert_eq!(found.to_string(), expected, "{peer} {lines:?}");
        }
    }
}
