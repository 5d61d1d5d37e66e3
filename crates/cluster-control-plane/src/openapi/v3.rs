//! The version 3 index and its documents, one per group and version.

use serde_json::{Map, Value, json};

use crate::resources::{ALL, Resource};

/// `/openapi/v3`.
pub fn index() -> Value {
    let mut paths = Map::new();
    for resource in ALL {
        let path = group_path(resource.group, resource.version);
        let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`.
pub fn document(group: &str, version: &str) -> Option<Value> {
    let in_group = |one: &&Resource| one.group == group && one.version == version;
    let served: Vec<&Resource> = ALL.iter().copied().filter(in_group).collect();
    if served.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    for resource in &served {
        paths.insert(object_path(resource), operations(resource));
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": format!("v1.{}.0", crate::discovery::MINOR)},
        "paths": paths,
        "components": {"schemas": super::schemas::of(&served)},
    }))
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn object_path(resource: &Resource) -> String {
    let base = group_path(resource.group, resource.version);
    let namespace = if resource.is_namespaced() { "/namespaces/{namespace}" } else { "" };
    format!("/{base}{namespace}/{}/{{name}}", resource.plural)
}

/// One operation per kind with the parameter kubectl looks for; a kind that cannot be patched shows
/// it on its POST.
fn operations(resource: &Resource) -> Value {
    let kind = json!({
        "group": resource.group, "version": resource.version, "kind": resource.kind,
    });
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}))
        .collect();
    let operation = json!({
        "x-kubernetes-group-version-kind": kind,
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
    });
    if resource.has_verb("patch") {
        json!({"get": {"x-kubernetes-group-version-kind": kind, "responses": {"200": {"description": "OK"}}}, "patch": operation})
    } else {
        json!({"post": operation})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patchable_kind_names_the_field_validation_parameter() {
        let index = index();
        for resource in ALL.iter().filter(|resource| resource.has_verb("patch")) {
            let path = group_path(resource.group, resource.version);
            assert!(index["paths"][&path]["serverRelativeURL"].is_string(), "{path}");
            let document = document(resource.group, resource.version).expect("document");
            let patch = &document["paths"][object_path(resource)]["patch"];
            assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], resource.kind);
            let parameters = patch["parameters"].as_array().expect("parameters");
            assert!(
                parameters
                    .iter()
                    .any(|one| one["name"] == "fieldValidation" && one["in"] == "query")
            );
        }
    }
}
