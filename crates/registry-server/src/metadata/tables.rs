//! The tables of the database.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format` | `1` |
//! | `meta` | `links` | sequence of the last link of the journal that the database has |
//! | `repositories` | name | seconds since 1970 of the first push |
//! | `manifests` | name, digest | version byte 1, length of the media type (u16, little endian), media type, bytes of the manifest verbatim |
//! | `kept` | name, digest of the manifest | digests of the blobs it needs, separated by spaces; the same as the blob store's ref `registry/<name>@<digest>` |
//! | `uses` | name, digest of a blob or manifest, digest of a manifest that points to it | nothing |
//! | `tags` | name, tag | digest |
//! | `tag_targets` | name, digest, tag | nothing |
//! | `links` | name, digest of a blob | its size in bytes |
//! | `holders` | digest of a blob, name | nothing: `links` the other way round |
//! | `referrers` | name, digest of the subject, digest of the referrer | descriptor of the referrer, JSON |
//! | `cached` | name, digest of a manifest or blob that another registry has | [`CachedRow`] as JSON |
//! | `blobs` | digest of a blob | [`BlobRow`] as JSON; only when blobs are in a bucket: otherwise the blob store knows them |
//! | `events` | sequence number | what happened, JSON |
//! | `receivers` | name of a receiver of notifications | sequence number of the last event that it has |
//! | `dead_letters` | name of a receiver, sequence number | event that it did not take, and why, JSON |
//! | `leases` | name of a task | who does it and until when, JSON |
//! | `policies` | `namespaces` | the namespaces of the configuration as JSON; every change is judged by them |
//! | `usage` | prefix of a namespace | `Usage` as JSON |
//! | `usage_refs` | prefix, digest | how many manifests of the namespace need it, the trash included; its size in bytes |
//! | `reservations` | prefix, id of an upload or digest of a blob | bytes; milliseconds since 1970 when it is given back |
//! | `manifest_times` | name, digest | `ManifestTimes` as JSON; also of manifests in the trash |
//! | `tag_times` | name, tag | `TagTimes` as JSON |
//! | `tag_history` | name, tag, sequence | `TagMove` as JSON |
//! | `trash` | name, digest or tag | `Buried` as JSON |
//! | `trash_manifests` | name, digest | as in `manifests` |

use oci_model::{Digest, Repository};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use super::MetadataError;
use super::rows::tables;

/// What belongs to this database alone and not to the state that replicas share.
pub(crate) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

tables! {
    /// Repositories.
    repositories REPOSITORIES: &'static str => u64;
    /// Manifests.
    manifests MANIFESTS: (&'static str, &'static str) => &'static [u8];
    /// Blobs that a manifest needs.
    kept KEPT: (&'static str, &'static str) => &'static str;
    /// Manifests that point to a blob or manifest.
    uses USES: (&'static str, &'static str, &'static str) => ();
    /// Tags.
    tags TAGS: (&'static str, &'static str) => &'static str;
    /// Tags of a manifest.
    tag_targets TAG_TARGETS: (&'static str, &'static str, &'static str) => ();
    /// Blobs that a repository may show.
    links LINKS: (&'static str, &'static str) => u64;
    /// Repositories that may show a blob.
    holders HOLDERS: (&'static str, &'static str) => ();
    /// Referrers of a subject.
    referrers REFERRERS: (&'static str, &'static str, &'static str) => &'static [u8];
    /// Content of other registries.
    cached CACHED: (&'static str, &'static str) => &'static [u8];
    /// Blobs in the bucket.
    blobs BLOBS: &'static str => &'static [u8];
    /// What happened.
    events EVENTS: u64 => &'static [u8];
    /// Who is told, and how far they are.
    receivers RECEIVERS: &'static str => u64;
    /// What they did not take.
    dead_letters DEAD_LETTERS: (&'static str, u64) => &'static [u8];
    /// Tasks that only one replica may do.
    leases LEASES: &'static str => &'static [u8];
    /// The namespaces of the configuration.
    policies POLICIES: &'static str => &'static [u8];
    /// Counters of a namespace.
    usage USAGE: &'static str => &'static [u8];
    /// What counts in a namespace: manifests that need it, and its size.
    usage_refs USAGE_REFS: (&'static str, &'static str) => (u64, u64);
    /// Room reserved in a namespace: bytes, and until when.
    reservations RESERVATIONS: (&'static str, &'static str) => (u64, u64);
    /// When manifests came and were pulled.
    manifest_times MANIFEST_TIMES: (&'static str, &'static str) => &'static [u8];
    /// When tags were pushed.
    tag_times TAG_TIMES: (&'static str, &'static str) => &'static [u8];
    /// Moves of tags.
    tag_history TAG_HISTORY: (&'static str, &'static str, u64) => &'static [u8];
    /// What can be restored.
    trash TRASH: (&'static str, &'static str) => &'static [u8];
    /// Manifests that can be restored.
    trash_manifests TRASH_MANIFESTS: (&'static str, &'static str) => &'static [u8];
}

/// Version of the tables.
const FORMAT: &str = "1";

/// First byte of a manifest's row.
const MANIFEST_ROW: u8 = 1;

/// A blob in the bucket: one row per digest, whatever repositories show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRow {
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// Key of the object with the bytes. No key is ever used for a second object.
    pub(crate) key: String,
    pub(crate) state: BlobState,
    /// Milliseconds since 1970 of the upload.
    pub(crate) created: u64,
    /// Milliseconds since 1970 when somebody was last told that the blob is there. Coarse: it
    /// moves at most once per lease.
    pub(crate) last_seen: u64,
}

/// Whether a blob may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BlobState {
    /// It stays at least until it was not seen for a while.
    Live,
    /// No repository shows it; the object goes after a grace, unless somebody brings it back.
    Tombstone {
        /// Milliseconds since 1970 of the collection.
        since: u64,
    },
}

impl BlobRow {
    /// The row as it is stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // A struct of numbers and texts cannot fail to become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The row of `digest`.
    pub(crate) fn decode(digest: &str, row: &[u8]) -> Result<Self, MetadataError> {
        serde_json::from_slice(row)
            .map_err(|_| MetadataError::Damaged { table: "blobs", key: digest.to_owned() })
    }
}

/// Content of another registry that is kept here for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedRow {
    pub(crate) kind: CachedKind,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Milliseconds since 1970 of the last use. Coarse: it is written once in a while.
    pub(crate) used: u64,
}

/// What cached content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CachedKind {
    /// A manifest or index.
    Manifest,
    /// A blob.
    Blob,
}

impl CachedRow {
    /// The row as it is stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // A struct of numbers and texts cannot fail to become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The row of `digest`.
    pub(crate) fn decode(digest: &str, row: &[u8]) -> Result<Self, MetadataError> {
        serde_json::from_slice(row)
            .map_err(|_| MetadataError::Damaged { table: "cached", key: digest.to_owned() })
    }
}

/// That a repository may show a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        Some(FORMAT) if all_exist(&database.begin_read()?)? => return Ok(()),
        Some(FORMAT) | None => {}
        Some(other) => {
            return Err(MetadataError::Damaged { table: "meta", key: format!("format {other}") });
        }
    }
    // A table that a later version brought is empty in an older database: that is its beginning.
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert("format", FORMAT)?;
    drop(Tables::open(&transaction)?);
    transaction.commit()?;
    Ok(())
}

/// Up to which sequence the links of the journal are in the database.
pub(crate) fn links_through(database: &redb::Database) -> Result<u64, MetadataError> {
    let meta = database.begin_read()?.open_table(META)?;
    let sequence = meta.get("links")?.map(|links| links.value().parse());
    match sequence {
        None => Ok(0),
        Some(Ok(sequence)) => Ok(sequence),
        Some(Err(_)) => Err(MetadataError::Damaged { table: "meta", key: "links".to_owned() }),
    }
}

/// Writes down that the links of the journal up to `sequence` are in the database.
pub(crate) fn note_links_through(
    transaction: &redb::WriteTransaction,
    sequence: u64,
) -> Result<(), MetadataError> {
    transaction.open_table(META)?.insert("links", sequence.to_string().as_str())?;
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

/// A row that is JSON.
pub(crate) fn write_json(value: &impl Serialize) -> Vec<u8> {
    // Structs of numbers and texts cannot fail to become JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads a row that is JSON.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    table: &'static str,
    key: &str,
    row: &[u8],
) -> Result<T, MetadataError> {
    serde_json::from_slice(row).map_err(|_| MetadataError::Damaged { table, key: key.to_owned() })
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
