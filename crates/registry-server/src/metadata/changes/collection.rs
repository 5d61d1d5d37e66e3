//! Collecting blobs in the bucket that nothing needs, in two steps: a tombstone, and after a grace
//! the end of the row. Each step looks again, at its place in the log, whether it is still right:
//! between the look that proposed it and the change anybody may have pushed, mounted or asked for
//! the blob.
//!
//! A blob is needed if a row of `kept` has it (a manifest, in the trash or not, or the cache of
//! another registry), and it may be relied on for a while after it was uploaded, mounted or asked
//! for. What is only linked is not needed: the links go with the tombstone, so that no repository
//! shows what no longer counts.

use std::collections::BTreeSet;

use oci_model::Digest;
use redb::{ReadableTable, StorageError};
use serde::{Deserialize, Serialize};

use super::{ChangeError, Outcome, Reply, Stamp, blob};
use crate::metadata::tables::{BlobRow, BlobState, Tables, decode_kept, upper_bound};

/// Blobs that nothing seemed to need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Collection {
    pub(crate) candidates: Vec<Digest>,
    /// Milliseconds since 1970; who was seen then or later stays.
    pub(crate) seen_before: u64,
}

/// Tombstones whose grace seemed to be over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Burial {
    pub(crate) candidates: Vec<Digest>,
    /// Milliseconds since 1970; younger tombstones stay.
    pub(crate) since_before: u64,
}

/// Makes tombstones of the candidates that are live, unseen and not needed.
pub(super) fn collect(
    collection: &Collection,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let mut candidates: BTreeSet<Digest> = collection.candidates.iter().copied().collect();
    drop_needed(&mut candidates, &*tables.kept)?;
    let mut collected = Vec::new();
    for digest in candidates {
        let Some(row) = blob::row(&digest, tables)? else { continue };
        if row.state != BlobState::Live || row.last_seen >= collection.seen_before {
            continue;
        }
        let row = BlobRow { state: BlobState::Tombstone { since: stamp.at }, ..row };
        blob::put_row(&digest, &row, tables)?;
        let text = digest.to_string();
        let end = upper_bound(&text);
        let holders: Vec<String> = tables
            .holders
            .range((text.as_str(), "")..(end.as_str(), ""))?
            .map(|row| row.map(|(key, _)| key.value().1.to_owned()))
            .collect::<Result<_, _>>()?;
        for name in holders {
            tables.links.remove((name.as_str(), text.as_str()))?;
            tables.holders.remove((text.as_str(), name.as_str()))?;
            outcome.changed.insert(name);
        }
        collected.push((digest, row.size));
    }
    outcome.reply = Reply::Collected(collected);
    Ok(())
}

/// Ends the rows of the candidates that are still tombstones. Nobody can bring them back then, so
/// their objects may go.
pub(super) fn bury(
    burial: &Burial,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let mut keys = Vec::new();
    for digest in &burial.candidates {
        let Some(row) = blob::row(digest, tables)? else { continue };
        if matches!(row.state, BlobState::Tombstone { since } if since < burial.since_before) {
            tables.blobs.remove(digest.to_string().as_str())?;
            keys.push(row.key);
        }
    }
    outcome.reply = Reply::Buried { keys };
    Ok(())
}

/// Leaves the candidates that no row of `kept` has.
pub(in crate::metadata) fn drop_needed(
    candidates: &mut BTreeSet<Digest>,
    kept: &impl ReadableTable<(&'static str, &'static str), &'static str>,
) -> Result<(), StorageError> {
    for row in kept.iter()? {
        if candidates.is_empty() {
            break;
        }
        for digest in decode_kept(row?.1.value()) {
            candidates.remove(&digest);
        }
    }
    Ok(())
}
