//! Admission: what the cluster adds to or refuses in a write that is otherwise valid.

mod always_pull_images;
mod pods;
mod pull_secrets;
mod secrets;
mod service_account;

pub use pull_secrets::warnings;

use serde_json::Value;

use crate::client::Client;
use crate::error::ApiError;
use crate::identity::User;
use crate::object;
use crate::resources::{
    EPHEMERAL_CONTAINERS, NAMESPACES, PERSISTENT_VOLUME_CLAIMS, PODS, Resource,
};

/// Namespaces without which nothing works; they cannot be deleted.
const PROTECTED_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Which optional admission steps run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Sets `imagePullPolicy: Always` on every container, so that each start proves access.
    pub always_pull_images: bool,
    /// With `always_pull_images`, also on ephemeral containers that are added to a running pod,
    /// which upstream leaves alone (kubelet-images.md 7.1).
    pub always_pull_images_for_ephemeral_containers: bool,
    /// Warns of pull secrets that no node will use.
    pub pull_secret_warnings: bool,
}

/// What an admission step knows besides the object.
pub struct AdmissionContext<'a> {
    /// Kind written.
    pub resource: &'static Resource,
    /// Subresource written; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The object before the write; absent on create.
    pub old: Option<&'a Value>,
    /// Who writes.
    pub user: &'a User,
    /// Reads what the steps need, through the public handlers.
    pub client: &'a Client,
    /// The switches of this server.
    pub switches: Switches,
}

/// Runs the admission steps on a defaulted object, which they may change; `api` defaults and
/// validates it afterwards.
///
/// # Errors
/// 403 with the upstream text of the step that refuses.
pub async fn admit(context: &AdmissionContext<'_>, object: &mut Value) -> Result<(), ApiError> {
    let is_pod = std::ptr::eq(context.resource, &PODS);
    if is_pod
        && context.subresource == EPHEMERAL_CONTAINERS
        && let Some(old) = context.old
    {
        service_account::admit_ephemeral(context.client, context.namespace, object)?;
        let Switches { always_pull_images, .. } = context.switches;
        if always_pull_images && context.switches.always_pull_images_for_ephemeral_containers {
            always_pull_images::admit_ephemeral(old, object);
        }
    }
    if !context.subresource.is_empty() {
        return Ok(());
    }
    if is_pod {
        if context.old.is_none() {
            pods::priority(object)?;
            service_account::admit(context.client, context.namespace, object).await?;
            pods::tolerations(object);
        }
        if context.switches.always_pull_images {
            always_pull_images::admit(context.old, object)?;
        }
    }
    if std::ptr::eq(context.resource, &PERSISTENT_VOLUME_CLAIMS) && context.old.is_none() {
        default_storage_class(context.client, object)?;
    }
    Ok(())
}

/// Decides whether an object may be deleted (the bootstrap namespaces may not).
///
/// # Errors
/// 403 with the upstream text.
pub fn admit_delete(resource: &Resource, object: &Value) -> Result<(), ApiError> {
    let name = object::name(object);
    if std::ptr::eq(resource, &NAMESPACES) && PROTECTED_NAMESPACES.contains(&name) {
        return Err(ApiError::forbidden(resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// A claim without a class gets the default one; `""` means none on purpose.
fn default_storage_class(client: &Client, claim: &mut Value) -> Result<(), ApiError> {
    if object::at(claim, &["spec", "storageClassName"]).is_some() {
        return Ok(());
    }
    let classes =
        client.list(&crate::resources::STORAGE_CLASSES, "", &crate::api::ListOptions::default())?;
    // Of several defaults the youngest counts, as upstream.
    let default = classes
        .items
        .iter()
        .filter(|class| {
            object::annotation(class, "storageclass.kubernetes.io/is-default-class") == Some("true")
        })
        .max_by_key(|class| object::text(class, &["metadata", "creationTimestamp"]).to_owned());
    if let Some(class) = default {
        object::set(claim, &["spec", "storageClassName"], object::name(class));
    }
    Ok(())
}
