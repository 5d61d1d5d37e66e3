//! RUN without namespaces: in the root this process runs in, or below a directory.
//!
//! Every stage has a tree of its own, a plain directory that holds exactly the layers of the
//! stage. A command gets it as its root, by `chroot(2)` or by [`RootSwap`], and what it changed is
//! found by comparing inventories of the tree (stat only, [`real_changes`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use container_runtime::{Exit, InPlaceSpec, StepOutcome, run_in_place};
use dockerfile::{Network, Security};
use layers::{ApplyOptions, Inventory, Mounts, ScanOptions, Whiteouts};
use oci_model::DiffId;

use super::covers::{Covers, Way, return_caches};
use super::mounts::Ready;
use super::relocate::remove;
use super::root_swap::{RootSwap, SwappedOut};
use super::touched::{FindBaseline, real_changes};
use super::{Command, check_exit, forward, process};
use crate::commit::{self, LayerForm};
use crate::error::StepError;
use crate::event::BuildEvent;
use crate::layer_source::{LayerRef, LayerSource};
use crate::layer_stack::LayerStack;
use crate::workspace::make_private;

/// Most trees kept at once: going back to a stage that has none costs unpacking it again.
const TREES_MAX: usize = 4;

/// The trees that commands run in, one after the other.
#[derive(Debug)]
pub(crate) struct RootTree {
    /// Where trees are made.
    home: PathBuf,
    /// The root of this process, where commands run in it.
    swap: Option<RootSwap>,
    /// Whether a tree can be entered by chroot.
    may_chroot: bool,
    /// Absolute paths that the builder itself uses, or that the caller wants left out.
    keep: Vec<PathBuf>,
    /// The last used is the last.
    trees: Vec<Tree>,
    made: usize,
}

/// One tree with what is known of it.
#[derive(Debug)]
struct Tree {
    root: PathBuf,
    applied: Vec<DiffId>,
    /// What it looked like after the last command, and what was left out then.
    inventory: Option<(Vec<PathBuf>, Inventory)>,
    /// Whether a command moved what it could not see: then it holds more than its layers.
    is_spoilt: bool,
}

impl Tree {
    fn holds_start_of(&self, layers: &[LayerRef]) -> bool {
        self.applied.len() <= layers.len()
            && self.applied.iter().zip(layers).all(|(a, b)| *a == b.diff_id)
    }
}

impl RootTree {
    /// The root of this process, for an executor whose image holds nothing but the executor.
    ///
    /// # Errors
    /// Why this root cannot serve.
    pub(crate) fn in_place(keep: &[PathBuf], may_chroot: bool) -> Result<Self, String> {
        let swap = RootSwap::new(keep)?;
        let home = swap.home.clone();
        let keep = keep.to_vec();
        Ok(Self { home, swap: Some(swap), may_chroot, keep, trees: Vec::new(), made: 0 })
    }

    /// Directories below `home` that commands take for their root.
    pub(crate) fn below(home: PathBuf) -> Self {
        let keep = Vec::new();
        Self { home, swap: None, may_chroot: true, keep, trees: Vec::new(), made: 0 }
    }

    /// The files of a stage, if a tree holds exactly its layers.
    pub(crate) fn files_of(&self, layers: &[LayerRef]) -> Option<LayerStack> {
        let holds =
            |tree: &&Tree| tree.applied.len() == layers.len() && tree.holds_start_of(layers);
        let tree = self.trees.iter().find(holds)?;
        Some(LayerStack::new(vec![tree.root.clone()]))
    }

    /// Runs a command and makes a layer of what it changed; blocking. The blobs of `layers` are
    /// in the store.
    pub(crate) fn run(
        &mut self,
        command: &Command<'_>,
        layers: &[LayerRef],
        ready: &Ready,
        source: &LayerSource,
        form: LayerForm,
        baseline: FindBaseline<'_>,
    ) -> Result<Option<LayerRef>, StepError> {
        refuse_what_needs_namespaces(command)?;
        let mut tree = self.tree_with(layers, source)?;
        let result = self.run_in(&mut tree, command, ready, source, form, baseline);
        match &result {
            Ok(_) if tree.is_spoilt => discard(&tree.root),
            Ok(layer) => {
                tree.applied.extend(layer.as_ref().map(|layer| layer.diff_id));
                self.trees.push(tree);
            }
            // Whatever the command left is not what the next one may start from.
            Err(_) if self.swap.as_ref().is_none_or(RootSwap::is_settled) => discard(&tree.root),
            Err(_) => {
                tracing::warn!(path = %tree.root.display(), "tree stays: it may hold the pod's files");
            }
        }
        result
    }

    fn run_in(
        &self,
        tree: &mut Tree,
        command: &Command<'_>,
        ready: &Ready,
        source: &LayerSource,
        form: LayerForm,
        baseline: FindBaseline<'_>,
    ) -> Result<Option<LayerRef>, StepError> {
        let root = tree.root.clone();
        let way = self.way_into(&root, command)?;
        let aside = if self.swap.is_some() { &self.home } else { command.scratch };
        let mut covers = Covers::new(&root, way, aside)?;
        let result =
            self.run_covered(tree, command, ready, &mut covers, baseline).and_then(|found| {
                let start = Instant::now();
                let mut writer = commit::writer(&source.store, source.lease(), form)?;
                layers::write_changes(&root, &found, &mut writer).map_err(|error| {
                    StepError::layer("cannot read what the command changed", error)
                })?;
                Ok(commit::finish(writer)?.map(|(layer, blob)| {
                    source.say_written(&blob, start);
                    layer
                }))
            });
        let removed = covers.remove();
        let layer = result?;
        removed?;
        Ok(layer)
    }

    /// How a command gets the tree as its root.
    fn way_into(&self, root: &Path, command: &Command<'_>) -> Result<Way<'_>, StepError> {
        let Some(swap) = &self.swap else { return Ok(Way::Chroot) };
        let cwd = Path::new(&command.action.directory);
        let Some(hidden) = swap.in_the_way(root, cwd) else { return Ok(Way::Swap(swap)) };
        let hidden = hidden.display();
        if !self.may_chroot {
            return Err(StepError::NoIsolation {
                reason: format!(
                    "the image uses {hidden}, where this pod has a mount of its own: \
                     mount that elsewhere, for example below /kaniko"
                ),
            });
        }
        command.events.send(BuildEvent::Warning(format!(
            "the image uses {hidden}, where this pod has a mount of its own: the command runs \
             under chroot, without /proc; mount that elsewhere, for example below /kaniko"
        )));
        Ok(Way::Chroot)
    }

    fn run_covered(
        &self,
        tree: &mut Tree,
        command: &Command<'_>,
        ready: &Ready,
        covers: &mut Covers<'_>,
        baseline: FindBaseline<'_>,
    ) -> Result<Vec<layers::Change>, StepError> {
        let root = tree.root.clone();
        let way = covers.way();
        if let Way::Chroot = way {
            covers.devices()?;
        }
        covers.network_files()?;
        covers.put_all(ready)?;
        if let Some(script) = &command.action.script {
            covers.script(&script.path, &script.content)?;
        }
        let mut exclude = Vec::new();
        if let Way::Swap(swap) = way {
            for path in &self.keep {
                covers.way_to(path)?;
                let below = path.strip_prefix("/").unwrap_or(path);
                // What the tree has under the name of a mount is the image's all the same.
                if !swap.shows_own(below) {
                    exclude.push(below.to_owned());
                }
            }
        }
        exclude.extend(covers.targets.iter().cloned());
        let ignored = command.ignored.iter().map(|path| path.strip_prefix("/").unwrap_or(path));
        exclude.extend(ignored.map(Path::to_owned));
        let options = ScanOptions { exclude, mounts: Mounts::Skip };
        let before = match tree.inventory.take() {
            Some((exclude, inventory)) if exclude == options.exclude => inventory,
            Some(_) | None => scan(&root, &options)?,
        };
        let (outcome, done) = self.execute(&root, way, command, ready)?;
        check_exit(command, &outcome, &root)?;
        for path in &done.lost {
            let below = path.strip_prefix("/").unwrap_or(path);
            let holds = |ours: &Path| ours.starts_with(below) || below.starts_with(ours);
            // What the builder itself has there may change.
            if options.exclude.iter().any(|ours| holds(ours))
                || self.keep.iter().any(|ours| holds(ours.strip_prefix("/").unwrap_or(ours)))
            {
                continue;
            }
            command.events.send(BuildEvent::Warning(format!(
                "{} changed on a mount of this pod: it does not become part of the image",
                path.display()
            )));
        }
        let moved = covers.moved().map_err(|error| StepError::io(&root, error))?;
        tree.is_spoilt = !moved.is_empty();
        // A command that renames a directory takes along what stands over paths in it.
        let mut after_options = options.clone();
        after_options.exclude.extend(moved);
        let after = scan(&root, &after_options)?;
        let found = real_changes(&root, &before, &after, &done.untouched, baseline)?;
        if !tree.is_spoilt && !covers.made_directories() {
            tree.inventory = Some((options.exclude, after));
        }
        Ok(found)
    }

    /// Runs the command; afterwards the tree is at its place again, whatever happened.
    fn execute(
        &self,
        root: &Path,
        way: Way<'_>,
        command: &Command<'_>,
        ready: &Ready,
    ) -> Result<(StepOutcome, SwappedOut), StepError> {
        let mut spec = InPlaceSpec { process: process(command, &ready.env), chroot: None };
        let mut output = forward(command.events, command.step);
        let swap = match way {
            Way::Chroot => {
                spec.chroot = Some(root.to_owned());
                let outcome = run_in_place(&spec, command.cancel, &mut output)?;
                return Ok((outcome, SwappedOut::default()));
            }
            Way::Swap(swap) => swap,
        };
        let failed = |error: std::io::Error| StepError::io("/", error);
        let before = swap.enter(root).map_err(failed)?;
        let outcome = run_in_place(&spec, command.cancel, &mut output);
        let done = swap.leave(root, &before).map_err(failed);
        if !command.scratch.is_dir() {
            let code = match &outcome {
                Ok(outcome) if outcome.exit != Exit::Code(0) => {
                    format!(" and ended with exit code {}", outcome.exit.code())
                }
                _ => String::new(),
            };
            return Err(StepError::Mount(format!(
                "the command removed the builder's own files ({}){code}: in place it has the \
                 same root file system",
                command.scratch.display()
            )));
        }
        Ok((outcome?, done?))
    }

    /// A tree with exactly these layers: the one that has the most of them already, or a new one.
    fn tree_with(&mut self, layers: &[LayerRef], source: &LayerSource) -> Result<Tree, StepError> {
        let best = (0..self.trees.len())
            .filter(|at| self.trees[*at].holds_start_of(layers))
            .max_by_key(|at| self.trees[*at].applied.len());
        let mut tree = match best {
            Some(at) => self.trees.remove(at),
            None => self.new_tree()?,
        };
        for layer in &layers[tree.applied.len()..] {
            tree.inventory = None;
            if let Err(error) = apply(&tree.root, layer, source) {
                discard(&tree.root);
                return Err(error);
            }
            tree.applied.push(layer.diff_id);
        }
        Ok(tree)
    }

    fn new_tree(&mut self) -> Result<Tree, StepError> {
        while TREES_MAX <= self.trees.len() {
            discard(&self.trees.remove(0).root);
        }
        make_private(&self.home).map_err(|error| StepError::io(&self.home, error))?;
        self.made += 1;
        let root = self.home.join(self.made.to_string());
        let made = fs::create_dir(&root).and_then(|()| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&root, mode)
        });
        made.map_err(|error| StepError::io(&root, error))?;
        Ok(Tree { root, applied: Vec::new(), inventory: None, is_spoilt: false })
    }
}

impl Drop for RootTree {
    fn drop(&mut self) {
        for tree in &self.trees {
            discard(&tree.root);
        }
    }
}

fn discard(root: &Path) {
    if let Err(error) = return_caches(root, &[root]).and_then(|()| remove(root)) {
        tracing::warn!(path = %root.display(), %error, "tree stays");
    }
}

fn scan(root: &Path, options: &ScanOptions) -> Result<Inventory, StepError> {
    Inventory::scan(root, options)
        .map_err(|error| StepError::layer("cannot read the root file system", error))
}

fn apply(root: &Path, layer: &LayerRef, source: &LayerSource) -> Result<(), StepError> {
    let what = || format!("cannot unpack layer {}", layer.diff_id);
    let blob = source
        .store
        .open_blob(&layer.descriptor.digest)
        .map_err(|error| StepError::layer(what(), error))?;
    let options = ApplyOptions::for_this_process(Whiteouts::Remove);
    let applied = layers::apply(blob.into_file(), root, &options)
        .map_err(|error| StepError::layer(what(), error))?;
    if applied.diff_id != layer.diff_id {
        let reason = format!("its bytes are {}", applied.diff_id);
        return Err(StepError::layer(what(), reason));
    }
    for skipped in &applied.skipped {
        tracing::debug!(path = %skipped.path.display(), part = ?skipped.part, "left out");
    }
    Ok(())
}

fn refuse_what_needs_namespaces(command: &Command<'_>) -> Result<(), StepError> {
    command.resources.refuse_without_namespaces()?;
    let reason = match (&command.action.network, &command.action.security) {
        (Network::None, _) => "--network=none needs a network namespace",
        (_, Security::Insecure) => "--security=insecure needs rights that this builder lacks",
        (Network::Default | Network::Host, Security::Sandbox) => return Ok(()),
    };
    Err(StepError::NoIsolation { reason: reason.to_owned() })
}
