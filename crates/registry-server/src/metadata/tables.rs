//! The tables of the database.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format` | `1` |
//! | `repositories` | name | seconds since 1970 of the first push |
//! | `manifests` | name, digest | version byte 1, length of the media type (u16, little endian), media type, bytes of the manifest verbatim |
//! | `kept` | name, digest of the manifest | digests of the blobs it needs, separated by spaces; the same as the blob store's ref `registry/<name>@<digest>` |
//! | `uses` | name, digest of a blob or manifest, digest of a manifest that points to it | nothing |
//! | `tags` | name, tag | digest |
//! | `tag_targets` | name, digest, tag | nothing |
//! | `links` | name, digest of a blob | its size in bytes |
//! | `holders` | digest of a blob, name | nothing: `links` the other way round |
//! | `referrers` | name, digest of the subject, digest of the referrer | descriptor of the referrer, JSON |

use oci_model::{Digest, Repository};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::MetadataError;

pub(crate) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
pub(crate) const REPOSITORIES: TableDefinition<'_, &str, u64> =
    TableDefinition::new("repositories");
pub(crate) const MANIFESTS: TableDefinition<'_, (&str, &str), &[u8]> =
    TableDefinition::new("manifests");
pub(crate) const KEPT: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("kept");
pub(crate) const USES: TableDefinition<'_, (&str, &str, &str), ()> = TableDefinition::new("uses");
pub(crate) const TAGS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("tags");
pub(crate) const TAG_TARGETS: TableDefinition<'_, (&str, &str, &str), ()> =
    TableDefinition::new("tag_targets");
pub(crate) const LINKS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("links");
pub(crate) const HOLDERS: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("holders");
pub(crate) const REFERRERS: TableDefinition<'_, (&str, &str, &str), &[u8]> =
    TableDefinition::new("referrers");

/// Version of the tables.
const FORMAT: &str = "1";

/// First byte of a manifest's row.
const MANIFEST_ROW: u8 = 1;

/// That a repository may show a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredLink {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Makes every table exist, so that readers need not ask.
pub(crate) fn prepare(database: &redb::Database) -> Result<(), MetadataError> {
    let known = {
        let transaction = database.begin_read()?;
        match transaction.open_table(META) {
            Ok(meta) => meta.get("format")?.map(|format| format.value().to_owned()),
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        }
    };
    match known.as_deref() {
        Some(FORMAT) => return Ok(()),
        Some(other) => {
            return Err(MetadataError::Damaged { table: "meta", key: format!("format {other}") });
        }
        None => {}
    }
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.open_table(REPOSITORIES)?;
    transaction.open_table(MANIFESTS)?;
    transaction.open_table(KEPT)?;
    transaction.open_table(USES)?;
    transaction.open_table(TAGS)?;
    transaction.open_table(TAG_TARGETS)?;
    transaction.open_table(LINKS)?;
    transaction.open_table(HOLDERS)?;
    transaction.open_table(REFERRERS)?;
    transaction.commit()?;
    Ok(())
}

/// Name and digests of every ref that the blob store must have.
pub(crate) fn kept(database: &redb::Database) -> Result<Vec<(String, Vec<Digest>)>, MetadataError> {
    let table = database.begin_read()?.open_table(KEPT)?;
    let mut refs = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let (repository, manifest) = key.value();
        refs.push((ref_name(repository, manifest), decode_kept(value.value())));
    }
    Ok(refs)
}

/// Name of a manifest's ref, after `registry/`.
pub(crate) fn ref_name(repository: &str, manifest: &str) -> String {
    format!("{repository}@{manifest}")
}

pub(crate) fn encode_kept(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(crate) fn decode_kept(text: &str) -> Vec<Digest> {
    text.split_ascii_whitespace().filter_map(|digest| digest.parse().ok()).collect()
}

/// The row of a manifest. The media type is shorter than a header line, so its length fits.
pub(crate) fn encode_manifest(media_type: &str, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(media_type.len()).unwrap_or(u16::MAX);
    let mut row = Vec::with_capacity(3 + media_type.len() + bytes.len());
    row.push(MANIFEST_ROW);
    row.extend_from_slice(&length.to_le_bytes());
    row.extend_from_slice(media_type.as_bytes());
    row.extend_from_slice(bytes);
    row
}

/// Media type and bytes of a manifest's row.
pub(crate) fn decode_manifest(row: &[u8]) -> Option<(&str, &[u8])> {
    let (version, row) = row.split_first()?;
    let (length, row) = row.split_first_chunk::<2>()?;
    let (media_type, bytes) = row.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    if *version != MANIFEST_ROW {
        return None;
    }
    Some((std::str::from_utf8(media_type).ok()?, bytes))
}

/// The least text that is greater than `text`.
pub(crate) fn upper_bound(text: &str) -> String {
    format!("{text}\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_row_is_the_documented_one() {
        let row = encode_manifest("a/b", b"{}");
        assert_eq!(row, b"\x01\x03\x00a/b{}");
        assert_eq!(decode_manifest(&row), Some(("a/b", b"{}".as_slice())));
        for bad in [&row[..0], &row[..2], &row[..5], b"\x02\x00\x00"] {
            assert_eq!(decode_manifest(bad), None);
        }
    }
}
