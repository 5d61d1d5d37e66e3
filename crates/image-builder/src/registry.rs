//! The registries of a build: one client, and credentials from whoever keeps them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blob_store::{BlobStore, Lease, Tail};
use futures_util::future::BoxFuture;
use oci_model::{
    Descriptor, Digest, Manifest, Platform, RawConfig, RawManifest, Reference, Repository,
};
pub(crate) use registry_client::Expected;
use registry_client::{
    Client, Layers, Platforms, Progress, ProgressEvent, PullOptions, PulledImage, PushOptions,
    RegistryAuth, RegistryError,
};

use crate::event::{BuildEvent, Events, PushEnd};
use crate::warmed::WarmedBases;

/// Least time between two events about the bytes of one blob.
const ADVANCED_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum Direction {
    Fetch,
    Push,
}

/// Answers which credentials to try for a reference, in order; may ask helper programs.
#[derive(Clone)]
pub struct CredentialSource(Lookup);

type Lookup = Arc<dyn Fn(Reference) -> BoxFuture<'static, Vec<RegistryAuth>> + Send + Sync>;

impl CredentialSource {
    /// Asks `lookup`, once per image and direction.
    pub fn new(
        lookup: impl Fn(Reference) -> BoxFuture<'static, Vec<RegistryAuth>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(lookup))
    }

    /// The credentials to try for a reference.
    pub(crate) async fn lookup(&self, reference: &Reference) -> Vec<RegistryAuth> {
        (self.0)(reference.clone()).await
    }

    /// There are none.
    pub fn anonymous() -> Self {
        Self::new(|_| Box::pin(async { Vec::new() }))
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialSource")
    }
}

/// A client and its credentials.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    pull: Client,
    push: Client,
    credentials: CredentialSource,
    events: Events,
    warmed: Option<WarmedBases>,
}

/// An image that was looked up, its layers not fetched.
#[derive(Debug)]
pub(crate) struct ResolvedImage {
    /// What the reference names: the manifest, or an index with it.
    pub(crate) root: Digest,
    pub(crate) manifest: RawManifest,
    pub(crate) config: RawConfig,
    pub(crate) layers: Vec<Descriptor>,
    /// Keeps manifest and config from collection.
    pub(crate) _lease: Option<Lease>,
}

impl Registry {
    pub(crate) fn new(
        pull: Client,
        push: Client,
        credentials: CredentialSource,
        warmed: Option<WarmedBases>,
        events: Events,
    ) -> Self {
        Self { pull, push, credentials, warmed, events }
    }

    /// The client for pulls.
    pub(crate) fn client(&self) -> Client {
        self.pull.clone()
    }

    /// Where credentials come from.
    pub(crate) fn credentials(&self) -> CredentialSource {
        self.credentials.clone()
    }

    /// What a fetch says, as events of the build; `receiving` gets the bytes while they come in.
    pub(crate) fn fetch_progress(
        &self,
        reference: &Reference,
        receiving: impl Fn(Digest, Tail) + Send + Sync + 'static,
    ) -> Progress {
        self.progress(Direction::Fetch, reference, receiving)
    }

    /// What a push says, as events of the build.
    fn push_progress(&self, reference: &Reference) -> Progress {
        self.progress(Direction::Push, reference, |_, _| {})
    }

    fn progress(
        &self,
        direction: Direction,
        reference: &Reference,
        receiving: impl Fn(Digest, Tail) + Send + Sync + 'static,
    ) -> Progress {
        let (events, to) = (self.events.clone(), reference.to_string());
        let said: Mutex<HashMap<Digest, Instant>> = Mutex::default();
        Progress::new(move |event| {
            let to = to.clone();
            match (event, direction) {
                (ProgressEvent::Started { digest, bytes }, Direction::Push) => {
                    events.send(BuildEvent::PushingBlob { what: digest.to_string(), to, bytes });
                }
                (ProgressEvent::Advanced { digest, bytes }, _) => {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    let last = said.entry(digest).or_insert_with(Instant::now);
                    if last.elapsed() < ADVANCED_EVERY {
                        return;
                    }
                    *last = Instant::now();
                    let what = digest.to_string();
                    events.send(match direction {
                        Direction::Fetch => BuildEvent::FetchAdvanced { what, bytes },
                        Direction::Push => BuildEvent::PushAdvanced { what, to, bytes },
                    });
                }
                (ProgressEvent::Done { digest }, Direction::Push) => {
                    let (what, how) = (digest.to_string(), PushEnd::Sent);
                    events.send(BuildEvent::PushedBlob { what, to, how });
                }
                (ProgressEvent::Exists { digest }, Direction::Push) => {
                    let (what, how) = (digest.to_string(), PushEnd::Existed);
                    events.send(BuildEvent::PushedBlob { what, to, how });
                }
                (ProgressEvent::Retrying { reason, wait }, _) => {
                    let seconds = wait.as_secs_f64();
                    let text = format!("retrying in {seconds:.1} s: {reason}");
                    events.send(BuildEvent::Warning(text));
                }
                (ProgressEvent::Receiving { digest, tail }, _) => receiving(digest, tail),
                (ProgressEvent::Warning { text }, _) => events.send(BuildEvent::Warning(text)),
                // Whoever asked for the blob says when its fetch begins and ends.
                (
                    ProgressEvent::Started { .. }
                    | ProgressEvent::Done { .. }
                    | ProgressEvent::Exists { .. },
                    Direction::Fetch,
                )
                | (ProgressEvent::Resolved { .. }, _) => {}
            }
        })
    }

    /// The client for URLs: the same certificates and the same proxy.
    pub(crate) fn http_client(&self) -> reqwest::Client {
        self.pull.http_client()
    }

    /// Manifest and config of an image; the manifest is asked for every time, as proof of access.
    pub(crate) async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        store: &BlobStore,
    ) -> Result<Option<ResolvedImage>, RegistryError> {
        if let (Some(warmed), Some(digest)) = (&self.warmed, reference.digest())
            && let Some((manifest, config)) = warmed.image(digest)
            && let Manifest::Image(image) = manifest.parsed()
        {
            let layers = image.layers.clone();
            return Ok(Some(ResolvedImage {
                root: *digest,
                manifest,
                config,
                layers,
                _lease: None,
            }));
        }
        let auths = (self.credentials.0)(reference.clone()).await;
        let options =
            PullOptions { platforms: Platforms::One(platform.clone()), layers: Layers::Leave };
        let start = Instant::now();
        self.events.send(BuildEvent::Resolving { reference: reference.to_string() });
        let none = Progress::none();
        let pulled = self.pull.pull(reference, &auths, store, &options, &none).await;
        let (reference, duration) = (reference.to_string(), start.elapsed());
        self.events.send(BuildEvent::Resolved { reference, duration });
        let mut pulled = pulled?;
        let Some(image) = pulled.images.pop() else { return Ok(None) };
        let layers = image.layers().to_vec();
        let PulledImage { manifest, config } = image;
        let Some(config) = config else { return Ok(None) };
        let root = *pulled.root.digest();
        Ok(Some(ResolvedImage { root, manifest, config, layers, _lease: Some(pulled.lease) }))
    }

    pub(crate) async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        if let Some(warmed) = self.warmed.clone() {
            let (wanted, into) = (descriptor.clone(), store.clone());
            let copy = tokio::task::spawn_blocking(move || warmed.copy(&wanted, &into));
            if copy.await.unwrap_or(false) {
                return Ok(());
            }
        }
        let auths = (self.credentials.0)(reference.clone()).await;
        self.pull.fetch_blob(reference, descriptor, &auths, store, None, progress).await
    }

    /// Opens an upload and leaves it: what a registry would refuse at the end it refuses here.
    pub(crate) async fn check_push(&self, reference: &Reference) -> Result<(), RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        let mut last = None;
        let tries: Vec<Option<&RegistryAuth>> =
            if auths.is_empty() { vec![None] } else { auths.iter().map(Some).collect() };
        for auth in tries {
            let remote = self.push.remote(reference, auth);
            match remote.begin_upload(&Progress::none()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_access_failure() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        last.map_or(Ok(()), Err)
    }

    /// Fetches a manifest as it is.
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
    ) -> Result<RawManifest, RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        self.pull.fetch_manifest(reference, &auths).await
    }

    /// A blob that is small enough for memory.
    pub(crate) async fn small_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        self.pull.fetch_small_blob(reference, &auths, descriptor).await
    }

    /// What a reference names at present.
    pub(crate) async fn current(
        &self,
        reference: &Reference,
    ) -> Result<Option<Digest>, RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        match self.push.resolve(reference, &auths).await {
            Ok(descriptor) => Ok(Some(descriptor.digest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a manifest on a condition, what it names being there already.
    pub(crate) async fn put_manifest_if(
        &self,
        reference: &Reference,
        manifest: &RawManifest,
        expected: Expected,
    ) -> Result<(), RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        self.push.put_manifest_if(reference, manifest, expected, &auths).await
    }

    /// Deletes a manifest by its digest, or a tag.
    pub(crate) async fn delete_manifest(&self, reference: &Reference) -> Result<(), RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        self.push.delete(reference, &auths).await
    }

    /// Pushes an image; blobs that the store lacks are mounted from `mount_from` or are there.
    pub(crate) async fn push(
        &self,
        reference: &Reference,
        manifest: &RawManifest,
        store: &BlobStore,
        mount_from: Vec<Repository>,
    ) -> Result<(), RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        let options = PushOptions { mount_from };
        let progress = self.push_progress(reference);
        self.push.push(reference, manifest, &auths, store, &options, &progress).await.map(|_| ())
    }

    /// Gives what the repository has one more name.
    pub(crate) async fn put_manifest(
        &self,
        reference: &Reference,
        manifest: &RawManifest,
    ) -> Result<(), RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        self.push.put_manifest(reference, manifest, &auths).await
    }

    /// Pushes a manifest that refers to an image of the repository.
    pub(crate) async fn push_referrer(
        &self,
        reference: &Reference,
        manifest: &RawManifest,
        store: &BlobStore,
    ) -> Result<(), RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        self.push.push_referrer(reference, manifest, &auths, store, &Progress::none()).await
    }

    /// Whether the repository can get the blob without its bytes.
    pub(crate) async fn has_or_mounts(
        &self,
        reference: &Reference,
        digest: &Digest,
        mount_from: &[Repository],
    ) -> Result<bool, RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        let remote = self.push.remote(reference, auths.first());
        let none = Progress::none();
        Ok(remote.has_blob(digest, &none).await? || remote.mount(digest, mount_from, &none).await?)
    }

    /// Sends one blob ahead of its image.
    pub(crate) async fn push_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        store: &BlobStore,
    ) -> Result<(), RegistryError> {
        let auths = (self.credentials.0)(reference.clone()).await;
        let remote = self.push.remote(reference, auths.first());
        let progress = self.push_progress(reference);
        remote.push_blob(digest, &store.path(digest), &[], &progress).await
    }
}
