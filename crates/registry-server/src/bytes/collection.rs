//! Online collection of blobs in a bucket. Any replica may do it, any number at once: what counts
//! is decided in the log.

use std::time::Duration;

use blob_store::Collected;
use oci_model::Digest;

use super::remote::BucketBytes;
use crate::metadata::{Burial, Change, ChangeError, Collection, Garbage, Metadata, Reply, Stamp};
use crate::service::blocking;

/// Shortest time for which a blob stays after somebody was told that it is there. That is noted
/// every ten minutes only, and clocks of replicas differ.
const SEEN_MIN: Duration = Duration::from_secs(30 * 60);

/// How long the object of a tombstone stays: downloads that were allowed before go on.
const GRACE: Duration = Duration::from_secs(3600);

/// Blobs in one change.
const CANDIDATES_MAX: usize = 500;

impl BucketBytes {
    /// Makes tombstones of what nothing needed for `delay`, and removes the objects of older
    /// tombstones.
    ///
    /// # Errors
    /// The metadata does not answer. What was done stays done.
    pub(crate) async fn collect(
        &self,
        metadata: &Metadata,
        delay: Duration,
    ) -> Result<Collected, ChangeError> {
        metadata.current().await?;
        let now = Stamp::system().at;
        let before =
            |age: Duration| now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(now));
        let (seen_before, since_before) = (before(delay.max(SEEN_MIN)), before(GRACE));
        let for_thread = metadata.clone();
        let found = blocking(move || for_thread.garbage(seen_before, since_before)).await;
        let Garbage { unseen, tombstones } = found.map_err(|_| ChangeError::Failed)??;
        let mut collected = Collected::default();
        for candidates in unseen.chunks(CANDIDATES_MAX) {
            let candidates = candidates.to_vec();
            let change = Change::Collect(Collection { candidates, seen_before });
            if let Reply::Collected(blobs) = metadata.submit(change, Stamp::system()).await? {
                collected.blobs += blobs.len() as u64;
                collected.bytes += blobs.iter().map(|(_, size)| size).sum::<u64>();
                log(&blobs);
            }
        }
        for candidates in tombstones.chunks(CANDIDATES_MAX) {
            let candidates = candidates.to_vec();
            let change = Change::Bury(Burial { candidates, since_before });
            if let Reply::Buried { keys } = metadata.submit(change, Stamp::system()).await? {
                // Should this end here, they are objects that nothing knows, and go as those do.
                for key in keys {
                    self.discard(&key).await;
                }
            }
        }
        Ok(collected)
    }
}

fn log(blobs: &[(Digest, u64)]) {
    for (digest, bytes) in blobs {
        tracing::debug!(%digest, bytes, "blob collected");
    }
}
