//! Where a build context comes from, and how it becomes a directory of this machine.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use layers::{ApplyOptions, OnForbidden, Ownership, RootEntry, Whiteouts, apply};

use crate::archive;
use crate::error::StepError;
use crate::fetch::{self, GitCredentials, GitReference};
use crate::layer_source::blocking;
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
}

/// A context that is a directory now; what was fetched is removed when this is dropped.
#[derive(Debug)]
pub struct FetchedContext {
    /// The directory.
    pub root: PathBuf,
    /// The commit, if the context came from git.
    pub commit: Option<String>,
    /// Whether what was given was no archive but a Dockerfile; it is `Dockerfile` in `root`.
    pub dockerfile_only: bool,
    _scratch: Option<Workspace>,
}

/// Fetches a context; `scratch` is a directory that may hold much.
///
/// # Errors
/// [`StepError::Io`], [`StepError::Fetch`] or [`StepError::Layer`] with the location.
pub async fn fetch_context(
    location: &ContextLocation,
    scratch: &Path,
    git: &GitCredentials,
) -> Result<FetchedContext, StepError> {
    if let ContextLocation::Directory(root) = location {
        let metadata = std::fs::metadata(root).map_err(|error| StepError::io(root, error))?;
        if !metadata.is_dir() {
            return Err(StepError::io(root, io::Error::from(io::ErrorKind::NotADirectory)));
        }
        return Ok(FetchedContext {
            root: root.clone(),
            commit: None,
            dockerfile_only: false,
            _scratch: None,
        });
    }
    let workspace = Workspace::create(scratch).map_err(|error| StepError::io(scratch, error))?;
    let root = workspace.path().join("context");
    std::fs::create_dir(&root).map_err(|error| StepError::io(&root, error))?;
    let fetched = workspace.path().join("fetched");
    let mut context =
        FetchedContext { root: root.clone(), commit: None, dockerfile_only: false, _scratch: None };
    let archive = match location {
        ContextLocation::Directory(_) => return Err(StepError::Panicked),
        ContextLocation::Git(reference) => {
            let to = workspace.path().join("repository");
            context.commit = Some(fetch::git(reference, git, &to).await?);
            context.root = match &reference.subdirectory {
                Some(below) => to.join(crate::tree::tree_path(below)),
                None => to,
            };
            context._scratch = Some(workspace);
            return Ok(context);
        }
        ContextLocation::Archive(path) => path.clone(),
        ContextLocation::Stdin => {
            let to = fetched.clone();
            blocking(move || {
                let mut file = File::create(&to).map_err(|error| StepError::io(&to, error))?;
                io::copy(&mut io::stdin().lock(), &mut file)
                    .map_err(|error| StepError::io("standard input", error))?;
                Ok(())
            })
            .await?;
            fetched
        }
        ContextLocation::Url(url) => {
            let client = reqwest::Client::builder().build().map_err(|error| StepError::Fetch {
                url: url.clone(),
                reason: error.to_string(),
            })?;
            fetch::file(&client, url, None, fetched).await?.path
        }
    };
    context.dockerfile_only = blocking(move || unpack(&archive, &root)).await?;
    context._scratch = Some(workspace);
    Ok(context)
}

/// Unpacks an archive, or takes the file for a Dockerfile; says whether it did the latter.
fn unpack(path: &Path, root: &Path) -> Result<bool, StepError> {
    let failed = |error| StepError::io(path, error);
    let Some(reader) = archive::open(path).map_err(failed)? else {
        std::fs::copy(path, root.join("Dockerfile")).map_err(failed)?;
        return Ok(true);
    };
    let mut options = ApplyOptions::for_this_process(Whiteouts::Literal);
    // A context has no owners; what it may hold is what its reader may create.
    options.ownership = Ownership::Current;
    options.on_forbidden = OnForbidden::Skip;
    options.root_entry = RootEntry::Ignore;
    apply(reader.into_inner(), root, &options)
        .map_err(|error| StepError::layer(format!("cannot unpack {}", path.display()), error))?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use layers::{Entry, LayerWriter, Timestamps};

    #[tokio::test]
    async fn archives_become_directories_and_other_files_dockerfiles() {
        let root = tempfile::tempdir().expect("a directory");
        let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
        writer.add_with(&Entry::file("src/a", 0o644, 1), &b"x"[..]).expect("memory");
        std::fs::write(root.path().join("c.tar"), writer.finish().expect("memory")).expect("file");
        std::fs::write(root.path().join("Dockerfile"), "FROM scratch\n").expect("a file");
        let scratch = root.path().join("scratch");
        let fetch = async |name: &str| {
            let location = ContextLocation::Archive(root.path().join(name));
            fetch_context(&location, &scratch, &GitCredentials::default()).await.expect(name)
        };
        let archive = fetch("c.tar").await;
        assert_eq!(std::fs::read(archive.root.join("src/a")).expect("unpacked"), b"x");
        assert!(!archive.dockerfile_only);
        let alone = fetch("Dockerfile").await;
        assert!(alone.dockerfile_only && alone.root.join("Dockerfile").exists());
        let path = archive.root.clone();
        drop(archive);
        assert!(!path.exists());
    }
}
