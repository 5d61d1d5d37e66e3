//! Images by name in the state directory: a ref `images/<reference>` over all digests of the
//! image, the manifest or index first. Builder, node and these verbs share the names.

use blob_store::{BlobStore, RefName};
use oci_model::{Digest, MANIFEST_BYTES_MAX, RawManifest, Reference};

use crate::exit::{Failure, Kind};
use crate::globals::Globals;

/// Opens the blob store of the state directory.
pub(crate) fn open_store(globals: &Globals) -> Result<BlobStore, Failure> {
    let path = globals.state_dir().join("blobs");
    BlobStore::open(&path)
        .map_err(|error| Failure::new(Kind::Environment, error).hint("choose another --state-dir"))
}

/// Makes the name stand for the image.
pub(crate) fn remember(
    store: &BlobStore,
    reference: &Reference,
    root: &Digest,
    digests: &[Digest],
) -> Result<(), Failure> {
    let mut all = vec![*root];
    all.extend(digests.iter().filter(|digest| *digest != root));
    store
        .set_ref(&ref_name(reference)?, &all)
        .map_err(|error| Failure::new(Kind::Environment, error))
}

/// The manifest or index that the name stands for.
pub(crate) fn find(store: &BlobStore, reference: &Reference) -> Result<RawManifest, Failure> {
    let environment = |error: anyhow::Error| Failure::new(Kind::Environment, error);
    let digest = match reference.digest() {
        Some(digest) if store.contains(digest) => *digest,
        _ => {
            let kept =
                store.get_ref(&ref_name(reference)?).map_err(|error| environment(error.into()))?;
            kept.and_then(|digests| digests.first().copied()).ok_or_else(|| {
                Failure::new(
                    Kind::NotFound,
                    anyhow::anyhow!("no image {reference} in the state directory"),
                )
                .hint(format!("shipway build -t {0}, or shipway pull {0}", reference.familiar()))
            })?
        }
    };
    let bytes = store
        .read(&digest, MANIFEST_BYTES_MAX as u64)
        .map_err(|error| environment(error.into()))?;
    RawManifest::parse(None, bytes).map_err(|error| environment(error.into()))
}

fn ref_name(reference: &Reference) -> Result<RefName, Failure> {
    let name = format!("images/{}", reference.with_default_tag());
    name.parse().map_err(Failure::usage)
}
