//! Layers by reference: their blobs, headers and trees, each made only when somebody asks.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use blob_store::{BlobStore, Lease, Tail};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use layers::{Entry, LayerBlob, LayerHold, UnpackedLayers};
use oci_model::{Descriptor, DiffId, Digest, Reference};
use tokio::sync::{OnceCell, watch};

use crate::archive::Spool;
use crate::error::StepError;
use crate::event::{BuildEvent, Events};
use crate::layer_stack::LayerStack;
use crate::layer_tree::{LayerHeaders, for_each_content, merge};
use crate::registry::Registry;
use crate::tree::{Content, Files, IndexedTree, Node, TreeError};

/// Layers fetched or unpacked at once.
const LAYERS_AT_ONCE: usize = 4;

/// One layer of a stage: known by name, not necessarily present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerRef {
    /// Type, digest and size of the blob.
    pub(crate) descriptor: Descriptor,
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: DiffId,
    /// Where to fetch the blob from; `None` if we made it.
    pub(crate) origin: Option<Reference>,
}

/// Fetches, indexes and unpacks layers, each at most once per build.
#[derive(Debug)]
pub(crate) struct LayerSource {
    pub(crate) store: BlobStore,
    pub(crate) unpacked: UnpackedLayers,
    registry: Registry,
    events: Events,
    lease: Lease,
    fetched: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
    /// Blobs that come in at this moment, for those who can begin before the end.
    incoming: Arc<watch::Sender<HashMap<Digest, Tail>>>,
    headers: Mutex<HashMap<DiffId, Arc<OnceCell<Arc<LayerHeaders>>>>>,
    /// Keeps the trees of the build from a node that collects.
    held: Arc<Mutex<HashMap<DiffId, LayerHold>>>,
}

impl LayerSource {
    pub(crate) fn new(
        store: BlobStore,
        unpacked: UnpackedLayers,
        registry: Registry,
        events: Events,
        lease: Lease,
    ) -> Self {
        let (fetched, headers) = (Mutex::default(), Mutex::default());
        let incoming = Arc::new(watch::Sender::new(HashMap::new()));
        let held = Arc::default();
        Self { store, unpacked, registry, events, lease, fetched, incoming, headers, held }
    }

    /// Keeps blobs from collection while the build runs.
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Sees to it that the blob of a layer is in the store.
    pub(crate) async fn ensure_blob(&self, layer: &LayerRef) -> Result<(), StepError> {
        let digest = layer.descriptor.digest;
        let cell = entry(&self.fetched, digest);
        let fetch = || async {
            let held = self.lease.add(&digest);
            held.map_err(|error| StepError::layer(format!("cannot keep layer {digest}"), error))?;
            if self.store.contains(&digest) {
                return Ok(());
            }
            let Some(origin) = &layer.origin else {
                let what = format!("layer {digest} is gone from the store");
                return Err(StepError::layer(what, "it was made here and cannot be fetched"));
            };
            let (what, bytes, start) = (digest.to_string(), layer.descriptor.size, Instant::now());
            self.events.send(BuildEvent::Fetching {
                what: what.clone(),
                from: origin.to_string(),
                bytes: Some(bytes),
            });
            let incoming = Arc::clone(&self.incoming);
            let receiving = move |digest, tail| {
                incoming.send_modify(|tails| drop(tails.insert(digest, tail)));
            };
            let progress = self.registry.fetch_progress(origin, receiving);
            let fetched =
                self.registry.fetch_blob(origin, &layer.descriptor, &self.store, &progress).await;
            self.incoming.send_modify(|tails| drop(tails.remove(&digest)));
            fetched.map_err(|error| {
                StepError::layer(format!("cannot fetch layer {digest} of {origin}"), error)
            })?;
            let duration = start.elapsed();
            self.events.send(BuildEvent::Fetched { what, bytes, duration });
            Ok(())
        };
        cell.get_or_try_init(fetch).await.copied()
    }

    /// The bytes of a blob once they begin to come in; never if they do not.
    async fn incoming(&self, digest: &Digest) -> Option<Tail> {
        let mut tails = self.incoming.subscribe();
        let found = tails.wait_for(|tails| tails.contains_key(digest)).await.ok()?;
        found.get(digest).cloned()
    }

    /// Does blocking work on the bytes of a layer, while they come in if they have to be fetched.
    /// Work that began too early to succeed (the download had to begin anew) is done again on the
    /// blob; it must verify what it reads.
    async fn on_bytes<T: Send + 'static>(
        &self,
        layer: &LayerRef,
        work: impl Fn(Box<dyn Read + Send>) -> Result<T, StepError> + Clone + Send + 'static,
    ) -> Result<T, StepError> {
        let digest = layer.descriptor.digest;
        let mut fetch = std::pin::pin!(self.ensure_blob(layer));
        let tail = tokio::select! {
            biased;
            fetched = &mut fetch => fetched.map(|()| None)?,
            tail = self.incoming(&digest) => tail,
        };
        if let Some(tail) = tail {
            let early = work.clone();
            let early = blocking(move || early(Box::new(tail.reader())));
            let (fetched, early) = tokio::join!(fetch, early);
            fetched?;
            if early.is_ok() {
                return early;
            }
        }
        let store = self.store.clone();
        blocking(move || work(Box::new(open(&store, &digest)?))).await
    }

    /// Sees to it that the blobs of all layers are in the store.
    pub(crate) async fn ensure_blobs(&self, layers: &[LayerRef]) -> Result<(), StepError> {
        all(layers.iter().map(|layer| self.ensure_blob(layer).boxed()).collect()).await.map(|_| ())
    }

    /// Says that a layer was made; `start` is when its archive was begun.
    pub(crate) fn say_written(&self, blob: &LayerBlob, start: Instant) {
        self.events.send(BuildEvent::LayerWritten {
            digest: blob.digest.to_string(),
            tar_bytes: blob.tar_bytes,
            bytes: blob.blob_bytes,
            duration: start.elapsed(),
        });
    }

    /// Notes the headers of a layer that was just written.
    pub(crate) fn note_headers(&self, diff_id: DiffId, entries: Vec<Entry>) {
        let cell = entry(&self.headers, diff_id);
        // Somebody may have read the same layer already; the headers are the same then.
        let _ = cell.set(Arc::new(LayerHeaders::known(diff_id, entries)));
    }

    async fn headers(&self, layer: &LayerRef) -> Result<Arc<LayerHeaders>, StepError> {
        let cell = entry(&self.headers, layer.diff_id);
        let diff_id = layer.diff_id;
        let read =
            move |bytes: Box<dyn Read + Send>| Ok(Arc::new(LayerHeaders::read(diff_id, bytes)?));
        let read = || self.on_bytes(layer, read);
        cell.get_or_try_init(read).await.cloned()
    }

    /// The files of a stack of layers without unpacking anything.
    pub(crate) async fn indexed(&self, layers: &[LayerRef]) -> Result<IndexedLayers, StepError> {
        let headers = all(layers.iter().map(|layer| self.headers(layer).boxed()).collect()).await?;
        let blobs = layers.iter().map(|l| (l.diff_id, l.descriptor.digest)).collect();
        let store = self.store.clone();
        blocking(move || Ok(IndexedLayers { tree: merge(&headers), store, blobs })).await
    }

    /// The trees of a stack of layers, top first, unpacking what is not unpacked yet.
    pub(crate) async fn lowers(&self, layers: &[LayerRef]) -> Result<Vec<PathBuf>, StepError> {
        all(layers.iter().map(|layer| self.unpack(layer).boxed()).collect()).await?;
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        let unpacked = self.unpacked.clone();
        let found = blocking(move || {
            unpacked
                .lower_directories(&diff_ids)
                .map_err(|error| StepError::layer("cannot stack unpacked layers", error))
        })
        .await?;
        found.ok_or_else(|| {
            StepError::layer("cannot stack unpacked layers", "one was removed while it was in use")
        })
    }

    async fn unpack(&self, layer: &LayerRef) -> Result<(), StepError> {
        let (unpacked, diff_id) = (self.unpacked.clone(), layer.diff_id);
        let failed = move |error| StepError::layer(format!("cannot unpack layer {diff_id}"), error);
        let present = {
            let (unpacked, held) = (unpacked.clone(), Arc::clone(&self.held));
            blocking(move || {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                if let std::collections::hash_map::Entry::Vacant(place) = held.entry(diff_id) {
                    place.insert(unpacked.hold(&[diff_id]).map_err(failed)?);
                }
                drop(held);
                unpacked.get(&diff_id).map_err(failed)
            })
            .await?
            .is_some()
        };
        if present {
            return Ok(());
        }
        let events = self.events.clone();
        let unpack = move |bytes: Box<dyn Read + Send>| {
            let (what, start) = (diff_id.to_string(), Instant::now());
            events.send(BuildEvent::Unpacking { what: what.clone() });
            unpacked.ensure(&diff_id, || Ok(bytes)).map_err(failed)?;
            events.send(BuildEvent::Unpacked { what, duration: start.elapsed() });
            Ok(())
        };
        self.on_bytes(layer, unpack).await
    }

    /// Whether all layers are unpacked already.
    pub(crate) async fn all_unpacked(&self, layers: &[LayerRef]) -> Result<bool, StepError> {
        let (unpacked, ids) = (self.unpacked.clone(), layers.iter().map(|l| l.diff_id).collect());
        blocking(move || {
            let ids: Vec<DiffId> = ids;
            for diff_id in &ids {
                let found = unpacked.get(diff_id).map_err(|error| {
                    StepError::layer(format!("cannot look up layer {diff_id}"), error)
                })?;
                if found.is_none() {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// The files of a stack of unpacked layers.
    pub(crate) async fn stacked(&self, layers: &[LayerRef]) -> Result<LayerStack, StepError> {
        let mut lowers = self.lowers(layers).await?;
        lowers.reverse();
        Ok(LayerStack::new(lowers))
    }

    /// Writes the contents that are in layer archives into `spool`, reading each archive once.
    pub(crate) async fn fetch_contents(
        &self,
        nodes: Vec<Node>,
        layers: &[LayerRef],
        spool: Arc<Spool>,
    ) -> Result<Vec<Node>, StepError> {
        let mut wanted: HashMap<DiffId, HashMap<PathBuf, PathBuf>> = HashMap::new();
        for node in &nodes {
            if let Content::Layer(diff_id, path) = &node.content {
                wanted.entry(*diff_id).or_default().insert(path.clone(), PathBuf::new());
            }
        }
        let mut spooled = HashMap::new();
        for (diff_id, paths) in wanted {
            let layer = layers.iter().find(|layer| layer.diff_id == diff_id).ok_or_else(|| {
                StepError::layer(format!("layer {diff_id} is not part of the source"), "defect")
            })?;
            self.ensure_blob(layer).await?;
            let (store, digest, spool) =
                (self.store.clone(), layer.descriptor.digest, Arc::clone(&spool));
            let paths = blocking(move || {
                let blob = open(&store, &digest)?;
                let mut written = paths.clone();
                for_each_content::<StepError>(
                    diff_id,
                    blob,
                    |path| paths.contains_key(path),
                    |entry, content| {
                        written.insert(entry.path.clone(), spool.write(content)?);
                        Ok(())
                    },
                )?;
                Ok(written)
            })
            .await?;
            spooled.insert(diff_id, paths);
        }
        let place = |mut node: Node| {
            if let Content::Layer(diff_id, path) = &node.content {
                let file = spooled.get(diff_id).and_then(|paths| paths.get(path));
                let file = file.filter(|file| !file.as_os_str().is_empty()).ok_or_else(|| {
                    StepError::layer(format!("cannot read layer {diff_id}"), "a file is missing")
                })?;
                node.content = Content::File(file.clone());
            }
            Ok(node)
        };
        nodes.into_iter().map(place).collect()
    }
}

fn entry<K: std::hash::Hash + Eq, V>(
    map: &Mutex<HashMap<K, Arc<OnceCell<V>>>>,
    key: K,
) -> Arc<OnceCell<V>> {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(map.entry(key).or_default())
}

fn open(store: &BlobStore, digest: &Digest) -> Result<std::fs::File, StepError> {
    let blob = store.open_blob(digest);
    blob.map(blob_store::Blob::into_file)
        .map_err(|error| StepError::layer(format!("cannot open layer {digest}"), error))
}

/// Awaits all, a few at once, in order; the first error ends it.
async fn all<T>(work: Vec<BoxFuture<'_, Result<T, StepError>>>) -> Result<Vec<T>, StepError> {
    futures_util::stream::iter(work).buffered(LAYERS_AT_ONCE).try_collect().await
}

/// Runs blocking work on tokio's threads for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(StepError::Panicked),
    }
}

/// The files of a stack of layers, from headers; contents come out of the archives.
#[derive(Clone, Debug)]
pub(crate) struct IndexedLayers {
    tree: IndexedTree,
    store: BlobStore,
    blobs: HashMap<DiffId, Digest>,
}

impl IndexedLayers {
    /// The owners of paths that are not root's.
    pub(crate) fn owners(&self) -> HashMap<PathBuf, (u32, u32)> {
        let entries = self.tree.nodes().map(|node| &node.entry);
        let foreign = entries.filter(|entry| (entry.uid, entry.gid) != (0, 0));
        foreign.map(|entry| (entry.path.clone(), (entry.uid, entry.gid))).collect()
    }
}

impl Files for IndexedLayers {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        self.tree.node(path)
    }

    fn children(&self, directory: &Path) -> Result<Vec<std::ffi::OsString>, TreeError> {
        self.tree.children(directory)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(node) = self.tree.get(path) else { return Ok(None) };
        let Content::Layer(diff_id, inside) = &node.content else {
            return crate::tree::read_local(node, bytes_max);
        };
        let size = node.entry.content_bytes();
        if bytes_max < size {
            return Err(TreeError::TooLarge { path: path.to_owned(), size, bytes_max });
        }
        let damaged = |source: Box<dyn std::error::Error + Send + Sync>| TreeError::Layer {
            diff_id: *diff_id,
            source,
        };
        let digest = self.blobs.get(diff_id).ok_or_else(|| damaged("unknown layer".into()))?;
        let blob = self.store.open_blob(digest).map_err(|error| damaged(error.into()))?;
        let mut found = None;
        for_each_content::<TreeError>(
            *diff_id,
            blob.into_file(),
            |candidate| candidate == inside,
            |_, content| {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).map_err(|error| damaged(error.into()))?;
                found = Some(bytes);
                Ok(())
            },
        )?;
        Ok(found)
    }
}
