//! Blobs: which repository may show which, and, when they are in a bucket, where they are.
//!
//! With blobs on local disk there are only links; the blob store knows the rest. In a bucket a
//! link implies a row in `blobs` that is live: linking brings a tombstone back, and whoever makes
//! a tombstone removes the links in the same change.

use oci_model::{Digest, Repository};
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::{ChangeError, Outcome, Reply, Stamp};
use crate::metadata::tables::{BlobRow, BlobState, StoredLink, Tables, upper_bound};

/// A blob that was uploaded to the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddBlob {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// Key of the object.
    pub(crate) key: String,
}

/// Lets the repository show the blob.
pub(super) fn link(link: &StoredLink, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    insert_link(&link.repository, &link.digest, link.size, tables)
}

/// Takes the blob out of the repository, unless one of its manifests points to it.
pub(super) fn delete(
    repository: &Repository,
    digest: &Digest,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let (name, digest) = (repository.as_str(), digest.to_string());
    let end = upper_bound(&digest);
    let user = tables
        .uses
        .range((name, digest.as_str(), "")..(name, end.as_str(), ""))?
        .next()
        .transpose()?
        .map(|(key, _)| key.value().2.to_owned());
    if let Some(user) = user {
        return Err(ChangeError::InUse(user));
    }
    if tables.links.remove((name, digest.as_str()))?.is_none() {
        return Err(ChangeError::Unknown);
    }
    tables.holders.remove((digest.as_str(), name))?;
    outcome.changed.insert(name.to_owned());
    Ok(())
}

/// Stores where the blob is, unless that is known, and lets the repository show it.
pub(super) fn add(
    blob: &AddBlob,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let row = match row(&blob.digest, tables)? {
        Some(mut row) => {
            if row.key != blob.key {
                outcome.reply = Reply::Duplicate { key: row.key.clone() };
            }
            row.state = BlobState::Live;
            row.last_seen = row.last_seen.max(stamp.at);
            row
        }
        None => BlobRow {
            size: blob.size,
            key: blob.key.clone(),
            state: BlobState::Live,
            created: stamp.at,
            last_seen: stamp.at,
        },
    };
    put_row(&blob.digest, &row, tables)?;
    insert_link(&blob.repository, &blob.digest, row.size, tables)
}

/// Lets the repository show a blob that the bucket has, live or not.
pub(super) fn mount(
    repository: &Repository,
    digest: &Digest,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let Some(mut row) = row(digest, tables)? else { return Err(ChangeError::Missing(*digest)) };
    row.state = BlobState::Live;
    row.last_seen = row.last_seen.max(stamp.at);
    put_row(digest, &row, tables)?;
    insert_link(repository, digest, row.size, tables)
}

/// Renews the time for which the blob stays whatever happens.
pub(super) fn see(
    digest: &Digest,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    match row(digest, tables)? {
        Some(mut row) if row.state == BlobState::Live => {
            row.last_seen = row.last_seen.max(stamp.at);
            put_row(digest, &row, tables)
        }
        Some(_) | None => Err(ChangeError::Missing(*digest)),
    }
}

/// The row of a blob in the bucket.
pub(super) fn row(digest: &Digest, tables: &Tables<'_>) -> Result<Option<BlobRow>, ChangeError> {
    let digest = digest.to_string();
    let Some(row) = tables.blobs.get(digest.as_str())? else { return Ok(None) };
    Ok(Some(BlobRow::decode(&digest, row.value())?))
}

/// Writes the row of a blob in the bucket.
pub(super) fn put_row(
    digest: &Digest,
    row: &BlobRow,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    tables.blobs.insert(digest.to_string().as_str(), row.encode().as_slice())?;
    Ok(())
}

fn insert_link(
    repository: &Repository,
    digest: &Digest,
    size: u64,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let (name, digest) = (repository.as_str(), digest.to_string());
    tables.links.insert((name, digest.as_str()), size)?;
    tables.holders.insert((digest.as_str(), name), ())?;
    Ok(())
}
