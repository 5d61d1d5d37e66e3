//! Images in a temporary store, and a registry that is only a table.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blob_store::BlobStore;
use credentials::RegistryAuth;
use image_policy::verification::VerificationPolicy;
use oci_model::{Digest, Reference};
use tokio::sync::watch;

use crate::directories::Directories;
use crate::images::access::tests::sources_below;
use crate::images::ensure::{Images, ImagesParts};
use crate::images::failure::PullFailureKind;
use crate::images::inventory::Inventory;
use crate::images::progress::Meter;
use crate::images::records::PullRecords;
use crate::images::registry::{Arrived, Pull, PullError, Puller};
use crate::images::store::ImageStore;

/// An image without layers.
#[derive(Clone, Debug)]
pub(super) struct TestImage {
    config: Vec<u8>,
    manifest: Vec<u8>,
}

/// An image whose label makes it different from others.
pub(super) fn image(label: &str, user: &str) -> TestImage {
    let config = serde_json::json!({
        "architecture": oci_model::Platform::host().architecture, "os": "linux",
        "config": {"User": user, "Labels": {"l": label}},
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&config), "size": config.len()},
        "layers": [],
    });
    TestImage { config, manifest: manifest.to_string().into_bytes() }
}

impl TestImage {
    pub(super) fn root(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(super) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }

    fn store(&self, blobs: &BlobStore) -> Digest {
        blobs.put(&self.config).expect("config");
        blobs.put(&self.manifest).expect("manifest")
    }
}

/// Why the registry gives nothing.
pub(super) type Refused = (PullFailureKind, &'static str);
/// What the registry gives for `<reference> <user>`; `anonymous` without credential.
type Answer = (String, Result<TestImage, Refused>);

struct FakeRegistry {
    blobs: BlobStore,
    answers: Vec<Answer>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Puller for FakeRegistry {
    fn pull<'a>(
        &'a self,
        reference: Reference,
        auth: Option<RegistryAuth>,
        _meter: &'a Meter,
    ) -> Pull<'a, Arrived> {
        let who = match &auth {
            None => "anonymous",
            Some(RegistryAuth::Basic { username, .. }) => username,
            Some(RegistryAuth::IdentityToken { .. }) => "identity-token",
            Some(RegistryAuth::RegistryToken { .. }) => "registry-token",
        };
        let call = format!("{reference} {who}");
        self.calls.lock().expect("calls").push(call.clone());
        let answer = self.answers.iter().find(|(known, _)| *known == call);
        let result = match answer {
            Some((_, Ok(image))) => Ok(Arrived { root: image.store(&self.blobs), guard: None }),
            Some((_, Err((kind, text)))) => {
                Err(PullError { kind: *kind, ..PullError::of_image(*text) })
            }
            None => Err(PullError {
                kind: PullFailureKind::NotFound,
                ..PullError::of_image(format!("{reference}: not found"))
            }),
        };
        Box::pin(async move { result })
    }

    fn answers(&self, _registry: String) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(std::future::ready(true))
    }
}

/// A node's images.
pub(super) struct Fixture {
    pub(super) images: Arc<Images>,
    pub(super) inventory: Arc<Inventory>,
    pub(super) calls: Arc<Mutex<Vec<String>>>,
    pub(super) dir: tempfile::TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with_registry(Vec::new())
    }

    pub(super) fn with_registry(answers: Vec<Answer>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let blobs = BlobStore::open(dir.path().join("blobs")).expect("blobs");
        let layers = layers::UnpackedLayers::open(&dir.path().join("layers")).expect("layers");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let parts = ImagesParts {
            store: ImageStore::new(blobs.clone(), layers),
            records: PullRecords::open(dir.path()).expect("records"),
            puller: Box::new(FakeRegistry { blobs, answers, calls: Arc::clone(&calls) }),
            mirrors: Vec::new(),
            verification: VerificationPolicy::default(),
            credentials: sources_below(&dir.path().join("nowhere")),
            preloaded: watch::Sender::new(true).subscribe(),
            limits: crate::PullLimits::default(),
            clock: crate::images::monotonic(),
        };
        let inventory =
            Inventory::new(parts.store.clone(), Directories::new(dir.path()), Duration::ZERO);
        let images = Arc::new(Images::new(parts));
        Fixture { images, inventory: Arc::new(inventory), calls, dir }
    }

    /// Gives an image a name.
    pub(super) fn put(&self, name: &str, image: &TestImage) {
        let store = &self.images.store;
        let root = image.store(&store.blobs);
        let reference: Reference = name.parse().expect("a reference");
        let local = store.read(&reference, root).expect("readable").expect("complete");
        store.remember(&reference, &local).expect("remembered");
    }
}
