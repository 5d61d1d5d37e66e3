//! Media types of images (OCI image-spec "Media Types"; Docker image manifest version 2, schema 2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A media type, verbatim as a document or header gave it, without parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(std::borrow::Cow<'static, str>);

/// What a document with some media type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image: a config and layers.
    Image,
    /// A list of manifests, usually one per platform.
    Index,
}

impl MediaType {
    /// OCI image manifest.
    pub const OCI_MANIFEST: Self = Self::known("application/vnd.oci.image.manifest.v1+json");
    /// OCI image index.
    pub const OCI_INDEX: Self = Self::known("application/vnd.oci.image.index.v1+json");
    /// OCI image config.
    pub const OCI_CONFIG: Self = Self::known("application/vnd.oci.image.config.v1+json");
    /// The empty JSON object `{}`, used as the config of artifacts.
    pub const OCI_EMPTY: Self = Self::known("application/vnd.oci.empty.v1+json");
    /// OCI layer, not compressed.
    pub const OCI_LAYER: Self = Self::known("application/vnd.oci.image.layer.v1.tar");
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: Self = Self::known("application/vnd.oci.image.layer.v1.tar+gzip");
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: Self = Self::known("application/vnd.oci.image.layer.v1.tar+zstd");
    /// Docker image manifest, version 2, schema 2.
    pub const DOCKER_MANIFEST: Self =
        Self::known("application/vnd.docker.distribution.manifest.v2+json");
    /// Docker manifest list.
    pub const DOCKER_MANIFEST_LIST: Self =
        Self::known("application/vnd.docker.distribution.manifest.list.v2+json");
    /// Docker image config.
    pub const DOCKER_CONFIG: Self = Self::known("application/vnd.docker.container.image.v1+json");
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: Self =
        Self::known("application/vnd.docker.image.rootfs.diff.tar.gzip");
    /// Docker layer, not compressed.
    pub const DOCKER_LAYER: Self = Self::known("application/vnd.docker.image.rootfs.diff.tar");
    /// Docker layer that registries do not keep.
    pub const DOCKER_FOREIGN_LAYER: Self =
        Self::known("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    /// Docker manifest of schema 1, which nobody accepts any more.
    pub const DOCKER_SCHEMA1: Self =
        Self::known("application/vnd.docker.distribution.manifest.v1+json");
    /// Signed Docker manifest of schema 1, which nobody accepts any more.
    pub const DOCKER_SCHEMA1_SIGNED: Self =
        Self::known("application/vnd.docker.distribution.manifest.v1+prettyjws");

    /// The four manifest types a client offers in `Accept`, in order of preference.
    pub const MANIFESTS: [Self; 4] =
        [Self::OCI_INDEX, Self::OCI_MANIFEST, Self::DOCKER_MANIFEST_LIST, Self::DOCKER_MANIFEST];

    const fn known(text: &'static str) -> Self {
        Self(std::borrow::Cow::Borrowed(text))
    }

    /// A media type from a header or document; parameters after `;` and blanks are dropped.
    pub fn new(text: &str) -> Self {
        let essence = text.split_once(';').map_or(text, |(essence, _)| essence).trim();
        Self(std::borrow::Cow::Owned(essence.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which kind of manifest a document of this type is; `None` for everything else.
    pub fn manifest_kind(&self) -> Option<ManifestKind> {
        if *self == Self::OCI_MANIFEST || *self == Self::DOCKER_MANIFEST {
            Some(ManifestKind::Image)
        } else if *self == Self::OCI_INDEX || *self == Self::DOCKER_MANIFEST_LIST {
            Some(ManifestKind::Index)
        } else {
            None
        }
    }

    /// Whether this belongs to Docker's family of types, which must not be mixed with OCI's.
    pub fn is_docker(&self) -> bool {
        self.0.starts_with("application/vnd.docker.")
    }

    /// Whether a blob of this type may be missing from a registry (non-distributable layers).
    pub fn is_nondistributable(&self) -> bool {
        self.0.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
            || self.0.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
    }

    /// Whether this is the type of a file-system layer.
    pub fn is_layer(&self) -> bool {
        self.0.starts_with("application/vnd.oci.image.layer.")
            || self.0.starts_with("application/vnd.docker.image.rootfs.")
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_header_do_not_change_the_type() {
        let header = "application/vnd.oci.image.index.v1+json; charset=utf-8";
        assert_eq!(MediaType::new(header), MediaType::OCI_INDEX);
    }

    #[test]
    fn only_the_four_current_types_are_manifests() {
        assert!(MediaType::MANIFESTS.iter().all(|t| t.manifest_kind().is_some()));
        assert_eq!(MediaType::DOCKER_SCHEMA1.manifest_kind(), None);
        assert_eq!(MediaType::OCI_CONFIG.manifest_kind(), None);
    }

    #[test]
    fn foreign_layers_may_be_missing() {
        let oci = MediaType::new("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
        assert!(oci.is_nondistributable() && oci.is_layer());
        assert!(MediaType::DOCKER_FOREIGN_LAYER.is_nondistributable());
        assert!(!MediaType::OCI_LAYER_GZIP.is_nondistributable());
    }
}
