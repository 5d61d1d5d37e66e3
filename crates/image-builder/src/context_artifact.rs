//! A build context as an artifact of a registry: one compressed tar layer, so that a build in a
//! cluster needs neither a volume nor an object store.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use blob_store::{BlobStore, Lease};
use layers::{Compression, Timestamps};
use oci_model::{Descriptor, ImageManifest, Manifest, MediaType, RawManifest, Reference};
use registry_client::{Client, Progress};

use crate::builder::ContextDirectory;
use crate::commit::{self, LayerForm, MadeLayer};
use crate::context;
use crate::error::StepError;
use crate::layer_source::blocking;
use crate::registry::CredentialSource;
use crate::tree::Node;

/// `artifactType` of a build context (OCI image-spec 1.1, manifest).
pub const CONTEXT_ARTIFACT: &str = "application/vnd.shipway.build-context.v1";
/// The config of an artifact that has none (OCI image-spec 1.1, "Guidance for an Empty
/// Descriptor").
const EMPTY_CONFIG: &[u8] = b"{}";

/// Packs a directory, without what its ignore file names, into the store; the manifest is ready
/// to be pushed as long as the lease lives. Equal files give an equal digest.
///
/// # Errors
/// [`StepError`] names the file that cannot be read, or says what the store said.
pub async fn pack_context(
    directory: &ContextDirectory,
    store: &BlobStore,
    compression: Compression,
) -> Result<(RawManifest, Arc<Lease>), StepError> {
    let (directory, store) = (directory.clone(), store.clone());
    blocking(move || {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            StepError::layer("cannot write the context", error)
        };
        let lease = store.lease().map_err(|error| failed(error.into()))?;
        let tree = context::scan(&directory.root, &directory.ignore)?;
        let nodes: Vec<Node> =
            tree.nodes().filter(|n| !n.entry.path.as_os_str().is_empty()).cloned().collect();
        let form = LayerForm { compression, timestamps: Timestamps::Keep, ignored: None };
        let Some(MadeLayer { layer, .. }) = commit::nodes(&store, &lease, form, nodes)? else {
            return Err(StepError::Source(format!(
                "there is nothing in {} to push",
                directory.root.display()
            )));
        };
        let manifest = RawManifest::from_image(ImageManifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: Some(CONTEXT_ARTIFACT.to_owned()),
            config: Descriptor::of(
                MediaType::new("application/vnd.oci.empty.v1+json"),
                EMPTY_CONFIG,
            ),
            layers: vec![layer.descriptor],
            subject: None,
            annotations: BTreeMap::new(),
        });
        for bytes in [EMPTY_CONFIG, manifest.bytes()] {
            let digest = oci_model::Digest::of(bytes);
            lease.add(&digest).map_err(|error| failed(error.into()))?;
            store.put(bytes).map_err(|error| failed(error.into()))?;
        }
        Ok((manifest, Arc::new(lease)))
    })
    .await
}

/// Fetches the archive of a context that was pushed, at most `bytes_max` bytes; it is read from
/// the store.
pub(crate) async fn fetch(
    reference: &Reference,
    client: &Client,
    credentials: &CredentialSource,
    store: &BlobStore,
    bytes_max: u64,
) -> Result<File, StepError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        StepError::layer(format!("cannot fetch context {reference}"), error)
    };
    let auths = credentials.lookup(reference).await;
    let manifest =
        client.fetch_manifest(reference, &auths).await.map_err(|error| failed(error.into()))?;
    let layer = archive_of(&manifest).map_err(|reason| failed(reason.into()))?;
    if bytes_max < layer.size {
        let text = format!("{} bytes are more than a context may have, {bytes_max}", layer.size);
        return Err(failed(text.into()));
    }
    let lease = store.lease().map_err(|error| failed(error.into()))?;
    let none = Progress::none();
    client
        .fetch_blob(reference, &layer, &auths, store, Some(&lease), &none)
        .await
        .map_err(|error| failed(error.into()))?;
    // An open file outlives the lease.
    let blob = store.open_blob(&layer.digest).map_err(|error| failed(error.into()))?;
    Ok(blob.into_file())
}

fn archive_of(manifest: &RawManifest) -> Result<Descriptor, String> {
    let Manifest::Image(image) = manifest.parsed() else {
        return Err("it is a list of images, not a build context".to_owned());
    };
    match (&image.artifact_type, image.layers.as_slice()) {
        (Some(kind), [layer]) if kind == CONTEXT_ARTIFACT => Ok(layer.clone()),
        (Some(kind), _) if kind == CONTEXT_ARTIFACT => {
            Err(format!("it has {} layers; a build context has one", image.layers.len()))
        }
        (Some(kind), _) => Err(format!("it is {kind}, not {CONTEXT_ARTIFACT}")),
        (None, _) => Err("it is an image; push a context with `shipway context push`".to_owned()),
    }
}
