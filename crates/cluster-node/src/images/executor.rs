//! The executor image: our own program as `/kaniko/executor`, on the node from the start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blob_store::BlobStore;
use layers::{Compression, ContentSource, Entry, LayerSink, LayerWriter, Timestamps, VirtualLayer};
use oci_model::{
    ContainerConfig, Descriptor, ImageConfig, ImageManifest, MediaType, Platform, RawConfig,
    RawManifest, Reference, RootFs,
};
use serde::{Deserialize, Serialize};

use super::store::ImageStore;

const MEBIBYTE: u64 = 1024 * 1024;
/// Where Debian and most others keep the certificates that programs trust.
const HOST_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Name of the record below the directory of the node.
pub(crate) const RECORD: &str = "executor.json";

/// Which file the present image was made of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_nanos: i128,
}

impl Source {
    fn of(metadata: &fs::Metadata) -> Self {
        Source {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_nanos: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        }
    }

    fn is_recorded(&self, record: &Path) -> bool {
        let known = fs::read(record).ok();
        known.is_some_and(|bytes| {
            serde_json::from_slice(&bytes).is_ok_and(|known: Source| known == *self)
        })
    }
}

/// Why a node in `directory` could not make the executor image of `program` for want of space:
/// for who starts one, as it is made beside the start and a failure is only in the log.
pub fn executor_image_shortage(
    blobs: &BlobStore,
    directory: &Path,
    program: &Path,
) -> Option<String> {
    let source = Source::of(&fs::metadata(program).ok()?);
    if source.is_recorded(&directory.join(RECORD)) {
        return None;
    }
    // The blob and the layer unpacked.
    let needed = source.bytes.saturating_mul(2);
    let free = blobs.disk_space().ok()?.free;
    (free < needed).then(|| {
        format!(
            "no room for the executor image: it takes {} MiB, and {} MiB are free",
            needed.div_ceil(MEBIBYTE),
            free / MEBIBYTE
        )
    })
}

/// Why there is no executor image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecutorError {
    #[error("cannot read the program {path}")]
    Program { path: String, source: io::Error },
    #[error("cannot write the executor image: {0}")]
    Write(String),
}

/// Makes the image `reference` of `program`, unless it was made of the same file before.
///
/// # Errors
/// The program cannot be read or the store cannot be written.
pub(crate) fn prepare(
    store: &ImageStore,
    reference: &Reference,
    program: &Path,
    record: &Path,
) -> Result<(), ExecutorError> {
    let program_error =
        |source| ExecutorError::Program { path: program.display().to_string(), source };
    let metadata = fs::metadata(program).map_err(program_error)?;
    let source = Source::of(&metadata);
    if source.is_recorded(record)
        && let Ok(Some(image)) = store.find(reference)
    {
        return store
            .root_directories(&image)
            .map(drop)
            .map_err(|error| ExecutorError::Write(error.to_string()));
    }
    build(store, reference, program, metadata.len()).map_err(ExecutorError::Write)?;
    let bytes =
        serde_json::to_vec(&source).map_err(|error| ExecutorError::Write(error.to_string()))?;
    fs::write(record, bytes).map_err(|error| ExecutorError::Write(error.to_string()))
}

/// Files below `/kaniko` only: whatever else is in the root must come from the image being built.
fn layer(program: &Path, bytes: u64) -> VirtualLayer {
    let mut layer = VirtualLayer::new();
    let none = || ContentSource::Bytes(Vec::new());
    for (path, mode) in [
        ("kaniko", 0o777),
        ("kaniko/.docker", 0o755),
        ("kaniko/ssl", 0o755),
        ("kaniko/ssl/certs", 0o755),
    ] {
        layer.insert(Entry::directory(path, mode), none());
    }
    layer.insert(
        Entry::file("kaniko/executor", 0o755, bytes),
        ContentSource::File(program.to_owned()),
    );
    if let Ok(certificates) = fs::read(HOST_CERTIFICATES) {
        let size = certificates.len() as u64;
        layer.insert(
            Entry::file("kaniko/ssl/certs/ca-certificates.crt", 0o644, size),
            ContentSource::Bytes(certificates),
        );
    }
    layer
}

fn build(
    store: &ImageStore,
    reference: &Reference,
    program: &Path,
    bytes: u64,
) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| super::store::chain(error);
    let lease = store.blobs.lease().map_err(|error| text(&error))?;
    let ingest = store.blobs.ingest().map_err(|error| text(&error))?.guarded_by(&lease);
    // Not compressed: it never leaves this machine, and a start must not wait for a compressor.
    let sink = LayerSink::new(ingest, Compression::None);
    let mut writer = LayerWriter::new(sink, Timestamps::Set(0));
    layer(program, bytes).write(&mut writer).map_err(|error| text(&error))?;
    let sink = writer.finish().map_err(|error| text(&error))?;
    let (blob, ingest) = sink.finish().map_err(|error| text(&error))?;
    ingest.commit(&blob.digest).map_err(|error| text(&error))?;

    let config = RawConfig::from_config(image_config(blob.diff_id));
    store.blobs.put(config.bytes()).map_err(|error| text(&error))?;
    let manifest = RawManifest::from_image(ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config: config.descriptor(MediaType::OCI_CONFIG),
        layers: vec![Descriptor::new(MediaType::OCI_LAYER, blob.digest, blob.blob_bytes)],
        subject: None,
        annotations: BTreeMap::new(),
    });
    let root = store.blobs.put(manifest.bytes()).map_err(|error| text(&error))?;
    let image = store
        .read(reference, root)
        .map_err(|error| text(&error))?
        .ok_or_else(|| "it vanished while it was written".to_owned())?;
    store.remember(reference, &image).map_err(|error| text(&error))?;
    store.root_directories(&image).map(drop).map_err(|error| text(&error))
}

/// Environment, entry point and working directory of kaniko's own image.
fn image_config(diff_id: oci_model::DiffId) -> ImageConfig {
    let platform = Platform::host();
    let env = [
        "HOME=/root",
        "USER=root",
        "PATH=/usr/local/bin:/kaniko",
        "SSL_CERT_DIR=/kaniko/ssl/certs",
        "DOCKER_CONFIG=/kaniko/.docker/",
    ];
    ImageConfig {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        config: ContainerConfig {
            env: env.map(str::to_owned).to_vec(),
            entrypoint: Some(vec!["/kaniko/executor".to_owned()]),
            working_dir: "/workspace".to_owned(),
            ..ContainerConfig::default()
        },
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
        ..ImageConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EXECUTOR_IMAGE;

    #[test]
    fn shortage_of_space_is_told_before_the_image_is_made() {
        let dir = tempfile::tempdir().expect("tempdir");
        let blobs = BlobStore::open(dir.path().join("blobs")).expect("blobs");
        let program = dir.path().join("program");
        let file = fs::File::create(&program).expect("program");
        assert_eq!(executor_image_shortage(&blobs, dir.path(), &program), None);
        // Sparse, and larger than what is free anywhere.
        file.set_len(1 << 43).expect("a sparse file");
        let text = executor_image_shortage(&blobs, dir.path(), &program).expect("too large");
        assert!(text.contains("it takes 16777216 MiB"), "{text}");
        let source = Source::of(&fs::metadata(&program).expect("program"));
        let source = serde_json::to_vec(&source).expect("JSON");
        fs::write(dir.path().join(RECORD), source).expect("record");
        assert_eq!(executor_image_shortage(&blobs, dir.path(), &program), None, "it is here");
    }

    #[test]
    fn executor_image_holds_our_program_and_nothing_outside_of_kaniko() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = ImageStore::new(
            BlobStore::open(dir.path().join("blobs")).expect("blobs"),
            layers::UnpackedLayers::open(&dir.path().join("layers")).expect("layers"),
        );
        let reference: Reference = EXECUTOR_IMAGE.parse().expect("reference");
        let program = dir.path().join("program");
        fs::write(&program, "one").expect("program");
        let record = dir.path().join("executor.json");
        prepare(&store, &reference, &program, &record).expect("image");
        let image = store.find(&reference).expect("store").expect("image");
        let lowers = store.root_directories(&image).expect("directories");
        assert_eq!(lowers.len(), 1);
        assert_eq!(fs::read_to_string(lowers[0].join("kaniko/executor")).expect("program"), "one");
        let top: Vec<_> = fs::read_dir(&lowers[0])
            .expect("root")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(top, ["kaniko"]);
        assert_eq!(image.config.config.entrypoint, Some(vec!["/kaniko/executor".to_owned()]));

        prepare(&store, &reference, &program, &record).expect("again");
        assert_eq!(store.find(&reference).expect("store").expect("image").root, image.root);
        fs::write(&program, "another").expect("program");
        prepare(&store, &reference, &program, &record).expect("new program");
        assert_ne!(store.find(&reference).expect("store").expect("image").root, image.root);
        let names = store.summaries().pop().expect("summary").names;
        assert_eq!(names.last().map(String::as_str), Some(EXECUTOR_IMAGE));
    }
}
