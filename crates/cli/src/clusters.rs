//! How verbs and the node reach a Kubernetes API server.

use std::net::IpAddr;

use ipnet::IpNet;

/// A client for a cluster. Of the environment's proxy kube knows only that there is one: an API
/// server on this machine, or one that `NO_PROXY` names, is asked directly, as kubectl does.
pub(crate) fn client(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    let variable = |names: [&str; 2]| {
        names.iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
    };
    let of_environment = variable(["HTTPS_PROXY", "https_proxy"]);
    let is_of_environment = config.proxy_url.is_some()
        && of_environment.and_then(|url| url.parse().ok()) == config.proxy_url;
    let no_proxy = variable(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let host = config.cluster_url.host().unwrap_or_default();
    if is_of_environment && is_direct(host, &no_proxy) {
        config.proxy_url = None;
    }
    kube::Client::try_from(config)
}

/// Whether a host is reached without a proxy.
fn is_direct(host: &str, no_proxy: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    no_proxy.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some(address) = address {
            let is_net = entry.parse::<IpNet>().is_ok_and(|net| net.contains(&address));
            return is_net || entry.parse() == Ok(address);
        }
        let domain = entry.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        let rest = host.strip_suffix(&domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::is_direct;

    #[test]
    fn this_machine_and_what_no_proxy_names_are_reached_directly() {
        let no_proxy = "10.0.0.0/8, .corp.example,api.example, 192.0.2.7";
        for (host, expected) in [
            ("127.0.0.1", true),
            ("[::1]", true),
            ("localhost", true),
            ("10.1.2.3", true),
            ("192.0.2.7", true),
            ("k8s.corp.example", true),
            ("API.example", true),
            ("eu.api.example", true),
            ("notapi.example", false),
            ("192.0.2.8", false),
            ("k8s.example", false),
        ] {
            assert_eq!(is_direct(host, no_proxy), expected, "{host}");
        }
        assert!(is_direct("k8s.example", "*"));
        assert!(!is_direct("k8s.example", ""));
    }
}
