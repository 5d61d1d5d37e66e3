//! The bytes of blobs: where they are, how they come in and how they go out.
//!
//! There are two kinds. On local disk the [`BlobStore`] has them (`local`). In a bucket every
//! replica has the same ones:
//!
//! | object | what | written |
//! |---|---|---|
//! | `blobs/<id>` | the bytes of one blob; `<id>` is that of its upload | once: in one piece with put-if-absent, or in parts |
//! | `uploads/<id>` | how far an upload is ([`session`]): a line of JSON, and the bytes that do not make a part yet | created with put-if-absent, replaced by compare-and-swap, removed after the blob is known |
//!
//! Which digest is in which object is metadata (`blobs` there), so a finished blob is never
//! copied, and of two uploads of one digest the second removes its own object.
//!
//! | file | job |
//! |---|---|
//! | `options` | which bucket, and who reads from it directly |
//! | `bucket` | objects: get, create, replace, parts, presigned URLs; retries |
//! | `local` | an upload on local disk |
//! | `session` | the state of an upload in the bucket |
//! | `writer` | bytes on their way into a bucket: parts, hash, turns |
//! | `remote` | uploads in a bucket: begin, go on, finish, cancel |
//! | `download` | bytes on their way out of a bucket |
//! | `expiry` | uploads that nobody goes on with |

pub(crate) mod bucket;
mod collection;
mod download;
mod expiry;
mod local;
mod options;
mod remote;
mod session;
mod writer;

use blob_store::{BlobStore, UploadId, UploadStatus};
use oci_model::{Algorithm, Digest};
use tokio::sync::OwnedMutexGuard;

pub use self::bucket::BucketOptionsError;
pub(crate) use self::bucket::{Bucket, BucketError};
pub(crate) use self::download::Stretch;
pub(crate) use self::expiry::expire_at_intervals;
pub use self::options::{
    BucketOptions, Network, NetworkError, REDIRECT_LIFETIME, RedirectOptions, UploadExpiry,
};
pub(crate) use self::remote::BucketBytes;
use crate::body::RequestBody;
use crate::refusal::Refusal;
use crate::service::blocking;
use crate::uploads::{self, Chunk};

/// Where the bytes of blobs are.
pub(crate) enum BlobBytes {
    /// On local disk.
    Local(BlobStore),
    /// In a bucket that other replicas may use as well.
    Bucket(BucketBytes),
}

/// What happens to an upload after its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// It waits for more.
    Keep,
    /// It becomes this blob.
    Commit(Digest),
}

/// The upload of a request.
pub(crate) enum Source {
    /// One that begins and ends with this request.
    New {
        /// What binds it to its repository and creator.
        label: String,
        /// How the blob is to be called.
        algorithm: Algorithm,
    },
    /// One that goes on.
    Known {
        /// Its name.
        id: UploadId,
        /// Whose it must be.
        label: String,
        /// What the request says about the place of its bytes.
        chunk: Chunk,
        /// Keeps other requests of this process away.
        turn: OwnedMutexGuard<()>,
    },
}

/// What an upload has after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// In bytes.
    pub(crate) size: u64,
    /// Where the blob is in the bucket; not on local disk, and not before the end.
    pub(crate) object: Option<NewObject>,
}

/// A blob in the bucket that the metadata does not know yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewObject {
    /// The upload that it was.
    pub(crate) id: UploadId,
    /// Key of the object.
    pub(crate) key: String,
}

impl BlobBytes {
    /// Begins an upload that goes on with other requests.
    pub(crate) async fn begin(
        &self,
        label: String,
        algorithm: Algorithm,
    ) -> Result<UploadId, Refusal> {
        match self {
            Self::Local(store) => {
                let store = store.clone();
                blocking(move || store.begin_upload(&label, algorithm).map(|upload| upload.id()))
                    .await?
                    .map_err(uploads::upload_refusal)
            }
            Self::Bucket(bucket) => bucket.begin(label, algorithm).await,
        }
    }

    /// How far an upload is.
    pub(crate) async fn status(&self, id: UploadId) -> Result<UploadStatus, Refusal> {
        match self {
            Self::Local(store) => store.upload_status(id).map_err(uploads::upload_refusal),
            Self::Bucket(bucket) => bucket.status(id).await,
        }
    }

    /// Takes in the body. Of one that breaks off, what came stays, unless the upload is new.
    pub(crate) async fn receive(
        &self,
        source: Source,
        body: &mut RequestBody,
        then: Then,
    ) -> Result<Received, Refusal> {
        match self {
            Self::Local(store) => {
                let size = local::receive(store, source, body, then).await?;
                Ok(Received { size, object: None })
            }
            Self::Bucket(bucket) => bucket.receive(source, body, then).await,
        }
    }

    /// Ends an upload without a blob.
    pub(crate) async fn cancel(&self, source: Source) -> Result<(), Refusal> {
        match self {
            Self::Local(store) => local::cancel(store.clone(), source).await,
            Self::Bucket(bucket) => bucket.cancel(source).await,
        }
    }
}
