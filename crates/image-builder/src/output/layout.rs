//! OCI image layout (OCI image-spec, image-layout).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use oci_model::{Descriptor, Digest, ImageIndex, MediaType, RawManifest};

use super::destination::{Destination, whole};
use super::{OutputTarget, Written};
use crate::error::StepError;

/// The `oci-layout` file.
pub(super) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Path of a blob in a layout.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.encoded())
}

/// `index.json`: one entry per name.
pub(super) fn index(written: &Written) -> Vec<u8> {
    let descriptor = || Descriptor {
        annotations: written.layout_annotations.clone(),
        ..written.root.descriptor()
    };
    let mut manifests = Vec::new();
    for name in &written.names {
        let mut named = descriptor();
        named.annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
        if let Some(tag) = name.tag() {
            let key = "org.opencontainers.image.ref.name".to_owned();
            named.annotations.insert(key, tag.as_str().to_owned());
        }
        manifests.push(named);
    }
    if manifests.is_empty() {
        manifests.push(descriptor());
    }
    // What refers to the images stands beside them, as in a registry.
    for referrer in &written.referrers {
        manifests.push(Descriptor {
            artifact_type: referrer.parsed().artifact_type().map(str::to_owned),
            annotations: referrer.parsed().annotations().clone(),
            ..referrer.descriptor()
        });
    }
    let index = ImageIndex {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: BTreeMap::new(),
    };
    RawManifest::from_index(index).bytes().to_vec()
}

/// Writes a layout as a directory; `index.json`, which makes it one image, comes last.
pub(super) fn directory(written: &Written, root: &Path) -> Result<(), StepError> {
    let io = |error| StepError::io(root, error);
    for digest in &written.blobs {
        let path = root.join(blob_path(digest));
        fs::create_dir_all(path.parent().unwrap_or(root)).map_err(io)?;
        let mut out = Destination::open(&OutputTarget::File(path))?;
        let mut source = File::open(written.store.path(digest)).map_err(io)?;
        io::copy(&mut source, &mut out).map_err(io)?;
        out.finish()?;
    }
    whole(&root.join("oci-layout"), OCI_LAYOUT.as_bytes())?;
    whole(&root.join("index.json"), &index(written))
}
