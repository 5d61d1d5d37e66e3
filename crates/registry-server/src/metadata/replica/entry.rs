//! An entry of the log: the object `log/<sequence>`, one batch of changes.
//!
//! It is JSON, `{"format":1,"writer":…,"nonce":…,"changes":[{"stamp":…,"change":…},…]}`, so that
//! people can read what happened and versions can differ by a field. Sequences begin at 1, have
//! twenty digits and no holes: an entry is written only after the one before it was read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::metadata::changes::{Change, Stamp};

/// Version of entries. A version that this program does not know ends the replica: it could only
/// guess what the others have done.
const FORMAT: u32 = 1;

/// Prefix of the log.
pub(super) const LOG: &str = "log/";

/// A batch that somebody wrote.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    format: u32,
    writer: String,
    nonce: u64,
    pub(super) changes: Vec<Stamped>,
}

/// A change with its stamp.
#[derive(Debug, Deserialize)]
pub(super) struct Stamped {
    pub(super) stamp: Stamp,
    pub(super) change: Change,
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    writer: &'a str,
    nonce: u64,
    changes: Vec<WrittenChange<'a>>,
}

#[derive(Serialize)]
struct WrittenChange<'a> {
    stamp: &'a Stamp,
    change: &'a Change,
}

/// The key of an entry.
pub(super) fn key(sequence: u64) -> String {
    format!("{LOG}{sequence:020}")
}

/// The sequence of a key below `prefix`, if it is one.
pub(super) fn sequence(prefix: &str, key: &str) -> Option<u64> {
    let digits = key.strip_prefix(prefix)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Writes an entry. Writer and nonce say afterwards whose it is.
pub(super) fn encode<'a>(
    writer: &str,
    nonce: u64,
    changes: impl Iterator<Item = (&'a Change, &'a Stamp)>,
) -> Result<Bytes, serde_json::Error> {
    let changes = changes.map(|(change, stamp)| WrittenChange { stamp, change }).collect();
    Ok(serde_json::to_vec(&Written { format: FORMAT, writer, nonce, changes })?.into())
}

impl Entry {
    /// Reads an entry.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let entry: Self = serde_json::from_slice(bytes)?;
        if entry.format == FORMAT {
            Ok(entry)
        } else {
            Err(serde::de::Error::custom(format!("format {} is not known", entry.format)))
        }
    }

    /// Whether it is this batch of this writer.
    pub(super) fn is(&self, writer: &str, nonce: u64) -> bool {
        self.writer == writer && self.nonce == nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_the_documented_text_and_knows_its_writer() {
        let change = Change::Tidy(Vec::new());
        let stamp = Stamp { at: 7, by: "ann".to_owned(), request: "r1".to_owned() };
        let bytes = encode("w", 9, std::iter::once((&change, &stamp))).expect("JSON");
        let text = r#"{"format":1,"writer":"w","nonce":9,"changes":[{"stamp":{"at":7,"by":"ann","request":"r1"},"change":{"tidy":[]}}]}"#;
        assert_eq!(bytes, text);
        let entry = Entry::decode(&bytes).expect("an entry");
        assert!(entry.is("w", 9) && !entry.is("w", 8) && !entry.is("v", 9));
        assert_eq!((&entry.changes[0].change, &entry.changes[0].stamp), (&change, &stamp));
        for newer in [text.replace(":1,", ":2,"), text.replace("tidy", "unheard_of")] {
            Entry::decode(newer.as_bytes()).expect_err("an entry of a later version");
        }
    }

    #[test]
    fn keys_sort_as_sequences_do() {
        assert_eq!(key(7), "log/00000000000000000007");
        assert_eq!(sequence(LOG, &key(u64::MAX)), Some(u64::MAX));
        for other in ["log/7", "log/0000000000000000000x", "lag/00000000000000000007"] {
            assert_eq!(sequence(LOG, other), None);
        }
    }
}
