//! One step that no cache knows: COPY and ADD, WORKDIR; RUN is in `run_steps`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dockerfile::{
    Action, FileSource, GitDirectory, IgnoreFile, Linking, Parents, Stage, Step, TransferAction,
    TransferVerb, Unpack, WorkdirAction,
};
use layers::{Entry, EntryKind, Timestamp};

use crate::archive;
use crate::error::StepError;
use crate::event::StepNumber;
use crate::fetch;
use crate::isolation::Engine;
use crate::layer_source::{LayerRef, blocking};
use crate::owners::{Ids, chown_ids, run_identity};
use crate::select::{Selected, select};
use crate::session::{Session, StageFiles, StepOrBuild};
use crate::sources::{excludes, selected_by};
use crate::transfer::{Additions, Copy, Destination, Look, copy};
use crate::tree::{Content, Files, IndexedTree, NoFiles, Node, resolve, tree_path};
use crate::{commit, context};

impl Session {
    /// Executes a step and returns its layer, if it changed anything.
    pub(crate) async fn execute(
        self: &Arc<Self>,
        stage: &Stage,
        step: &Step,
        number: StepNumber,
        files: &StageFiles,
    ) -> Result<Option<LayerRef>, StepOrBuild> {
        match &step.action {
            Action::Configure => Ok(None),
            Action::Workdir(workdir) => self.workdir(stage, workdir, files).await,
            Action::Transfer(transfer) => self.transfer(stage, transfer, files).await,
            Action::Run(run) => self.run(run, number, files).await,
        }
    }

    /// The files of the stage, for looking things up.
    async fn target_files(
        &self,
        stage: &Stage,
        files: &StageFiles,
    ) -> Result<Arc<dyn Files>, StepError> {
        if files.layers.is_empty() {
            return Ok(Arc::new(NoFiles));
        }
        let root = rustix::process::geteuid().is_root();
        if Self::has_run(stage) {
            match &*self.engine().await? {
                // The layers get unpacked for RUN anyway.
                Engine::Sandbox { .. } if root => {
                    return Ok(Arc::new(self.source.stacked(&files.layers).await?));
                }
                Engine::RootTree { tree, .. } => {
                    if let Some(found) = tree.lock().await.files_of(&files.layers) {
                        return Ok(Arc::new(found));
                    }
                }
                Engine::Sandbox { .. } => {}
            }
        }
        if root && self.source.all_unpacked(&files.layers).await? {
            return Ok(Arc::new(self.source.stacked(&files.layers).await?));
        }
        Ok(Arc::new(self.source.indexed(&files.layers).await?))
    }

    async fn commit(&self, nodes: Vec<Node>) -> Result<Option<LayerRef>, StepError> {
        let (source, form) = (Arc::clone(&self.source), self.form);
        blocking(move || {
            let start = Instant::now();
            let made = commit::nodes(&source.store, source.lease(), form, nodes)?;
            Ok(made.map(|made| {
                source.say_written(&made.blob, start);
                source.note_headers(made.layer.diff_id, made.entries);
                made.layer
            }))
        })
        .await
    }

    async fn workdir(
        &self,
        stage: &Stage,
        workdir: &WorkdirAction,
        files: &StageFiles,
    ) -> Result<Option<LayerRef>, StepOrBuild> {
        let target = self.target_files(stage, files).await?;
        let now = self.now_timestamp();
        let workdir = workdir.clone();
        let nodes = blocking(move || {
            let identity = run_identity(&*target, &workdir.user)?;
            let owner = Some(Ids { uid: identity.uid, gid: identity.gid });
            let look = Look { owner, mode: None, now };
            let path = resolve(&*target, &tree_path(&workdir.path))?;
            if target.node(&path)?.is_some_and(|node| node.entry.is_directory()) {
                return Ok(Vec::new());
            }
            let mut additions = Additions::to(&*target);
            additions.ensure_directory(&path, &look)?;
            Ok(additions.into_nodes())
        })
        .await?;
        Ok(self.commit(nodes).await?)
    }

    async fn transfer(
        self: &Arc<Self>,
        stage: &Stage,
        transfer: &TransferAction,
        files: &StageFiles,
    ) -> Result<Option<LayerRef>, StepOrBuild> {
        let target = self.target_files(stage, files).await?;
        let spool = self.spool()?;
        let sources = self.transfer_sources(transfer).await?;
        let now = self.now_timestamp();
        let (transfer, spool_in) = (transfer.clone(), Arc::clone(&spool));
        let layers = sources.layers.clone();
        let nodes = blocking(move || place(&transfer, &*target, &sources, now, &spool_in)).await?;
        let nodes = self.source.fetch_contents(nodes, &layers, Arc::clone(&spool)).await?;
        let layer = self.commit(nodes).await?;
        // The contents must live until here.
        drop(spool);
        Ok(layer)
    }

    async fn transfer_sources(
        self: &Arc<Self>,
        transfer: &TransferAction,
    ) -> Result<TransferSources, StepOrBuild> {
        let reads_paths = transfer.files.iter().any(|file| matches!(file, FileSource::Path(_)));
        let mut sources =
            TransferSources { files: Arc::new(NoFiles), layers: Vec::new(), remote: Vec::new() };
        if reads_paths {
            let tree = self.source_tree(&transfer.from).await?;
            (sources.files, sources.layers) = (tree.files, tree.layers);
        }
        for file in &transfer.files {
            match file {
                FileSource::Path(_) | FileSource::Inline { .. } => {}
                FileSource::Url(url) => {
                    let fetched = self.fetched(url, transfer.checksum.as_deref()).await?;
                    let mut entry = Entry::file(fetch::file_name(url), 0o600, fetched.size);
                    entry.mtime = fetched.facts.mtime;
                    let content = if fetched.size == 0 {
                        Content::Empty
                    } else {
                        Content::File(fetched.path.clone())
                    };
                    sources.remote.push(Remote::File(Node { entry, content, link: None }));
                }
                FileSource::Git(reference) => {
                    let checkout = self.checkout(reference, transfer.checksum.as_deref()).await?;
                    let kept = transfer.git_directory == GitDirectory::Keep;
                    let keep = checkout.git_directory.unwrap_or(kept);
                    let time = checkout.time.map(Timestamp::from_seconds);
                    let tree = blocking(move || git_tree(&checkout.root, keep, time)).await?;
                    sources.remote.push(Remote::Tree(tree));
                }
            }
        }
        Ok(sources)
    }
}

struct TransferSources {
    files: Arc<dyn Files>,
    layers: Vec<LayerRef>,
    remote: Vec<Remote>,
}

enum Remote {
    File(Node),
    Tree(IndexedTree),
}

/// Everything a COPY or ADD adds; blocking.
fn place(
    transfer: &TransferAction,
    target: &dyn Files,
    sources: &TransferSources,
    now: Timestamp,
    spool: &archive::Spool,
) -> Result<Vec<Node>, StepError> {
    let owner = transfer.owner.as_ref().map(|owner| chown_ids(target, owner)).transpose()?;
    let look = Look { owner, mode: transfer.mode.as_ref(), now };
    let onto: &dyn Files = match transfer.link {
        Linking::Merged => target,
        Linking::Independent => &NoFiles,
    };
    let ignore = excludes(transfer)?;
    let excluded = |path: &Path| ignore.ignores(&path.to_string_lossy());
    let destination = Destination::find(onto, &transfer.destination)?;
    let mut additions = Additions::to(onto);
    let mut selected = selected_by(&*sources.files, transfer)?;
    if transfer.verb == TransferVerb::Add && transfer.unpack != Unpack::Never {
        let mut plain = Vec::with_capacity(selected.len());
        for one in selected {
            if !extract(&one, sources, &destination, &mut additions, &look, spool)? {
                plain.push(one);
            }
        }
        selected = plain;
    }
    let anything = transfer.files.len();
    let keep_parents = transfer.parents == Parents::Keep;
    if !selected.is_empty() {
        let request = Copy {
            source: &*sources.files,
            selected: &selected,
            excluded: &excluded,
            keep_parents,
        };
        copy(&mut additions, &request, &destination, &look)?;
    }
    let several = 1 < anything;
    for file in &transfer.files {
        if let FileSource::Inline { name, content } = file {
            let mut entry = Entry::file(name, 0o644, content.len() as u64);
            entry.mtime = now;
            let content = Content::Bytes(content.as_bytes().into());
            let node = Node { entry, content, link: None };
            place_one(node, &destination, several, &mut additions, &look)?;
        }
    }
    for remote in &sources.remote {
        match remote {
            Remote::File(node) => {
                if transfer.unpack == Unpack::Always
                    && let Content::File(path) = &node.content
                    && extract_file(path, &destination, &mut additions, &look, spool)?
                {
                    continue;
                }
                place_one(node.clone(), &destination, several, &mut additions, &look)?;
            }
            Remote::Tree(tree) => {
                let all =
                    select(tree, ".").map_err(|error| StepError::Source(error.to_string()))?;
                let request =
                    Copy { source: tree, selected: &all, excluded: &excluded, keep_parents: false };
                copy(&mut additions, &request, &destination, &look)?;
            }
        }
    }
    Ok(additions.into_nodes())
}

/// Puts a file that has only a name at its destination.
fn place_one(
    node: Node,
    destination: &Destination,
    several: bool,
    additions: &mut Additions<'_>,
    look: &Look<'_>,
) -> Result<(), StepError> {
    let name = node.entry.path.clone();
    let mut tree = IndexedTree::new();
    tree.insert(node);
    let selected = [Selected { from: name.clone(), written: name, pivot: 0 }];
    let request =
        Copy { source: &tree, selected: &selected, excluded: &|_| false, keep_parents: false };
    let destination =
        if several { destination.clone().into_directory() } else { destination.clone() };
    Ok(copy(additions, &request, &destination, look)?)
}

/// Unpacks a selected file if it is an archive.
fn extract(
    selected: &Selected,
    sources: &TransferSources,
    destination: &Destination,
    additions: &mut Additions<'_>,
    look: &Look<'_>,
    spool: &archive::Spool,
) -> Result<bool, StepError> {
    let Some(node) = sources.files.node(&selected.from)? else { return Ok(false) };
    let (EntryKind::File { .. }, Content::File(path)) = (&node.entry.kind, &node.content) else {
        return Ok(false);
    };
    extract_file(path, destination, additions, look, spool)
}

fn extract_file(
    path: &Path,
    destination: &Destination,
    additions: &mut Additions<'_>,
    look: &Look<'_>,
    spool: &archive::Spool,
) -> Result<bool, StepError> {
    let opened = archive::open(path).map_err(|error| StepError::io(path, error))?;
    let Some(archive) = opened else { return Ok(false) };
    let nodes = archive::extract(path, archive, spool)?;
    let implied = Look { owner: look.owner, mode: None, now: look.now };
    additions.ensure_directory(destination.path(), &implied)?;
    for node in nodes {
        additions.put_extracted(node, destination.path(), look)?;
    }
    Ok(true)
}

/// A checkout as BuildKit shows it: 0644 or 0755, owned by root.
fn git_tree(
    root: &Path,
    keep_git_directory: bool,
    time: Option<Timestamp>,
) -> Result<IndexedTree, StepError> {
    let ignore = if keep_git_directory {
        IgnoreFile::default()
    } else {
        IgnoreFile::from_patterns(&["**/.git"])
            .map_err(|error| StepError::Source(error.to_string()))?
    };
    let scanned = context::scan(root, &ignore)?;
    let mut tree = IndexedTree::new();
    for node in scanned.nodes() {
        let mut node = node.clone();
        if !matches!(node.entry.kind, EntryKind::Symlink { .. }) {
            let executable = node.entry.is_directory() || node.entry.mode & 0o100 != 0;
            node.entry.mode = if executable { 0o755 } else { 0o644 };
        }
        node.entry.mtime = time.unwrap_or(node.entry.mtime);
        node.link = None;
        tree.insert(node);
    }
    Ok(tree)
}
