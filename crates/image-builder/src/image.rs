//! The finished images: config and manifest of each, in one family of media types.

use std::sync::Arc;

use dockerfile::Target;
use oci_model::{
    Descriptor, Digest, ImageConfig, ImageManifest, MediaType, Platform, RawConfig, RawManifest,
};

use crate::annotations::Level;
use crate::attest::AttestationForm;
use crate::builder::{BuildOutcome, FamilyChoice, Snapshots};
use crate::commit::Family;
use crate::error::BuildError;
use crate::layer_source::LayerRef;
use crate::session::{Session, StageResult};
use crate::squash::{squash, squashed_config};

/// The image of one platform.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// What it is for, as it was asked for.
    pub platform: Platform,
    /// Its manifest.
    pub manifest: RawManifest,
    /// Digest of its config: Docker's image ID.
    pub config: Digest,
    /// Its config.
    pub image: ImageConfig,
    /// Bottom first; those of the base may not be in the store.
    pub(crate) layers: Vec<LayerRef>,
}

impl BuiltImage {
    /// The layers that registries and layouts keep: foreign ones are named, not copied.
    pub(crate) fn own_layers(&self) -> impl Iterator<Item = &LayerRef> {
        self.layers.iter().filter(|layer| !layer.descriptor.media_type.is_nondistributable())
    }
}

/// Writes configs and manifests of the wanted stages into the store.
pub(crate) async fn assemble(
    session: &Arc<Session>,
    wanted: &[(Target, Arc<StageResult>)],
) -> Result<Vec<BuiltImage>, BuildError> {
    let attest = &session.request.attest;
    let in_index =
        attest.form == AttestationForm::Index && (attest.sbom || attest.provenance.is_some());
    let family = match session.request.family {
        // The manifests of attestations are OCI's, and an index has one family.
        FamilyChoice::OfBase if in_index => Family::Oci,
        FamilyChoice::Exactly(Family::Docker) if in_index => {
            return Err(BuildError::Request(
                "attestations cannot be in an index of Docker media types: ask for OCI media \
                 types, or attach them as referrers"
                    .to_owned(),
            ));
        }
        choice => family(choice, wanted.iter().map(|(_, result)| &**result)),
    };
    let mut images = Vec::with_capacity(wanted.len());
    for (target, result) in wanted {
        images.push(assemble_one(session, target, result, family).await?);
    }
    Ok(images)
}

/// One family for all images, because their index has one too. Docker's only if every base is
/// Docker's or there is no base.
fn family<'a>(choice: FamilyChoice, results: impl Iterator<Item = &'a StageResult>) -> Family {
    match choice {
        FamilyChoice::Exactly(family) => family,
        FamilyChoice::OfBase => {
            let mut results = results;
            if results.any(|result| result.base_is_docker == Some(false)) {
                Family::Oci
            } else {
                Family::Docker
            }
        }
    }
}

async fn assemble_one(
    session: &Arc<Session>,
    target: &Target,
    result: &StageResult,
    family: Family,
) -> Result<BuiltImage, BuildError> {
    let mut layers = result.files.layers.clone();
    let mut image = result.config.clone();
    if session.request.snapshots == Snapshots::Single {
        let failed = |error| BuildError::state("cannot make one layer of all", error);
        let own = layers.split_off(result.inherited);
        let single = squash(session, &layers, own).await.map_err(failed)?;
        image = squashed_config(session.plan.stage(target.stage), result, single.as_ref());
        layers.extend(single);
    }
    let mut descriptors = Vec::with_capacity(layers.len());
    for layer in &layers {
        descriptors.push(relabel(&layer.descriptor, family)?);
    }
    let mut config = RawConfig::from_config(image.clone());
    if session.request.inline_cache {
        let records = crate::cache::export::inline_records(session, target.stage);
        config = crate::cache::inline::embed(&config, &records)
            .map_err(|error| BuildError::state("cannot put the cache into the config", error))?;
    }
    let (config_type, manifest_type) = match family {
        Family::Oci => (MediaType::OCI_CONFIG, MediaType::OCI_MANIFEST),
        Family::Docker => (MediaType::DOCKER_CONFIG, MediaType::DOCKER_MANIFEST),
    };
    let manifest = RawManifest::from_image(ImageManifest {
        schema_version: 2,
        media_type: Some(manifest_type),
        artifact_type: None,
        config: config.descriptor(config_type),
        layers: descriptors,
        subject: None,
        annotations: session.request.annotations.at(Level::Manifest, Some(&target.platform)),
    });
    for bytes in [config.bytes(), manifest.bytes()] {
        put(session, bytes)?;
    }
    let platform = target.platform.clone();
    Ok(BuiltImage { platform, manifest, config: *config.digest(), image, layers })
}

/// Writes a document of the image into the store, where the build's lease guards it.
pub(crate) fn put(session: &Session, bytes: &[u8]) -> Result<(), BuildError> {
    let digest = Digest::of(bytes);
    let lease = session.source.lease();
    lease.add(&digest).map_err(|error| BuildError::state("cannot hold the image", error))?;
    let written = session.inner.store.put(bytes);
    written.map(|_| ()).map_err(|error| BuildError::state("cannot write the image", error))
}

/// The same layer types in both families (OCI image-spec, media types; containerd's for Docker).
const LAYER_TYPES: [(&str, &str); 4] = [
    ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"),
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
];
/// containerd's name of a zstd layer in a Docker manifest, which Docker itself does not have.
const DOCKER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// The descriptor of a layer in a family of media types; everything else stays as it is.
fn relabel(descriptor: &Descriptor, family: Family) -> Result<Descriptor, BuildError> {
    let mut relabelled = descriptor.clone();
    let found = descriptor.media_type.as_str();
    let pair = LAYER_TYPES.iter().find(|(oci, docker)| *oci == found || *docker == found);
    match (family, pair) {
        (Family::Oci, Some((oci, _))) => relabelled.media_type = MediaType::new(oci),
        (Family::Oci, None) if found == DOCKER_ZSTD => {
            relabelled.media_type = MediaType::OCI_LAYER_ZSTD;
        }
        (Family::Oci, None) => {}
        (Family::Docker, Some((_, docker))) => relabelled.media_type = MediaType::new(docker),
        (Family::Docker, None) => {
            let what = if found.contains("zstd") { "zstd" } else { found };
            return Err(BuildError::Request(format!(
                "layer {} is compressed with {what}, which Docker's image format does not have: \
                 ask for OCI media types",
                descriptor.digest
            )));
        }
    }
    Ok(relabelled)
}

impl BuildOutcome {
    /// Bytes of all layers as they are compressed, of all platforms.
    pub fn layer_bytes(&self) -> u64 {
        let layers = self.images.iter().flat_map(|image| &image.layers);
        layers.map(|layer| layer.descriptor.size).sum()
    }

    /// How many layers the images have.
    pub fn layer_count(&self) -> usize {
        self.images.iter().map(|image| image.layers.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> Descriptor {
        let mut descriptor = Descriptor::of(MediaType::new(media_type), b"layer");
        descriptor.urls = vec!["https://example.com/layer".to_owned()];
        descriptor.annotations.insert("a".to_owned(), "b".to_owned());
        descriptor
    }

    #[test]
    fn every_layer_type_changes_family_and_nothing_else_changes() {
        for (oci, docker) in LAYER_TYPES {
            for from in [oci, docker] {
                for (family, to) in [(Family::Oci, oci), (Family::Docker, docker)] {
                    let made = relabel(&descriptor(from), family).expect("it has a twin");
                    assert_eq!(made, descriptor(to), "{from} in {family:?}");
                }
            }
        }
    }

    #[test]
    fn zstd_is_only_in_the_oci_family() {
        for zstd in ["application/vnd.oci.image.layer.v1.tar+zstd", DOCKER_ZSTD] {
            let oci = relabel(&descriptor(zstd), Family::Oci).expect("OCI has zstd");
            assert_eq!(oci.media_type, MediaType::OCI_LAYER_ZSTD);
            let refused = relabel(&descriptor(zstd), Family::Docker).expect_err("Docker has none");
            assert!(refused.to_string().contains("compressed with zstd"), "{refused}");
        }
    }

    #[test]
    fn types_that_nobody_knows_stay_in_the_oci_family() {
        let foreign = descriptor("application/vnd.example.layer");
        assert_eq!(relabel(&foreign, Family::Oci).expect("kept"), foreign);
        assert!(relabel(&foreign, Family::Docker).is_err());
    }
}
