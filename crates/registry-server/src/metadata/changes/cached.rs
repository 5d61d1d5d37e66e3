//! Content of other registries that is kept here for a while (origin: the proxy, not a push).
//!
//! It belongs to repositories like any other content, but nothing of a push holds for it: a
//! manifest may come before what it points to, it counts towards no quota, and it goes when it was
//! not used for long. What keeps a cached blob is a row of its own in `kept`, under its own digest.

use oci_model::{Digest, Repository};
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::blob::AddBlob;
use super::{ChangeError, Effect, NewManifest, Outcome, Stamp, blob, manifest, repository};
use crate::metadata::tables::{CachedKind, CachedRow, StoredLink, Tables, encode_kept, ref_name};

/// A blob of another registry, whose bytes are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedBlob {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// Key of its object, if blobs are in a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

/// That cached content was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedUse {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
}

/// Cached content that is to go, unless it was used later than whoever says so knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uncached {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    /// The last use that is known, in milliseconds since 1970.
    pub(crate) used: u64,
}

/// Stores the manifest and moves its tags to it, whether what it points to is here or not.
pub(super) fn put_manifest(
    new: &NewManifest,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let alone = NewManifest { children: Vec::new(), expected: None, cached: true, ..new.clone() };
    manifest::put(&alone, stamp, tables, outcome)?;
    let row =
        CachedRow { kind: CachedKind::Manifest, size: new.bytes.len() as u64, used: stamp.at };
    put_row(&new.repository, &new.digest, row, tables)
}

/// Lets the repository show the blob and keeps it.
pub(super) fn put_blob(
    cached: &CachedBlob,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let CachedBlob { repository, digest, size, key } = cached.clone();
    let (name, text) = (repository.as_str(), digest.to_string());
    match key {
        Some(key) => {
            let added = AddBlob { repository: repository.clone(), digest, size, key };
            blob::add(&added, stamp, tables, outcome)?;
        }
        None => {
            blob::link(&StoredLink { repository: repository.clone(), digest, size }, tables)?;
            outcome.effects.push(Effect::Keep(ref_name(name, &text), vec![digest]));
        }
    }
    // Also in a bucket: its collection asks this table what is needed.
    tables.kept.insert((name, text.as_str()), encode_kept(&[digest]).as_str())?;
    repository::know(name, repository::Origin::Elsewhere, stamp, tables)?;
    outcome.changed.insert(name.to_owned());
    let row = CachedRow { kind: CachedKind::Blob, size, used: stamp.at };
    put_row(&repository, &digest, row, tables)
}

/// Notes later uses of what is still cached.
pub(super) fn note(uses: &[CachedUse], tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    for CachedUse { repository, digest, at } in uses {
        if let Some(row) = row(repository, digest, tables)? {
            let row = CachedRow { used: *at, ..row };
            put_row(repository, digest, row, tables)?;
        }
    }
    Ok(())
}

/// Forgets cached content.
pub(super) fn forget(
    all: &[Uncached],
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    for Uncached { repository, digest, used } in all {
        let Some(row) = row(repository, digest, tables)? else { continue };
        if *used < row.used {
            // It was used, or came again, since somebody decided that it goes.
            continue;
        }
        let (name, text) = (repository.as_str(), digest.to_string());
        match row.kind {
            CachedKind::Manifest => {
                match manifest::delete(repository, digest, stamp, tables, outcome) {
                    Ok(()) | Err(ChangeError::Unknown) => {}
                    // A rule keeps its tag, so it stays until the rule goes.
                    Err(ChangeError::Immutable { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            CachedKind::Blob => {
                if tables.links.remove((name, text.as_str()))?.is_some() {
                    tables.holders.remove((text.as_str(), name))?;
                }
                if tables.kept.remove((name, text.as_str()))?.is_some() {
                    let release = Effect::Release(ref_name(name, &text), vec![*digest]);
                    outcome.effects.push(release);
                }
                outcome.changed.insert(name.to_owned());
            }
        }
        tables.cached.remove((name, text.as_str()))?;
    }
    Ok(())
}

fn row(
    repository: &Repository,
    digest: &Digest,
    tables: &Tables<'_>,
) -> Result<Option<CachedRow>, ChangeError> {
    let digest = digest.to_string();
    let Some(row) = tables.cached.get((repository.as_str(), digest.as_str()))? else {
        return Ok(None);
    };
    Ok(Some(CachedRow::decode(&digest, row.value())?))
}

fn put_row(
    repository: &Repository,
    digest: &Digest,
    new: CachedRow,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let former = row(repository, digest, tables)?.map_or(0, |row| row.used);
    let row = CachedRow { used: new.used.max(former), ..new };
    let key = (repository.as_str(), digest.to_string());
    tables.cached.insert((key.0, key.1.as_str()), row.encode().as_slice())?;
    Ok(())
}
