//! `/v2/_shipway/storage`: its state, why a blob stays, and the metadata for a backup.

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

/// Writes all tables of this moment to a file beside the database, for a backup on this machine;
/// whoever asked reads and removes it.
pub(crate) async fn snapshot(call: &AdminCall<'_>) -> Answer {
    call.require_everything()?;
    let metadata = call.service.metadata.clone();
    let directory = call.service.directory.clone();
    let name = format!("snapshot-{}", uuid::Uuid::new_v4().simple());
    let file = name.clone();
    blocking(move || -> Result<(), Refusal> {
        let bytes = metadata.snapshot()?;
        write_private(&directory.join(file), &bytes).map_err(|error| Refusal::internal(&error))
    })
    .await??;
    tracing::info!(name, "metadata written for a backup");
    reply(&json!({ "file": name }))
}

fn write_private(path: &std::path::Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

fn refusal(error: GarbageError) -> Refusal {
    match error {
        GarbageError::Collect(blob_store::CollectError::Running { .. }) => {
            Refusal::unavailable("a collection is running")
        }
        error => Refusal::internal(&error),
    }
}
