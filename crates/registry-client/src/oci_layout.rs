//! Images in OCI layout directories (OCI image-spec, image-layout).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use blob_store::{BlobStore, IngestError, Lease};
use oci_model::{
    Descriptor, Digest, ImageIndex, MANIFEST_BYTES_MAX, Manifest, MediaType, RawManifest,
};
use serde_json::{Value, json};

use crate::error::with_causes;

/// Deepest nesting of indexes that is followed.
const INDEX_DEPTH_MAX: u32 = 4;
/// Annotation that names an image in a layout (OCI image-spec, annotations).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why an image was not read from or written to files.
#[derive(Debug, thiserror::Error)]
pub enum ImageFileError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The files are not what they should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no such image in it.
    #[error("{} holds no image {wanted:?}; it holds {}", path.display(), list(offered))]
    NotFound {
        /// The directory or file.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// The store failed.
    #[error("{reason}")]
    Store {
        /// What it said.
        reason: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl ImageFileError {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn store(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Store { reason: with_causes(error) }
    }
}

/// Writes an image of the store into the layout at `directory`, which is made or added to.
/// `name` becomes its ref name and is taken from an older image that has it.
///
/// # Errors
/// See [`ImageFileError`].
pub fn write_oci_layout(
    store: &BlobStore,
    root: &RawManifest,
    directory: &Path,
    name: Option<&str>,
) -> Result<(), ImageFileError> {
    let (manifests, blobs) = everything(store, root)?;
    for manifest in &manifests {
        let path = blob_path(directory, manifest.digest());
        write_whole(&path, &mut &manifest.bytes()[..])?;
    }
    for digest in blobs {
        let path = blob_path(directory, &digest);
        if path.exists() {
            continue;
        }
        let blob = store.open_blob(&digest).map_err(|error| ImageFileError::store(&error))?;
        write_whole(&path, &mut blob.into_file())?;
    }
    write_whole(&directory.join("oci-layout"), &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..])?;

    let index_path = directory.join("index.json");
    let mut entries = match fs::read(&index_path) {
        Ok(text) => read_index(&index_path, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ImageFileError::file("read", &index_path)(error)),
    };
    entries.retain(|entry| {
        let same_name = name.is_some() && ref_name(entry) == name;
        let same_image = name.is_none() && entry["digest"] == root.digest().to_string();
        !same_name && !same_image
    });
    let mut entry = json!({
        "mediaType": root.media_type().as_str(),
        "digest": root.digest().to_string(),
        "size": root.bytes().len(),
    });
    if let Some(name) = name {
        entry["annotations"] = json!({ REF_NAME: name });
    }
    entries.push(entry);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX.as_str(),
        "manifests": entries,
    });
    write_whole(&index_path, &mut index.to_string().as_bytes())
}

/// Reads an image from a layout into the store. Without a name the layout must hold one image.
///
/// # Errors
/// See [`ImageFileError`].
pub fn read_oci_layout(
    directory: &Path,
    name: Option<&str>,
    store: &BlobStore,
    lease: &Lease,
) -> Result<RawManifest, ImageFileError> {
    let index_path = directory.join("index.json");
    let text = fs::read(&index_path).map_err(ImageFileError::file("read", &index_path))?;
    let entries = read_index(&index_path, &text)?;
    let wanted: Vec<&Value> = match name {
        None => entries.iter().collect(),
        Some(name) => entries
            .iter()
            .filter(|entry| ref_name(entry) == Some(name) || entry["digest"] == name)
            .collect(),
    };
    let [entry] = &wanted[..] else {
        return Err(ImageFileError::NotFound {
            path: directory.to_owned(),
            wanted: name.unwrap_or("(the only one)").to_owned(),
            offered: entries
                .iter()
                .map(|entry| ref_name(entry).or(entry["digest"].as_str()).unwrap_or("?").to_owned())
                .collect(),
        });
    };
    let descriptor: Descriptor = serde_json::from_value((*entry).clone())
        .map_err(|error| ImageFileError::malformed(&index_path, error.to_string()))?;
    let root = take_manifest(directory, &descriptor, store, lease)?;
    let mut waiting = vec![(root.clone(), 0)];
    while let Some((manifest, depth)) = waiting.pop() {
        match manifest.parsed() {
            Manifest::Image(image) => {
                for blob in std::iter::once(&image.config).chain(&image.layers) {
                    if !blob.media_type.is_nondistributable() {
                        take_blob(&blob_path(directory, &blob.digest), &blob.digest, store, lease)?;
                    }
                }
            }
            Manifest::Index(ImageIndex { manifests, .. }) => {
                if INDEX_DEPTH_MAX <= depth {
                    return Err(ImageFileError::malformed(&index_path, "nested too deeply"));
                }
                for child in manifests {
                    waiting.push((take_manifest(directory, child, store, lease)?, depth + 1));
                }
            }
        }
    }
    Ok(root)
}

fn read_index(path: &Path, text: &[u8]) -> Result<Vec<Value>, ImageFileError> {
    let index: Value = serde_json::from_slice(text)
        .map_err(|error| ImageFileError::malformed(path, error.to_string()))?;
    match &index["manifests"] {
        Value::Array(entries) => Ok(entries.clone()),
        _ => Err(ImageFileError::malformed(path, "there is no list of manifests")),
    }
}

fn ref_name(entry: &Value) -> Option<&str> {
    entry["annotations"][REF_NAME].as_str()
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs").join(digest.algorithm().name()).join(digest.encoded())
}

fn take_manifest(
    directory: &Path,
    descriptor: &Descriptor,
    store: &BlobStore,
    lease: &Lease,
) -> Result<RawManifest, ImageFileError> {
    let path = blob_path(directory, &descriptor.digest);
    let bytes = fs::metadata(&path).map_err(ImageFileError::file("read", &path))?.len();
    if MANIFEST_BYTES_MAX as u64 <= bytes {
        return Err(ImageFileError::malformed(&path, "a manifest this large is refused"));
    }
    take_blob(&path, &descriptor.digest, store, lease)?;
    let bytes = fs::read(&path).map_err(ImageFileError::file("read", &path))?;
    RawManifest::parse(Some(&descriptor.media_type), bytes)
        .map_err(|error| ImageFileError::malformed(&path, error.to_string()))
}

/// Copies a file into the store, verified.
pub(crate) fn take_blob(
    path: &Path,
    digest: &Digest,
    store: &BlobStore,
    lease: &Lease,
) -> Result<(), ImageFileError> {
    if lease.add(digest).map_err(|error| ImageFileError::store(&error))? {
        return Ok(());
    }
    let mut file = File::open(path).map_err(ImageFileError::file("read", path))?;
    let mut ingest =
        store.ingest_with(digest.algorithm()).map_err(|error| ImageFileError::store(&error))?;
    io::copy(&mut file, &mut ingest)
        .map_err(|error| ImageFileError::store(&IngestError::from_write(error, &ingest)))?;
    ingest.commit_deferred(digest).map_err(|error| ImageFileError::store(&error))
}

/// All manifests below `root`, itself included, and the blobs that they name.
pub(crate) fn everything(
    store: &BlobStore,
    root: &RawManifest,
) -> Result<(Vec<RawManifest>, Vec<Digest>), ImageFileError> {
    let (mut manifests, mut blobs) = (Vec::new(), Vec::new());
    let mut waiting = vec![(root.clone(), 0)];
    while let Some((manifest, depth)) = waiting.pop() {
        match manifest.parsed() {
            Manifest::Image(image) => {
                let all = std::iter::once(&image.config).chain(&image.layers);
                let ours = all.filter(|blob| !blob.media_type.is_nondistributable());
                blobs.extend(ours.map(|blob| blob.digest));
            }
            Manifest::Index(index) => {
                if INDEX_DEPTH_MAX <= depth {
                    let reason = format!("index {} is nested too deeply", manifest.digest());
                    return Err(ImageFileError::Store { reason });
                }
                for child in &index.manifests {
                    let bytes = store
                        .read(&child.digest, MANIFEST_BYTES_MAX as u64)
                        .map_err(|error| ImageFileError::store(&error))?;
                    let child = RawManifest::parse(Some(&child.media_type), bytes)
                        .map_err(|error| ImageFileError::store(&error))?;
                    waiting.push((child, depth + 1));
                }
            }
        }
        manifests.push(manifest);
    }
    blobs.sort_unstable();
    blobs.dedup();
    Ok((manifests, blobs))
}

/// Writes a file beside its place and renames it there.
fn write_whole(path: &Path, content: &mut dyn io::Read) -> Result<(), ImageFileError> {
    let failed = |error| ImageFileError::file("write", path)(error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{:08x}", fastrand::u32(..)));
    let staged = PathBuf::from(staged);
    let write = || -> io::Result<()> {
        let mut file = File::create(&staged)?;
        io::copy(content, &mut file)?;
        file.flush()?;
        fs::rename(&staged, path)
    };
    let mut write = write;
    write().map_err(|error| {
        let _ = fs::remove_file(&staged);
        ImageFileError::file("write", path)(error)
    })
}
