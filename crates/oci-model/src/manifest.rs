//! Image manifests and indexes of OCI and Docker (OCI image-spec "Image Manifest", "Image Index").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::nullable::null_is_default;
use crate::{Descriptor, Digest, ManifestKind, MediaType, Platform};

/// Largest manifest accepted, in bytes (4 MiB).
///
/// Source: OCI distribution-spec, "Pushing Manifests": registries should support at least
/// 4 megabytes; above its limit a registry answers 413. Other clients refuse more than this too.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One image: its config and its layers, base layer first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; Docker requires it, OCI recommends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of the artifact when this is not a runnable image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, base first; Go programs write `null` for none.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Another manifest that this one is about (distribution-spec "Listing Referrers").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests, usually the same image for several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of the artifact when this is not a list of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, in the order clients should prefer them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Another manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// A parsed manifest of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image(ImageManifest),
    /// A list of manifests.
    Index(ImageIndex),
}

/// The exact bytes of a manifest with their media type, digest and parsed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    media_type: MediaType,
    digest: Digest,
    bytes: Vec<u8>,
    parsed: Manifest,
}

/// Why some bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MANIFEST_BYTES_MAX`] bytes.
    #[error("manifest is larger than {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    /// The type is not one of the four current manifest types.
    #[error("unsupported manifest media type {0:?}")]
    UnsupportedMediaType(String),
    /// The document names another type than the one it came under (CVE-2021-41190).
    #[error("manifest says it is {document}, but it was given as {given}")]
    MediaTypeMismatch {
        /// Type in the header or descriptor.
        given: MediaType,
        /// Type in the document.
        document: MediaType,
    },
    /// The document has fields of both kinds, so that two readers could see two images.
    #[error("manifest has fields of both an image and an index")]
    Ambiguous,
    /// `schemaVersion` is not 2.
    #[error("unsupported schemaVersion {0}, want 2")]
    SchemaVersion(u32),
    /// Not JSON, or not of the right shape.
    #[error("manifest is not valid JSON of its type")]
    Json(#[source] serde_json::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    media_type: Option<MediaType>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

impl RawManifest {
    /// Parses `bytes` that came under `media_type` (a header or descriptor; `None` if neither said).
    ///
    /// # Errors
    /// Every [`ManifestError`]; nothing is guessed when header and document disagree.
    pub fn parse(media_type: Option<&MediaType>, bytes: Vec<u8>) -> Result<Self, ManifestError> {
        if MANIFEST_BYTES_MAX < bytes.len() {
            return Err(ManifestError::TooLarge);
        }
        let outline: Outline = serde_json::from_slice(&bytes).map_err(ManifestError::Json)?;
        let image_fields =
            outline.layers.is_some() || outline.config.is_some() || outline.fs_layers.is_some();
        let media_type = match (media_type, outline.media_type) {
            (Some(given), Some(document)) if *given != document => {
                return Err(ManifestError::MediaTypeMismatch { given: given.clone(), document });
            }
            (_, Some(document)) => document,
            (Some(given), None) => given.clone(),
            (None, None) if outline.manifests.is_some() => MediaType::OCI_INDEX,
            (None, None) => MediaType::OCI_MANIFEST,
        };
        let is_ambiguous = match media_type.manifest_kind() {
            Some(ManifestKind::Image) => outline.manifests.is_some(),
            Some(ManifestKind::Index) => image_fields,
            None => image_fields && outline.manifests.is_some(),
        };
        if is_ambiguous {
            return Err(ManifestError::Ambiguous);
        }
        let (parsed, schema_version) = match media_type.manifest_kind() {
            Some(ManifestKind::Image) => {
                let image: ImageManifest =
                    serde_json::from_slice(&bytes).map_err(ManifestError::Json)?;
                let version = image.schema_version;
                (Manifest::Image(image), version)
            }
            Some(ManifestKind::Index) => {
                let index: ImageIndex =
                    serde_json::from_slice(&bytes).map_err(ManifestError::Json)?;
                let version = index.schema_version;
                (Manifest::Index(index), version)
            }
            None => return Err(ManifestError::UnsupportedMediaType(media_type.to_string())),
        };
        if schema_version != 2 {
            return Err(ManifestError::SchemaVersion(schema_version));
        }
        Ok(Self { digest: Digest::of(&bytes), media_type, bytes, parsed })
    }

    /// Writes a new image manifest; its bytes are fixed from here on.
    pub fn from_image(image: ImageManifest) -> Self {
        let media_type = image.media_type.clone().unwrap_or(MediaType::OCI_MANIFEST);
        let bytes = to_json(&image);
        Self { digest: Digest::of(&bytes), media_type, bytes, parsed: Manifest::Image(image) }
    }

    /// Writes a new index; its bytes are fixed from here on.
    pub fn from_index(index: ImageIndex) -> Self {
        let media_type = index.media_type.clone().unwrap_or(MediaType::OCI_INDEX);
        let bytes = to_json(&index);
        Self { digest: Digest::of(&bytes), media_type, bytes, parsed: Manifest::Index(index) }
    }

    /// The media type it was given under or names itself.
    pub const fn media_type(&self) -> &MediaType {
        &self.media_type
    }

    /// SHA-256 of the bytes.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The bytes, verbatim.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The parsed form.
    pub const fn parsed(&self) -> &Manifest {
        &self.parsed
    }

    /// Type, digest and size of this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.bytes.len() as u64)
    }
}

impl Manifest {
    /// Everything this manifest points to and a registry must hold: config and layers, or the
    /// child manifests; without non-distributable layers and without the subject.
    pub fn references(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, rest) = match self {
            Self::Image(image) => (Some(&image.config), &image.layers),
            Self::Index(index) => (None, &index.manifests),
        };
        config
            .into_iter()
            .chain(rest)
            .filter(|descriptor| !descriptor.media_type.is_nondistributable())
    }

    /// The manifest that this one is about, if any.
    pub const fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(image) => image.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// The annotations of the document.
    pub const fn annotations(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Image(image) => &image.annotations,
            Self::Index(index) => &index.annotations,
        }
    }

    /// The artifact type: `artifactType`, else the config's type for an image
    /// (distribution-spec, "Listing Referrers").
    pub fn artifact_type(&self) -> Option<&str> {
        match self {
            Self::Image(image) => Some(
                image.artifact_type.as_deref().unwrap_or_else(|| image.config.media_type.as_str()),
            ),
            Self::Index(index) => index.artifact_type.as_deref(),
        }
    }
}

impl ImageIndex {
    /// The child that serves `wish` best; the first of equals, as the order is the preference.
    ///
    /// Children without a platform, and attestations (`unknown/unknown`), never match.
    pub fn select(&self, wish: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .filter_map(|child| Some((wish.rank(child.platform.as_ref()?)?, child)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, child)| child)
    }

    /// The platforms on offer, for an error that says what there is.
    pub fn platforms(&self) -> Vec<String> {
        self.manifests
            .iter()
            .filter_map(|child| child.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .map(ToString::to_string)
            .collect()
    }
}

fn to_json<T: Serialize>(document: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "a struct of strings, numbers and string maps")]
    serde_json::to_vec(document).expect("our own documents have only string keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image_json(extra: &str) -> Vec<u8> {
        format!(
            r#"{{"schemaVersion":2,{extra}"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{DIGEST}","size":2}},"layers":[]}}"#
        )
        .into_bytes()
    }

    fn refusal(media_type: Option<&MediaType>, bytes: Vec<u8>) -> String {
        match RawManifest::parse(media_type, bytes) {
            Ok(manifest) => format!("accepted {manifest:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn bytes_are_kept_verbatim_with_unknown_fields_and_spaces() {
        let bytes = image_json(r#" "future" : {"a":1}, "#);
        let manifest = RawManifest::parse(Some(&MediaType::OCI_MANIFEST), bytes.clone());
        let manifest = manifest.expect("a valid manifest");
        assert_eq!(manifest.bytes(), bytes);
        assert_eq!(*manifest.digest(), Digest::of(&bytes));
    }

    #[test]
    fn header_and_document_must_agree_on_the_type() {
        let bytes = image_json(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#);
        let text = refusal(Some(&MediaType::DOCKER_MANIFEST), bytes);
        assert!(text.starts_with("manifest says it is application/vnd.oci"), "{text}");
    }

    #[test]
    fn image_and_index_in_one_document_are_refused() {
        let expected = "manifest has fields of both an image and an index";
        for (media_type, bytes) in [
            (MediaType::OCI_INDEX, image_json(r#""manifests":[],"#)),
            (MediaType::OCI_MANIFEST, image_json(r#""manifests":[],"#)),
            (MediaType::OCI_INDEX, image_json("")),
            (MediaType::OCI_INDEX, br#"{"schemaVersion":2,"fsLayers":[]}"#.to_vec()),
        ] {
            assert_eq!(refusal(Some(&media_type), bytes), expected);
        }
    }

    #[test]
    fn schema_one_and_foreign_types_are_refused() {
        let text = refusal(Some(&MediaType::DOCKER_SCHEMA1), b"{}".to_vec());
        assert!(text.starts_with("unsupported manifest media type"), "{text}");
        let text = String::from_utf8_lossy(&image_json("")).replace("Version\":2", "Version\":1");
        let bytes = text.into_bytes();
        assert!(refusal(Some(&MediaType::OCI_MANIFEST), bytes).contains("schemaVersion 1"));
    }

    #[test]
    fn one_byte_over_the_limit_is_too_large() {
        let mut bytes = image_json("");
        bytes.resize(MANIFEST_BYTES_MAX, b' ');
        assert!(RawManifest::parse(Some(&MediaType::OCI_MANIFEST), bytes.clone()).is_ok());
        bytes.push(b' ');
        assert!(refusal(None, bytes).contains("larger than 4194304 bytes"));
    }

    #[test]
    fn null_lists_of_go_programs_are_empty_lists() {
        let bytes = br#"{"schemaVersion":2,"manifests":null,"annotations":null}"#.to_vec();
        let manifest = RawManifest::parse(Some(&MediaType::OCI_INDEX), bytes);
        let manifest = manifest.expect("a valid index");
        assert_eq!(manifest.parsed().references().count(), 0);
    }

    #[test]
    fn best_platform_wins_and_attestations_never_do() {
        let child = |platform: Option<&str>, size| {
            let mut descriptor = Descriptor::new(MediaType::OCI_MANIFEST, Digest::of(b"x"), size);
            descriptor.platform = platform.map(|text| text.parse().expect("a platform"));
            descriptor
        };
        let index = ImageIndex {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            manifests: vec![
                child(None, 1),
                child(Some("unknown/unknown"), 2),
                child(Some("linux/arm/v6"), 3),
                child(Some("linux/arm/v7"), 4),
                child(Some("linux/amd64"), 5),
            ],
            subject: None,
            annotations: BTreeMap::new(),
        };
        let select = |text: &str| {
            let wish = text.parse().expect("a platform");
            index.select(&wish).map(|descriptor| descriptor.size)
        };
        assert_eq!(select("linux/amd64"), Some(5));
        assert_eq!(select("linux/arm/v7"), Some(4));
        assert_eq!(select("linux/arm/v6"), Some(3));
        assert_eq!(select("linux/s390x"), None);
        assert_eq!(index.platforms(), ["linux/arm/v6", "linux/arm/v7", "linux/amd64"]);
    }
}
