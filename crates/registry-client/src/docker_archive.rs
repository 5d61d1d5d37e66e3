//! Images in `docker save` archives (moby image/spec v1.2, "Combined Image JSON + Filesystem
//! Changeset Format").

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use blob_store::{BlobStore, IngestError, Lease};
use oci_model::{
    Algorithm, Descriptor, Digest, ImageManifest, Manifest, MediaType, RawManifest, Reference,
};
use serde::{Deserialize, Serialize};

use crate::oci_layout::ImageFileError;

/// Largest config or `manifest.json` that is read, in bytes (8 MiB).
const DOCUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// One image in `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes an image of the store as an archive that `docker load`, `podman load` and `ctr import`
/// take. Layers stay compressed as they are.
///
/// # Errors
/// See [`ImageFileError`]; an index cannot be written, choose one of its images.
pub fn write_docker_archive(
    store: &BlobStore,
    image: &RawManifest,
    names: &[Reference],
    out: impl Write,
) -> Result<(), ImageFileError> {
    let Manifest::Image(manifest) = image.parsed() else {
        let reason = "a docker archive holds images, not indexes; choose a platform".to_owned();
        return Err(ImageFileError::Store { reason });
    };
    let written = |error: io::Error| ImageFileError::Store {
        reason: format!("cannot write the archive: {error}"),
    };
    let mut archive = tar::Builder::new(out);
    let mut add = |name: &str, bytes: u64, content: &mut dyn Read| -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, name, content)
    };
    let open = |digest: &Digest| {
        let blob = store.open_blob(digest).map_err(|error| ImageFileError::store(&error))?;
        Ok::<_, ImageFileError>((blob.size(), blob.into_file()))
    };
    let config_name = format!("{}.json", manifest.config.digest.encoded());
    let (bytes, mut file) = open(&manifest.config.digest)?;
    add(&config_name, bytes, &mut file).map_err(written)?;
    let mut layers = Vec::new();
    for layer in &manifest.layers {
        let name = format!("{}{}", layer.digest.encoded(), suffix(&layer.media_type));
        if !layers.contains(&name) {
            let (bytes, mut file) = open(&layer.digest)?;
            add(&name, bytes, &mut file).map_err(written)?;
        }
        layers.push(name);
    }
    let names: Vec<String> = names.iter().map(Reference::familiar).collect();
    let saved = [SavedImage { config: config_name, repo_tags: Some(names), layers }];
    let text = serde_json::to_vec(&saved).map_err(|error| ImageFileError::store(&error))?;
    add("manifest.json", text.len() as u64, &mut &text[..]).map_err(written)?;
    archive.into_inner().and_then(|mut out| out.flush()).map_err(written)
}

fn suffix(media_type: &MediaType) -> &'static str {
    let text = media_type.as_str();
    if text.ends_with("gzip") {
        ".tar.gz"
    } else if text.ends_with("zstd") {
        ".tar.zst"
    } else {
        ".tar"
    }
}

/// Reads an image from an archive of `docker save`, `podman save`, kaniko or crane into the
/// store, and makes the manifest that the archive lacks. Without a name the archive must hold
/// one image.
///
/// # Errors
/// See [`ImageFileError`].
pub fn read_docker_archive(
    path: &Path,
    name: Option<&Reference>,
    store: &BlobStore,
    lease: &Lease,
) -> Result<RawManifest, ImageFileError> {
    let unreadable = |error| ImageFileError::file("read", path)(error);
    let mut file = File::open(path).map_err(unreadable)?;
    let members = members(&mut file).map_err(unreadable)?;
    let saved = document(&mut file, &members, "manifest.json", path)?;
    let saved: Vec<SavedImage> = serde_json::from_slice(&saved)
        .map_err(|error| ImageFileError::malformed(path, format!("manifest.json: {error}")))?;
    let tags = |image: &SavedImage| image.repo_tags.clone().unwrap_or_default();
    let is_wanted = |image: &SavedImage| match name {
        None => true,
        Some(name) => tags(image)
            .iter()
            .filter_map(|tag| tag.parse::<Reference>().ok())
            .any(|tag| tag.with_default_tag() == name.with_default_tag()),
    };
    let wanted: Vec<&SavedImage> = saved.iter().filter(|image| is_wanted(image)).collect();
    let [image] = &wanted[..] else {
        return Err(ImageFileError::NotFound {
            path: path.to_owned(),
            wanted: name.map_or_else(|| "(the only one)".to_owned(), ToString::to_string),
            offered: saved.iter().flat_map(tags).collect(),
        });
    };
    let config = document(&mut file, &members, &image.config, path)?;
    let config_digest = put(store, lease, &mut &config[..], path)?;
    let mut manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config: Descriptor::new(MediaType::OCI_CONFIG, config_digest, config.len() as u64),
        layers: Vec::new(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    for layer in &image.layers {
        let (start, bytes) = member(&members, layer, path)?;
        file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
        let mut magic = Vec::new();
        (&mut file).take(bytes.min(4)).read_to_end(&mut magic).map_err(unreadable)?;
        let media_type = match magic[..] {
            [0x1f, 0x8b, ..] => MediaType::OCI_LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => MediaType::OCI_LAYER_ZSTD,
            _ => MediaType::OCI_LAYER,
        };
        file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
        let digest = put(store, lease, &mut (&mut file).take(bytes), path)?;
        manifest.layers.push(Descriptor::new(media_type, digest, bytes));
    }
    let manifest = RawManifest::from_image(manifest);
    put(store, lease, &mut manifest.bytes(), path)?;
    Ok(manifest)
}

/// Where each file of the archive stands, with its size; symbolic links, which old versions of
/// docker wrote for repeated layers, stand for what they name.
fn members(file: &mut File) -> io::Result<BTreeMap<String, (u64, u64)>> {
    let mut members = BTreeMap::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(&mut *file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = clean(&entry.path()?.to_string_lossy());
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                members.insert(name, (entry.raw_file_position(), entry.size()));
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                if let Some(target) = entry.link_name()? {
                    let target = clean(target.to_string_lossy().trim_start_matches("../"));
                    links.push((name, target));
                }
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(found) = members.get(&target).copied() {
            members.insert(name, found);
        }
    }
    Ok(members)
}

fn clean(name: &str) -> String {
    name.trim_start_matches("./").trim_start_matches('/').to_owned()
}

fn member(
    members: &BTreeMap<String, (u64, u64)>,
    name: &str,
    path: &Path,
) -> Result<(u64, u64), ImageFileError> {
    let missing = || ImageFileError::malformed(path, format!("there is no {name} in it"));
    members.get(&clean(name)).copied().ok_or_else(missing)
}

fn document(
    file: &mut File,
    members: &BTreeMap<String, (u64, u64)>,
    name: &str,
    path: &Path,
) -> Result<Vec<u8>, ImageFileError> {
    let (start, bytes) = member(members, name, path)?;
    if DOCUMENT_BYTES_MAX < bytes {
        return Err(ImageFileError::malformed(path, format!("{name} is too large")));
    }
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.take(bytes).read_to_end(&mut text))
        .map_err(ImageFileError::file("read", path))?;
    Ok(text)
}

/// Takes bytes into the store under whatever their digest is.
fn put(
    store: &BlobStore,
    lease: &Lease,
    content: &mut dyn Read,
    path: &Path,
) -> Result<Digest, ImageFileError> {
    let ingest =
        store.ingest_with(Algorithm::Sha256).map_err(|error| ImageFileError::store(&error))?;
    let mut ingest = ingest.guarded_by(lease);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = content.read(&mut buffer).map_err(ImageFileError::file("read", path))?;
        if read == 0 {
            break;
        }
        if let Err(error) = ingest.write_all(&buffer[..read]) {
            return Err(ImageFileError::store(&IngestError::from_write(error, &ingest)));
        }
    }
    ingest.commit_any().map_err(|error| ImageFileError::store(&error))
}
