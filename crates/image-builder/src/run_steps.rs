//! RUN steps: what their mounts show, made ready, and the command given to the engine.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use container_runtime::UserNamespace;
use dockerfile::{Access, Action, Mount, RunAction, Sharing, Source};
use oci_model::Platform;

use crate::cache::export::UsedMount;
use crate::cache::layout;
use crate::cache::mounts::{MountRecord, unpack};
use crate::cache::shelf::MountHome;
use crate::context;
use crate::error::{BuildError, StepError};
use crate::event::{BuildEvent, StepNumber};
use crate::isolation::Engine;
use crate::layer_source::{LayerRef, blocking};
use crate::layer_stack::LayerStack;
use crate::run::agent::AgentSocket;
use crate::run::caches::{self, CacheDirectory, CacheLook};
use crate::run::mounts::{FileLook, Ownership, Ready, ReadyMount, ReadySource};
use crate::run::touched::Baseline;
use crate::run::{Command, sandbox};
use crate::select::Selected;
use crate::session::{Session, StageFiles, StepOrBuild};
use crate::sources::collect;
use crate::tree::{Content, Files as _, resolve, tree_path};

/// How long a step waits before it asks again for a cache that another one uses.
const CACHE_RETRY: Duration = Duration::from_millis(100);

impl Session {
    /// Before the first command runs: whether all those can that may have to.
    fn refuse_foreign(&self) -> Result<(), BuildError> {
        for stage in &self.plan.stages {
            for step in self.open_steps(stage) {
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

    pub(crate) async fn run(
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
            ignored: &self.request.ignored_paths,
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
        let opened = self.open_caches(action, number, engine).await?;
        for mount in &action.mounts {
            match mount {
                Mount::Bind { source, source_path, target, access } => {
                    let is_writable = *access == Access::ReadWrite;
                    // Without mounts a directory stands in for the bind, so it must be ours.
                    let own = is_writable || engine.is_single_root();
                    let from = self.bound(source, source_path, own).await?;
                    ready.mounts.push(ReadyMount { target: tree_path(target), from, is_writable });
                }
                Mount::Cache { id, target, access, seed, source_path, .. } => {
                    let Some(cache) = opened.get(id).cloned() else { continue };
                    let below = resolve(
                        &LayerStack::new(vec![cache.path.clone()]),
                        &tree_path(source_path),
                    )?;
                    let earlier = || {
                        ready.mounts.iter().filter_map(|mount| match &mount.from {
                            ReadySource::Cache { directory, below }
                                if directory.path == cache.path =>
                            {
                                Some(below)
                            }
                            _ => None,
                        })
                    };
                    let overlaps =
                        |one: &PathBuf| one.starts_with(&below) || below.starts_with(one);
                    if engine.is_single_root() && earlier().any(overlaps) {
                        let text = format!(
                            "cache {id} has a second target, which takes a sandbox with mounts"
                        );
                        return Err(StepError::Mount(text).into());
                    }
                    let shown = cache.path.join(&below);
                    let is_new = if below.as_os_str().is_empty() {
                        cache.is_new && !earlier().any(|one| *one == below)
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

    /// The caches that a command mounts by id. Each is opened once however many mounts show it,
    /// and all commands open theirs in the same order, so that no two wait for each other.
    async fn open_caches(
        self: &Arc<Self>,
        action: &RunAction,
        number: StepNumber,
        engine: &Engine,
    ) -> Result<BTreeMap<String, CacheDirectory>, StepOrBuild> {
        let mut wanted: BTreeMap<&str, (Sharing, CacheLook)> = BTreeMap::new();
        for mount in &action.mounts {
            let Mount::Cache { id, sharing, mode, uid, gid, .. } = mount else { continue };
            let look = CacheLook { mode: *mode, uid: *uid, gid: *gid };
            // Without mounts the directory itself is moved to its target.
            let sharing = match sharing {
                Sharing::Shared if engine.is_single_root() => Sharing::Locked,
                sharing => *sharing,
            };
            let known = wanted.entry(id).or_insert((sharing, look));
            if known.0 != sharing {
                // The one directory with nobody else in it is what every kind allows.
                known.0 = Sharing::Locked;
            }
        }
        let mut opened = BTreeMap::new();
        for (id, (sharing, look)) in wanted {
            let cache = self.cache_mount(id, sharing, look, number).await?;
            opened.insert(id.to_owned(), cache);
        }
        Ok(opened)
    }

    /// The directory of a cache mount: what earlier builds left, or what an exported cache holds.
    async fn cache_mount(
        self: &Arc<Self>,
        id: &str,
        sharing: Sharing,
        look: CacheLook,
        number: StepNumber,
    ) -> Result<CacheDirectory, StepOrBuild> {
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
        let (id, session) = (id.to_owned(), Arc::clone(self));
        let cache = blocking(move || {
            let mut is_said = false;
            let mut wait = || {
                if !std::mem::replace(&mut is_said, true) {
                    let text = format!("waiting for cache mount {id}, which another step uses");
                    session.inner.events.send(BuildEvent::Warning(text));
                }
                match session.cancel.wait(CACHE_RETRY) {
                    Ok(false) => Ok(()),
                    Ok(true) => Err(StepError::Start(container_runtime::StepError::Cancelled)),
                    Err(error) => Err(StepError::io(&home, error)),
                }
            };
            let cache = caches::open_when_free(&home, &id, sharing, look, &mut wait)?;
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
            let directory = self.context_directory(None).await?;
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
