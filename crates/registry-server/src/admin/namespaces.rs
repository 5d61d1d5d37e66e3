//! `GET /v2/_shipway/namespaces`.

use serde_json::json;

use super::{AdminCall, reply};
use crate::service::Answer;

/// The namespaces that the caller administers.
pub(crate) fn list(call: &AdminCall<'_>) -> Answer {
    let policies = call.service.metadata.policies()?.unwrap_or_default();
    let mine: Vec<_> = policies
        .configured()
        .iter()
        .filter(|namespace| call.administers(&namespace.prefix))
        .map(AsRef::as_ref)
        .collect();
    reply(&json!({ "namespaces": mine }))
}
