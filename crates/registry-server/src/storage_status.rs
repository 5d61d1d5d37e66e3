//! What the store of a registry on local disk holds beside what is needed, and what is wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blob_store::{BlobStore, CollectMode, CollectOptions, Collected};
use oci_model::Digest;
use serde::{Deserialize, Serialize};

use crate::collection::GarbageError;
use crate::options::UPLOAD_IDLE_MAX;

/// Missing blobs that are named; more are only counted.
const MISSING_NAMED_MAX: usize = 1000;

/// Refs that are named when a blob is explained.
const REFS_NAMED_MAX: usize = 100;

/// Space, garbage and damage of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    /// Size of the file system, in bytes.
    pub disk_bytes: u64,
    /// What may still be written to it, in bytes.
    pub free_bytes: u64,
    /// What uploads leave free, in bytes.
    pub reserved_bytes: u64,
    /// Blobs in the store.
    pub blobs: u64,
    /// Blobs that a collection would remove now.
    pub reclaimable_blobs: u64,
    /// Their bytes.
    pub reclaimable_bytes: u64,
    /// Blobs that nothing needs and whose delay is not over.
    pub waiting_blobs: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// The last collection.
    pub last_collection: Option<LastRun>,
    /// When every blob had last been read again, in seconds since 1970.
    pub last_scrub: Option<u64>,
    /// Damaged blobs that are out of sight until somebody pushes them again.
    pub quarantined: Vec<Digest>,
    /// Blobs that something needs and the store does not have, at most a thousand.
    pub missing: Vec<MissingBlob>,
    /// How many blobs are missing.
    pub missing_blobs: u64,
}

/// A collection that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    /// When it began, in seconds since 1970.
    pub at: u64,
    /// Blobs that it removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that stayed.
    pub kept_blobs: u64,
}

/// A blob that is not there, and who needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingBlob {
    /// The blob.
    pub digest: Digest,
    /// Such as `registry/team/app@sha256:…`.
    pub needed_by: String,
}

/// Why a blob stays, or when it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobExplanation {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes; absent if the store does not hold it.
    pub size: Option<u64>,
    /// What needs it, such as `registry/team/app@sha256:…` for a manifest; at most a hundred.
    pub needed_by: Vec<String>,
    /// Whether something that runs now, such as a build or a pull, guards it.
    pub guarded: bool,
    /// Whether damaged bytes of it are in quarantine.
    pub quarantined: bool,
    /// When it was last used, in seconds since 1970.
    pub last_use: Option<u64>,
    /// From when on a collection takes it, in seconds since 1970, if nothing needs it.
    pub goes_after: Option<u64>,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Looks at a store whose unneeded blobs are kept for `delay`. Nothing waits for it.
///
/// # Errors
/// [`GarbageError`]: another collection runs, or the refs cannot be read.
pub fn storage_status(store: &BlobStore, delay: Duration) -> Result<StorageStatus, GarbageError> {
    let options = CollectOptions {
        now: SystemTime::now(),
        delay,
        upload_idle_max: UPLOAD_IDLE_MAX,
        mode: CollectMode::Plan,
    };
    let planned = store.collect(&options, |_, _| {})?;
    let space = store.disk_space().map_err(blob_store::CollectError::from)?;
    let quarantined = store.quarantined().map_err(blob_store::CollectError::from)?;
    let mut missing = Vec::new();
    let missing_blobs = store.for_each_missing(|name, digest| {
        if missing.len() < MISSING_NAMED_MAX {
            missing.push(MissingBlob { digest: *digest, needed_by: name.to_owned() });
        }
    })?;
    let last_collection = store.last_collection().map(|last| {
        let Collected { blobs, bytes, kept_blobs, .. } = last.collected;
        LastRun { at: seconds(last.at), blobs, bytes, kept_blobs }
    });
    Ok(StorageStatus {
        disk_bytes: space.total,
        free_bytes: space.free,
        reserved_bytes: space.reserved,
        blobs: planned.blobs + planned.kept_blobs,
        reclaimable_blobs: planned.blobs,
        reclaimable_bytes: planned.bytes,
        waiting_blobs: planned.waiting_blobs,
        waiting_bytes: planned.waiting_bytes,
        last_collection,
        last_scrub: store.last_scrub().map(seconds),
        quarantined: quarantined
            .into_iter()
            .filter(|blob| !blob.repaired)
            .map(|blob| blob.digest)
            .collect(),
        missing,
        missing_blobs,
    })
}

/// Says why a blob stays, or when it goes in a store whose unneeded blobs are kept for `delay`.
///
/// # Errors
/// [`GarbageError`]: the refs cannot be read.
pub fn explain_blob(
    store: &BlobStore,
    digest: &Digest,
    delay: Duration,
) -> Result<BlobExplanation, GarbageError> {
    let keepers = store.keepers(digest, REFS_NAMED_MAX)?;
    let is_free = keepers.size.is_some() && keepers.refs.is_empty() && !keepers.leased;
    Ok(BlobExplanation {
        digest: *digest,
        size: keepers.size,
        goes_after: keepers
            .last_use
            .filter(|_| is_free)
            .map(|last_use| seconds(last_use + CollectOptions::effective_delay(delay))),
        needed_by: keepers.refs,
        guarded: keepers.leased,
        quarantined: keepers.quarantined,
        last_use: keepers.last_use.map(seconds),
    })
}
