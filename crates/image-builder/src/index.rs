//! What a name refers to: the manifest of the only image, or an index of all.

use oci_model::{Descriptor, ImageIndex, MediaType, Platform, RawManifest};

use crate::annotations::{Annotations, Level};
use crate::error::BuildError;
use crate::image::BuiltImage;

/// Annotation of an attestation's entry: what it is (BuildKit, attestation storage).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Annotation of an attestation's entry: the image it is about.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// An attestation manifest, with the position of its image.
pub(crate) type Attached = (usize, RawManifest);

/// The document a name is to refer to. `attached` are attestations that stand in the index.
pub(crate) fn root(
    images: &[BuiltImage],
    attached: &[Attached],
    annotations: &Annotations,
) -> Result<RawManifest, BuildError> {
    if let ([only], []) = (images, attached) {
        if annotations.need_an_index() {
            return Err(BuildError::Request(
                "index annotations not supported for single platform export".to_owned(),
            ));
        }
        return Ok(only.manifest.clone());
    }
    let is_docker = images.iter().all(|image| image.manifest.media_type().is_docker());
    let mut manifests: Vec<Descriptor> = images
        .iter()
        .map(|image| Descriptor {
            platform: Some(offered(image)),
            annotations: annotations.at(Level::ManifestDescriptor, Some(&image.platform)),
            ..image.manifest.descriptor()
        })
        .collect();
    for (about, attestation) in attached {
        let Some(image) = images.get(*about) else { continue };
        let mut entry = Descriptor {
            platform: Some(unknown()),
            artifact_type: None,
            ..attestation.descriptor()
        };
        entry.annotations = [
            (REFERENCE_DIGEST.to_owned(), image.manifest.digest().to_string()),
            (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
        ]
        .into();
        manifests.push(entry);
    }
    let media_type = if is_docker { MediaType::DOCKER_MANIFEST_LIST } else { MediaType::OCI_INDEX };
    Ok(RawManifest::from_index(ImageIndex {
        schema_version: 2,
        media_type: Some(media_type),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: annotations.at(Level::Index, None),
    }))
}

/// The platform an image says it has; what was asked for if it does not say.
fn offered(image: &BuiltImage) -> Platform {
    let own = Platform {
        architecture: image.image.architecture.clone(),
        os: image.image.os.clone(),
        os_version: image.image.os_version.clone(),
        os_features: image.image.os_features.clone(),
        variant: image.image.variant.clone(),
    };
    if own.os.is_empty() || own.architecture.is_empty() { image.platform.clone() } else { own }
}

fn unknown() -> Platform {
    Platform { os: "unknown".to_owned(), ..Platform::linux("unknown") }
}
