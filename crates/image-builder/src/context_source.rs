//! Where a build context comes from, and how it becomes a directory of this machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blob_store::BlobStore;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use layers::{ApplyOptions, OnForbidden, Ownership, RootEntry, Whiteouts, apply};
use oci_model::{Digest, Hasher, Reference};
use registry_client::Client;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::archive::{self, Sniffed};
use crate::context_artifact;
use crate::error::StepError;
use crate::fetch::{self, modified_at, with_causes};
use crate::git::{self, GitCredentials, GitReference};
use crate::layer_source::blocking;
use crate::object_storage::ObjectLocation;
use crate::registry::CredentialSource;
use crate::workspace::Workspace;

/// Where a build context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextLocation {
    /// A directory, used in place.
    Directory(PathBuf),
    /// A tar archive, compressed or not.
    Archive(PathBuf),
    /// A tar archive, or a Dockerfile alone, on standard input.
    Stdin,
    /// A tar archive, or a Dockerfile alone, over HTTP.
    Url(String),
    /// A git repository.
    Git(GitReference),
    /// A tar archive, or a Dockerfile alone, in object storage.
    Object(ObjectLocation),
    /// A context that was pushed to a registry ([`crate::pack_context`]).
    Artifact(Reference),
}

/// How much a context may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLimits {
    /// Most bytes of the unpacked archive.
    pub bytes_max: u64,
    /// Most files, directories and links.
    pub entries_max: u64,
}

impl Default for ContextLimits {
    /// 64 GiB in 16 million entries: no context that anybody meant is larger.
    fn default() -> Self {
        Self { bytes_max: 64 << 30, entries_max: 16_000_000 }
    }
}

/// What fetching a context needs.
#[derive(Clone, Debug)]
pub struct ContextAccess {
    /// A directory that may hold much.
    pub scratch: PathBuf,
    /// Directory of the blob store, for contexts that are artifacts; opened only for these.
    pub blobs: PathBuf,
    /// For registries, and for URLs: its certificates and its proxy.
    pub client: Client,
    /// Credentials for registries.
    pub credentials: CredentialSource,
    /// Credentials for git servers.
    pub git: GitCredentials,
    /// How much is too much.
    pub limits: ContextLimits,
}

/// A context that is a directory now; what was fetched is removed when this is dropped.
#[derive(Debug)]
pub struct FetchedContext {
    /// The directory.
    pub root: PathBuf,
    /// The commit, if the context came from git.
    pub commit: Option<String>,
    /// Digest of what was fetched, if it came from a URL.
    pub digest: Option<Digest>,
    /// Unix seconds of the commit, of the newest file of an archive from a URL, or of
    /// `Last-Modified`.
    pub time: Option<i64>,
    /// Whether what was given was no archive but a Dockerfile; it is `Dockerfile` in `root`.
    pub dockerfile_only: bool,
    _scratch: Option<Workspace>,
}

impl FetchedContext {
    /// Whether it came from elsewhere, so that its links are not those of whoever runs the build.
    pub fn is_fetched(&self) -> bool {
        self._scratch.is_some()
    }
}

/// Fetches a context.
///
/// # Errors
/// [`StepError::Io`], [`StepError::Fetch`] or [`StepError::Layer`] with the location.
pub async fn fetch_context(
    location: &ContextLocation,
    access: &ContextAccess,
) -> Result<FetchedContext, StepError> {
    if let ContextLocation::Directory(root) = location {
        let metadata = std::fs::metadata(root).map_err(|error| StepError::io(root, error))?;
        if !metadata.is_dir() {
            return Err(StepError::io(root, io::Error::from(io::ErrorKind::NotADirectory)));
        }
        return Ok(FetchedContext {
            root: root.clone(),
            commit: None,
            digest: None,
            time: None,
            dockerfile_only: false,
            _scratch: None,
        });
    }
    let scratch = &access.scratch;
    let workspace = Workspace::create(scratch).map_err(|error| StepError::io(scratch, error))?;
    let root = workspace.path().join("context");
    std::fs::create_dir(&root).map_err(|error| StepError::io(&root, error))?;
    let mut context = FetchedContext {
        root: root.clone(),
        commit: None,
        digest: None,
        time: None,
        dockerfile_only: false,
        _scratch: None,
    };
    let mut hashed = None;
    let source = match location {
        ContextLocation::Directory(_) => return Err(StepError::Panicked),
        ContextLocation::Git(reference) => {
            let resolved = git::resolve(reference, &access.git).await?;
            let found = git::checkout(reference, &resolved, &access.git, &root).await?;
            if reference.git_directory == Some(false) {
                remove_git_directory(&root)?;
            }
            (context.commit, context.time) = (Some(found.commit), Some(found.time));
            if let Some(below) = &reference.subdirectory {
                context.root = below_context(&root, Path::new(below))?;
            }
            context._scratch = Some(workspace);
            return Ok(context);
        }
        ContextLocation::Archive(path) => {
            let file = File::open(path).map_err(|error| StepError::io(path, error))?;
            Source { name: path.display().to_string(), bytes: Box::new(file) }
        }
        ContextLocation::Stdin => {
            Source { name: "standard input".to_owned(), bytes: Box::new(io::stdin()) }
        }
        ContextLocation::Url(url) => {
            let (source, time) = url_source(url, &access.client).await?;
            context.time = time;
            let (bytes, watched) = Hashed::new(source.bytes);
            hashed = Some(watched);
            Source { bytes: Box::new(bytes), ..source }
        }
        ContextLocation::Object(object) => {
            let opened = object.open(&access.client.http_client()).await?;
            context.time = Some(opened.modified);
            if fetch::FILE_BYTES_MAX < opened.size {
                let text = format!("more than {} bytes", fetch::FILE_BYTES_MAX);
                return Err(fetch::failed(&object.to_string(), text));
            }
            Source { name: object.to_string(), bytes: bridge(opened.stream) }
        }
        ContextLocation::Artifact(reference) => {
            let state = |error| StepError::layer(format!("cannot fetch {reference}"), error);
            let store = BlobStore::open(&access.blobs)
                .map_err(|error| state(Box::<dyn std::error::Error + Send + Sync>::from(error)))?;
            let client = &access.client;
            let (credentials, most) = (&access.credentials, access.limits.bytes_max);
            let fetched =
                context_artifact::fetch(reference, client, credentials, &store, most).await?;
            Source { name: reference.to_string(), bytes: Box::new(fetched) }
        }
    };
    let limits = access.limits;
    let unpacked = blocking(move || {
        let dockerfile_only = unpack(source, &root, limits)?;
        let Some(hashed) = hashed else { return Ok((dockerfile_only, None, None)) };
        let digest =
            hashed.finish(limits.bytes_max).map_err(|error| StepError::io(&root, error))?;
        let newest = if dockerfile_only { None } else { crate::epoch::newest_file(&root) };
        Ok((dockerfile_only, Some(digest), newest))
    });
    let newest;
    (context.dockerfile_only, context.digest, newest) = unpacked.await?;
    context.time = newest.or(context.time);
    context._scratch = Some(workspace);
    Ok(context)
}

/// A directory of a context; links cannot lead out of it.
///
/// # Errors
/// [`StepError::Source`] if it leaves the context, [`StepError::Io`] if it does not exist.
pub fn below_context(root: &Path, below: &Path) -> Result<PathBuf, StepError> {
    found_below(root, below, "directory", Path::is_dir)
}

/// A file of a context; links cannot lead out of it.
///
/// # Errors
/// [`StepError::Source`] if it leaves the context or is no file, [`StepError::Io`] if it does not
/// exist.
pub fn file_below_context(root: &Path, below: &Path) -> Result<PathBuf, StepError> {
    found_below(root, below, "file", Path::is_file)
}

fn found_below(
    root: &Path,
    below: &Path,
    kind: &str,
    is_kind: fn(&Path) -> bool,
) -> Result<PathBuf, StepError> {
    let leaves =
        || StepError::Source(format!("{} is not a {kind} of the context", below.display()));
    if below.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(leaves());
    }
    let relative: PathBuf =
        below.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let real = |path: &Path| path.canonicalize().map_err(|error| StepError::io(path, error));
    let (root, found) = (real(root)?, real(&root.join(relative))?);
    if !found.starts_with(&root) || !is_kind(&found) {
        return Err(leaves());
    }
    Ok(found)
}

fn remove_git_directory(root: &Path) -> Result<(), StepError> {
    let path = root.join(".git");
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StepError::io(&path, error)),
        _ => Ok(()),
    }
}

/// Bytes of an archive on their way, with a name for messages.
struct Source {
    name: String,
    bytes: Box<dyn Read + Send>,
}

/// Bytes that are hashed on their way; what is left unread at the end counts, too.
struct Hashed(Arc<Mutex<(Box<dyn Read + Send>, Hasher)>>);

impl Hashed {
    fn new(bytes: Box<dyn Read + Send>) -> (Self, Self) {
        let shared = Arc::new(Mutex::new((bytes, Hasher::sha256())));
        (Self(Arc::clone(&shared)), Self(shared))
    }

    /// The digest of everything, if not more than `rest_max` bytes are left unread.
    fn finish(mut self, rest_max: u64) -> io::Result<Digest> {
        let rest = io::copy(&mut (&mut self).take(rest_max), &mut io::sink())?;
        if rest == rest_max {
            let text = format!("more than {rest_max} bytes follow the archive");
            return Err(io::Error::other(text));
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hasher = std::mem::replace(&mut inner.1, Hasher::sha256());
        Ok(hasher.finish())
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = inner.0.read(buffer)?;
        inner.1.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

async fn url_source(url: &str, client: &Client) -> Result<(Source, Option<i64>), StepError> {
    let sent = client.http_client().get(url).send().await;
    let response = sent.map_err(|e| fetch::failed(url, with_causes(&e.without_url())))?;
    let status = response.status();
    if status != reqwest::StatusCode::OK {
        let text = format!("bad status from server: {}", status.as_u16());
        return Err(fetch::failed(url, text));
    }
    let time = response
        .headers()
        .get(reqwest::header::LAST_MODIFIED)
        .and_then(|value| modified_at(value.to_str().ok()?));
    let stream = response
        .bytes_stream()
        .map(|piece| piece.map_err(|error| io::Error::other(with_causes(&error.without_url()))));
    Ok((Source { name: fetch::redacted(url), bytes: bridge(stream.boxed()) }, time))
}

/// A stream as blocking code reads it, piece by piece.
fn bridge(stream: BoxStream<'static, io::Result<bytes::Bytes>>) -> Box<dyn Read + Send> {
    Box::new(SyncIoBridge::new(StreamReader::new(stream)))
}

/// Unpacks an archive, or takes the file for a Dockerfile; says whether it did the latter.
fn unpack(source: Source, root: &Path, limits: ContextLimits) -> Result<bool, StepError> {
    let Source { name, bytes } = source;
    let failed = |error: io::Error| StepError::layer(format!("cannot read {name}"), error);
    let reader = match archive::sniff(bytes).map_err(failed)? {
        Sniffed::Tar(reader) => reader,
        Sniffed::Other(reader) => {
            let mut file = File::create(root.join("Dockerfile")).map_err(failed)?;
            let most = dockerfile_bytes_max(limits);
            if most < io::copy(&mut reader.take(most + 1), &mut file).map_err(failed)? {
                return Err(failed(io::Error::other("it is neither an archive nor a Dockerfile")));
            }
            return Ok(true);
        }
        Sniffed::NoArchive => {
            return Err(failed(io::Error::other("it is compressed, but holds no tar archive")));
        }
    };
    let mut options = ApplyOptions::for_this_process(Whiteouts::Literal);
    // A context has no owners; what it may hold is what its reader may create.
    options.ownership = Ownership::Current;
    options.on_forbidden = OnForbidden::Skip;
    options.root_entry = RootEntry::Ignore;
    options.tar_bytes_max = limits.bytes_max;
    options.entries_max = limits.entries_max;
    apply(reader, root, &options)
        .map_err(|error| StepError::layer(format!("cannot unpack {name}"), error))?;
    Ok(false)
}

/// A Dockerfile is text that a person wrote; 64 MiB are no such text.
fn dockerfile_bytes_max(limits: ContextLimits) -> u64 {
    limits.bytes_max.min(64 << 20)
}

#[cfg(test)]
mod tests;
