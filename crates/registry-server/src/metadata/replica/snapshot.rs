//! All tables at one sequence: the object `snapshots/<sequence>`.
//!
//! | part | content |
//! |---|---|
//! | head | `shipway metadata 1\n` |
//! | rows | zstd: for each row the lengths of table, key and value (u32, little endian), then these three |
//! | tail | SHA-256 of all that comes before it, 32 bytes |

use std::io::{Read, Write};

use bytes::Bytes;
use oci_model::Digest;
use redb::ReadTransaction;

use crate::metadata::MetadataError;
use crate::metadata::tables::{self, Tables};

/// Prefix of snapshots.
pub(super) const SNAPSHOTS: &str = "snapshots/";

const HEAD: &[u8] = b"shipway metadata 1\n";
const TAIL_BYTES: usize = 32;

/// Fast: a snapshot is mostly JSON, which shrinks by any means.
const LEVEL: i32 = 1;

/// Longest table name, key or value, in bytes: a manifest with room to spare.
const PIECE_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The key of a snapshot.
pub(super) fn key(sequence: u64) -> String {
    format!("{SNAPSHOTS}{sequence:020}")
}

/// Writes the tables that a transaction sees.
pub(in crate::metadata) fn encode(transaction: &ReadTransaction) -> Result<Bytes, MetadataError> {
    let mut encoder = zstd::stream::write::Encoder::new(HEAD.to_vec(), LEVEL).map_err(failed)?;
    tables::each_row::<MetadataError>(transaction, |table, key, value| {
        let pieces = [table.as_bytes(), key, value];
        for piece in pieces {
            let length =
                u32::try_from(piece.len()).ok().filter(|length| *length <= PIECE_BYTES_MAX);
            let length = length.ok_or_else(|| failed(std::io::Error::other("row is too long")))?;
            encoder.write_all(&length.to_le_bytes()).map_err(failed)?;
        }
        for piece in pieces {
            encoder.write_all(piece).map_err(failed)?;
        }
        Ok(())
    })?;
    let mut bytes = encoder.finish().map_err(failed)?;
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(digest.raw());
    Ok(bytes.into())
}

/// Fills empty tables.
pub(in crate::metadata) fn load(
    bytes: &[u8],
    tables: &mut Tables<'_>,
) -> Result<(), MetadataError> {
    let (content, tail) = bytes.split_at(bytes.len().saturating_sub(TAIL_BYTES));
    let rows = content.strip_prefix(HEAD);
    // The check comes first: rows are taken for what the database itself once wrote.
    let Some(rows) = rows.filter(|_| Digest::of(content).raw() == tail) else {
        return Err(failed(std::io::Error::other("snapshot is damaged or of another version")));
    };
    let mut decoder = zstd::stream::read::Decoder::new(rows).map_err(failed)?;
    let (mut table, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(first) = length(&mut decoder)? {
        let short = || failed(std::io::ErrorKind::UnexpectedEof.into());
        let second = length(&mut decoder)?.ok_or_else(short)?;
        let third = length(&mut decoder)?.ok_or_else(short)?;
        for (piece, length) in [(&mut table, first), (&mut key, second), (&mut value, third)] {
            piece.resize(length as usize, 0);
            decoder.read_exact(piece).map_err(failed)?;
        }
        let name = String::from_utf8_lossy(&table);
        if !tables.load(&name, &key, &value)? {
            let text = format!("snapshot of a later version: table {name} is not known");
            return Err(failed(std::io::Error::other(text)));
        }
    }
    Ok(())
}

/// The next length, unless the rows are over.
fn length(decoder: &mut impl Read) -> Result<Option<u32>, MetadataError> {
    let mut bytes = [0; 4];
    let mut filled = 0;
    while filled < bytes.len() {
        match decoder.read(&mut bytes[filled..]).map_err(failed)? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            more => filled += more,
        }
    }
    let length = u32::from_le_bytes(bytes);
    if length > PIECE_BYTES_MAX {
        return Err(failed(std::io::Error::other("row of a snapshot is too long")));
    }
    Ok(Some(length))
}

fn failed(source: std::io::Error) -> MetadataError {
    MetadataError::File { path: SNAPSHOTS.into(), source }
}
