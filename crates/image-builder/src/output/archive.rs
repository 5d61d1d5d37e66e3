//! An OCI layout as a tar archive, and the same with what `docker load` looks for.

use layers::{Entry, LayerWriter, Timestamps};
use oci_model::Manifest;

use super::destination::Destination;
use super::layout::{OCI_LAYOUT, blob_path, index};
use super::{OutputTarget, Written};
use crate::error::StepError;

/// Name of an image in an archive that was given none, as kaniko writes it.
const UNNAMED: &str = "unset-repo/unset-image-name";

/// Writes an OCI layout.
pub(super) fn oci(written: &Written, target: &OutputTarget) -> Result<(), StepError> {
    archive(written, target, None)
}

/// Writes what `docker load` reads; it is an OCI layout as well.
pub(super) fn docker(written: &Written, target: &OutputTarget) -> Result<(), StepError> {
    archive(written, target, Some(docker_manifest(written)?))
}

fn archive(
    written: &Written,
    target: &OutputTarget,
    docker: Option<Vec<u8>>,
) -> Result<(), StepError> {
    let failed = |error| StepError::layer("cannot write the archive", error);
    let mut writer = LayerWriter::new(Destination::open(target)?, Timestamps::Set(0));
    for directory in ["blobs", "blobs/sha256"] {
        writer.add(&Entry::directory(directory, 0o755)).map_err(failed)?;
    }
    let mut blobs = written.blobs.clone();
    blobs.sort_unstable();
    for digest in blobs {
        let blob = written
            .store
            .open_blob(&digest)
            .map_err(|error| StepError::layer(format!("cannot open blob {digest}"), error))?;
        let entry = Entry::file(blob_path(&digest), 0o644, blob.size());
        writer.add_with(&entry, blob.into_file()).map_err(failed)?;
    }
    let mut documents = vec![("index.json", index(written))];
    documents.extend(docker.map(|manifest| ("manifest.json", manifest)));
    documents.push(("oci-layout", OCI_LAYOUT.as_bytes().to_vec()));
    for (name, bytes) in documents {
        let entry = Entry::file(name, 0o644, bytes.len() as u64);
        writer.add_with(&entry, &bytes[..]).map_err(failed)?;
    }
    writer.finish().map_err(failed)?.finish()
}

/// Config, tags and layers by their paths in the archive.
fn docker_manifest(written: &Written) -> Result<Vec<u8>, StepError> {
    let Some(image) = written.images.first() else { return Ok(Vec::new()) };
    let mut tags: Vec<String> =
        written.names.iter().map(|name| name.with_default_tag().familiar()).collect();
    if tags.is_empty() {
        tags.push(format!("{UNNAMED}:latest"));
    }
    let layers: Vec<String> = match image.manifest.parsed() {
        Manifest::Image(manifest) => {
            manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect()
        }
        Manifest::Index(_) => Vec::new(),
    };
    let document = serde_json::json!([{
        "Config": blob_path(&image.config),
        "RepoTags": tags,
        "Layers": layers,
    }]);
    serde_json::to_vec(&document)
        .map_err(|error| StepError::layer("cannot write the archive", error))
}
