//! The trees that COPY and mounts read: context, named contexts, stages, images.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dockerfile::{
    Base, FileSource, IgnoreFile, Input, Parents, Selection, Source, Step, TransferAction,
};
use oci_model::Digest;
use tokio::sync::OnceCell;

use crate::archive::Spool;
use crate::builder::{ContextDirectory, NamedContext};
use crate::cache::record::KeyPart;
use crate::content_digest::{Framed, local_content, selection};
use crate::context_source::{
    ContextAccess, ContextLimits, ContextLocation, FetchedContext, below_context, fetch_context,
};
use crate::error::StepError;
use crate::event::StepNumber;
use crate::fetch::{self, FetchedFile, UrlAnswer, UrlMemory};
use crate::git::{self, GitCredentials, GitReference, GitTimes, Resolved};
use crate::layer_source::{LayerRef, blocking};
use crate::select::{Selected, select};
use crate::session::{Session, StageFiles, StepOrBuild};
use crate::tree::{Content, Files, Node, TreeError};
use crate::{commit, context};

/// A tree to read from.
#[derive(Clone)]
pub(crate) struct SourceTree {
    pub(crate) files: Arc<dyn Files>,
    /// The layers its contents may be in; none for a directory.
    pub(crate) layers: Vec<LayerRef>,
}

/// Trees and files that steps asked for, each made once.
#[derive(Default)]
pub(crate) struct Sources {
    /// By name; the unnamed one is the build context.
    contexts: Mutex<HashMap<Option<String>, TreeCell>>,
    /// Named contexts from elsewhere; they disappear with the build.
    remotes: Mutex<HashMap<String, Cell<Arc<FetchedContext>>>>,
    answers: Mutex<HashMap<String, Cell<UrlAnswer>>>,
    urls: Mutex<HashMap<String, Cell<FetchedFile>>>,
    commits: Mutex<HashMap<String, Cell<Resolved>>>,
    repositories: Mutex<HashMap<String, Cell<Checkout>>>,
    /// What steps read of contexts, by step and place among the step's inputs.
    selections: Mutex<HashMap<(StepNumber, usize), SelectionCell>>,
}

/// What was selected of a tree.
struct SelectionDigest {
    digest: Digest,
    /// Its files, for explanations; none if there are too many.
    files: Vec<KeyPart>,
}

/// Files of one selection that are kept apart for explanations.
const FILE_PARTS_MAX: usize = 500;

type TreeCell = Cell<Arc<dyn Files>>;
type SelectionCell = Cell<Arc<SelectionDigest>>;
type Cell<T> = Arc<OnceCell<T>>;

/// A git repository, cloned.
#[derive(Clone, Debug)]
pub(crate) struct Checkout {
    pub(crate) root: PathBuf,
    pub(crate) commit: String,
    /// The time that its files get, if it is not theirs.
    pub(crate) time: Option<i64>,
    /// What the reference says about `.git`.
    pub(crate) git_directory: Option<bool>,
}

fn cell<K: std::hash::Hash + Eq, T>(map: &Mutex<HashMap<K, Cell<T>>>, key: K) -> Cell<T> {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(map.entry(key).or_default())
}

/// What a COPY or ADD takes of a tree.
pub(crate) fn selected_by(
    files: &dyn Files,
    transfer: &TransferAction,
) -> Result<Vec<Selected>, StepError> {
    let mut selected = Vec::new();
    for file in &transfer.files {
        if let FileSource::Path(word) = file {
            selected.extend(select(files, word).map_err(|error| match error {
                crate::select::SelectError::Tree(error) => StepError::Tree(error),
                missing @ crate::select::SelectError::NotFound { .. } => {
                    StepError::Source(missing.to_string())
                }
            })?);
        }
    }
    Ok(selected)
}

/// What `--exclude` leaves out.
pub(crate) fn excludes(transfer: &TransferAction) -> Result<IgnoreFile, StepError> {
    IgnoreFile::from_patterns(&transfer.excludes)
        .map_err(|error| StepError::Mount(error.to_string()))
}

impl Session {
    /// The tree of a source; stages are built first.
    pub(crate) async fn source_tree(
        self: &Arc<Self>,
        source: &Source,
    ) -> Result<SourceTree, StepOrBuild> {
        match source {
            Source::Context => self.context_tree(None).await,
            Source::NamedContext(name) => {
                let image = match self.request.named_contexts.get(name) {
                    Some(context) => context.image(&self.inner.images)?,
                    None => None,
                };
                let Some(reference) = image else {
                    return self.context_tree(Some(name.clone())).await;
                };
                let platform = self.plan.platform.clone();
                let request = dockerfile::ImageRequest { reference, platform };
                let image = self.inner.images.get(&request).await?;
                self.layers_tree(&image.layers).await
            }
            Source::Stage(id) => {
                let stage = self.stage_needed(*id).await?;
                self.layers_tree(&stage.files.layers).await
            }
            Source::Image(request) => {
                let image = self.inner.images.get(request).await?;
                self.layers_tree(&image.layers).await
            }
        }
    }

    /// The directory of a context; one that is elsewhere is fetched now.
    pub(crate) async fn context_directory(
        &self,
        name: Option<&str>,
    ) -> Result<ContextDirectory, StepError> {
        let Some(name) = name else {
            return self.request.context.clone().ok_or_else(|| {
                let text = "there is no build context: the Dockerfile came alone";
                StepError::Source(text.to_owned())
            });
        };
        match self.request.named_contexts.get(name) {
            Some(NamedContext::Directory(directory)) => Ok(directory.clone()),
            Some(NamedContext::Remote(location)) => {
                let cell = cell(&self.sources.remotes, name.to_owned());
                let fetched = cell.get_or_try_init(|| self.fetch_remote(location)).await?;
                let ignore = IgnoreFile::default();
                Ok(ContextDirectory { root: fetched.root.clone(), ignore })
            }
            Some(NamedContext::Image(_) | NamedContext::Layout { .. }) | None => {
                Err(StepError::Source(format!("there is no context named {name}")))
            }
        }
    }

    async fn fetch_remote(
        &self,
        location: &ContextLocation,
    ) -> Result<Arc<FetchedContext>, StepError> {
        let git = match location {
            ContextLocation::Git(wanted) => self.git_credentials(wanted),
            _ => GitCredentials::default(),
        };
        let access = ContextAccess {
            scratch: self.inner.directory.join("work"),
            blobs: self.inner.store.root().to_owned(),
            client: self.inner.registry.client(),
            credentials: self.inner.registry.credentials(),
            git,
            limits: ContextLimits::default(),
        };
        let fetched = fetch_context(location, &access).await?;
        if let (ContextLocation::Url(url), true) = (location, fetched.dockerfile_only) {
            // A file that is no archive keeps its name.
            let (from, to) = (fetched.root.join("Dockerfile"), fetch::file_name(url));
            let to = fetched.root.join(to);
            std::fs::rename(&from, &to).map_err(|error| StepError::io(&to, error))?;
        }
        Ok(Arc::new(fetched))
    }

    async fn context_tree(&self, name: Option<String>) -> Result<SourceTree, StepOrBuild> {
        let directory = self.context_directory(name.as_deref()).await?;
        let cell = cell(&self.sources.contexts, name);
        let scan = || async {
            blocking(move || {
                let tree = context::scan(&directory.root, &directory.ignore)?;
                Ok(Arc::new(tree) as Arc<dyn Files>)
            })
            .await
        };
        let files = Arc::clone(cell.get_or_try_init(scan).await?);
        Ok(SourceTree { files, layers: Vec::new() })
    }

    /// The files of layers: where they lie if they are unpacked, else from their headers.
    async fn layers_tree(&self, layers: &[LayerRef]) -> Result<SourceTree, StepOrBuild> {
        let root = rustix::process::geteuid().is_root();
        let files: Arc<dyn Files> = if root && self.source.all_unpacked(layers).await? {
            Arc::new(self.source.stacked(layers).await?)
        } else {
            Arc::new(self.source.indexed(layers).await?)
        };
        Ok(SourceTree { files, layers: layers.to_vec() })
    }

    /// The layer that stands for a named context used as a base.
    pub(crate) async fn context_layer(&self, name: &str) -> Result<Option<LayerRef>, StepError> {
        let directory = self.context_directory(Some(name)).await?;
        let (source, form) = (Arc::clone(&self.source), self.form);
        blocking(move || {
            let tree = context::scan(&directory.root, &directory.ignore)?;
            let nodes: Vec<Node> =
                tree.nodes().filter(|n| !n.entry.path.as_os_str().is_empty()).cloned().collect();
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

    /// Digests of everything a step reads besides the files below it: stages and images by their
    /// layers, everything else by its content.
    pub(crate) async fn quick_inputs(
        self: &Arc<Self>,
        step: &Step,
        number: StepNumber,
    ) -> Result<Vec<Digest>, StepOrBuild> {
        let mut digests = Vec::new();
        for (at, input) in step.inputs().into_iter().enumerate() {
            digests.push(self.outside_digest(&input, number, at).await?);
        }
        digests.extend(self.remote_digests(step).await?);
        Ok(digests)
    }

    /// Digest of one thing that a step reads.
    pub(crate) async fn outside_digest(
        self: &Arc<Self>,
        input: &Input<'_>,
        number: StepNumber,
        at: usize,
    ) -> Result<Digest, StepOrBuild> {
        match self.input_layers(input.source).await? {
            Some(files) => Ok(layers_digest(&files)),
            None => {
                let cell = cell(&self.sources.selections, (number, at));
                let digest = || async {
                    let made = self.selection_digest(input.source, &input.selection).await?;
                    Ok::<_, StepOrBuild>(Arc::new(made))
                };
                Ok(cell.get_or_try_init(digest).await?.digest)
            }
        }
    }

    /// The same with stages and images by what is read of them; `None` where that makes no
    /// difference. The other half are the files that were read.
    pub(crate) async fn exact_inputs(
        self: &Arc<Self>,
        step: &Step,
        quick: &[Digest],
    ) -> Result<Option<(Vec<Digest>, Vec<KeyPart>)>, StepOrBuild> {
        let mut digests = quick.to_vec();
        let mut parts = Vec::new();
        let mut differs = false;
        for (digest, input) in digests.iter_mut().zip(step.inputs()) {
            // Reading a whole tree to find that it is equal costs more than a command that has
            // it mounted usually does.
            let is_part = match input.selection {
                Selection::Transfer(_) => true,
                Selection::Path(path) => path != "/",
            };
            if self.input_layers(input.source).await?.is_some() && is_part {
                let made = self.selection_digest(input.source, &input.selection).await?;
                *digest = made.digest;
                parts.extend(made.files);
                differs = true;
            }
        }
        Ok(differs.then_some((digests, parts)))
    }

    /// What a step reads, for explanations: files of contexts one by one, all else as a whole.
    pub(crate) fn input_parts(
        &self,
        step: &Step,
        number: StepNumber,
        quick: &[Digest],
    ) -> Vec<KeyPart> {
        let mut parts = Vec::new();
        let inputs = step.inputs();
        for (at, digest) in quick.iter().enumerate() {
            let Some(input) = inputs.get(at) else {
                parts.push(KeyPart::new("remote source", digest));
                continue;
            };
            let name = match input.source {
                Source::Context => "context".to_owned(),
                Source::NamedContext(name) => format!("context {name}"),
                Source::Stage(id) => {
                    let stage = self.plan.stage(*id);
                    format!("stage {}", stage.name.clone().unwrap_or(stage.number.to_string()))
                }
                Source::Image(request) => format!("image {}", request.reference),
            };
            parts.push(KeyPart::new(format!("files of {name}"), digest));
            let cell = cell(&self.sources.selections, (number, at));
            if let Some(made) = cell.get() {
                parts.extend(made.files.iter().cloned());
            }
        }
        parts
    }

    /// The layers of a stage or image.
    async fn input_layers(
        self: &Arc<Self>,
        source: &Source,
    ) -> Result<Option<StageFiles>, StepOrBuild> {
        let image = match source {
            Source::Context => return Ok(None),
            Source::Stage(id) => return Ok(Some(self.stage_needed(*id).await?.files.clone())),
            Source::Image(request) => request.clone(),
            Source::NamedContext(name) => match self.named_image(name) {
                None => return Ok(None),
                Some(reference) => dockerfile::ImageRequest {
                    reference: reference.clone(),
                    platform: self.plan.platform.clone(),
                },
            },
        };
        let image = self.inner.images.get(&image).await?;
        Ok(Some(StageFiles { layers: image.layers.clone() }))
    }

    /// Identity of the files that a stage starts from, if that is not another stage.
    pub(crate) async fn base_identity(
        self: &Arc<Self>,
        base: &Base,
    ) -> Result<Option<Digest>, StepOrBuild> {
        let (name, platform) = match base {
            Base::Scratch | Base::Stage(_) => return Ok(None),
            Base::Image(request) => {
                let image = self.inner.images.get(request).await?;
                return Ok(StageFiles { layers: image.layers.clone() }.identity());
            }
            Base::NamedContext { name, platform } => (name, platform),
        };
        match self.named_image(name) {
            Some(reference) => {
                let request = dockerfile::ImageRequest {
                    reference: reference.clone(),
                    platform: platform.clone(),
                };
                let image = self.inner.images.get(&request).await?;
                Ok(StageFiles { layers: image.layers.clone() }.identity())
            }
            None => {
                let source = Source::NamedContext(name.clone());
                Ok(Some(self.selection_digest(&source, &Selection::Path("/")).await?.digest))
            }
        }
    }

    async fn selection_digest(
        self: &Arc<Self>,
        source: &Source,
        what: &Selection<'_>,
    ) -> Result<SelectionDigest, StepOrBuild> {
        let tree = self.source_tree(source).await?;
        let (selected, parents, ignore) = match what {
            Selection::Transfer(transfer) => {
                (selected_by(&*tree.files, transfer)?, transfer.parents, excludes(transfer)?)
            }
            Selection::Path(path) => {
                let word = path.trim_start_matches('/');
                let selected = select(&*tree.files, if word.is_empty() { "." } else { word });
                let selected = selected.map_err(|error| StepError::Source(error.to_string()))?;
                (selected, Parents::Drop, IgnoreFile::default())
            }
        };
        let spool = self.spool()?;
        let nodes = collect(&*tree.files, &selected)?;
        let nodes = self.source.fetch_contents(nodes, &tree.layers, Arc::clone(&spool)).await?;
        let files = Arc::clone(&tree.files);
        let made = blocking(move || {
            // Keeps the spooled contents while they are read.
            let _spool = spool;
            let contents: HashMap<PathBuf, Content> =
                nodes.into_iter().map(|node| (node.entry.path, node.content)).collect();
            let excluded = |path: &std::path::Path| ignore.ignores(&path.to_string_lossy());
            let content = |node: &Node| -> Result<Digest, TreeError> {
                match contents.get(&node.entry.path) {
                    Some(content) => {
                        local_content(&Node { content: content.clone(), ..node.clone() })
                    }
                    None => local_content(node),
                }
            };
            let seen = std::cell::RefCell::new(Vec::new());
            let note = |path: &std::path::Path, digest: &Digest| {
                let mut seen = seen.borrow_mut();
                if seen.len() <= FILE_PARTS_MAX {
                    seen.push(KeyPart::new(format!("file {}", path.display()), digest));
                }
            };
            let digest = selection(&*files, &selected, parents, &excluded, &content, &note)?;
            let mut files = seen.into_inner();
            if FILE_PARTS_MAX < files.len() {
                files.clear();
            }
            Ok(SelectionDigest { digest, files })
        })
        .await?;
        Ok(made)
    }

    /// A directory for contents on their way.
    pub(crate) fn spool(&self) -> Result<Arc<Spool>, StepError> {
        let path = self.workspace.path();
        Spool::new(path).map(Arc::new).map_err(|error| StepError::io(path, error))
    }

    pub(crate) async fn remote_digests(&self, step: &Step) -> Result<Vec<Digest>, StepError> {
        let dockerfile::Action::Transfer(transfer) = &step.action else { return Ok(Vec::new()) };
        let mut digests = Vec::new();
        for file in &transfer.files {
            let mut framed = Framed::new("remote");
            match file {
                FileSource::Path(_) | FileSource::Inline { .. } => continue,
                FileSource::Url(url) => {
                    framed.field(fetch::file_name(url).as_bytes());
                    match &transfer.checksum {
                        // What it must be is what it is, or the step fails.
                        Some(checksum) => {
                            framed.field(fetch::digest_of(url, checksum)?.to_string().as_bytes());
                        }
                        None => {
                            let answer = self.url_answer(url).await?;
                            let facts = answer.facts();
                            framed.field(facts.digest.raw());
                            framed.field(&facts.mtime.seconds.to_le_bytes());
                        }
                    }
                }
                FileSource::Git(reference) => {
                    let (wanted, resolved) =
                        self.git_commit(reference, transfer.checksum.as_deref()).await?;
                    let commit = match &resolved.commit {
                        Some(commit) => commit.clone(),
                        None => {
                            let checksum = transfer.checksum.as_deref();
                            self.checkout(reference, checksum).await?.commit
                        }
                    };
                    framed.field(commit.as_bytes());
                    framed.field(wanted.subdirectory.unwrap_or_default().as_bytes());
                    let ways = (wanted.submodules, wanted.git_directory, wanted.times);
                    framed.field(format!("{ways:?}").as_bytes());
                }
            }
            digests.push(framed.finish());
        }
        Ok(digests)
    }

    /// What a URL holds, asked once per build.
    async fn url_answer(&self, url: &str) -> Result<UrlAnswer, StepError> {
        let cell = cell(&self.sources.answers, url.to_owned());
        let ask = || async {
            let memory = UrlMemory::at(self.inner.directory.join("urls"));
            let client = self.inner.registry.http_client();
            fetch::file_if_changed(&client, url, &memory, self.scratch_path("url-")?).await
        };
        cell.get_or_try_init(ask).await.cloned()
    }

    /// Digest of what a URL held for this build.
    pub(crate) async fn url_digest(
        &self,
        url: &str,
        checksum: Option<&str>,
    ) -> Result<Digest, StepError> {
        match checksum {
            Some(checksum) => fetch::digest_of(url, checksum),
            None => Ok(self.url_answer(url).await?.facts().digest),
        }
    }

    /// The commit that a git reference stood for in this build.
    pub(crate) async fn commit_of(
        &self,
        reference: &str,
        checksum: Option<&str>,
    ) -> Result<String, StepError> {
        match self.git_commit(reference, checksum).await?.1.commit {
            Some(commit) => Ok(commit),
            None => Ok(self.checkout(reference, checksum).await?.commit),
        }
    }

    /// A file of the network, fetched once per build.
    pub(crate) async fn fetched(
        &self,
        url: &str,
        checksum: Option<&str>,
    ) -> Result<FetchedFile, StepError> {
        let known = match checksum {
            Some(_) => None,
            None => match self.url_answer(url).await? {
                UrlAnswer::Fetched(file) => return Ok(file),
                UrlAnswer::Unchanged(facts) => Some(facts),
            },
        };
        let key = format!("{url} {}", checksum.unwrap_or_default());
        let cell = cell(&self.sources.urls, key);
        let fetch = || async {
            let client = self.inner.registry.http_client();
            fetch::file(&client, url, checksum, self.scratch_path("url-")?).await
        };
        let file = cell.get_or_try_init(fetch).await.cloned()?;
        match known {
            Some(facts) if facts.digest != file.facts.digest => {
                Err(fetch::failed(url, "it changed while it was being used"))
            }
            _ => Ok(file),
        }
    }

    /// The commit that a git reference of the Dockerfile stands for, asked once per build.
    async fn git_commit(
        &self,
        reference: &str,
        checksum: Option<&str>,
    ) -> Result<(GitReference, Resolved), StepError> {
        let wanted = git_reference(reference, checksum)?;
        let key = format!("{reference} {}", checksum.unwrap_or_default());
        let cell = cell(&self.sources.commits, key);
        let credentials = self.git_credentials(&wanted);
        let ask = || async { git::resolve(&wanted, &credentials).await };
        let resolved = cell.get_or_try_init(ask).await.cloned()?;
        Ok((wanted, resolved))
    }

    fn git_credentials(&self, wanted: &GitReference) -> GitCredentials {
        let found = self.request.git.or_secrets(&self.request.secrets, &wanted.repository);
        let forwarded = || self.request.agents.get("default").cloned();
        GitCredentials { ssh_agent: found.ssh_agent.clone().or_else(forwarded), ..found }
    }

    /// A git repository, cloned once per build.
    pub(crate) async fn checkout(
        &self,
        reference: &str,
        checksum: Option<&str>,
    ) -> Result<Checkout, StepError> {
        let key = format!("{reference} {}", checksum.unwrap_or_default());
        let cell = cell(&self.sources.repositories, key);
        let clone = || async {
            let (wanted, resolved) = self.git_commit(reference, checksum).await?;
            let to = self.scratch_path("git-")?;
            let credentials = self.git_credentials(&wanted);
            let found = git::checkout(&wanted, &resolved, &credentials, &to).await?;
            let root = match &wanted.subdirectory {
                Some(below) => below_context(&to, std::path::Path::new(below))?,
                None => to,
            };
            let time = match wanted.times {
                GitTimes::Commit => Some(found.time),
                GitTimes::Checkout => None,
            };
            let git_directory = wanted.git_directory;
            Ok::<_, StepError>(Checkout { root, commit: found.commit, time, git_directory })
        };
        cell.get_or_try_init(clone).await.cloned()
    }
}

/// A git reference of ADD with what `--checksum` says.
fn git_reference(reference: &str, checksum: Option<&str>) -> Result<GitReference, StepError> {
    let bad = |reason| fetch::failed(reference, reason);
    let mut wanted = GitReference::parse(reference).map_err(bad)?;
    if let Some(checksum) = checksum {
        match &wanted.commit {
            Some(commit)
                if !commit.starts_with(checksum) && !checksum.starts_with(commit.as_str()) =>
            {
                return Err(bad(format!("commit {commit} and checksum {checksum} differ")));
            }
            Some(commit) if checksum.len() <= commit.len() => {}
            _ => wanted.commit = Some(checksum.to_owned()),
        }
    }
    Ok(wanted)
}

/// Digest of the files of a stage or image as an input.
fn layers_digest(files: &StageFiles) -> Digest {
    let mut framed = Framed::new("layers");
    let identity = files.identity();
    framed.field(identity.as_ref().map_or(&[][..], |identity| identity.raw()));
    framed.finish()
}

/// The selected nodes with everything below them.
pub(crate) fn collect(files: &dyn Files, selected: &[Selected]) -> Result<Vec<Node>, TreeError> {
    let mut nodes = Vec::new();
    let mut waiting: Vec<PathBuf> = selected.iter().map(|one| one.from.clone()).collect();
    while let Some(path) = waiting.pop() {
        let Some(node) = files.node(&path)? else { continue };
        if node.entry.is_directory() {
            waiting.extend(files.children(&path)?.into_iter().map(|name| path.join(name)));
        }
        nodes.push(node);
    }
    Ok(nodes)
}
