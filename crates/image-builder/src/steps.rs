//! One step that no cache knows: COPY and ADD, WORKDIR, RUN.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use container_runtime::UserNamespace;
use dockerfile::{
    Access, Action, FileSource, GitDirectory, IgnoreFile, Linking, Mount, Parents, RunAction,
    Sharing, Source, Stage, Step, TransferAction, TransferVerb, Unpack, WorkdirAction,
};
use layers::{Entry, EntryKind, Timestamp};
use oci_model::Platform;

use crate::archive;
use crate::cache::export::UsedMount;
use crate::cache::layout;
use crate::cache::mounts::{MountRecord, unpack};
use crate::cache::shelf::MountHome;
use crate::error::{BuildError, StepError};
use crate::event::{BuildEvent, StepNumber};
use crate::fetch;
use crate::isolation::Engine;
use crate::layer_source::{LayerRef, blocking};
use crate::layer_stack::LayerStack;
use crate::owners::{Ids, chown_ids, run_identity};
use crate::run::agent::AgentSocket;
use crate::run::caches::{self, CacheLook};
use crate::run::mounts::{FileLook, Ownership, Ready, ReadyMount, ReadySource};
use crate::run::touched::Baseline;
use crate::run::{Command, sandbox};
use crate::select::{Selected, select};
use crate::session::{Session, StageFiles, StepOrBuild};
use crate::sources::{collect, excludes, selected_by};
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

    /// Before the first command runs: whether all commands of the build can.
    fn refuse_foreign(&self) -> Result<(), BuildError> {
        for stage in &self.plan.stages {
            for step in &stage.steps {
                let Action::Run(run) = &step.action else { continue };
                if let Some(reason) = crate::emulation::obstacle(&run.platform) {
                    let (platform, host) = (run.platform.clone(), Platform::host());
                    return Err(BuildError::Step {
                        title: step.title.clone(),
                        span: step.span,
                        source: Box::new(StepError::Foreign { platform, host, reason }),
                    });
                }
            }
        }
        Ok(())
    }

    async fn run(
        self: &Arc<Self>,
        action: &RunAction,
        number: StepNumber,
        files: &StageFiles,
    ) -> Result<Option<LayerRef>, StepOrBuild> {
        self.refuse_foreign()?;
        let engine = self.engine().await?;
        let ready = self.mounts(action, number, &engine).await?;
        let (action, session, layers) = (action.clone(), Arc::clone(self), files.layers.clone());
        match &*engine {
            Engine::Sandbox { kind, .. } => {
                let lowers = self.source.lowers(&layers).await?;
                let kind = *kind;
                let owners = match kind.users {
                    UserNamespace::CallerAsRoot => self.source.indexed(&layers).await?.owners(),
                    UserNamespace::Host | UserNamespace::Identity => HashMap::new(),
                };
                let layer = blocking(move || {
                    let command = session.command(&action, number);
                    let source = &session.source;
                    sandbox::run(&command, kind, &lowers, &ready, source, session.form, owners)
                });
                Ok(layer.await?)
            }
            Engine::RootTree { tree, .. } => {
                self.source.ensure_blobs(&layers).await?;
                let mut tree = Arc::clone(tree).lock_owned().await;
                let runtime = tokio::runtime::Handle::current();
                let layer = blocking(move || {
                    let command = session.command(&action, number);
                    let baseline =
                        |paths: &[PathBuf]| runtime.block_on(session.baseline(&layers, paths));
                    let source = &session.source;
                    tree.run(&command, &layers, &ready, source, session.form, &baseline)
                });
                Ok(layer.await?)
            }
        }
    }

    /// What layers hold at some paths, with contents.
    async fn baseline(
        &self,
        layers: &[LayerRef],
        paths: &[PathBuf],
    ) -> Result<Baseline, StepError> {
        let files = self.source.indexed(layers).await?;
        let mut nodes = Vec::with_capacity(paths.len());
        for path in paths {
            nodes.extend(files.node(path)?);
        }
        let spool = self.spool()?;
        let nodes = self.source.fetch_contents(nodes, layers, Arc::clone(&spool)).await?;
        let nodes = nodes.into_iter().map(|node| (node.entry.path.clone(), node)).collect();
        Ok(Baseline { nodes, _contents: spool })
    }

    fn command<'a>(&'a self, action: &'a RunAction, step: StepNumber) -> Command<'a> {
        Command {
            action,
            step,
            events: &self.inner.events,
            cancel: &self.cancel,
            scratch: self.workspace.path(),
            resources: &self.request.resources,
        }
    }

    /// Makes ready what the mounts of a command ask for.
    async fn mounts(
        self: &Arc<Self>,
        action: &RunAction,
        number: StepNumber,
        engine: &Engine,
    ) -> Result<Ready, StepOrBuild> {
        let mut ready = Ready::default();
        let scratch = self.workspace.path().to_owned();
        for mount in &action.mounts {
            match mount {
                Mount::Bind { source, source_path, target, access } => {
                    let is_writable = *access == Access::ReadWrite;
                    // Without mounts a directory stands in for the bind, so it must be ours.
                    let own = is_writable || engine.is_single_root();
                    let from = self.bound(source, source_path, own).await?;
                    ready.mounts.push(ReadyMount { target: tree_path(target), from, is_writable });
                }
                Mount::Cache { id, target, sharing, access, seed, source_path, mode, uid, gid } => {
                    let look = CacheLook { mode: *mode, uid: *uid, gid: *gid };
                    // Without mounts the directory itself is moved to its target.
                    let sharing = match sharing {
                        Sharing::Shared if engine.is_single_root() => Sharing::Locked,
                        sharing => *sharing,
                    };
                    let cache = self.cache_mount(id, sharing, look, number).await?;
                    let below = resolve(
                        &LayerStack::new(vec![cache.path.clone()]),
                        &tree_path(source_path),
                    )?;
                    let shown = cache.path.join(&below);
                    let is_new = if below.as_os_str().is_empty() {
                        cache.is_new
                    } else {
                        std::fs::symlink_metadata(&shown).is_err()
                    };
                    if let (Some(source), true) = (seed, is_new) {
                        self.seed(source, source_path, &shown).await?;
                    }
                    std::fs::create_dir_all(&shown).map_err(|e| StepError::io(&shown, e))?;
                    ready.mounts.push(ReadyMount {
                        target: tree_path(target),
                        from: ReadySource::Cache { directory: cache, below },
                        is_writable: *access == Access::ReadWrite,
                    });
                }
                Mount::Tmpfs { target, bytes_max } => ready.mounts.push(ReadyMount {
                    target: tree_path(target),
                    from: ReadySource::Tmpfs { bytes_max: *bytes_max },
                    is_writable: true,
                }),
                Mount::Secret { id, target, env, requirement, mode, uid, gid } => {
                    let secret = Ready::secret(&self.request.secrets, id, *requirement)?;
                    let Some(secret) = secret else { continue };
                    if let Some(name) = env {
                        let value = String::from_utf8_lossy(&secret).into_owned();
                        ready.env.push((name.clone(), value));
                    }
                    if let Some(target) = target {
                        let look = FileLook { mode: *mode, uid: *uid, gid: *gid };
                        let path = ready.file(&secret, look, &scratch)?;
                        ready.mounts.push(ReadyMount {
                            target: tree_path(target),
                            from: ReadySource::File(path),
                            is_writable: false,
                        });
                    }
                }
                Mount::Ssh { id, target, requirement, mode, uid, gid } => {
                    let Some(agent) = self.request.agents.get(id) else {
                        if *requirement == dockerfile::Requirement::Required {
                            let text = format!("unset ssh forward key {id}");
                            return Err(StepError::Mount(text).into());
                        }
                        continue;
                    };
                    let look = FileLook { mode: *mode, uid: *uid, gid: *gid };
                    let socket = AgentSocket::listen(agent, look, &scratch)?;
                    // The first one is the one that programs find.
                    let set = |env: &[(String, String)]| {
                        env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK")
                    };
                    if !set(&action.env) && !set(&ready.env) {
                        ready.env.push(("SSH_AUTH_SOCK".to_owned(), target.clone()));
                    }
                    ready.mounts.push(ReadyMount {
                        target: tree_path(target),
                        from: ReadySource::Socket(socket.path().to_owned()),
                        is_writable: true,
                    });
                    ready.agents.push(socket);
                }
            }
        }
        Ok(ready)
    }

    /// The directory of a cache mount: what earlier builds left, or what an exported cache holds.
    async fn cache_mount(
        self: &Arc<Self>,
        id: &str,
        sharing: Sharing,
        look: CacheLook,
        number: StepNumber,
    ) -> Result<caches::CacheDirectory, StepOrBuild> {
        let home = self.inner.directory.join("cache-mounts");
        let exported = self.shelf.mount(&caches::identity(id));
        let known = exported.as_ref().map(|(record, _)| record.clone());
        let is_first = self.exports.note_mount(UsedMount { id: id.to_owned(), known });
        let stage = self.plan.stages.get(number.stage).map(|stage| stage.id);
        let starts_empty = is_first && stage.is_some_and(|stage| self.is_uncached(stage));
        if let (Some((record, place)), false) = (exported, starts_empty)
            && !caches::usual_directory(&home, id).exists()
        {
            self.restore_mount(&home, record, place).await?;
        }
        let id = id.to_owned();
        let cache = blocking(move || {
            let cache = caches::open(&home, &id, sharing, look)
                .map_err(|error| StepError::io(&home, error))?;
            if starts_empty {
                caches::clear(&cache).map_err(|error| StepError::io(&cache.path, error))?;
            }
            Ok(cache)
        });
        Ok(cache.await?)
    }

    /// Unpacks an exported cache mount. One that cannot be had only costs time.
    async fn restore_mount(
        self: &Arc<Self>,
        home: &Path,
        record: MountRecord,
        place: MountHome,
    ) -> Result<(), StepOrBuild> {
        let id = record.id.clone();
        if let Err(error) = self.try_restore(home, record, place).await {
            let text = format!("cache mount {id} is not restored: {error}");
            self.inner.events.send(BuildEvent::Warning(text));
        }
        Ok(())
    }

    async fn try_restore(
        self: &Arc<Self>,
        home: &Path,
        record: MountRecord,
        place: MountHome,
    ) -> Result<(), StepError> {
        match place {
            MountHome::Registry(origin) => {
                let layer = LayerRef {
                    descriptor: record.layer.clone(),
                    diff_id: oci_model::DiffId(record.layer.digest),
                    origin: Some(origin),
                };
                self.source.ensure_blob(&layer).await?;
            }
            MountHome::Layout(directory) => {
                let (source, layer) = (Arc::clone(&self.source), record.layer.clone());
                blocking(move || {
                    layout::take(&directory, &layer, &source.store, source.lease())
                        .map_err(|error| StepError::layer("cannot read the cache", error))
                })
                .await?;
            }
        }
        let (home, store) = (home.to_owned(), self.source.store.clone());
        blocking(move || {
            let _lock = caches::lock_to_make(&home, &record.id)
                .map_err(|error| StepError::io(&home, error))?;
            let to = caches::usual_directory(&home, &record.id);
            if to.exists() {
                return Ok(());
            }
            let blob = store
                .open_blob(&record.layer.digest)
                .map_err(|error| StepError::layer("cannot open the layer", error))?;
            unpack(&record, blob.into_file(), &to)
        })
        .await
    }

    /// What a bind mount shows; `own` asks for a copy that may be written and moved.
    async fn bound(
        self: &Arc<Self>,
        source: &Source,
        source_path: &str,
        own: bool,
    ) -> Result<ReadySource, StepOrBuild> {
        if let (Source::Context, false) = (source, own) {
            let directory = self.context_directory(None)?;
            if context::is_complete(&directory.ignore) {
                let tree = self.source_tree(source).await?;
                let path = resolve(&*tree.files, &tree_path(source_path))?;
                return foreign(directory.root.join(path), source_path).map_err(Into::into);
            }
        }
        let tree = self.source_tree(source).await?;
        let word = source_path.trim_start_matches('/');
        let word = if word.is_empty() { "." } else { word };
        let path = resolve(&*tree.files, &tree_path(word))?;
        let node = tree
            .files
            .node(&path)?
            .ok_or_else(|| StepError::Source(format!("\"/{}\": not found", path.display())))?;
        if !own && let Content::File(file) = &node.content {
            return Ok(ReadySource::File(file.clone()));
        }
        let is_directory = node.entry.is_directory();
        let to = self.scratch_path("bind-")?;
        self.write_tree(&tree, &path, &to).await?;
        if is_directory {
            return Ok(ReadySource::Directory { path: to, ownership: Ownership::Scratch });
        }
        Ok(ReadySource::File(to))
    }

    async fn seed(
        self: &Arc<Self>,
        source: &Source,
        source_path: &str,
        to: &Path,
    ) -> Result<(), StepOrBuild> {
        let tree = self.source_tree(source).await?;
        let path = resolve(&*tree.files, &tree_path(source_path))?;
        self.write_tree(&tree, &path, to).await
    }

    /// Writes a path of a tree, with everything below it, to `to`.
    async fn write_tree(
        self: &Arc<Self>,
        tree: &crate::sources::SourceTree,
        path: &Path,
        to: &Path,
    ) -> Result<(), StepOrBuild> {
        let selected = Selected { from: path.to_owned(), written: path.to_owned(), pivot: 0 };
        let (files, to, path) = (Arc::clone(&tree.files), to.to_owned(), path.to_owned());
        let nodes = blocking(move || Ok(collect(&*files, &[selected])?)).await?;
        let spool = self.spool()?;
        let nodes = self.source.fetch_contents(nodes, &tree.layers, Arc::clone(&spool)).await?;
        blocking(move || {
            let _spool = spool;
            let mut nodes = nodes;
            for node in &mut nodes {
                let below = node.entry.path.strip_prefix(&path).unwrap_or(Path::new(""));
                node.entry.path = below.to_owned();
            }
            nodes.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
            Ok(context::materialise(&nodes, &to)?)
        })
        .await?;
        Ok(())
    }
}

fn foreign(path: PathBuf, source_path: &str) -> Result<ReadySource, StepError> {
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {
            Ok(ReadySource::Directory { path, ownership: Ownership::Foreign })
        }
        Ok(_) => Ok(ReadySource::File(path)),
        Err(_) => Err(StepError::Source(format!("\"{source_path}\": not found"))),
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
