//! A cache in an OCI image layout: the same manifest and document as in a registry.
//!
//! Writers lock `shipway-cache.lock` in the directory; readers need no lock, because files appear
//! whole and the index comes last.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use blob_store::{BlobStore, Lease};
use oci_model::{Descriptor, Digest, MANIFEST_BYTES_MAX, Manifest, MediaType, RawManifest};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::document::{CACHE_CONFIG, DOCUMENT_BYTES_MAX, Records};
use super::{inline, remote};

/// Annotation that names an image in a layout (OCI image-spec, annotations).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Largest index that is read, in bytes.
const INDEX_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The records behind a name; `None` if there are none.
pub(crate) fn read(directory: &Path, name: &str) -> io::Result<Option<Records>> {
    let Some(entries) = entries(directory)? else { return Ok(None) };
    let named = |entry: &&Value| entry["annotations"][REF_NAME] == name || entry["digest"] == name;
    let Some(digest) = entries.iter().find(named).and_then(|entry| entry["digest"].as_str()) else {
        return Ok(None);
    };
    let invalid = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let digest: Digest = digest.parse().map_err(|error| invalid(&error))?;
    let bytes = read_up_to(&blob_path(directory, &digest), MANIFEST_BYTES_MAX as u64)?;
    let manifest = RawManifest::parse(None, bytes).map_err(|error| invalid(&error))?;
    let Manifest::Image(image) = manifest.parsed() else { return Ok(None) };
    let config = read_up_to(&blob_path(directory, &image.config.digest), DOCUMENT_BYTES_MAX)?;
    if image.config.media_type == MediaType::new(CACHE_CONFIG) {
        return Ok(Some(Records::parse(&config)));
    }
    Ok(inline::extract(&config, image))
}

/// Brings a blob of the layout into the store, verified.
pub(crate) fn take(
    directory: &Path,
    descriptor: &Descriptor,
    store: &BlobStore,
    lease: &Lease,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    lease.add(&descriptor.digest)?;
    if store.contains(&descriptor.digest) {
        return Ok(());
    }
    let mut file = File::open(blob_path(directory, &descriptor.digest))?;
    let mut ingest = store.ingest()?.guarded_by(lease);
    io::copy(&mut file, &mut ingest)?;
    ingest.commit(&descriptor.digest)?;
    Ok(())
}

/// Whether the layout has a blob already, and not only the beginning of it.
pub(crate) fn has(directory: &Path, blob: &Descriptor) -> bool {
    let metadata = fs::metadata(blob_path(directory, &blob.digest));
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size)
}

/// Merges records into those behind a name. Layers that the layout lacks come out of the store.
pub(crate) fn write(
    directory: &Path,
    name: &str,
    store: &BlobStore,
    change: impl FnOnce(&mut Records),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    fs::create_dir_all(directory)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("shipway-cache.lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    let mut records = read(directory, name)?.unwrap_or_default();
    change(&mut records);
    // A layer that is nowhere makes its records worthless.
    let present = |layer: &Descriptor| has(directory, layer) || store.contains(&layer.digest);
    records.steps.retain(|_, step| step.layers().all(|(layer, _)| present(layer)));
    records.mounts.retain(|_, mount| present(&mount.layer));
    let document = records.write()?;
    let layers = records.layers();
    for layer in &layers {
        if !has(directory, layer) {
            let blob = store.open_blob(&layer.digest)?;
            write_whole(&blob_path(directory, &layer.digest), &mut blob.into_file())?;
        }
    }
    write_whole(&blob_path(directory, &Digest::of(&document)), &mut &document[..])?;
    let manifest = remote::manifest(&document, layers);
    write_whole(&blob_path(directory, manifest.digest()), &mut manifest.bytes())?;
    write_whole(&directory.join("oci-layout"), &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..])?;
    let mut entries = entries(directory)?.unwrap_or_default();
    let replaced: Vec<Value> = {
        let (old, kept) =
            entries.into_iter().partition(|entry| entry["annotations"][REF_NAME] == name);
        entries = kept;
        old
    };
    entries.push(json!({
        "mediaType": manifest.media_type().as_str(),
        "digest": manifest.digest().to_string(),
        "size": manifest.bytes().len(),
        "annotations": { REF_NAME: name },
    }));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX.as_str(),
        "manifests": entries,
    });
    write_whole(&directory.join("index.json"), &mut index.to_string().as_bytes())?;
    remove_unneeded(directory, &replaced, &entries, &manifest);
    Ok(())
}

/// Removes blobs that only the replaced manifests named.
fn remove_unneeded(directory: &Path, replaced: &[Value], entries: &[Value], new: &RawManifest) {
    let named = |digest: &Digest| -> Vec<Digest> {
        let bytes = read_up_to(&blob_path(directory, digest), MANIFEST_BYTES_MAX as u64);
        let manifest = bytes.ok().and_then(|bytes| RawManifest::parse(None, bytes).ok());
        match manifest.as_ref().map(RawManifest::parsed) {
            Some(Manifest::Image(image)) => std::iter::once(image.config.digest)
                .chain(image.layers.iter().map(|layer| layer.digest))
                .chain([*digest])
                .collect(),
            _ => Vec::new(),
        }
    };
    // What is in an index of several images is not known here, so nothing goes then.
    if entries.iter().any(|entry| entry["mediaType"] != new.media_type().as_str()) {
        return;
    }
    let digest = |entry: &Value| entry["digest"].as_str().and_then(|text| text.parse().ok());
    let kept: Vec<Digest> = entries.iter().filter_map(digest).flat_map(|one| named(&one)).collect();
    for old in replaced.iter().filter_map(digest).flat_map(|one: Digest| named(&one)) {
        if !kept.contains(&old) {
            // What cannot be removed only takes space.
            let _ = fs::remove_file(blob_path(directory, &old));
        }
    }
}

fn entries(directory: &Path) -> io::Result<Option<Vec<Value>>> {
    let text = match read_up_to(&directory.join("index.json"), INDEX_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut index: Value = serde_json::from_slice(&text)?;
    match index.get_mut("manifests").map(Value::take) {
        Some(Value::Array(entries)) => Ok(Some(entries)),
        _ => Err(io::Error::other("its index has no list of manifests")),
    }
}

fn read_up_to(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes_max < bytes.len() as u64 {
        return Err(io::Error::other(format!("{} is too large", path.display())));
    }
    Ok(bytes)
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs").join(digest.algorithm().to_string()).join(digest.encoded())
}

fn write_whole(path: &Path, content: &mut impl io::Read) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    io::copy(content, &mut file)?;
    use std::os::unix::fs::PermissionsExt as _;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    // The name must not outlive a crash without the bytes.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use oci_model::DiffId;

    use super::*;
    use crate::cache::record::{CachedStep, StepKind, StepOutput};

    #[test]
    fn an_index_of_another_shape_is_an_error() {
        let root = tempfile::tempdir().expect("a directory");
        for text in ["[]", "{}", "7", r#"{"manifests":{}}"#, "\"manifests\""] {
            fs::write(root.path().join("index.json"), text).expect("ours");
            assert!(read(root.path(), "cache").is_err(), "{text}");
        }
    }

    #[test]
    fn a_torn_blob_is_written_again() {
        let root = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(root.path().join("blobs")).expect("a store");
        let digest = store.put(b"layer").expect("a blob");
        let layer = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"layer");
        let step = CachedStep {
            kind: StepKind::Content,
            outputs: vec![StepOutput { created: 1, layer: Some((layer.clone(), DiffId(digest))) }],
            used: 1,
            about: None,
            content: None,
        };
        let layout = root.path().join("layout");
        let write = || {
            write(&layout, "cache", &store, |records| {
                records.steps.insert(Digest::of(b"key"), step.clone());
            })
        };
        write().expect("written");
        fs::write(blob_path(&layout, &digest), "lay").expect("ours");
        assert!(!has(&layout, &layer));
        write().expect("written");
        assert!(has(&layout, &layer));
        fs::write(blob_path(&layout, &digest), "lay").expect("ours");
        fs::remove_file(store.path(&digest)).expect("ours");
        write().expect("written");
        let records = read(&layout, "cache").expect("readable").expect("records");
        assert!(records.steps.is_empty(), "its layer is nowhere");
    }
}
