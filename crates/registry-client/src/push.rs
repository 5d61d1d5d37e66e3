//! Pushes an image out of the store: blobs first, manifests after what they name, the tag last.

use std::collections::BTreeSet;

use blob_store::{BlobStore, Verdict};
use credentials::RegistryAuth;
use oci_model::{
    Descriptor, Digest, ErrorCode, MANIFEST_BYTES_MAX, Manifest, MediaType, RawManifest, Reference,
    Repository,
};

use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind};
use crate::progress::Progress;
use crate::pull::{all, blocking};

/// Deepest nesting of indexes that is followed.
const INDEX_DEPTH_MAX: u32 = 4;

/// How an image is pushed.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Repositories of the same registry that may hold some of the blobs: they are mounted from
    /// there instead of sent.
    pub mount_from: Vec<Repository>,
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest or index under the reference.
    pub descriptor: Descriptor,
    /// Position of the credential that opened the repository.
    pub credential: Option<usize>,
}

impl Client {
    /// Pushes the manifest or index `root` of the store, with everything it names, under the
    /// reference's tag, or under its digest alone when the reference has one.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]. The tag moves last, so a failed push changes no image.
    pub async fn push(
        &self,
        reference: &Reference,
        root: &RawManifest,
        auths: &[RegistryAuth],
        store: &BlobStore,
        options: &PushOptions,
        progress: &Progress,
    ) -> Result<Pushed, RegistryError> {
        let push = |auth: Option<RegistryAuth>| async move {
            let remote = self.remote(reference, auth.as_ref());
            remote.push(root, store, options, progress).await
        };
        let (descriptor, credential) = self
            .with_credentials(auths, push)
            .await
            .map_err(|error| error.context(format!("failed to push \"{reference}\"")))?;
        Ok(Pushed { descriptor, credential })
    }
}

impl Remote {
    async fn push(
        &self,
        root: &RawManifest,
        store: &BlobStore,
        options: &PushOptions,
        progress: &Progress,
    ) -> Result<Descriptor, RegistryError> {
        let (manifests, blobs) = collect(root, store).await?;
        let work = blobs
            .into_iter()
            .map(|digest| self.push_from_store(digest, store, options, progress))
            .collect();
        all(work, self.client.options().concurrent_blobs_max).await?;
        // Children before the indexes that name them.
        for child in manifests.iter().rev() {
            if child.digest() != root.digest() {
                self.put_manifest(&child.digest().to_string(), child, progress).await?;
            }
        }
        self.put_manifest(&self.reference.manifest_key(), root, progress).await?;
        Ok(root.descriptor())
    }

    pub(crate) async fn push_from_store(
        &self,
        digest: Digest,
        store: &BlobStore,
        options: &PushOptions,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        if !store.contains(&digest) {
            // It may be at the registry from an earlier push or pull.
            if self.has_blob(&digest, progress).await?
                || self.mount(&digest, &options.mount_from, progress).await?
            {
                return Ok(());
            }
            let reason = format!("blob {digest} is neither in the store nor at the registry");
            return Err(RegistryErrorKind::Store { reason }.into());
        }
        let pushed =
            self.push_blob(&digest, &store.path(&digest), &options.mount_from, progress).await;
        match pushed {
            Err(error) if is_digest_refused(&error) => {
                let store = store.clone();
                let verdict = blocking(move || Ok(store.verify(&digest)?)).await?;
                if verdict == Verdict::Intact {
                    return Err(error);
                }
                let reason = format!(
                    "blob {digest} was damaged on disk and is in quarantine now; build or pull \
                     the image again"
                );
                Err(RegistryErrorKind::Store { reason }.into())
            }
            pushed => pushed,
        }
    }
}

/// The registry received other bytes than their digest promises.
fn is_digest_refused(error: &RegistryError) -> bool {
    matches!(error.kind(), RegistryErrorKind::Status { code: Some(ErrorCode::DigestInvalid), .. })
}

/// The manifests reachable from `root`, parents first, and the blobs that they name.
async fn collect(
    root: &RawManifest,
    store: &BlobStore,
) -> Result<(Vec<RawManifest>, BTreeSet<Digest>), RegistryError> {
    let mut manifests = Vec::new();
    let mut blobs = BTreeSet::new();
    let mut waiting = vec![(root.clone(), 0)];
    while let Some((manifest, depth)) = waiting.pop() {
        match manifest.parsed() {
            Manifest::Image(image) => {
                blobs.insert(image.config.digest);
                let ours =
                    image.layers.iter().filter(|layer| !layer.media_type.is_nondistributable());
                blobs.extend(ours.map(|layer| layer.digest));
            }
            Manifest::Index(index) => {
                if INDEX_DEPTH_MAX <= depth {
                    let reason = format!("index {} is nested too deeply", manifest.digest());
                    return Err(RegistryErrorKind::Malformed { reason }.into());
                }
                for child in &index.manifests {
                    let child = from_store(child, store).await?;
                    waiting.push((child, depth + 1));
                }
            }
        }
        manifests.push(manifest);
    }
    Ok((manifests, blobs))
}

/// Reads a manifest back from the store.
pub(crate) async fn from_store(
    descriptor: &Descriptor,
    store: &BlobStore,
) -> Result<RawManifest, RegistryError> {
    let (store, digest) = (store.clone(), descriptor.digest);
    let media_type: MediaType = descriptor.media_type.clone();
    blocking(move || {
        let bytes = store.read(&digest, MANIFEST_BYTES_MAX as u64)?;
        RawManifest::parse(Some(&media_type), bytes).map_err(|error| {
            RegistryErrorKind::Malformed { reason: format!("manifest {digest}: {error}") }.into()
        })
    })
    .await
}
