//! Small images for the tests, and a registry that serves them.

use std::collections::HashMap;

use blob_store::BlobStore;
use oci_model::{Digest, MediaType, RawManifest, Reference};
use registry_client::{Client, ClientOptions};

use crate::fake::{Answer, Request, answer};

/// An image of one layer with the given content.
pub(crate) struct Image {
    pub(crate) manifest: RawManifest,
    pub(crate) blobs: HashMap<Digest, Vec<u8>>,
    pub(crate) layer: Digest,
}

pub(crate) fn image(content: &[u8]) -> Image {
    let layer = Digest::of(content);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
    );
    let config_digest = Digest::of(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{layer}","size":{}}}]}}"#,
        MediaType::OCI_MANIFEST.as_str(),
        MediaType::OCI_CONFIG.as_str(),
        config.len(),
        MediaType::OCI_LAYER.as_str(),
        content.len(),
    );
    let manifest =
        RawManifest::parse(Some(&MediaType::OCI_MANIFEST), manifest.into_bytes()).unwrap();
    let blobs = HashMap::from([(layer, content.to_vec()), (config_digest, config.into_bytes())]);
    Image { manifest, blobs, layer }
}

/// An index over images by platform (`os/architecture`).
pub(crate) fn index(images: &[(&str, &Image)]) -> RawManifest {
    let children: Vec<String> = images
        .iter()
        .map(|(platform, image)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#,
                image.manifest.media_type().as_str(),
                image.manifest.digest(),
                image.manifest.bytes().len(),
            )
        })
        .collect();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
        MediaType::OCI_INDEX.as_str(),
        children.join(",")
    );
    RawManifest::parse(Some(&MediaType::OCI_INDEX), index.into_bytes()).unwrap()
}

impl Image {
    /// Puts blobs and manifest into a store.
    pub(crate) fn put(&self, store: &BlobStore) {
        for bytes in self.blobs.values() {
            store.put(bytes).unwrap();
        }
        store.put(self.manifest.bytes()).unwrap();
    }

    /// What a well-behaved registry answers for this image under tag `1`.
    pub(crate) fn serve(&self, request: &Request) -> Answer {
        serve_manifest(&self.manifest, request)
            .or_else(|| {
                let digest = request.target.split("/blobs/").nth(1)?.parse::<Digest>().ok()?;
                Some(answer(200).body(self.blobs.get(&digest)?.clone()))
            })
            .unwrap_or_else(not_found)
    }
}

pub(crate) fn serve_manifest(manifest: &RawManifest, request: &Request) -> Option<Answer> {
    let key = request.target.split("/manifests/").nth(1)?;
    let key = key.split('?').next().unwrap_or(key);
    if key != "1" && key != manifest.digest().to_string() {
        return None;
    }
    let answer = answer(200)
        .header("Content-Type", manifest.media_type().as_str())
        .header("Docker-Content-Digest", manifest.digest().to_string())
        .body(manifest.bytes());
    Some(answer)
}

pub(crate) fn not_found() -> Answer {
    answer(404).body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
}

pub(crate) fn client() -> Client {
    Client::new(ClientOptions::default()).unwrap()
}

pub(crate) fn reference(address: &str, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}

pub(crate) fn store() -> (tempfile::TempDir, BlobStore) {
    let place = tempfile::tempdir().unwrap();
    let store = BlobStore::open(place.path().join("blobs")).unwrap();
    (place, store)
}
