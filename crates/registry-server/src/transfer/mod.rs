//! Data moves in and out: the tree of the CNCF distribution registry, OCI image layouts, backups.
//!
//! | file | job |
//! |---|---|
//! | `distribution` | finds repositories, manifests and tags in a distribution v2 tree |
//! | `layout` | finds them in an OCI image layout |
//! | `intake` | takes what was found into the registry, checked |
//! | `export` | writes a repository as an OCI image layout |
//! | `backup` | writes the metadata of a moment with its blobs, and restores it |
//! | `copy` | copies content and checks it on the way |
//!
//! Whatever is broken at the source is named in the report and left out, with all that needs it;
//! the rest goes on. Doing it again continues where it stopped: what is there is not read twice.

mod backup;
mod copy;
mod distribution;
mod export;
mod intake;
mod layout;

use std::path::{Path, PathBuf};

use blob_store::{AdoptMode, BlobStore};
use serde::Serialize;

use crate::metadata::{Metadata, MetadataError};

/// A registry that does not run while something is moved in or out.
#[derive(Clone, Debug)]
pub struct Offline {
    /// Directory of the metadata, usually `<state>/registry`.
    pub directory: PathBuf,
    /// The store of the blobs.
    pub store: BlobStore,
}

/// How something is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// How blobs get into the store.
    pub mode: AdoptMode,
    /// Only look: sizes and manifests are checked, blobs are not hashed, nothing is written.
    pub dry_run: bool,
    /// Leave out manifests that no tag reaches.
    pub tagged_only: bool,
}

/// How a backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// How blobs get into the store.
    pub mode: AdoptMode,
    /// Forget what the registry holds now.
    pub replace: bool,
    /// Restore although blobs of the snapshot are missing or damaged.
    pub with_missing: bool,
    /// Only look: every blob is hashed, nothing is written.
    pub dry_run: bool,
}

/// What was moved, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferReport {
    /// Repositories.
    pub repositories: u64,
    /// Manifests and indexes.
    pub manifests: u64,
    /// Tags.
    pub tags: u64,
    /// Different blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of the blobs, those that were there before.
    pub present: u64,
    /// Of the blobs, those that share their file with the source.
    pub linked: u64,
    /// What was left out, and why.
    pub problems: Vec<Problem>,
}

/// Something that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What it is, such as `team/app:v1` or a path.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why nothing could be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A registry serves the directory.
    #[error("another registry uses {}", path.display())]
    InUse {
        /// Its database.
        path: PathBuf,
    },
    /// The registry's own state cannot be used.
    #[error("cannot use the registry in {}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The source is not what it should be.
    #[error("{} is not {expected}", path.display())]
    NotA {
        /// The source.
        path: PathBuf,
        /// What was expected there.
        expected: &'static str,
    },
    /// A file outside the registry cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A name is not one of a repository, or the registry does not have it.
    #[error("there is no repository {name:?}")]
    NoRepository {
        /// The name.
        name: String,
    },
    /// The registry to restore into holds something.
    #[error("{} is there already", path.display())]
    NotEmpty {
        /// Its database.
        path: PathBuf,
    },
    /// The backup lacks blobs, and nobody allowed that; the metadata is as before.
    #[error(
        "{} blobs of the snapshot cannot be had, so it was not restored: {}",
        problems.len(),
        first_of(problems)
    )]
    Incomplete {
        /// Each of them.
        problems: Vec<Problem>,
    },
    /// The disk of the registry is full.
    #[error("no space left on the disk of the registry")]
    NoSpace,
}

/// Problems that an error names.
const PROBLEMS_NAMED_MAX: usize = 20;

fn first_of(problems: &[Problem]) -> String {
    let named = problems.iter().take(PROBLEMS_NAMED_MAX);
    let mut named: Vec<String> =
        named.map(|problem| format!("{}: {}", problem.object, problem.reason)).collect();
    if problems.len() > PROBLEMS_NAMED_MAX {
        named.push("and more".to_owned());
    }
    named.join("; ")
}

impl TransferReport {
    fn problem(&mut self, object: impl Into<String>, reason: impl std::fmt::Display) {
        self.problems.push(Problem { object: object.into(), reason: reason.to_string() });
    }
}

impl Offline {
    fn open(&self) -> Result<Metadata, TransferError> {
        Metadata::open(&self.directory, self.store.clone()).map_err(|error| self.unusable(error))
    }

    fn unusable(&self, error: MetadataError) -> TransferError {
        match error {
            MetadataError::InUse { path } => TransferError::InUse { path },
            error => self.state(error),
        }
    }

    fn state(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TransferError {
        TransferError::State { path: self.directory.clone(), source: source.into() }
    }

    /// Imports the tree of a CNCF distribution registry (docker-registry, registry:2 and :3),
    /// which must not run meanwhile: every repository, or those whose name is one of `only`.
    /// `source` is its root directory, or the `v2` directory in it.
    ///
    /// # Errors
    /// [`TransferError`]; what is wrong with single images is in the report.
    pub async fn import_distribution(
        &self,
        source: &Path,
        only: Vec<String>,
        options: ImportOptions,
    ) -> Result<TransferReport, TransferError> {
        let (offline, source) = (self.clone(), source.to_owned());
        self.work(move || distribution::import(&offline, &source, &only, options)).await
    }

    /// Imports an OCI image layout into one repository; the names of its entries
    /// (`org.opencontainers.image.ref.name`) become tags.
    ///
    /// # Errors
    /// [`TransferError`]; what is wrong with single images is in the report.
    pub async fn import_layout(
        &self,
        source: &Path,
        repository: &str,
        options: ImportOptions,
    ) -> Result<TransferReport, TransferError> {
        let (offline, source) = (self.clone(), source.to_owned());
        let repository = repository.to_owned();
        self.work(move || layout::import(&offline, &source, &repository, options)).await
    }

    /// Writes a repository into the OCI image layout at `target`, which may hold others already:
    /// the named tags, or all of them, with everything that refers to them.
    ///
    /// # Errors
    /// [`TransferError`]; images with missing or damaged blobs are in the report.
    pub async fn export_layout(
        &self,
        repository: &str,
        tags: Vec<String>,
        target: &Path,
        dry_run: bool,
    ) -> Result<TransferReport, TransferError> {
        let (offline, target) = (self.clone(), target.to_owned());
        let repository = repository.to_owned();
        self.work(move || export::export(&offline, &repository, &tags, &target, dry_run)).await
    }

    /// All tables of the metadata at this moment, for [`Offline::back_up`]. A running registry
    /// gives them at `POST /v2/_shipway/storage/snapshot`.
    ///
    /// # Errors
    /// [`TransferError::InUse`] if the registry runs.
    pub async fn snapshot(&self) -> Result<Vec<u8>, TransferError> {
        let offline = self.clone();
        self.work(move || {
            let metadata = offline.open()?;
            let snapshot = metadata.snapshot();
            metadata.close();
            snapshot.map(|bytes| bytes.to_vec()).map_err(|error| offline.state(error))
        })
        .await
    }

    /// Writes a snapshot under `name` into the backup at `target`, and every blob that it needs
    /// and the backup lacks. The registry may run: nothing that the snapshot needs is collected
    /// from when this begins. If blobs are missing or damaged the name gets the extension
    /// `incomplete`.
    ///
    /// # Errors
    /// [`TransferError`]; missing and damaged blobs are in the report.
    pub async fn back_up(
        &self,
        snapshot: Vec<u8>,
        target: &Path,
        name: &str,
        dry_run: bool,
    ) -> Result<TransferReport, TransferError> {
        let (offline, target, name) = (self.clone(), target.to_owned(), name.to_owned());
        self.work(move || backup::write(&offline, &snapshot, &target, &name, dry_run)).await
    }

    /// Makes the registry hold what the newest or the named snapshot of a backup says. For a dry
    /// run every blob of the backup is hashed and nothing is written. `replace` allows to forget
    /// what the registry holds now. No registry can use the directory meanwhile.
    ///
    /// # Errors
    /// [`TransferError::Incomplete`] if blobs are missing or damaged and the options do not allow
    /// that; if they do, and in a dry run, those are in the report.
    pub async fn restore(
        &self,
        source: &Path,
        name: Option<String>,
        options: RestoreOptions,
    ) -> Result<TransferReport, TransferError> {
        let (offline, source) = (self.clone(), source.to_owned());
        self.work(move || backup::restore(&offline, &source, name.as_deref(), options)).await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
    ) -> Result<T, TransferError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(self.state(error)),
        }
    }
}
