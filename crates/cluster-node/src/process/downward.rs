//! The downward API: fields and resources of a pod as text (mini-kubernetes.md 8.4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::quantity;

/// What the downward API needs beside the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) ip: IpAddr,
    /// Allocatable CPU in thousandths of a core.
    pub(crate) cpu_milli: u64,
    /// Allocatable memory.
    pub(crate) memory_bytes: u64,
    /// Allocatable disk.
    pub(crate) disk_bytes: u64,
}

/// Why a downward reference has no value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DownwardError {
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("unsupported resource: {0}")]
    Resource(String),
    #[error("invalid divisor {0}")]
    Divisor(String),
    #[error("container {0} not found")]
    Container(String),
}

/// The value of a `fieldRef`.
pub(crate) fn field(pod: &Pod, path: &str, node: &NodeFacts) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(lines(meta.labels.as_ref())),
        "metadata.annotations" => Ok(lines(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.podIP" | "status.podIPs" | "status.hostIP" | "status.hostIPs" => {
            Ok(node.ip.to_string())
        }
        _ => {
            if let Some(key) = subscript(path, "metadata.labels") {
                return text(meta.labels.as_ref().and_then(|map| map.get(key)));
            }
            if let Some(key) = subscript(path, "metadata.annotations") {
                return text(meta.annotations.as_ref().and_then(|map| map.get(key)));
            }
            Err(DownwardError::Field(path.to_owned()))
        }
    }
}

/// The key in `metadata.labels['key']`.
fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

/// A whole map, one `key="value"` line per entry, sorted.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Quotes as Go's `%q` does for printable text.
fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a `resourceFieldRef` of `own`, or of the container it names.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Result<String, DownwardError> {
    let named;
    let container = match &selector.container_name {
        Some(name) if !name.is_empty() => {
            named = pod
                .spec
                .iter()
                .flat_map(crate::pods::state::all_containers)
                .map(|(container, _)| container)
                .find(|container| container.name == *name)
                .ok_or_else(|| DownwardError::Container(name.clone()))?;
            &*named
        }
        _ => own.ok_or_else(|| DownwardError::Container(String::new()))?,
    };
    let (list, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| DownwardError::Resource(selector.resource.clone()))?;
    let resources = container.resources.as_ref();
    let quantity_of =
        |limits: bool| {
            resources
                .and_then(|resources| {
                    if limits { resources.limits.as_ref() } else { resources.requests.as_ref() }
                })
                .and_then(|map| map.get(name))
                .and_then(|quantity| quantity::milli(&quantity.0))
        };
    let fallback = match name {
        "cpu" => i128::from(node.cpu_milli),
        "memory" => i128::from(node.memory_bytes) * 1000,
        "ephemeral-storage" => i128::from(node.disk_bytes) * 1000,
        _ => 0,
    };
    let value = match (list, name) {
        ("limits", "cpu" | "memory" | "ephemeral-storage") => quantity_of(true).unwrap_or(fallback),
        ("requests", "cpu" | "memory" | "ephemeral-storage") => {
            quantity_of(false).or_else(|| quantity_of(true)).unwrap_or(0)
        }
        (_, name) if name.starts_with("hugepages-") => quantity_of(list == "limits").unwrap_or(0),
        _ => return Err(DownwardError::Resource(selector.resource.clone())),
    };
    let divisor = match &selector.divisor {
        Some(divisor) if divisor.0 != "0" && !divisor.0.is_empty() => quantity::milli(&divisor.0)
            .filter(|value| *value > 0)
            .ok_or_else(|| DownwardError::Divisor(divisor.0.clone()))?,
        _ => 1000,
    };
    Ok(((value + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NODE: NodeFacts = NodeFacts {
        ip: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)),
        cpu_milli: 4000,
        memory_bytes: 8 << 30,
        disk_bytes: 100 << 30,
    };

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "labels": {"app": "web", "b": "q\"x"}, "annotations": {"a/b": "1\n2"}},
            "spec": {"nodeName": "here", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "32Mi"},
                                             "limits": {"cpu": "1500m", "memory": "64Mi"}}},
                {"name": "free"}]},
        }))
        .expect("pod")
    }

    /// mini-kubernetes.md 14, row 70.
    #[test]
    fn row_70_fields_of_the_pod() {
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "n"),
            ("metadata.uid", "u"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['a/b']", "1\n2"),
            ("metadata.labels", "app=\"web\"\nb=\"q\\\"x\""),
            ("metadata.annotations", "a/b=\"1\\n2\""),
            ("spec.nodeName", "here"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.0.0.7"),
            ("status.hostIPs", "10.0.0.7"),
        ] {
            assert_eq!(field(&pod(), path, &NODE).as_deref(), Ok(expected), "{path}");
        }
        assert!(field(&pod(), "status.phase", &NODE).is_err());
    }

    /// mini-kubernetes.md 14, row 70: divisors round up, missing limits mean the node.
    #[test]
    fn row_70_resources_are_divided_and_rounded_up() {
        for (container, name, divisor, expected) in [
            ("c", "limits.cpu", "0", "2"),
            ("c", "limits.cpu", "1m", "1500"),
            ("c", "requests.cpu", "1", "1"),
            ("c", "limits.memory", "1", "67108864"),
            ("c", "limits.memory", "1Mi", "64"),
            ("c", "requests.memory", "1Gi", "1"),
            ("free", "limits.cpu", "1", "4"),
            ("free", "limits.memory", "1Gi", "8"),
            ("free", "requests.cpu", "1", "0"),
        ] {
            let selector = serde_json::from_value(
                json!({"containerName": container, "resource": name, "divisor": divisor}),
            )
            .expect("selector");
            assert_eq!(
                resource(&pod(), None, &selector, &NODE).as_deref(),
                Ok(expected),
                "{container} {name} {divisor}"
            );
        }
    }
}
