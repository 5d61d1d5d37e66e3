//! `GET /v2/_shipway/notifications`, `POST /v2/_shipway/notifications/replay`.

use serde_json::json;

use super::{AdminCall, reply};
use crate::metadata::{Change, ChangeError, OutboxChange, Stamp};
use crate::operations::notify;
use crate::refusal::Refusal;
use crate::service::Answer;

/// How every receiver is doing, with what it did not take.
pub(crate) fn list(call: &AdminCall<'_>) -> Answer {
    call.require_everything()?;
    let receivers = notify::status(&call.service.operations.receivers, &call.service.metadata)?;
    reply(&json!({ "receivers": receivers }))
}

/// Tries again what a receiver did not take: one event (`sequence`), or all of them.
pub(crate) async fn replay(call: &AdminCall<'_>) -> Answer {
    call.require_everything()?;
    let receiver = call.query.get("receiver").unwrap_or_default().to_owned();
    let sequence = match call.query.get("sequence") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| Refusal::not_found())?),
    };
    let change = Change::Outbox(OutboxChange::Replay { receiver, sequence });
    let stamp = Stamp::now(call.principal.name().to_owned(), String::new());
    match call.service.metadata.submit(change, stamp).await {
        Ok(_) => reply(&json!({})),
        Err(ChangeError::Unknown) => Err(Refusal::not_found()),
        Err(error) => Err(error.into()),
    }
}
