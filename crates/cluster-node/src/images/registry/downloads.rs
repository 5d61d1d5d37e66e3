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
    source: Source,
}

/// Where a blob comes from, and for whom.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Source {
    /// `host[:port]`.
    registry: String,
    repository: String,
    /// Hashes of the credentials that may be shown.
    credentials: Vec<String>,
}

impl Source {
    fn of(wanted: &Wanted) -> Self {
        Source {
            registry: wanted.reference.registry().to_owned(),
            repository: wanted.reference.repository().as_str().to_owned(),
            credentials: wanted.auths.iter().map(RegistryAuth::identity_hash).collect(),
        }
    }

    /// What the failure of a transfer from elsewhere means here, if anything. It names nothing of
    /// theirs.
    fn concerned(&self, theirs: &Source, error: &PullError) -> Option<PullError> {
        let same_registry = self.registry == theirs.registry;
        let text = match &error.trouble {
            Trouble::Machine(text) => text,
            Trouble::Registry(text) if same_registry => text,
            Trouble::Patience(text, _)
                if same_registry && self.credentials == theirs.credentials =>
            {
                text
            }
            _ => return None,
        };
        Some(PullError { text: text.clone(), ..error.clone() })
    }
}

/// The blobs of a node that are coming in. What nobody waits for any more is given up.
pub(crate) struct Downloads {
    client: Client,
    blobs: BlobStore,
    layers: UnpackedLayers,
    slots: Arc<Semaphore>,
    /// By blob; after a failure that says nothing about other sources, by source as well.
    running: SharedWork<(Digest, Option<Source>), Transfer, Outcome>,
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
    /// Why it cannot be fetched. The failure of a transfer from another source counts only if it is
    /// this machine's, or that of a registry which both share: this pull's own repository and
    /// credential may open what another one does not.
    pub(crate) async fn fetch(
        &self,
        wanted: Wanted,
        lease: &Lease,
        meter: &Meter,
    ) -> Result<(), PullError> {
        let (digest, size) = (wanted.descriptor.digest, wanted.descriptor.size);
        let own = Source::of(&wanted);
        let mut apart = None;
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
            let Part { done, about: transfer, is_new } =
                self.running.join_or_begin((digest, apart.clone()), || {
                    let (size, is_layer) = (wanted.descriptor.size, wanted.layer.is_some());
                    let count = Arc::new(BlobCount::new(size, is_layer, Arc::clone(&self.clock)));
                    let download = self.download(&wanted, lease, &count);
                    (Transfer { count, source: own.clone() }, download)
                });
            meter.add(Arc::clone(&transfer.count));
            let Err(error) = done.await else { return Ok(()) };
            if is_new || transfer.source == own {
                return Err(error);
            }
            if let Some(error) = own.concerned(&transfer.source, &error) {
                return Err(error);
            }
            meter.remove(&transfer.count);
            apart = Some(own.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::failure::PullFailureKind;

    #[test]
    fn failure_elsewhere_counts_only_where_it_would_be_the_same_and_names_nothing_of_theirs() {
        let source = |registry: &str, repository: &str, credential: &str| Source {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            credentials: vec![credential.to_owned()],
        };
        let own = source("r.example", "tenant-b/app", "b");
        let machine = || Trouble::Machine("no room".to_owned());
        let down = || Trouble::Registry("r.example answers with status 503".to_owned());
        let patience = || Trouble::Patience("r.example asks for patience".to_owned(), None);
        for (registry, credential, trouble, expected) in [
            ("other.example", "a", machine(), Some("no room")),
            ("r.example", "a", down(), Some("r.example answers with status 503")),
            ("other.example", "b", down(), None),
            ("r.example", "b", patience(), Some("r.example asks for patience")),
            ("r.example", "a", patience(), None),
            ("other.example", "b", patience(), None),
            ("r.example", "a", Trouble::Credential, None),
            ("r.example", "a", Trouble::Image, None),
        ] {
            let theirs = source(registry, "tenant-a/secret", credential);
            let text = "GET https://r.example/v2/tenant-a/secret/blobs/x failed".to_owned();
            let error = PullError { text, kind: PullFailureKind::Other, trouble };
            let told = own.concerned(&theirs, &error).map(|error| error.text);
            assert_eq!(told.as_deref(), expected, "{registry} {credential} {:?}", error.trouble);
        }
    }
}
