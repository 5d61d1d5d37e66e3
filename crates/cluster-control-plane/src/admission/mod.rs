//! Admission: what the cluster adds to or refuses in a write that is otherwise valid.

use serde_json::Value;

use crate::client::Client;
use crate::error::ApiError;
use crate::identity::User;
use crate::resources::Resource;

/// Which optional admission steps run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Sets `imagePullPolicy: Always` on every container, so that each start proves access.
    pub always_pull_images: bool,
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
    let _ = (context, object);
    Ok(())
}

/// Decides whether an object may be deleted (the bootstrap namespaces may not).
///
/// # Errors
/// 403 with the upstream text.
pub fn admit_delete(resource: &Resource, object: &Value) -> Result<(), ApiError> {
    let _ = (resource, object);
    Ok(())
}
