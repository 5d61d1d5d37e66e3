//! The manifests that carry statements.

use std::collections::BTreeMap;

use oci_model::{
    Descriptor, DiffId, Digest, ImageConfig, ImageManifest, MediaType, RawConfig, RawManifest,
    RootFs,
};

/// Media type of an in-toto statement, and artifact type of a manifest with one.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Annotation that says what a statement is about.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The empty config of artifacts (OCI image-spec 1.1, guidance for an empty descriptor).
pub(super) const EMPTY: &[u8] = b"{}";

fn layer((predicate_type, bytes): &(&str, &[u8])) -> Descriptor {
    let mut layer = Descriptor::of(MediaType::new(IN_TOTO), bytes);
    layer.annotations.insert(PREDICATE_TYPE.to_owned(), (*predicate_type).to_owned());
    layer
}

/// One manifest with all statements about an image, and its config (BuildKit, attestation
/// storage: the config is a valid one and means nothing).
pub(super) fn for_index(parts: &[(&str, &[u8])]) -> (RawManifest, RawConfig) {
    let diff_ids = parts.iter().map(|(_, bytes)| DiffId(Digest::of(bytes))).collect();
    let config = RawConfig::from_config(ImageConfig {
        architecture: "unknown".to_owned(),
        os: "unknown".to_owned(),
        rootfs: RootFs { diff_ids, ..RootFs::default() },
        ..ImageConfig::default()
    });
    let manifest = RawManifest::from_image(ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config: config.descriptor(MediaType::OCI_CONFIG),
        layers: parts.iter().map(layer).collect(),
        subject: None,
        annotations: BTreeMap::new(),
    });
    (manifest, config)
}

/// A manifest with one statement, which refers to the image.
pub(super) fn referrer(image: &RawManifest, part: &(&str, &[u8])) -> RawManifest {
    RawManifest::from_image(ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: Some(IN_TOTO.to_owned()),
        config: Descriptor::of(MediaType::OCI_EMPTY, EMPTY),
        layers: vec![layer(part)],
        subject: Some(Descriptor { annotations: BTreeMap::new(), ..image.descriptor() }),
        annotations: [(PREDICATE_TYPE.to_owned(), part.0.to_owned())].into(),
    })
}
