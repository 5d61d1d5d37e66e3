//! Blobs on their way into the store: each is fetched once, however many pulls want it, and a
//! layer is unpacked while it comes in.

use std::sync::Arc;

use blob_store::{BlobStore, Lease, Tail};
use credentials::RegistryAuth;
use layers::{Decoder, UnpackedLayers};
use oci_model::{Descriptor, DiffId, Digest, Reference};
use registry_client::{Client, Progress, ProgressEvent};
use tokio::sync::{Semaphore, watch};

use super::{PullError, Trouble};
use crate::images::Clock;
use crate::images::progress::{BlobCount, Meter};
use crate::images::shared_work::{Part, SharedWork};

/// Blobs of the whole node that come in at once. Each takes two threads and up to some ten
/// megabytes for pieces and decoder, so this bounds the memory of any number of pulls.
pub(crate) const BLOBS_AT_ONCE: usize = 8;

/// A blob that a pull needs.
pub(crate) struct Wanted {
    pub(crate) reference: Reference,
    pub(crate) auths: Vec<RegistryAuth>,
    pub(crate) descriptor: Descriptor,
    /// For a layer, what it unpacks to, if the config says so.
    pub(crate) layer: Option<Option<DiffId>>,
}

type Outcome = Result<(), PullError>;

/// What all who wait for a blob see of its transfer.
#[derive(Clone)]
struct Transfer {
    count: Arc<BlobCount>,
    /// `host[:port]` that it comes from.
    registry: String,
}

/// The blobs of a node that are coming in. What nobody waits for any more is given up.
pub(crate) struct Downloads {
    client: Client,
    blobs: BlobStore,
    layers: UnpackedLayers,
    slots: Arc<Semaphore>,
    running: SharedWork<Digest, Transfer, Outcome>,
    clock: Clock,
}

impl Downloads {
    pub(crate) fn new(
        client: Client,
        blobs: BlobStore,
        layers: UnpackedLayers,
        clock: Clock,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(BLOBS_AT_ONCE));
        Downloads { client, blobs, layers, slots, running: SharedWork::default(), clock }
    }

    /// Sees to it that a blob is in the store, guarded by `lease`.
    ///
    /// # Errors
    /// Why it cannot be fetched. The failure of a transfer that was begun for somebody else counts
    /// only if their registry is this pull's too and answers nobody: this pull's own repository
    /// and credential may open what another one does not.
    pub(crate) async fn fetch(
        &self,
        wanted: Wanted,
        lease: &Lease,
        meter: &Meter,
    ) -> Result<(), PullError> {
        let (digest, size) = (wanted.descriptor.digest, wanted.descriptor.size);
        let mut alone = false;
        loop {
            // Before the look at the transfers: one that ends in between has left the blob.
            let here =
                lease.add(&digest).map_err(|error| PullError::of_image(error.to_string()))?;
            if here {
                let count = BlobCount::new(size, wanted.layer.is_some(), Arc::clone(&self.clock));
                count.finish();
                meter.add(Arc::new(count));
                return Ok(());
            }
            let Part { done, about: transfer, is_new } = self.transfer(&wanted, lease, alone);
            meter.add(Arc::clone(&transfer.count));
            match done.await {
                Ok(()) => return Ok(()),
                Err(error) if is_new => return Err(error),
                Err(error)
                    if matches!(error.trouble, Trouble::Registry(_))
                        && transfer.registry == wanted.reference.registry() =>
                {
                    return Err(error);
                }
                Err(_) => {
                    meter.remove(&transfer.count);
                    alone = true;
                }
            }
        }
    }

    /// The transfer of a blob: a new one, or unless it is to be had `alone`, one that somebody has
    /// begun.
    fn transfer(&self, wanted: &Wanted, lease: &Lease, alone: bool) -> Part<Transfer, Outcome> {
        let begin = || {
            let (size, is_layer) = (wanted.descriptor.size, wanted.layer.is_some());
            let count = Arc::new(BlobCount::new(size, is_layer, Arc::clone(&self.clock)));
            let download = self.download(wanted, lease, &count);
            (Transfer { count, registry: wanted.reference.registry().to_owned() }, download)
        };
        let digest = wanted.descriptor.digest;
        if alone {
            self.running.begin(digest, begin)
        } else {
            self.running.join_or_begin(digest, begin)
        }
    }

    /// One transfer. It owns everything it needs: whoever began it may go, and others stay.
    fn download(
        &self,
        wanted: &Wanted,
        lease: &Lease,
        count: &Arc<BlobCount>,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let (client, blobs, slots) =
            (self.client.clone(), self.blobs.clone(), Arc::clone(&self.slots));
        let (layers, lease, count) = (self.layers.clone(), lease.clone(), Arc::clone(count));
        let (reference, auths) = (wanted.reference.clone(), wanted.auths.clone());
        let (descriptor, diff_id) = (wanted.descriptor.clone(), wanted.layer.flatten());
        async move {
            // Nobody ever closes it.
            let _slot = slots.acquire_owned().await.ok();
            count.begin();
            let (tails, tail) = watch::channel(None);
            let counted = Arc::clone(&count);
            let progress = Progress::new(move |event| match event {
                ProgressEvent::Advanced { bytes, .. } => counted.advance(bytes),
                ProgressEvent::Receiving { tail, .. } => drop(tails.send_replace(Some(tail))),
                _ => {}
            });
            let fetch =
                client.fetch_blob(&reference, &descriptor, &auths, &blobs, Some(&lease), &progress);
            let mut fetch = std::pin::pin!(fetch);
            let early = tokio::select! {
                biased;
                fetched = &mut fetch => Err(fetched),
                tail = first(tail) => Ok(tail),
            };
            let fetched = match (early, diff_id) {
                (Ok(tail), Some(diff_id)) => {
                    let unpack = unpack(layers, diff_id, tail);
                    tokio::join!(fetch, unpack).0
                }
                (Ok(_), None) => fetch.await,
                (Err(fetched), _) => fetched,
            };
            match fetched {
                Ok(()) => {
                    count.finish();
                    Ok(())
                }
                Err(error) => Err(PullError::new(&error, reference.registry())),
            }
        }
    }
}

/// The bytes of a blob once they begin to come in; never if they do not.
async fn first(mut tail: watch::Receiver<Option<Tail>>) -> Tail {
    match tail.wait_for(Option::is_some).await.ok().and_then(|tail| tail.clone()) {
        Some(tail) => tail,
        None => std::future::pending().await,
    }
}

/// Unpacks a layer while it comes in. That may fail because the transfer had to begin anew: who
/// uses the image then unpacks the blob, and tells what is wrong with it.
async fn unpack(layers: UnpackedLayers, diff_id: DiffId, tail: Tail) {
    let work = move || layers.ensure(&diff_id, || Decoder::new(tail.reader())).map(drop);
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%diff_id, %error, "layer not unpacked on its way in"),
        Err(error) => tracing::error!(%diff_id, %error, "unpacking panicked"),
    }
}
