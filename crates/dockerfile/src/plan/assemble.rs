//! The config document of a finished stage.

use oci_model::{DiffId, History, ImageConfig, RootFs};

use super::{LayerEffect, Stage};

/// `comment` of every history entry; tools recognise steps of the BuildKit frontend by it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// What became of one step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepLayer {
    /// It made no layer.
    Empty,
    /// It made this one.
    Layer(DiffId),
}

/// Puts together the config of the image that `stage` makes.
///
/// `base` is the config of the image or stage below (`None` for scratch), `layers` holds one entry
/// per step, and `created` is the RFC 3339 time to write. The number of history entries that are
/// not empty always equals the number of layers.
#[must_use]
pub fn assemble_config(
    stage: &Stage,
    base: Option<&ImageConfig>,
    layers: &[StepLayer],
    created: Option<&str>,
) -> ImageConfig {
    let created = created.map(str::to_owned);
    let mut diff_ids = base.map(|base| base.rootfs.diff_ids.clone()).unwrap_or_default();
    let mut history = base.map(history_of_base).unwrap_or_default();
    for (index, step) in stage.steps.iter().enumerate() {
        let layer = layers.get(index).unwrap_or(&StepLayer::Empty);
        if let StepLayer::Layer(diff_id) = layer {
            diff_ids.push(*diff_id);
        }
        history.push(History {
            created: created.clone(),
            created_by: Some(step.created_by.clone()),
            author: None,
            comment: Some(HISTORY_COMMENT.to_owned()),
            empty_layer: *layer == StepLayer::Empty,
        });
        debug_assert!(step.layer == LayerEffect::Layer || *layer == StepLayer::Empty);
    }
    let platform = &stage.platform;
    let of_base = base.filter(|base| !base.architecture.is_empty() && !base.os.is_empty());
    ImageConfig {
        created,
        author: stage.author.clone(),
        architecture: of_base
            .map_or_else(|| platform.architecture.clone(), |base| base.architecture.clone()),
        variant: of_base.map_or_else(|| platform.variant.clone(), |base| base.variant.clone()),
        os: of_base.map_or_else(|| platform.os.clone(), |base| base.os.clone()),
        os_version: of_base
            .map_or_else(|| platform.os_version.clone(), |base| base.os_version.clone()),
        os_features: of_base
            .map_or_else(|| platform.os_features.clone(), |base| base.os_features.clone()),
        config: stage.config.clone(),
        rootfs: RootFs { diff_ids, ..RootFs::default() },
        history,
    }
}

/// The base's history, made to agree with its layers: other tools leave it out or cut it.
fn history_of_base(base: &ImageConfig) -> Vec<History> {
    let mut missing = base.rootfs.diff_ids.len();
    let mut history = Vec::with_capacity(base.history.len());
    for entry in &base.history {
        let mut entry = entry.clone();
        if !entry.empty_layer {
            match missing.checked_sub(1) {
                Some(rest) => missing = rest,
                None => entry.empty_layer = true,
            }
        }
        history.push(entry);
    }
    history.extend(std::iter::repeat_n(
        History { comment: Some("layer of the base image".to_owned()), ..History::default() },
        missing,
    ));
    history
}
