//! `GET /v2/_shipway/storage` and `GET /v2/_shipway/storage/blob`.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::{AdminCall, reply};
use crate::collection::GarbageError;
use crate::options::COLLECTION_DELAY;
use crate::refusal::Refusal;
use crate::route;
use crate::service::{Answer, blocking};
use crate::storage_status::{explain_blob, storage_status};

/// Space, garbage and damage, and what was done since the start.
pub(crate) async fn status(call: &AdminCall<'_>) -> Answer {
    call.require_everything()?;
    let store = call.service.store.clone();
    let delay = call.service.collection_delay.unwrap_or(COLLECTION_DELAY);
    let status = blocking(move || storage_status(&store, delay)).await?.map_err(refusal)?;
    let counters = &call.service.upkeep;
    reply(&json!({
        "status": status,
        "sinceStart": {
            "collections": counters.collections.load(Ordering::Relaxed),
            "collectedBlobs": counters.collected_blobs.load(Ordering::Relaxed),
            "collectedBytes": counters.collected_bytes.load(Ordering::Relaxed),
            "scrubbedBytes": counters.scrubbed_bytes.load(Ordering::Relaxed),
            "damagedBlobs": counters.damaged_blobs.load(Ordering::Relaxed),
        },
    }))
}

/// Why the blob of the query stays, or when it goes.
pub(crate) async fn explain(call: &AdminCall<'_>) -> Answer {
    call.require_everything()?;
    let digest = route::digest(call.query.get("digest").unwrap_or_default())?;
    let store = call.service.store.clone();
    let delay = call.service.collection_delay.unwrap_or(COLLECTION_DELAY);
    let found = blocking(move || explain_blob(&store, &digest, delay)).await?.map_err(refusal)?;
    reply(&found)
}

fn refusal(error: GarbageError) -> Refusal {
    match error {
        GarbageError::Collect(blob_store::CollectError::Running { .. }) => {
            Refusal::unavailable("a collection is running")
        }
        error => Refusal::internal(&error),
    }
}
