//! One layer for everything the target's own steps did (kaniko's `--single-snapshot`).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use blob_store::BlobStore;
use dockerfile::{Stage, StepLayer, assemble_config};
use layers::{Entry, EntryKind, Whiteout};
use oci_model::ImageConfig;

use crate::archive::Spool;
use crate::commit;
use crate::error::StepError;
use crate::layer_source::{LayerRef, blocking};
use crate::layer_tree::for_each_content;
use crate::session::{Session, StageResult};

/// The config of the image with the one layer.
pub(crate) fn squashed_config(
    stage: &Stage,
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
    assemble_config(stage, result.base_config.as_ref(), &steps, result.created.as_deref())
}

/// One layer that does what several do.
pub(crate) async fn squash(
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
        let start = Instant::now();
        let mut writer = commit::writer(&source.store, source.lease(), form)?;
        out.write(&mut writer)
            .map_err(|error| StepError::layer("cannot write the layer", error))?;
        Ok(commit::finish(writer)?.map(|(layer, blob)| {
            source.say_written(&blob, start);
            layer
        }))
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
