//! Uploads in the bucket that nobody goes on with.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::BlobBytes;
use super::bucket::BucketError;
use super::options::UploadExpiry;
use super::remote::BucketBytes;
use super::session::{BLOBS, Session, UPLOADS};
use crate::metadata::{ChangeError, Metadata, MetadataError};
use crate::service::Service;

/// Why nothing more was removed.
#[derive(Debug, thiserror::Error)]
enum ExpiryError {
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The metadata is behind and cannot catch up.
    #[error(transparent)]
    Behind(#[from] ChangeError),
    /// The metadata failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Removes what nobody goes on with, at the intervals of the options, until stopped. Uploads on
/// local disk are the blob store's.
pub(crate) async fn expire_at_intervals(service: Arc<Service>, mut stopped: watch::Receiver<bool>) {
    let BlobBytes::Bucket(bytes) = &service.bytes else { return };
    let UploadExpiry { interval, idle_max, age_max } = bytes.expiry;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(interval) => {}
        }
        let now = SystemTime::now();
        let expired = async {
            let uploads = bytes.expire_uploads(now, idle_max, age_max).await?;
            Ok::<_, ExpiryError>((
                uploads,
                bytes.remove_orphans(&service.metadata, now, idle_max).await?,
            ))
        };
        match expired.await {
            Ok((0, 0)) => {}
            Ok((uploads, objects)) => tracing::info!(uploads, objects, "uploads expired"),
            Err(error) => tracing::warn!(%error, "uploads do not expire for now"),
        }
    }
}

impl BucketBytes {
    /// Removes uploads that were not gone on with for `idle_max` or began before `age_max`, with
    /// their parts. Returns how many. Any number of replicas may do so at once.
    ///
    /// # Errors
    /// The bucket failed; what was removed stays removed.
    async fn expire_uploads(
        &self,
        now: SystemTime,
        idle_max: Duration,
        age_max: Duration,
    ) -> Result<usize, BucketError> {
        let mut removed = 0;
        let mut listed = self.bucket().list(UPLOADS, None);
        while let Some(object) = listed.next().await {
            let object = object?;
            let Some(id) = object.key.strip_prefix(UPLOADS).and_then(|id| id.parse().ok()) else {
                continue;
            };
            let Some(mut session) = Session::load(self.bucket(), id).await? else {
                // Gone meanwhile, or damaged and of no use to anybody.
                if older(now, object.modified, age_max) {
                    self.bucket().delete(&object.key).await?;
                }
                continue;
            };
            let began = SystemTime::from(session.record.started);
            let used = SystemTime::from(session.record.used);
            if !older(now, used, idle_max) && !older(now, began, age_max) {
                continue;
            }
            match self.end(&mut session).await {
                Ok(()) => {}
                // Somebody goes on with it after all.
                Err(BucketError::Changed { .. }) => continue,
                Err(error) => return Err(error),
            }
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes objects that were to become blobs and that neither the metadata nor an upload knows:
    /// a replica died between the two, or lost a race. Only those that are older than `age_min`
    /// count, since a younger one may be on its way into the metadata. Returns how many.
    ///
    /// # Errors
    /// The bucket or the metadata failed; what was removed stays removed.
    async fn remove_orphans(
        &self,
        metadata: &Metadata,
        now: SystemTime,
        age_min: Duration,
    ) -> Result<usize, ExpiryError> {
        let (mut removed, mut known, mut known_of) = (0, HashSet::new(), None);
        let mut listed = self.bucket().list(BLOBS, None);
        while let Some(object) = listed.next().await {
            let object = object?;
            let Some(name) = object.key.strip_prefix(BLOBS) else { continue };
            let Ok(id) = name.parse() else { continue };
            if !older(now, object.modified, age_min) {
                continue;
            }
            // Listings are in order, so a sixteenth of the keys is in memory at once.
            let beginning = name.get(..1).map(str::to_owned);
            if beginning != known_of {
                metadata.current().await?;
                let wanted = format!("{BLOBS}{}", beginning.as_deref().unwrap_or_default());
                known = metadata.blob_keys(&wanted)?;
                known_of = beginning;
            }
            if known.contains(&object.key) || Session::load(self.bucket(), id).await?.is_some() {
                continue;
            }
            // An upload is in the metadata before its state goes, so this look, after that one,
            // sees it if it ended since `known` was read.
            metadata.current().await?;
            if !metadata.blob_keys(&object.key)?.is_empty() {
                continue;
            }
            tracing::info!(
                key = object.key,
                size = object.size,
                "object removed that nothing needs"
            );
            self.bucket().delete(&object.key).await?;
            removed += 1;
        }
        Ok(removed)
    }
}

fn older(now: SystemTime, then: SystemTime, max: Duration) -> bool {
    now.duration_since(then).unwrap_or_default() >= max
}
