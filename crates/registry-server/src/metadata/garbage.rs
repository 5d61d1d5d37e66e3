//! Which blobs in the bucket a collection should look at.

use std::collections::BTreeSet;

use oci_model::Digest;
use redb::{ReadableDatabase as _, ReadableTable as _};

use super::changes::drop_needed;
use super::tables::{BLOBS, BlobRow, BlobState, KEPT};
use super::{Metadata, MetadataError};

/// Blobs that a collection may be right about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Garbage {
    /// Live, not seen and not needed.
    pub(crate) unseen: Vec<Digest>,
    /// Tombstones that are old enough.
    pub(crate) tombstones: Vec<Digest>,
}

impl Metadata {
    /// Looks through all blobs for those that were not seen since `seen_before` and that nothing
    /// needs, and for tombstones older than `since_before` (milliseconds since 1970). Takes time
    /// in proportion to what the registry holds.
    pub(crate) fn garbage(
        &self,
        seen_before: u64,
        since_before: u64,
    ) -> Result<Garbage, MetadataError> {
        let transaction = self.shared.database.begin_read()?;
        let (mut unseen, mut tombstones) = (BTreeSet::new(), Vec::new());
        for row in transaction.open_table(BLOBS)?.iter()? {
            let (digest, row) = row?;
            let row = BlobRow::decode(digest.value(), row.value())?;
            let damaged =
                |_| MetadataError::Damaged { table: "blobs", key: digest.value().to_owned() };
            let parsed = digest.value().parse::<Digest>().map_err(damaged)?;
            match row.state {
                BlobState::Live if row.last_seen < seen_before => drop(unseen.insert(parsed)),
                BlobState::Tombstone { since } if since < since_before => tombstones.push(parsed),
                BlobState::Live | BlobState::Tombstone { .. } => {}
            }
        }
        drop_needed(&mut unseen, &transaction.open_table(KEPT)?)?;
        Ok(Garbage { unseen: unseen.into_iter().collect(), tombstones })
    }
}
