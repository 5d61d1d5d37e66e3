//! What this server serves, told to clients: legacy and aggregated discovery, version.

use serde_json::{Map, Value, json};

use crate::resources::{ALL, Resource, Scope};

/// Kubernetes minor version whose behaviour we follow: the newest one whose kubectl our tests drive.
/// A client that picks its own version by ours picks a recent one.
pub const MINOR: &str = "33";

/// The release that the API follows, as `gitVersion` and as the node's `kubeletVersion`.
pub const KUBERNETES_VERSION: &str = "v1.33.0+shipway";

/// Which form of aggregated discovery a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`.
    V2Beta1,
}

impl Aggregated {
    /// Version segment.
    pub fn version(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }
}

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": KUBERNETES_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/api`, legacy form.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// Non-core groups with their versions, in table order.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in ALL.iter().filter(|resource| !resource.group.is_empty()) {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            Some((_, versions)) if versions.contains(&resource.version) => {}
            Some((_, versions)) => versions.push(resource.version),
            None => groups.push((resource.group, vec![resource.version])),
        }
    }
    groups
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// `/apis`, legacy form.
pub fn group_list() -> Value {
    let groups: Vec<Value> =
        groups().iter().map(|(group, versions)| group_entry(group, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn group(name: &str) -> Option<Value> {
    let (group, versions) = groups().into_iter().find(|(group, _)| *group == name)?;
    let mut entry = group_entry(group, &versions);
    entry["kind"] = json!("APIGroup");
    entry["apiVersion"] = json!("v1");
    Some(entry)
}

fn served(group: &str, version: &str) -> Vec<&'static Resource> {
    let matches = |resource: &&Resource| resource.group == group && resource.version == version;
    ALL.iter().copied().filter(matches).collect()
}

/// `/api/v1`, `/apis/<group>/<version>`, legacy form.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let served = served(group, version);
    let first = served.first()?;
    let mut resources = Vec::new();
    for resource in &served {
        let namespaced = resource.is_namespaced();
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        resources.push(entry);
        for subresource in resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": namespaced,
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if (subresource.group, subresource.version) != (group, version) {
                entry["group"] = json!(subresource.group);
                entry["version"] = json!(subresource.version);
            }
            resources.push(entry);
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": resources,
    }))
}

/// `/api`, aggregated form.
pub fn aggregated_core(form: Aggregated) -> Value {
    let mut item = Map::new();
    item.insert("metadata".to_owned(), json!({"creationTimestamp": null}));
    item.insert("versions".to_owned(), json!([aggregated_version("", "v1")]));
    aggregated(form, vec![Value::Object(item)])
}

/// `/apis`, aggregated form.
pub fn aggregated_groups(form: Aggregated) -> Value {
    let items = groups()
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().map(|version| aggregated_version(group, version)).collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    aggregated(form, items)
}

fn aggregated(form: Aggregated, items: Vec<Value>) -> Value {
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", form.version()),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let resources: Vec<Value> =
        served(group, version).into_iter().map(aggregated_resource).collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}

fn aggregated_resource(resource: &'static Resource) -> Value {
    let scope = match resource.scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    };
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {
            "group": resource.group, "version": resource.version, "kind": resource.kind,
        },
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subresources: Vec<Value> = resource
            .subresources
            .iter()
            .map(|subresource| {
                json!({
                    "subresource": subresource.name,
                    "responseKind": {
                        "group": subresource.group,
                        "version": subresource.version,
                        "kind": subresource.kind,
                    },
                    "verbs": subresource.verbs,
                })
            })
            .collect();
        entry["subresources"] = json!(subresources);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_both_forms() {
        for resource in ALL {
            let legacy = resource_list(resource.group, resource.version).expect("served");
            let names = legacy["resources"].as_array().expect("list");
            assert!(names.iter().any(|entry| entry["name"] == resource.plural));
            let aggregated = if resource.group.is_empty() {
                aggregated_core(Aggregated::V2)
            } else {
                aggregated_groups(Aggregated::V2)
            };
            assert!(
                aggregated.to_string().contains(&format!("\"resource\":\"{}\"", resource.plural))
            );
        }
    }

    #[test]
    fn both_forms_of_the_version_agree() {
        assert!(KUBERNETES_VERSION.starts_with(&format!("v1.{MINOR}.")));
    }

    #[test]
    fn short_names_are_not_shared_between_kinds() {
        let mut seen = std::collections::HashSet::new();
        for name in ALL.iter().flat_map(|resource| resource.short_names) {
            assert!(seen.insert(name), "{name}");
        }
    }
}
