//! What the log needs of a bucket.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryStreamExt as _};

use crate::bytes::bucket::{Bucket, BucketError, Version};

/// A bucket did not do what it was asked, or nobody knows whether it did.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {key} in the bucket")]
pub(crate) struct ObjectsError {
    pub(super) action: &'static str,
    pub(super) key: String,
    #[source]
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

/// What became of a conditional write.
#[derive(Debug)]
pub(crate) enum Put {
    /// The object is written.
    Done(Version),
    /// The condition does not hold. An attempt of this very call whose answer was lost may be why.
    Refused,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: String,
    /// When it was written, by the clock of the bucket.
    pub(crate) modified: SystemTime,
}

/// Objects by key, with conditional writes.
pub(crate) trait Objects: Send + Sync + 'static {
    /// A whole object, if it is there.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, ObjectsError>>;

    /// Writes an object that must not be there (`If-None-Match: *`).
    fn create<'a>(&'a self, key: &'a str, bytes: Bytes)
    -> BoxFuture<'a, Result<Put, ObjectsError>>;

    /// Replaces an object that must be as it was seen (`If-Match`).
    fn replace<'a>(
        &'a self,
        key: &'a str,
        seen: &'a Version,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Put, ObjectsError>>;

    /// Removes an object, if it is there.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ObjectsError>>;

    /// The objects below a prefix that ends with a slash, in no particular order.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, ObjectsError>>;
}

fn failed(action: &'static str, key: &str) -> impl FnOnce(BucketError) -> ObjectsError {
    let key = key.to_owned();
    move |error| ObjectsError { action, key, source: error.into() }
}

impl Objects for Bucket {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, ObjectsError>> {
        async move {
            match Bucket::get(self, key).await {
                Ok((bytes, _)) => Ok(Some(bytes)),
                Err(BucketError::Missing { .. }) => Ok(None),
                Err(error) => Err(failed("read", key)(error)),
            }
        }
        .boxed()
    }

    fn create<'a>(
        &'a self,
        key: &'a str,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Put, ObjectsError>> {
        async move {
            match Bucket::create(self, key, bytes).await {
                Ok(version) => Ok(Put::Done(version)),
                Err(BucketError::Exists { .. } | BucketError::Changed { .. }) => Ok(Put::Refused),
                Err(error) => Err(failed("create", key)(error)),
            }
        }
        .boxed()
    }

    fn replace<'a>(
        &'a self,
        key: &'a str,
        seen: &'a Version,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Put, ObjectsError>> {
        async move {
            match Bucket::replace(self, key, seen, bytes).await {
                Ok(version) => Ok(Put::Done(version)),
                Err(BucketError::Exists { .. } | BucketError::Changed { .. }) => Ok(Put::Refused),
                Err(error) => Err(failed("replace", key)(error)),
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ObjectsError>> {
        async move { Bucket::delete(self, key).await.map_err(failed("delete", key)) }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, ObjectsError>> {
        async move {
            let listed = Bucket::list(self, prefix.trim_end_matches('/'), None)
                .map_ok(|object| Listed { key: object.key, modified: object.modified });
            listed.try_collect().await.map_err(failed("list", prefix))
        }
        .boxed()
    }
}
