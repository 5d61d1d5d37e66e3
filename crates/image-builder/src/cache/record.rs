//! What the cache knows of a step.

use std::sync::Arc;

use oci_model::{Descriptor, DiffId, Digest};

/// What one step made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StepOutput {
    /// When it was executed, unix seconds.
    pub(crate) created: i64,
    /// Its layer; `None` if it changed nothing.
    pub(crate) layer: Option<(Descriptor, DiffId)>,
}

/// What the key of a record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StepKind {
    /// The files that the step starts from and reads. Such a record keeps the step's layer.
    Content,
    /// How those files came about. Such a record points to layers that others keep.
    Chain,
}

/// What is found under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedStep {
    pub(crate) kind: StepKind,
    /// The step's own output is the last one. Under a chain key those of all steps below it come
    /// first, from the image at the bottom on; under a content key there is only its own.
    pub(crate) outputs: Vec<StepOutput>,
    /// When it was last made or found, unix seconds.
    pub(crate) used: i64,
    /// What the key was made of; only content keys have it, unless it took too much space.
    pub(crate) about: Option<Arc<About>>,
    /// The content key of the same step; only chain keys have it.
    pub(crate) content: Option<Digest>,
}

impl CachedStep {
    /// The step's own output.
    pub(crate) fn own(&self) -> Option<&StepOutput> {
        self.outputs.last()
    }

    /// The layers of all outputs.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &(Descriptor, DiffId)> {
        self.outputs.iter().filter_map(|output| output.layer.as_ref())
    }
}

/// What a key was made of, for explanations. Values are digests: nothing can be read out of them
/// but whether they are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// Name of the stage, or its number.
    pub(crate) stage: String,
    /// The step as the Dockerfile has it.
    pub(crate) title: String,
    /// Parts in order.
    pub(crate) parts: Vec<KeyPart>,
}

/// One part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPart {
    /// What it is: `command`, `env PATH`, `file src/a.c`.
    pub(crate) name: String,
    /// The first 16 hexadecimal digits of the digest of its value.
    pub(crate) value: String,
}

/// Digits of a digest that a part keeps.
const VALUE_DIGITS: usize = 16;

impl KeyPart {
    pub(crate) fn new(name: impl Into<String>, value: &Digest) -> Self {
        Self { name: name.into(), value: value.encoded()[..VALUE_DIGITS].to_owned() }
    }
}
