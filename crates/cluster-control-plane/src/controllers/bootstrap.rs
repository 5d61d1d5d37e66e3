//! What every cluster starts with.

use serde_json::{Value, json};

use super::ControllerOptions;
use super::namespaces::furnish;
use crate::client::Client;
use crate::error::ApiError;
use crate::resources::{NAMESPACES, Resource, STORAGE_CLASSES};

/// The namespaces of every cluster.
const FIRST_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Name of the default storage class.
pub(super) const STORAGE_CLASS: &str = "local-path";
/// Provisioner of the default class: a directory on the node.
pub(super) const PROVISIONER: &str = "shipway.dev/local-path";

/// Creates what is missing.
pub(super) async fn bootstrap(
    client: &Client,
    options: &ControllerOptions,
) -> Result<(), ApiError> {
    for name in FIRST_NAMESPACES {
        create(client, &NAMESPACES, json!({"metadata": {"name": name}})).await?;
        furnish(client, name, &options.ca_certificate_pem).await?;
    }
    let class = json!({
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    create(client, &STORAGE_CLASSES, class).await
}

/// Creates an object unless one of its name exists.
pub(super) async fn create(
    client: &Client,
    resource: &'static Resource,
    object: Value,
) -> Result<(), ApiError> {
    match client.create(resource, object).await {
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}
