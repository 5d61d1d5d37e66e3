//! The plan: what an executor does, with nothing left to parse, expand or look up.
//!
//! Two moves lead here. A [`Draft`] knows which stages the target needs and which base images
//! must be looked at (their config only: environment, user, working directory and ONBUILD
//! triggers take part in expansion). When every base has answered, [`Draft::finish`] folds each
//! stage over its state and the result is a [`Plan`].

use std::sync::Arc;

use oci_model::{ContainerConfig, Platform, Reference};

use crate::instruction::{Device, GitDirectory, Linking, Network, Parents, Security, Unpack};
use crate::lint::Warning;
use crate::mode::ModeChange;
use crate::mount::Mount;
use crate::position::Span;

mod arguments;
mod assemble;
mod draft;
mod history;
mod key;
mod merge;
mod options;
mod outline;
mod ports;
mod reach;
mod run;
mod signal;
mod stages;
mod state;
#[cfg(test)]
mod tests;
mod transfer;

pub use assemble::{StepLayer, assemble_config};
pub use draft::Draft;
pub use key::{Definition, DefinitionPart, STEP_KEY_VERSION, StepKey};
pub use merge::Target;
pub use options::PlanOptions;
pub use outline::{Outline, OutlineArg, OutlineCache, OutlineMount, TargetSummary};

/// Everything needed to build one target for one platform, or several after [`Plan::merge`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The stages the target needs, dependencies before dependents; a [`StageId`] indexes this.
    pub stages: Vec<Stage>,
    /// The stage whose image is wanted.
    pub target: StageId,
    /// Platform of the wanted image.
    pub platform: Platform,
    /// What else is wanted, after a merge.
    pub more_targets: Vec<Target>,
    /// Lint findings, in the order of the file.
    pub warnings: Vec<Warning>,
    /// `--build-arg` names that no stage and no FROM consumed.
    pub unused_build_args: Vec<String>,
    /// SOURCE_DATE_EPOCH as given by the file or the caller: unix seconds, `context`, a named
    /// context or a stage name; `None` when unset or reset to empty.
    pub source_date_epoch: Option<String>,
}

impl Plan {
    /// The stage with this identity.
    ///
    /// # Panics
    /// If `id` belongs to another plan.
    #[must_use]
    pub fn stage(&self, id: StageId) -> &Stage {
        &self.stages[id.0]
    }

    /// Images that are read besides the bases: COPY `--from` and mount `from`, each once.
    #[must_use]
    pub fn extra_images(&self) -> Vec<&ImageRequest> {
        let mut found: Vec<&ImageRequest> = Vec::new();
        for input in self.stages.iter().flat_map(|stage| &stage.steps).flat_map(Step::inputs) {
            if let Source::Image(image) = input.source
                && !found.contains(&image)
            {
                found.push(image);
            }
        }
        found
    }
}

/// Position of a stage in [`Plan::stages`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct StageId(pub(crate) usize);

impl StageId {
    /// The index into [`Plan::stages`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// One stage of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// Its place in the plan.
    pub id: StageId,
    /// Its place in the Dockerfile, from 0.
    pub number: usize,
    /// Its name after AS, lower case.
    pub name: Option<String>,
    /// The line with FROM.
    pub span: Span,
    /// Progress title of its first step, for example `[build 1/5] FROM`.
    pub title: String,
    /// What it starts from.
    pub base: Base,
    /// Platform its commands run on and its files are for.
    pub platform: Platform,
    /// What to do, in order; triggers of the base come first.
    pub steps: Vec<Step>,
    /// The run configuration of the finished stage, labels of the caller included on the target.
    pub config: ContainerConfig,
    /// Author set by MAINTAINER or the base.
    pub author: Option<String>,
}

/// What a stage starts from.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image.
    Image(ImageRequest),
    /// What the caller gave under a name with `--build-context`.
    NamedContext {
        /// The name.
        name: String,
        /// The platform wanted of it.
        platform: Platform,
    },
    /// An earlier stage.
    Stage(StageId),
}

/// An image for one platform.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct ImageRequest {
    /// Which image; `latest` is filled in when neither tag nor digest was written.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
}

/// Where files come from.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Source {
    /// The build context, its ignore file applied.
    Context,
    /// A context the caller gave under a name.
    NamedContext(String),
    /// The finished files of an earlier stage.
    Stage(StageId),
    /// The files of an image.
    Image(ImageRequest),
}

/// One instruction, ready to execute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Progress title, for example `[build 2/5] RUN make`.
    pub title: String,
    /// Where it was written; for a trigger, the FROM that pulled it in.
    pub span: Span,
    /// Who wrote it.
    pub origin: StepOrigin,
    /// What to do.
    pub action: Action,
    /// `created_by` of its history entry, as BuildKit writes it.
    pub created_by: String,
    /// Whether the history entry stands for a layer.
    pub layer: LayerEffect,
}

/// Whether a step adds a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum LayerEffect {
    /// It adds one.
    Layer,
    /// It changes only the config.
    Empty,
}

/// Who wrote a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum StepOrigin {
    /// The Dockerfile.
    File,
    /// An ONBUILD trigger of the base.
    Trigger,
}

/// What a step does to the files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Runs a command.
    Run(RunAction),
    /// Copies files in.
    Transfer(TransferAction),
    /// Creates the working directory.
    Workdir(WorkdirAction),
    /// Nothing: the config changed, and the plan already holds the result.
    Configure,
}

/// A command to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunAction {
    /// Program and arguments; the SHELL is already in front of a shell form.
    pub argv: Vec<String>,
    /// A script that must exist, read-only with mode 0755, while the command runs.
    pub script: Option<Script>,
    /// Environment: that of the image and the declared arguments; the last writer has won.
    pub env: Arc<[(String, String)]>,
    /// Proxy variables, to be added to the environment but kept out of keys and history.
    pub proxies: Vec<(String, String)>,
    /// Working directory, absolute.
    pub directory: String,
    /// USER as configured, empty for root; names are looked up in the files of the step.
    pub user: String,
    /// Mounts, in order.
    pub mounts: Vec<Mount<Source>>,
    /// Which network.
    pub network: Network,
    /// Which rights.
    pub security: Security,
    /// CDI devices.
    pub devices: Vec<Device>,
    /// Host name inside the step.
    pub hostname: String,
    /// Platform the command is made for.
    pub platform: Platform,
}

/// A script of a RUN heredoc that begins with `#!`.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Script {
    /// Absolute path, for example `/dev/pipes/EOF`.
    pub path: String,
    /// Its text.
    pub content: String,
}

/// Files to copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransferAction {
    /// COPY or ADD.
    pub verb: TransferVerb,
    /// What to copy, in order; inline files come after the others.
    pub files: Vec<FileSource>,
    /// Where the paths of `files` are looked up.
    pub from: Source,
    /// Absolute path; ends in `/` when it must be a directory.
    pub destination: String,
    /// `--chown`.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub mode: Option<ModeChange>,
    /// `--link`.
    pub link: Linking,
    /// `--parents`.
    pub parents: Parents,
    /// `--exclude`, patterns relative to each source.
    pub excludes: Vec<String>,
    /// `--checksum`: a digest for a URL, a commit prefix for git.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub git_directory: GitDirectory,
    /// `--unpack`.
    pub unpack: Unpack,
}

/// COPY or ADD.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TransferVerb {
    /// COPY.
    Copy,
    /// ADD.
    Add,
}

/// One thing to copy.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum FileSource {
    /// A path or wildcard below the root of the source: cleaned, without leading `/`, with `./`
    /// pivots kept for `--parents`.
    Path(String),
    /// A file written in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its content, already expanded.
        content: String,
    },
    /// An http or https URL to fetch.
    Url(String),
    /// A git reference to fetch.
    Git(String),
}

/// `user[:group]` of `--chown`.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Owner {
    /// The user.
    pub user: Principal,
    /// The group; when missing it follows from the user.
    pub group: Option<Principal>,
}

/// A user or group by number or by name.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Principal {
    /// A number, used as it is.
    Id(u32),
    /// A name, looked up in `/etc/passwd` or `/etc/group` of the files being built.
    Name(String),
}

/// A directory to create with all missing parents, mode 0755.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct WorkdirAction {
    /// Absolute, clean path.
    pub path: String,
    /// Owner of what is created: USER as configured, empty for root.
    pub user: String,
}

/// One thing besides the earlier files of the stage that a step reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input<'a> {
    /// Where from.
    pub source: &'a Source,
    /// Which part of it.
    pub selection: Selection<'a>,
}

/// Which part of a source a step reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selection<'a> {
    /// The files a COPY or ADD selects.
    Transfer(&'a TransferAction),
    /// Everything below one absolute path.
    Path(&'a str),
}

impl Step {
    /// What the step reads besides the earlier files of its stage, in a fixed order.
    ///
    /// The executor feeds one digest per input into [`StepKey::of`].
    #[must_use]
    pub fn inputs(&self) -> Vec<Input<'_>> {
        match &self.action {
            Action::Configure | Action::Workdir(_) => Vec::new(),
            Action::Transfer(transfer) => {
                let reads_paths =
                    transfer.files.iter().any(|file| matches!(file, FileSource::Path(_)));
                let input =
                    Input { source: &transfer.from, selection: Selection::Transfer(transfer) };
                reads_paths.then_some(input).into_iter().collect()
            }
            Action::Run(run) => run.mounts.iter().filter_map(mount_input).collect(),
        }
    }
}

fn mount_input(mount: &Mount<Source>) -> Option<Input<'_>> {
    match mount {
        Mount::Bind { source, source_path, .. } => {
            Some(Input { source, selection: Selection::Path(source_path) })
        }
        Mount::Cache { seed: Some(source), .. } => {
            Some(Input { source, selection: Selection::Path("/") })
        }
        Mount::Cache { .. } | Mount::Tmpfs { .. } | Mount::Secret { .. } | Mount::Ssh { .. } => {
            None
        }
    }
}
