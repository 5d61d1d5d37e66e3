//! Outputs besides a registry: OCI layout, Docker archive, files.
//!
//! An archive appears under its name when it is complete; what failed leaves nothing behind.

mod archive;
mod destination;
mod files;
mod layout;

use std::path::{Path, PathBuf};

use blob_store::BlobStore;
use oci_model::{Digest, RawManifest, Reference};

use crate::attest::Statements;
use crate::builder::{BuildOutcome, Builder};
use crate::error::{BuildError, StepError};
use crate::image::BuiltImage;
use crate::layer_source::{LayerRef, blocking};

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// A new file; its directory must exist.
    File(PathBuf),
    /// Standard output of this process.
    Stdout,
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An OCI image layout as a directory.
    OciDirectory(PathBuf),
    /// An OCI image layout as a tar archive.
    OciArchive(OutputTarget),
    /// What `docker load` reads, an OCI layout at the same time.
    DockerArchive(OutputTarget),
    /// The files of the image in a directory; of several platforms, in a directory of each.
    Files(PathBuf),
    /// The files of the image as a tar archive.
    FilesArchive(OutputTarget),
}

impl Output {
    fn path(&self) -> &Path {
        match self {
            Self::OciDirectory(path) | Self::Files(path) => path,
            Self::OciArchive(target) | Self::DockerArchive(target) | Self::FilesArchive(target) => {
                match target {
                    OutputTarget::File(path) => path,
                    OutputTarget::Stdout => Path::new("/dev/stdout"),
                }
            }
        }
    }

    /// Finds out before the build what would fail after it.
    ///
    /// # Errors
    /// [`BuildError::Output`] for a destination that cannot be written, [`BuildError::Request`]
    /// for a form that cannot hold images of several `platforms`.
    pub fn check(&self, platforms: usize) -> Result<(), BuildError> {
        if matches!(self, Self::DockerArchive(_)) && 1 < platforms {
            return Err(BuildError::Request(
                "docker exporter does not currently support exporting manifest lists: a docker \
                 archive holds one platform, type=oci holds several"
                    .to_owned(),
            ));
        }
        let failed = |source| BuildError::Output { path: self.path().to_owned(), source };
        match self {
            Self::OciDirectory(path) | Self::Files(path) => {
                destination::check_directory(path).map_err(failed)
            }
            Self::OciArchive(target) | Self::DockerArchive(target) | Self::FilesArchive(target) => {
                destination::check_file(target).map_err(failed)
            }
        }
    }
}

impl Builder {
    /// Writes a finished build; `names` are put into archives.
    ///
    /// # Errors
    /// A layer of the base cannot be fetched, or the output cannot be written.
    pub async fn write(
        &self,
        outcome: &BuildOutcome,
        output: &Output,
        names: &[Reference],
    ) -> Result<(), BuildError> {
        output.check(outcome.images.len())?;
        let failed = |error: StepError| {
            BuildError::state(format!("output {}", output.path().display()), error)
        };
        let layers: Vec<LayerRef> = outcome.layers().cloned().collect();
        outcome.source.ensure_blobs(&layers).await.map_err(failed)?;
        if let Output::FilesArchive(target) = output {
            return files::archive(outcome, target.clone()).await.map_err(failed);
        }
        let written = Written {
            store: self.inner.store.clone(),
            root: outcome.root.clone(),
            images: outcome.images.clone(),
            blobs: outcome.blobs(),
            statements: outcome.statements.clone(),
            referrers: outcome.referrers.clone(),
            layout_annotations: outcome.layout_annotations.clone(),
            names: names.to_vec(),
        };
        let output = output.clone();
        blocking(move || match &output {
            Output::OciDirectory(path) => layout::directory(&written, path),
            Output::OciArchive(target) => archive::oci(&written, target),
            Output::DockerArchive(target) => archive::docker(&written, target),
            Output::Files(path) => files::directory(&written, path),
            // Written above: it needs the merged tree.
            Output::FilesArchive(_) => Ok(()),
        })
        .await
        .map_err(failed)
    }
}

/// What there is to write.
struct Written {
    store: BlobStore,
    root: RawManifest,
    images: Vec<BuiltImage>,
    /// Manifests, configs and layers, each once.
    blobs: Vec<Digest>,
    /// One per image.
    statements: Vec<Statements>,
    referrers: Vec<RawManifest>,
    layout_annotations: std::collections::BTreeMap<String, String>,
    names: Vec<Reference>,
}

/// Directory of a platform in an output of several: `linux/arm/v7` is `linux_arm_v7`, as BuildKit
/// names it. `None` when there is only one.
fn platform_directory(images: &[BuiltImage], image: &BuiltImage) -> Option<String> {
    (1 < images.len()).then(|| image.platform.to_string().replace('/', "_"))
}
