//! Bytes on their way out of a bucket.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::bucket::BucketError;
use super::remote::BucketBytes;

/// A download from this size on is made of stretches, several of which are asked for at once: one
/// answer of S3 has 50 to 90 MB/s.
const LARGE_BYTES: u64 = 32 * 1024 * 1024;

/// Size of a stretch in bytes.
const STRETCH_BYTES: u64 = 8 * 1024 * 1024;

/// Stretches of one download that are on their way at once.
const STRETCHES_AT_ONCE: u32 = 3;

/// Stretches that all downloads together may have in memory; those beyond come in one answer.
pub(super) const STRETCHES_MAX: usize = 24;

/// What a body is made of.
pub(crate) enum Stretch {
    /// What stands between the parts of a blob.
    Text(Bytes),
    /// A part of the blob.
    Part(Range<u64>),
}

impl BucketBytes {
    /// A part of the blob as it comes in. Memory is bounded: one answer of the bucket is read as
    /// fast as the client takes it, of a large one a few stretches are ahead.
    ///
    /// # Errors
    /// [`BucketError::Missing`] if the object is not there or has another size than `size`.
    pub(crate) async fn read(
        &self,
        key: &str,
        size: u64,
        part: Range<u64>,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, BucketError> {
        let length = part.end - part.start;
        let permits = (length >= LARGE_BYTES)
            .then(|| Arc::clone(&self.stretches).try_acquire_many_owned(STRETCHES_AT_ONCE).ok())
            .flatten();
        let first =
            if permits.is_some() { part.start..part.start + STRETCH_BYTES } else { part.clone() };
        let next = first.end;
        let (found, stream) = self.bucket().stream(key, first).await?;
        if found != size {
            tracing::error!(key, expected = size, found, "object has the wrong size");
            return Err(BucketError::Missing { key: key.to_owned() });
        }
        let stream = stream.map_err(io::Error::other);
        let Some(permits) = permits else { return Ok(stream.boxed()) };
        let (bucket, key) = (self.bucket().clone(), key.to_owned());
        let stretches = (next..part.end).step_by(usize::try_from(STRETCH_BYTES).unwrap_or(1));
        let rest = stream::iter(stretches)
            .map(move |start| {
                let (bucket, key) = (bucket.clone(), key.clone());
                let range = start..(start + STRETCH_BYTES).min(part.end);
                async move { bucket.range(&key, range).await.map_err(io::Error::other) }
            })
            .buffered(STRETCHES_AT_ONCE as usize)
            .inspect(move |_| {
                let _held = &permits;
            });
        Ok(stream.chain(rest).boxed())
    }

    /// Texts and parts of the blob in turn; the first part is asked for at once.
    ///
    /// # Errors
    /// As [`BucketBytes::read`].
    pub(crate) async fn read_all(
        &self,
        key: &str,
        size: u64,
        stretches: Vec<Stretch>,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, BucketError> {
        if self.bucket().size(key).await? != size {
            return Err(BucketError::Missing { key: key.to_owned() });
        }
        let (bytes, key) = (self.clone(), key.to_owned());
        let stream = stream::iter(stretches).then(move |stretch| {
            let (bytes, key) = (bytes.clone(), key.clone());
            async move {
                match stretch {
                    Stretch::Text(text) => stream::iter([Ok(text)]).boxed(),
                    Stretch::Part(part) => match bytes.read(&key, size, part).await {
                        Ok(stream) => stream,
                        Err(error) => stream::iter([Err(io::Error::other(error))]).boxed(),
                    },
                }
            }
        });
        Ok(stream.flatten().boxed())
    }
}
