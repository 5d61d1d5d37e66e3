//! The state of an upload in the bucket: what any replica needs to go on with it.
//!
//! The object `uploads/<id>` is a line of JSON, a line feed, and the tail: bytes that were
//! acknowledged and do not make a part yet. It changes by compare-and-swap only, so of two
//! requests that go on from the same state one fails, on whichever replicas they are.

use blob_store::UploadId;
use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use oci_model::{Algorithm, Digest, Hasher};
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, BucketError, Version};

/// Prefix of the states.
pub(super) const UPLOADS: &str = "uploads/";

/// Prefix of the blobs.
pub(super) const BLOBS: &str = "blobs/";

/// An upload as a replica found it, or is about to write it.
pub(super) struct Session {
    pub(super) id: UploadId,
    pub(super) record: Record,
    /// The bytes behind the last part.
    pub(super) tail: Bytes,
    /// What is in the bucket; nothing yet for a new upload.
    version: Option<Version>,
}

/// The line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What binds the upload to its repository and creator.
    pub(super) label: String,
    /// When it began.
    pub(super) started: Timestamp,
    /// When this was written.
    pub(super) used: Timestamp,
    /// Differs with every write: whoever lost an answer knows its own.
    pub(super) write: String,
    /// The hash of the bytes in parts ([`Hasher::save`]).
    pub(super) hasher: String,
    /// The multipart upload, once there is a part.
    #[serde(default)]
    pub(super) attempt: Option<String>,
    #[serde(default)]
    pub(super) parts: Vec<Part>,
    /// Who is adding parts now.
    #[serde(default)]
    pub(super) turn: Option<String>,
    /// What the upload is becoming: from here it can only become that.
    #[serde(default)]
    pub(super) becoming: Option<Becoming>,
}

/// Bytes that the bucket has as a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// What names its content to the bucket.
    pub(super) id: String,
    /// In bytes.
    pub(super) size: u64,
}

/// The blob that an upload in parts is becoming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Becoming {
    /// Its digest.
    pub(super) digest: Digest,
    /// Whether the bytes are known to have this digest. They are not if it is of another kind
    /// than the one computed on the way in; then the object is read once before it counts.
    pub(super) verified: bool,
}

/// Key of an upload's state.
pub(super) fn key(id: UploadId) -> String {
    format!("{UPLOADS}{id}")
}

/// Key of the blob that an upload becomes.
pub(super) fn new_blob_key() -> String {
    format!("{BLOBS}{}", uuid::Uuid::new_v4().simple())
}

/// Key of the blob that an upload becomes.
pub(super) fn blob_key(id: UploadId) -> String {
    format!("{BLOBS}{id}")
}

impl Record {
    /// Bytes in parts.
    pub(super) fn parts_size(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }
}

impl Session {
    /// An upload that begins; nobody else knows of it before [`Session::save`].
    pub(super) fn new(id: UploadId, label: String, algorithm: Algorithm) -> Self {
        let now = Timestamp::now();
        let record = Record {
            label,
            started: now,
            used: now,
            write: String::new(),
            hasher: Hasher::new(algorithm).save(),
            attempt: None,
            parts: Vec::new(),
            turn: None,
            becoming: None,
        };
        Self { id, record, tail: Bytes::new(), version: None }
    }

    /// The upload as it is now, if there is one.
    pub(super) async fn load(bucket: &Bucket, id: UploadId) -> Result<Option<Self>, BucketError> {
        let key = key(id);
        let (bytes, version) = match bucket.get(&key).await {
            Ok(found) => found,
            Err(BucketError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let Ok(record) = serde_json::from_slice(&bytes[..end]) else {
            // Nothing can be done with it; it expires.
            tracing::error!(key, "the state of an upload is damaged");
            return Ok(None);
        };
        let tail = bytes.slice((end + 1).min(bytes.len())..);
        Ok(Some(Self { id, record, tail, version: Some(version) }))
    }

    /// Bytes that were acknowledged.
    pub(super) fn size(&self) -> u64 {
        self.record.parts_size() + self.tail.len() as u64
    }

    /// Whether the bucket knows the upload.
    pub(super) const fn is_saved(&self) -> bool {
        self.version.is_some()
    }

    /// Whether `other` is the same state.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.record.write == other.record.write
    }

    /// Writes the state, if nobody wrote one since it was loaded.
    ///
    /// # Errors
    /// [`BucketError::Changed`] if somebody did.
    pub(super) async fn save(&mut self, bucket: &Bucket) -> Result<(), BucketError> {
        self.record.used = Timestamp::now();
        self.record.write = uuid::Uuid::new_v4().simple().to_string();
        let key = key(self.id);
        // A struct of numbers and texts cannot fail to become JSON.
        let line = serde_json::to_vec(&self.record).unwrap_or_default();
        let mut bytes = BytesMut::with_capacity(line.len() + 1 + self.tail.len());
        bytes.put_slice(&line);
        bytes.put_u8(b'\n');
        bytes.put_slice(&self.tail);
        let bytes = bytes.freeze();
        let written = match &self.version {
            None => bucket.create(&key, bytes).await,
            Some(seen) => bucket.replace(&key, seen, bytes).await,
        };
        let version = match written {
            Ok(version) => version,
            Err(BucketError::Changed { .. } | BucketError::Exists { .. }) => {
                // Perhaps it was this very write, whose answer got lost.
                match Self::load(bucket, self.id).await? {
                    Some(found) if found.is_as(self) => {
                        found.version.ok_or(BucketError::Changed { key })?
                    }
                    Some(_) | None => return Err(BucketError::Changed { key }),
                }
            }
            Err(error) => return Err(error),
        };
        self.version = Some(version);
        Ok(())
    }

    /// Removes the state.
    pub(super) async fn remove(&self, bucket: &Bucket) -> Result<(), BucketError> {
        bucket.delete(&key(self.id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas of two versions go on with one another's uploads.
    #[test]
    fn a_record_is_the_documented_one() {
        let text = r#"{"label":"a\nalice","started":"2026-01-02T03:04:05Z",
            "used":"2026-01-02T03:04:06Z","write":"w","hasher":"sha256:00"}"#;
        let record: Record = serde_json::from_str(text).expect("the least that there is");
        assert_eq!((record.parts_size(), record.turn, record.becoming), (0, None, None));
        let text = r#"{"label":"a\nalice","started":"2026-01-02T03:04:05Z",
            "used":"2026-01-02T03:04:06Z","write":"w","hasher":"sha256:00","attempt":"m",
            "parts":[{"id":"\"e\"","size":7}],"turn":"t","later":1}"#;
        let record: Record = serde_json::from_str(text).expect("a field of a later version");
        assert_eq!((record.parts_size(), record.attempt.as_deref()), (7, Some("m")));
    }
}
