//! Base images that a warmer put into a directory: read, never written.
//!
//! Three forms are known, all named by the digest of an image's manifest: our own and kaniko-oss'
//! (`<digest>/` is an OCI layout), and kaniko's (`<digest>` is an archive for `docker load`,
//! `<digest>.json` the manifest).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blob_store::BlobStore;
use layers::ArchiveReader;
use oci_model::{Descriptor, Digest, MANIFEST_BYTES_MAX, Manifest, RawConfig, RawManifest};

/// Largest config read, in bytes (8 MiB, containerd's limit for documents).
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// A directory that a warmer filled.
#[derive(Clone, Debug)]
pub struct WarmedBases {
    /// The directory; it may be read-only, or not exist.
    pub directory: PathBuf,
    /// Older entries count as missing.
    pub ttl: Duration,
}

/// One image of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Layout(PathBuf),
    Archive(PathBuf),
}

impl WarmedBases {
    /// Manifest and config of the image with this digest.
    pub(crate) fn image(&self, digest: &Digest) -> Option<(RawManifest, RawConfig)> {
        let entry = self.entry(digest)?;
        let bytes = entry.manifest(digest)?;
        let manifest = RawManifest::parse(None, bytes).ok()?;
        if manifest.digest() != digest {
            tracing::warn!(%digest, "warmed image has another manifest");
            return None;
        }
        let Manifest::Image(image) = manifest.parsed() else { return None };
        let wanted = image.config.digest;
        let mut config = Vec::new();
        let mut reader = entry.blob(&wanted)?.take(CONFIG_BYTES_MAX);
        reader.read_to_end(&mut config).ok()?;
        let config = RawConfig::parse(config).ok()?;
        (*config.digest() == wanted).then_some((manifest, config))
    }

    /// Copies a blob into the store; says whether it was there and what its name says.
    pub(crate) fn copy(&self, wanted: &Descriptor, store: &BlobStore) -> bool {
        for entry in self.entries() {
            let Some(mut blob) = entry.blob(&wanted.digest) else { continue };
            let mut copied = || -> Result<(), Box<dyn std::error::Error>> {
                let mut ingest = store.ingest()?;
                io::copy(&mut blob, &mut ingest)?;
                ingest.commit(&wanted.digest)?;
                Ok(())
            };
            match copied() {
                Ok(()) => return true,
                Err(error) => {
                    let digest = wanted.digest;
                    tracing::warn!(%digest, %error, "warmed layer cannot be used");
                }
            }
        }
        false
    }

    fn entry(&self, digest: &Digest) -> Option<Entry> {
        self.usable(&self.directory.join(digest.to_string()))
    }

    fn entries(&self) -> Vec<Entry> {
        let Ok(listing) = fs::read_dir(&self.directory) else { return Vec::new() };
        let paths = listing.flatten().map(|item| item.path());
        paths
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.parse::<Digest>().is_ok())
            })
            .filter_map(|path| self.usable(&path))
            .collect()
    }

    /// The entry at a path, unless it is too old.
    fn usable(&self, path: &Path) -> Option<Entry> {
        let metadata = fs::metadata(path).ok()?;
        // A time in the future is not old.
        let age = metadata.modified().ok()?.elapsed().unwrap_or_default();
        if self.ttl < age {
            return None;
        }
        let path = path.to_owned();
        Some(if metadata.is_dir() { Entry::Layout(path) } else { Entry::Archive(path) })
    }
}

impl Entry {
    fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        match self {
            Self::Layout(_) => {
                let mut bytes = Vec::new();
                self.blob(digest)?.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
                Some(bytes)
            }
            Self::Archive(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".json");
                let mut bytes = Vec::new();
                let file = File::open(name).ok()?;
                file.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
                Some(bytes)
            }
        }
    }

    fn blob(&self, digest: &Digest) -> Option<Box<dyn Read + Send>> {
        let (algorithm, hex) = (digest.algorithm().name(), digest.encoded());
        match self {
            Self::Layout(root) => {
                let file = File::open(root.join("blobs").join(algorithm).join(hex)).ok()?;
                Some(Box::new(file))
            }
            Self::Archive(path) => {
                let names = [
                    format!("{hex}.tar.gz"),
                    format!("{algorithm}:{hex}"),
                    format!("{hex}.json"),
                    format!("{algorithm}:{hex}.tar.gz"),
                    format!("blobs/{algorithm}/{hex}"),
                ];
                let mut archive = ArchiveReader::new(io::BufReader::new(File::open(path).ok()?));
                loop {
                    let entry = archive.next_entry().ok()??;
                    if names.iter().any(|name| entry.path.as_os_str() == name.as_str()) {
                        return Some(Box::new(Content(archive)));
                    }
                }
            }
        }
    }
}

/// The content of the entry at which an archive stands.
struct Content(ArchiveReader<io::BufReader<File>>);

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.content().read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layers::{Entry as TarEntry, LayerWriter, Timestamps};
    use oci_model::MediaType;

    const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    const LAYER: &[u8] = b"a layer";

    fn manifest() -> (String, Digest) {
        let descriptor = |kind: MediaType, bytes: &[u8]| {
            let (digest, size) = (Digest::of(bytes), bytes.len());
            format!(r#"{{"mediaType":"{}","digest":"{digest}","size":{size}}}"#, kind.as_str())
        };
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            MediaType::OCI_MANIFEST.as_str(),
            descriptor(MediaType::OCI_CONFIG, CONFIG.as_bytes()),
            descriptor(MediaType::OCI_LAYER_GZIP, LAYER),
        );
        let digest = Digest::of(text.as_bytes());
        (text, digest)
    }

    fn layout(root: &Path) {
        let (manifest, digest) = manifest();
        let blobs = root.join(digest.to_string()).join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a directory");
        for bytes in [manifest.as_bytes(), CONFIG.as_bytes(), LAYER] {
            fs::write(blobs.join(Digest::of(bytes).encoded()), bytes).expect("a file");
        }
    }

    fn archive(root: &Path) {
        let (manifest, digest) = manifest();
        fs::write(root.join(format!("{digest}.json")), manifest).expect("a file");
        let mut tar = LayerWriter::new(Vec::new(), Timestamps::Keep);
        for (name, bytes) in [
            (Digest::of(CONFIG.as_bytes()).to_string(), CONFIG.as_bytes()),
            (format!("{}.tar.gz", Digest::of(LAYER).encoded()), LAYER),
        ] {
            let entry = TarEntry::file(name, 0o644, bytes.len() as u64);
            tar.add_with(&entry, bytes).expect("memory");
        }
        fs::write(root.join(digest.to_string()), tar.finish().expect("memory")).expect("a file");
    }

    #[test]
    fn layouts_and_archives_are_read() {
        for write in [layout, archive] {
            let root = tempfile::tempdir().expect("a directory");
            let warmed = root.path().join("cache");
            fs::create_dir(&warmed).expect("a directory");
            write(&warmed);
            let bases = WarmedBases { directory: warmed.clone(), ttl: Duration::from_secs(3600) };
            let (text, digest) = manifest();
            let (found, config) = bases.image(&digest).expect("warmed");
            assert_eq!(found.bytes(), text.as_bytes());
            assert_eq!(config.bytes(), CONFIG.as_bytes());
            let store = BlobStore::open(root.path().join("blobs")).expect("a store");
            let Manifest::Image(image) = found.parsed() else { panic!("an image") };
            assert!(bases.copy(&image.layers[0], &store));
            assert_eq!(store.read(&Digest::of(LAYER), 100).expect("copied"), LAYER);
            assert!(bases.image(&Digest::of(b"other")).is_none());
            let expired = WarmedBases { directory: warmed, ttl: Duration::ZERO };
            assert!(expired.image(&digest).is_none());
        }
    }

    #[test]
    fn what_is_damaged_or_missing_is_not_there() {
        let root = tempfile::tempdir().expect("a directory");
        let warmed = root.path().join("cache");
        let bases = WarmedBases { directory: warmed.clone(), ttl: Duration::from_secs(3600) };
        let (_, digest) = manifest();
        assert!(bases.image(&digest).is_none());
        fs::create_dir(&warmed).expect("a directory");
        layout(&warmed);
        let blobs = warmed.join(digest.to_string()).join("blobs/sha256");
        fs::write(blobs.join(Digest::of(LAYER).encoded()), b"another").expect("a file");
        let store = BlobStore::open(root.path().join("blobs")).expect("a store");
        let (found, _) = bases.image(&digest).expect("warmed");
        let Manifest::Image(image) = found.parsed() else { panic!("an image") };
        assert!(!bases.copy(&image.layers[0], &store));
        fs::write(blobs.join(digest.encoded()), b"{}").expect("a file");
        assert!(bases.image(&digest).is_none());
    }
}
