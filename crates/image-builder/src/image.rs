//! The finished image: config, manifest, and where they go.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blob_store::BlobStore;
use dockerfile::{StepLayer, assemble_config};
use layers::{Entry, EntryKind, Whiteout};
use oci_model::{
    Descriptor, Digest, ImageConfig, ImageManifest, MediaType, RawConfig, RawManifest, Reference,
    Repository,
};

use crate::archive::Spool;
use crate::builder::{BuildOutcome, FamilyChoice, Inner, Snapshots};
use crate::commit::{self, Family};
use crate::error::{BuildError, StepError};
use crate::event::BuildEvent;
use crate::images::image_ref;
use crate::layer_source::{LayerRef, blocking};
use crate::layer_tree::for_each_content;
use crate::session::{Session, StageResult};

/// Documents of a finished image.
pub(crate) struct Assembled {
    pub(crate) manifest: RawManifest,
    pub(crate) config: Digest,
    pub(crate) image: ImageConfig,
    pub(crate) layers: Vec<LayerRef>,
}

/// Writes config and manifest of a stage into the store.
pub(crate) async fn assemble(
    session: &Arc<Session>,
    result: &StageResult,
) -> Result<Assembled, BuildError> {
    let mut layers = result.files.layers.clone();
    let mut image = result.config.clone();
    if session.request.snapshots == Snapshots::Single {
        let failed = |error| BuildError::state("cannot make one layer of all", error);
        let own = layers.split_off(result.inherited);
        let single = squash(session, own).await.map_err(failed)?;
        image = squashed_config(session, result, single.as_ref());
        layers.extend(single);
    }
    let family = match session.request.family {
        FamilyChoice::Exactly(family) => family,
        FamilyChoice::OfBase => match result.base_is_docker {
            Some(false) => Family::Oci,
            Some(true) | None => Family::Docker,
        },
    };
    let mut descriptors = Vec::with_capacity(layers.len());
    for layer in &layers {
        descriptors.push(relabel(&layer.descriptor, family)?);
    }
    let config = RawConfig::from_config(image.clone());
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
        annotations: session.request.annotations.clone(),
    });
    for bytes in [config.bytes(), manifest.bytes()] {
        let digest = Digest::of(bytes);
        session
            .source
            .lease()
            .add(&digest)
            .map_err(|error| BuildError::state("cannot hold the image", error))?;
        session
            .inner
            .store
            .put(bytes)
            .map_err(|error| BuildError::state("cannot write the image", error))?;
    }
    Ok(Assembled { manifest, config: *config.digest(), image, layers })
}

/// The descriptor of a layer in a family of media types; bytes and digest stay the same.
fn relabel(descriptor: &Descriptor, family: Family) -> Result<Descriptor, BuildError> {
    let pairs = [
        (MediaType::OCI_LAYER, MediaType::DOCKER_LAYER),
        (MediaType::OCI_LAYER_GZIP, MediaType::DOCKER_LAYER_GZIP),
        (
            MediaType::new("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
            MediaType::DOCKER_FOREIGN_LAYER,
        ),
    ];
    let mut relabelled = descriptor.clone();
    for (oci, docker) in pairs {
        match family {
            Family::Oci if descriptor.media_type == docker => relabelled.media_type = oci,
            Family::Docker if descriptor.media_type == oci => relabelled.media_type = docker,
            Family::Oci | Family::Docker => {}
        }
    }
    if family == Family::Docker && descriptor.media_type == MediaType::OCI_LAYER_ZSTD {
        return Err(BuildError::Request(format!(
            "layer {} is compressed with zstd, which Docker's image format does not have: \
             ask for OCI media types",
            descriptor.digest
        )));
    }
    Ok(relabelled)
}

fn squashed_config(
    session: &Session,
    result: &StageResult,
    single: Option<&LayerRef>,
) -> ImageConfig {
    // One history entry stands for the layer: the last step that made one.
    let last = result.steps.iter().rposition(|step| matches!(step, StepLayer::Layer(_)));
    let steps: Vec<StepLayer> = (0..result.steps.len())
        .map(|at| match single {
            Some(layer) if Some(at) == last => StepLayer::Layer(layer.diff_id),
            Some(_) | None => StepLayer::Empty,
        })
        .collect();
    let stage = session.plan.stage(session.plan.target);
    assemble_config(stage, result.base_config.as_ref(), &steps, result.created.as_deref())
}

/// One layer that does what several do.
async fn squash(
    session: &Arc<Session>,
    layers: Vec<LayerRef>,
) -> Result<Option<LayerRef>, StepError> {
    if layers.len() < 2 {
        return Ok(layers.into_iter().next());
    }
    session.source.ensure_blobs(&layers).await?;
    let spool = session.spool()?;
    let (source, form) = (Arc::clone(&session.source), session.form);
    blocking(move || {
        let mut merged = Merged::default();
        for layer in &layers {
            merged.add(&source.store, layer, &spool)?;
        }
        let mut out = layers::VirtualLayer::new();
        for removed in &merged.removed {
            out.whiteout(removed.clone());
        }
        for (path, (mut entry, content)) in merged.entries {
            entry.path = path;
            out.insert(entry, content);
        }
        let mut writer = commit::writer(&source.store, source.lease(), form)?;
        out.write(&mut writer)
            .map_err(|error| StepError::layer("cannot write the layer", error))?;
        Ok(commit::finish(writer)?.map(|(layer, _)| layer))
    })
    .await
}

#[derive(Default)]
struct Merged {
    entries: BTreeMap<PathBuf, (Entry, layers::ContentSource)>,
    /// Paths that are gone from what lies below all of these layers.
    removed: std::collections::BTreeSet<PathBuf>,
}

impl Merged {
    fn add(&mut self, store: &BlobStore, layer: &LayerRef, spool: &Spool) -> Result<(), StepError> {
        let open = || {
            store.open_blob(&layer.descriptor.digest).map(blob_store::Blob::into_file).map_err(
                |error| StepError::layer(format!("cannot open layer {}", layer.diff_id), error),
            )
        };
        let mut contents: HashMap<PathBuf, PathBuf> = HashMap::new();
        for_each_content::<StepError>(
            layer.diff_id,
            open()?,
            |_| true,
            |entry, content| {
                contents.insert(entry.path.clone(), spool.write(content)?);
                Ok(())
            },
        )?;
        let index = layers::TarIndex::read(open()?, &[])
            .map_err(|error| StepError::layer(format!("cannot read {}", layer.diff_id), error))?;
        for indexed in index.entries() {
            match indexed.entry.whiteout() {
                Some(Whiteout::Name { directory, name }) => {
                    let path = directory.join(name);
                    self.remove(&path);
                    self.removed.insert(path);
                }
                // Our own writers spell every removal out.
                Some(Whiteout::Opaque { .. } | Whiteout::AufsMetadata) | None => {}
            }
        }
        for indexed in index.entries().iter().filter(|one| one.entry.whiteout().is_none()) {
            let entry = indexed.entry.clone();
            let content = match (&entry.kind, contents.get(&entry.path)) {
                (EntryKind::File { .. }, Some(path)) => layers::ContentSource::File(path.clone()),
                _ => layers::ContentSource::Bytes(Vec::new()),
            };
            if !entry.is_directory() {
                self.remove(&entry.path);
            }
            // What stands at a removed path again replaces it, unless it is a directory that
            // must not show what lies below.
            if !entry.is_directory() {
                self.removed.remove(&entry.path);
            }
            self.entries.insert(entry.path.clone(), (entry, content));
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self
            .entries
            .range(path.to_owned()..)
            .map(|(other, _)| other)
            .take_while(|other| other.starts_with(path))
            .cloned()
            .collect();
        for other in below {
            self.entries.remove(&other);
        }
        self.removed.retain(|other| !other.starts_with(path));
    }
}

/// Pushes a finished image; layers that are only at a registry are mounted, or fetched first.
pub(crate) async fn push(
    inner: &Arc<Inner>,
    outcome: &BuildOutcome,
    reference: &Reference,
) -> Result<(), BuildError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Push {
        reference: reference.to_string(),
        source,
    };
    inner.events.send(BuildEvent::Pushing { reference: reference.to_string() });
    let mut mount_from: Vec<Repository> = Vec::new();
    for layer in &outcome.layers {
        let Some(origin) = &layer.origin else { continue };
        if origin.registry() == reference.registry() && !mount_from.contains(origin.repository()) {
            mount_from.push(origin.repository().clone());
        }
    }
    for layer in &outcome.layers {
        let digest = &layer.descriptor.digest;
        if inner.store.contains(digest) || layer.descriptor.media_type.is_nondistributable() {
            continue;
        }
        let there = inner
            .registry
            .has_or_mounts(reference, digest, &mount_from)
            .await
            .map_err(|error| failed(error.into()))?;
        if !there {
            outcome.source.ensure_blob(layer).await.map_err(|error| failed(error.into()))?;
        }
    }
    inner
        .registry
        .push(reference, &outcome.manifest, &inner.store, mount_from)
        .await
        .map_err(|error| failed(error.into()))?;
    inner.events.send(BuildEvent::Pushed {
        reference: reference.to_string(),
        digest: outcome.manifest.digest().to_string(),
    });
    Ok(())
}

/// Keeps a finished image under `images/<canonical reference>`.
pub(crate) async fn keep(
    inner: &Arc<Inner>,
    outcome: &BuildOutcome,
    reference: &Reference,
) -> Result<(), BuildError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        BuildError::state(format!("cannot keep image {reference}"), source)
    };
    outcome.source.ensure_blobs(&outcome.layers).await.map_err(|error| failed(error.into()))?;
    let name = image_ref(reference)
        .ok_or_else(|| failed("its name cannot be a ref of the store".into()))?;
    let mut digests = vec![*outcome.manifest.digest(), outcome.config];
    digests.extend(outcome.layers.iter().map(|layer| layer.descriptor.digest));
    inner.store.set_ref(&name, &digests).map_err(|error| failed(error.into()))
}

impl BuildOutcome {
    /// Bytes of all layers as they are compressed.
    pub fn layer_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.descriptor.size).sum()
    }

    /// How many layers the image has.
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }
}
