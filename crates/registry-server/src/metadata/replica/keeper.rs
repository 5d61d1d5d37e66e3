//! Writing snapshots and removing what is behind them.

use std::sync::Arc;
use std::time::SystemTime;

use redb::ReadTransaction;

use super::entry::{self, LOG};
use super::objects::{Listed, Objects, Put};
use super::snapshot::{self, SNAPSHOTS};
use super::{Pace, ReplicaError};
use crate::metadata::MetadataError;

/// Objects removed after one snapshot; the next one goes on.
const REMOVED_MAX: usize = 4000;

/// Writes a snapshot of the tables at `sequence`, unless somebody wrote one that is almost as new,
/// then removes what no replica needs.
pub(super) async fn run(
    objects: Arc<dyn Objects>,
    pace: Pace,
    sequence: u64,
    transaction: ReadTransaction,
) {
    match keep(&*objects, pace, sequence, transaction).await {
        Ok(()) => {}
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            sequence,
            "no snapshot of the metadata was written"
        ),
    }
}

async fn keep(
    objects: &dyn Objects,
    pace: Pace,
    sequence: u64,
    transaction: ReadTransaction,
) -> Result<(), MetadataError> {
    let newest = list(objects).await?.last().map_or(0, |(sequence, _)| *sequence);
    if newest + pace.snapshot_entries / 2 >= sequence {
        return Ok(());
    }
    let encoded = tokio::task::spawn_blocking(move || snapshot::encode(&transaction)).await;
    let bytes = encoded.unwrap_or(Err(ReplicaError::NoSnapshot.into()))?;
    let size = bytes.len();
    match objects.create(&snapshot::key(sequence), bytes).await.map_err(ReplicaError::from)? {
        Put::Done(_) => tracing::info!(sequence, bytes = size, "snapshot of the metadata written"),
        Put::Refused => return Ok(()),
    }
    trim(objects, pace).await
}

/// The snapshots by sequence, oldest first.
pub(super) async fn list(objects: &dyn Objects) -> Result<Vec<(u64, SystemTime)>, ReplicaError> {
    let mut found = sequences(SNAPSHOTS, objects.list(SNAPSHOTS).await?);
    found.sort_unstable();
    Ok(found)
}

/// Removes the log and the snapshots before the newest snapshot that is older than the lag. Its
/// own entry stays: whoever stands on it sees that nothing behind it is gone.
async fn trim(objects: &dyn Objects, pace: Pace) -> Result<(), MetadataError> {
    let snapshots = list(objects).await?;
    let Some((_, newest)) = snapshots.last() else { return Ok(()) };
    // By the clock of the bucket alone.
    let is_old =
        |modified: &SystemTime| newest.duration_since(*modified).is_ok_and(|age| age >= pace.lag);
    let old = snapshots.iter().rev().skip(1).find(|(_, modified)| is_old(modified));
    let Some((kept, _)) = old else { return Ok(()) };
    let mut entries: Vec<u64> =
        sequences(LOG, objects.list(LOG).await.map_err(ReplicaError::from)?)
            .into_iter()
            .map(|(sequence, _)| sequence)
            .filter(|sequence| sequence < kept)
            .collect();
    entries.sort_unstable();
    // One after the other: see `replica`, "The old end".
    for sequence in entries.into_iter().take(REMOVED_MAX) {
        objects.delete(&entry::key(sequence)).await.map_err(ReplicaError::from)?;
    }
    for (sequence, _) in snapshots.iter().take_while(|(sequence, _)| sequence < kept) {
        objects.delete(&snapshot::key(*sequence)).await.map_err(ReplicaError::from)?;
    }
    Ok(())
}

fn sequences(prefix: &str, listed: Vec<Listed>) -> Vec<(u64, SystemTime)> {
    listed
        .into_iter()
        .filter_map(|object| Some((entry::sequence(prefix, &object.key)?, object.modified)))
        .collect()
}
