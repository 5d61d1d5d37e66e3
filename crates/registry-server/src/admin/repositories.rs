//! `/v2/_shipway/repositories`: whole repositories.

use serde_json::json;

use super::{AdminCall, absent, reply};
use crate::metadata::{Change, ChangeError, Reply};
use crate::service::Answer;

/// Deletes everything in a repository.
pub(crate) async fn delete(call: &AdminCall<'_>) -> Answer {
    let repository = call.repository()?;
    let change = Change::DeleteRepository(repository.clone());
    match call.service.metadata.submit(change, call.stamp()).await {
        Ok(outcome) => {
            let manifests = if let Reply::Deleted(count) = outcome { count } else { 0 };
            tracing::info!(%repository, user = call.principal.name(), "repository deleted");
            reply(&json!({ "repository": repository.as_str(), "manifests": manifests }))
        }
        Err(ChangeError::Unknown) => Err(absent(repository.as_str())),
        Err(error) => Err(error.into()),
    }
}
