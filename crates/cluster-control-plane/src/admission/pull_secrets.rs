//! What the writer of a pod or a template is warned of: pull secrets that open nothing.

use image_policy::admission::{NamedSecret, pull_secret_name_warnings, pull_secret_warning};
use serde_json::Value;

use super::Switches;
use crate::client::Client;
use crate::object;
use crate::resources::{PODS, Resource, SECRETS};

/// Types of secrets that nodes read, with the key that holds the credentials.
const READ: [(&str, &str); 2] = [
    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
    ("kubernetes.io/dockercfg", ".dockercfg"),
];

/// Texts for `Warning` headers about a stored object: upstream's about names, and with the switch
/// ours about secrets that are missing or of no use (kubelet-images.md 5.1 and 14).
pub fn warnings(
    client: &Client,
    switches: Switches,
    resource: &Resource,
    stored: &Value,
) -> Vec<String> {
    let base: &[&str] = if std::ptr::eq(resource, &PODS) {
        &["spec"]
    } else if object::at(stored, &["spec", "template", "spec"]).is_some() {
        &["spec", "template", "spec"]
    } else {
        return Vec::new();
    };
    let list = [base, &["imagePullSecrets"]].concat();
    let names: Vec<&str> =
        object::list(stored, &list).iter().map(|entry| object::text(entry, &["name"])).collect();
    let path = list.join(".");
    let mut warnings = pull_secret_name_warnings(&path, &names);
    if !switches.pull_secret_warnings {
        return warnings;
    }
    let namespace = object::namespace(stored);
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
        // An error of the store is no fault of the writer.
        let found = match client.get(&SECRETS, namespace, name) {
            Ok(secret) => named(&secret),
            Err(error) if error.is_not_found() => NamedSecret::Missing,
            Err(_) => continue,
        };
        warnings.extend(pull_secret_warning(&path, index, name, namespace, &found));
    }
    warnings
}

fn named(secret: &Value) -> NamedSecret {
    let kind = object::text(secret, &["type"]);
    match READ.into_iter().find(|(read, _)| *read == kind) {
        None => NamedSecret::OfType(kind.to_owned()),
        Some((_, key)) if object::text(secret, &["data", key]).is_empty() => {
            NamedSecret::Empty(key)
        }
        Some(_) => NamedSecret::Usable,
    }
}
