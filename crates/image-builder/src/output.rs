//! Outputs besides a registry: OCI layout, Docker archive, files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blob_store::BlobStore;
use layers::{ApplyOptions, Entry, LayerWriter, Timestamps, Whiteouts};
use oci_model::{Descriptor, Digest, ImageIndex, MediaType, RawManifest, Reference};

use crate::builder::{BuildOutcome, Builder};
use crate::error::{BuildError, StepError};
use crate::layer_source::{LayerRef, blocking};

/// Name of an image in an archive that was given none, as kaniko writes it.
const UNNAMED: &str = "unset-repo/unset-image-name";

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// A new file.
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
    /// The files of the image in a directory.
    Files(PathBuf),
    /// The files of the image as a tar archive.
    FilesArchive(OutputTarget),
}

impl Builder {
    /// Writes a finished image; `names` are put into archives.
    ///
    /// # Errors
    /// A layer of the base cannot be fetched, or the output cannot be written.
    pub async fn write(
        &self,
        outcome: &BuildOutcome,
        output: &Output,
        names: &[Reference],
    ) -> Result<(), BuildError> {
        let path = match output {
            Output::OciDirectory(path) | Output::Files(path) => path.clone(),
            Output::OciArchive(target)
            | Output::DockerArchive(target)
            | Output::FilesArchive(target) => match target {
                OutputTarget::File(path) => path.clone(),
                OutputTarget::Stdout => PathBuf::from("/dev/stdout"),
            },
        };
        let failed =
            |error: StepError| BuildError::state(format!("output {}", path.display()), error);
        outcome.source.ensure_blobs(&outcome.layers).await.map_err(failed)?;
        let image = Image {
            store: self.inner.store.clone(),
            manifest: outcome.manifest.clone(),
            config: outcome.config,
            layers: outcome.layers.clone(),
            names: names.to_vec(),
        };
        let output = output.clone();
        if let Output::FilesArchive(target) = output {
            return self.write_files_archive(outcome, target).await.map_err(failed);
        }
        blocking(move || image.write(&output)).await.map_err(failed)
    }

    async fn write_files_archive(
        &self,
        outcome: &BuildOutcome,
        target: OutputTarget,
    ) -> Result<(), StepError> {
        use crate::tree::Files as _;
        let tree = outcome.source.indexed(&outcome.layers).await?;
        let all =
            crate::select::Selected { from: PathBuf::new(), written: PathBuf::new(), pivot: 0 };
        let nodes = crate::sources::collect(&tree, &[all])?;
        debug_assert!(tree.node(Path::new(""))?.is_some());
        let spool = crate::archive::Spool::new(outcome._workspace.path())
            .map_err(|error| StepError::io(outcome._workspace.path(), error))?;
        let spool = Arc::new(spool);
        let nodes =
            outcome.source.fetch_contents(nodes, &outcome.layers, Arc::clone(&spool)).await?;
        blocking(move || {
            let _spool = spool;
            let nodes = nodes.into_iter().filter(|n| !n.entry.path.as_os_str().is_empty());
            let layer = crate::transfer::to_layer(nodes.collect());
            let out = open(&target)?;
            let mut writer = LayerWriter::new(out, Timestamps::Keep);
            let written = layer.write(&mut writer).and_then(|()| writer.finish());
            let mut out =
                written.map_err(|error| StepError::layer("cannot write the archive", error))?;
            out.flush().map_err(|error| StepError::layer("cannot write the archive", error))
        })
        .await
    }
}

struct Image {
    store: BlobStore,
    manifest: RawManifest,
    config: Digest,
    layers: Vec<LayerRef>,
    names: Vec<Reference>,
}

fn open(target: &OutputTarget) -> Result<BufWriter<Box<dyn Write + Send>>, StepError> {
    let out: Box<dyn Write + Send> = match target {
        OutputTarget::File(path) => {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::create_dir_all(parent).map_err(|error| StepError::io(parent, error))?;
            }
            Box::new(File::create(path).map_err(|error| StepError::io(path, error))?)
        }
        OutputTarget::Stdout => Box::new(std::io::stdout()),
    };
    Ok(BufWriter::with_capacity(256 * 1024, out))
}

impl Image {
    fn write(&self, output: &Output) -> Result<(), StepError> {
        match output {
            Output::OciDirectory(path) => self.oci_directory(path),
            Output::OciArchive(target) => self.archive(target, false),
            Output::DockerArchive(target) => self.archive(target, true),
            Output::Files(path) => self.files(path),
            // The caller writes this one itself: it needs the merged tree.
            Output::FilesArchive(_) => Ok(()),
        }
    }

    /// Manifest, config and layers, each once.
    fn blobs(&self) -> Vec<Digest> {
        let mut blobs = vec![*self.manifest.digest(), self.config];
        blobs.extend(self.layers.iter().map(|layer| layer.descriptor.digest));
        blobs.sort();
        blobs.dedup();
        blobs
    }

    fn index(&self) -> Vec<u8> {
        let mut manifests = Vec::new();
        let descriptor =
            || Descriptor { annotations: BTreeMap::new(), ..self.manifest.descriptor() };
        for name in &self.names {
            let mut named = descriptor();
            named.annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
            if let Some(tag) = name.tag() {
                named.annotations.insert(
                    "org.opencontainers.image.ref.name".to_owned(),
                    tag.as_str().to_owned(),
                );
            }
            manifests.push(named);
        }
        if manifests.is_empty() {
            manifests.push(descriptor());
        }
        let index = ImageIndex {
            schema_version: 2,
            media_type: Some(MediaType::OCI_INDEX),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        };
        RawManifest::from_index(index).bytes().to_vec()
    }

    fn oci_directory(&self, root: &Path) -> Result<(), StepError> {
        let io = |error| StepError::io(root, error);
        for digest in self.blobs() {
            let directory = root.join("blobs").join(digest.algorithm().name());
            fs::create_dir_all(&directory).map_err(io)?;
            let target = directory.join(digest.encoded());
            let mut staged = tempfile::NamedTempFile::new_in(&directory).map_err(io)?;
            let mut source = File::open(self.store.path(&digest)).map_err(io)?;
            std::io::copy(&mut source, &mut staged).map_err(io)?;
            staged.persist(&target).map_err(|error| io(error.error))?;
            set_readable(&target)?;
        }
        fs::write(root.join("oci-layout"), OCI_LAYOUT).map_err(io)?;
        fs::write(root.join("index.json"), self.index()).map_err(io)
    }

    fn archive(&self, target: &OutputTarget, for_docker: bool) -> Result<(), StepError> {
        let failed = |error| StepError::layer("cannot write the archive", error);
        let mut writer = LayerWriter::new(open(target)?, Timestamps::Set(0));
        for directory in ["blobs", "blobs/sha256"] {
            writer.add(&Entry::directory(directory, 0o755)).map_err(failed)?;
        }
        for digest in self.blobs() {
            let blob = self
                .store
                .open_blob(&digest)
                .map_err(|error| StepError::layer(format!("cannot open blob {digest}"), error))?;
            let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.encoded());
            let entry = Entry::file(name, 0o644, blob.size());
            writer.add_with(&entry, blob.into_file()).map_err(failed)?;
        }
        let mut documents = vec![("index.json", self.index())];
        if for_docker {
            documents.push(("manifest.json", self.docker_manifest()?));
        }
        documents.push(("oci-layout", OCI_LAYOUT.as_bytes().to_vec()));
        for (name, bytes) in documents {
            let entry = Entry::file(name, 0o644, bytes.len() as u64);
            writer.add_with(&entry, &bytes[..]).map_err(failed)?;
        }
        let mut out = writer.finish().map_err(failed)?;
        out.flush().map_err(|error| StepError::layer("cannot write the archive", error))
    }

    /// What `docker load` looks for: config, tags and layers by their paths in the archive.
    fn docker_manifest(&self) -> Result<Vec<u8>, StepError> {
        let path =
            |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().name(), digest.encoded());
        let mut tags: Vec<String> =
            self.names.iter().map(|name| name.with_default_tag().familiar()).collect();
        if tags.is_empty() {
            tags.push(format!("{UNNAMED}:latest"));
        }
        let layers: Vec<String> =
            self.layers.iter().map(|layer| path(&layer.descriptor.digest)).collect();
        let document = serde_json::json!([{
            "Config": path(&self.config),
            "RepoTags": tags,
            "Layers": layers,
        }]);
        serde_json::to_vec(&document)
            .map_err(|error| StepError::layer("cannot write the archive", error))
    }

    fn files(&self, root: &Path) -> Result<(), StepError> {
        fs::create_dir_all(root).map_err(|error| StepError::io(root, error))?;
        let options = ApplyOptions::for_this_process(Whiteouts::Remove);
        for layer in &self.layers {
            let what = || format!("cannot unpack layer {}", layer.diff_id);
            let blob = self
                .store
                .open_blob(&layer.descriptor.digest)
                .map_err(|error| StepError::layer(what(), error))?;
            layers::apply(blob.into_file(), root, &options)
                .map_err(|error| StepError::layer(what(), error))?;
        }
        Ok(())
    }
}

/// OCI image-spec, image layout, `oci-layout` file.
const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

fn set_readable(path: &Path) -> Result<(), StepError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .map_err(|error| StepError::io(path, error))
}
