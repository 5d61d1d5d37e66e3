//! `/etc/hosts`, `/etc/resolv.conf` and the host name of a pod (mini-kubernetes.md 8.7).
//!
//! All pods share the host's network, so the host's files are the base.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// The longest host name Linux accepts less one, as the kubelet cuts pod names.
const HOST_NAME_BYTES_MAX: usize = 63;

/// The pod's `/etc/hosts`: the host's file under the kubelet's header, then the host aliases.
pub(crate) fn hosts(spec: &PodSpec, host_file: &str) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file (host network).\n");
    text.push_str(host_file);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&alias.ip);
            for name in alias.hostnames.iter().flatten() {
                text.push('\t');
                text.push_str(name);
            }
            text.push('\n');
        }
    }
    text
}

/// The pod's `/etc/resolv.conf`; every policy but `None` means the host's file, since there is no
/// cluster DNS.
pub(crate) fn resolv_conf(spec: &PodSpec, host_file: &str) -> String {
    let base = match spec.dns_policy.as_deref() {
        Some("None") => "",
        _ => host_file,
    };
    let Some(config) = &spec.dns_config else {
        return base.to_owned();
    };
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    for line in base.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => searches = words.map(str::to_owned).collect(),
            Some("options") => options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    servers.extend(config.nameservers.iter().flatten().cloned());
    searches.extend(config.searches.iter().flatten().cloned());
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        options.retain(|existing| existing != name && !existing.starts_with(&format!("{name}:")));
        options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    let mut text = String::new();
    let mut seen = std::collections::BTreeSet::new();
    for server in servers.iter().filter(|server| seen.insert(server.as_str())) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    seen.clear();
    searches.retain(|search| !search.is_empty());
    let unique: Vec<&str> =
        searches.iter().map(String::as_str).filter(|search| seen.insert(search)).collect();
    if !unique.is_empty() {
        text.push_str(&format!("search {}\n", unique.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// The pod's host name: `spec.hostname`, or the pod's name cut to 63 bytes.
pub(crate) fn host_name(pod: &Pod) -> String {
    let chosen = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.as_deref())
        .filter(|name| !name.is_empty())
        .or(pod.metadata.name.as_deref())
        .unwrap_or_default();
    let mut name = chosen.to_owned();
    while name.len() > HOST_NAME_BYTES_MAX {
        name.pop();
    }
    name.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        let mut value = value;
        value["containers"] = json!([]);
        serde_json::from_value(value).expect("spec")
    }

    #[test]
    fn hosts_file_is_the_hosts_own_plus_aliases() {
        let text = hosts(
            &spec(json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]})),
            "127.0.0.1 localhost",
        );
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n\
             # Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        );
    }

    #[test]
    fn resolv_conf_merges_dns_config_over_the_hosts_file() {
        let host = "nameserver 9.9.9.9\nsearch lan\noptions ndots:1 rotate\n";
        assert_eq!(resolv_conf(&spec(json!({"dnsPolicy": "ClusterFirst"})), host), host);
        assert_eq!(
            resolv_conf(
                &spec(
                    json!({"dnsConfig": {"nameservers": ["1.1.1.1", "9.9.9.9"], "searches": ["x"],
                    "options": [{"name": "ndots", "value": "5"}]}})
                ),
                host
            ),
            "nameserver 9.9.9.9\nnameserver 1.1.1.1\nsearch lan x\noptions rotate ndots:5\n"
        );
        assert_eq!(
            resolv_conf(
                &spec(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}})),
                host
            ),
            "nameserver 1.1.1.1\n"
        );
    }

    #[test]
    fn host_name_is_the_pod_name_cut_at_63_bytes() {
        let pod = |name: &str, hostname: Option<&str>| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name},
                "spec": {"containers": [], "hostname": hostname}}))
            .expect("pod")
        };
        assert_eq!(host_name(&pod("p", None)), "p");
        assert_eq!(host_name(&pod("p", Some("h"))), "h");
        assert_eq!(host_name(&pod(&"a".repeat(80), None)).len(), 63);
        assert_eq!(host_name(&pod(&format!("{}-{}", "a".repeat(62), "b"), None)).len(), 62);
    }
}
