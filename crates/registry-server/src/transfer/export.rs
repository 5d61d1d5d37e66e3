//! A repository as an OCI image layout (image-spec, "Image Layout Specification").

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write as _;
use std::path::Path;

use oci_model::{Descriptor, Digest, ImageIndex, Manifest, RawManifest, Repository, Tag};

use super::copy::{CopyError, copy_verified};
use super::layout::{REF_NAME, read_index};
use super::{Offline, TransferError, TransferReport};
use crate::metadata::Metadata;
use crate::route::ManifestReference;

/// Tags read at once.
const PAGE_TAGS: usize = 1000;

struct Export<'a> {
    offline: &'a Offline,
    metadata: &'a Metadata,
    repository: Repository,
    target: &'a Path,
    dry_run: bool,
    written: HashSet<Digest>,
    report: TransferReport,
}

/// Writes the tags, or all of them.
pub(super) fn export(
    offline: &Offline,
    repository: &str,
    tags: &[String],
    target: &Path,
    dry_run: bool,
) -> Result<TransferReport, TransferError> {
    let unknown = || TransferError::NoRepository { name: repository.to_owned() };
    let repository = Repository::new(repository).map_err(|_| unknown())?;
    let metadata = offline.open()?;
    let written = HashSet::new();
    let report = TransferReport::default();
    let mut export =
        Export { offline, metadata: &metadata, repository, target, dry_run, written, report };
    let done = export.all(tags, unknown);
    let report = export.report;
    metadata.close();
    done.map(|()| report)
}

impl Export<'_> {
    fn all(
        &mut self,
        tags: &[String],
        unknown: impl Fn() -> TransferError,
    ) -> Result<(), TransferError> {
        if !self.metadata.knows(&self.repository).map_err(|error| self.offline.state(error))? {
            return Err(unknown());
        }
        let tags = if tags.is_empty() { self.tags()? } else { tags.to_vec() };
        let mut entries: BTreeMap<(Option<String>, Digest), Descriptor> = BTreeMap::new();
        if self.target.join("oci-layout").exists() {
            for entry in read_index(self.target)?.manifests {
                let name = entry.annotations.get(REF_NAME).cloned();
                entries.insert((name, entry.digest), entry);
            }
        }
        self.report.repositories = 1;
        let mut tagged = BTreeSet::new();
        for tag in tags {
            let object = format!("{}:{tag}", self.repository);
            let Ok(reference) = Tag::new(&tag).map(ManifestReference::Tag) else {
                self.report.problem(object, "it is not a tag");
                continue;
            };
            let Some(mut entry) = self.manifest(&reference, &object)? else { continue };
            entries.retain(|(name, _), _| name.as_ref() != Some(&tag));
            tagged.insert(entry.digest);
            entry.annotations = [(REF_NAME.to_owned(), tag.clone())].into();
            entries.insert((Some(tag), entry.digest), entry);
            self.report.tags += 1;
        }
        // What refers to something that was written, and to that.
        let mut queue: Vec<Digest> = self.written.iter().copied().collect();
        while let Some(subject) = queue.pop() {
            for referrer in self.referrers(&subject)? {
                if self.written.contains(&referrer) {
                    continue;
                }
                let object = format!("{}@{referrer}", self.repository);
                let reference = ManifestReference::Digest(referrer);
                if let Some(entry) = self.manifest(&reference, &object)? {
                    queue.push(entry.digest);
                    entries.insert((None, entry.digest), entry);
                }
            }
        }
        self.write_index(entries.into_values().collect())
    }

    fn tags(&self) -> Result<Vec<String>, TransferError> {
        let mut tags: Vec<String> = Vec::new();
        loop {
            let last = tags.last().map(String::as_str);
            let page = self
                .metadata
                .tags(&self.repository, last, PAGE_TAGS)
                .map_err(|error| self.offline.state(error))?;
            tags.extend(page.names);
            if !page.more {
                return Ok(tags);
            }
        }
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Digest>, TransferError> {
        let mut found = Vec::new();
        let visit = |digest: &str, _: &[u8]| {
            found.extend(digest.parse::<Digest>());
            true
        };
        let read = self.metadata.referrers(&self.repository, subject, "", visit);
        read.map_err(|error| self.offline.state(error))?;
        Ok(found)
    }

    /// Writes a manifest with all that it needs; `None` if something is missing, which is
    /// reported.
    fn manifest(
        &mut self,
        reference: &ManifestReference,
        object: &str,
    ) -> Result<Option<Descriptor>, TransferError> {
        let found = self.metadata.manifest(&self.repository, reference);
        let Some(found) = found.map_err(|error| self.offline.state(error))? else {
            self.report.problem(object, "there is no such manifest");
            return Ok(None);
        };
        let parsed = RawManifest::parse(Some(&found.media_type), found.bytes.to_vec());
        let manifest = match parsed {
            Ok(manifest) => manifest,
            Err(error) => {
                self.report.problem(object, error);
                return Ok(None);
            }
        };
        let size = found.bytes.len() as u64;
        let mut entry = Descriptor::new(found.media_type.clone(), found.digest, size);
        entry.artifact_type = match manifest.parsed() {
            Manifest::Image(image) => image.artifact_type.clone(),
            Manifest::Index(index) => index.artifact_type.clone(),
        };
        if self.written.contains(&found.digest) {
            return Ok(Some(entry));
        }
        for child in manifest.parsed().references() {
            let is_index = matches!(manifest.parsed(), Manifest::Index(_));
            let reference = ManifestReference::Digest(child.digest);
            let known = self.metadata.manifest(&self.repository, &reference);
            let is_manifest = is_index && known.map_err(|e| self.offline.state(e))?.is_some();
            let done = if is_manifest {
                self.manifest(&reference, object)?.is_some()
            } else {
                self.blob(child, object)?
            };
            if !done {
                return Ok(None);
            }
        }
        self.write(&found.digest, &mut &found.bytes[..])?;
        self.written.insert(found.digest);
        self.report.manifests += 1;
        Ok(Some(entry))
    }

    /// Writes a blob; `false` if it is missing or damaged, which is reported.
    fn blob(&mut self, descriptor: &Descriptor, object: &str) -> Result<bool, TransferError> {
        let digest = descriptor.digest;
        if self.written.contains(&digest) {
            return Ok(true);
        }
        let Ok(mut blob) = self.offline.store.open_blob(&digest) else {
            self.report.problem(object, format!("blob {digest} is missing"));
            return Ok(false);
        };
        let size = blob.size();
        if size != descriptor.size {
            self.report.problem(object, format!("blob {digest} has the wrong length"));
            return Ok(false);
        }
        if !self.write(&digest, &mut blob)? {
            // Its bytes rotted: out of sight with it, as the scrubber does.
            let _ = self.offline.store.verify(&digest);
            self.report.problem(object, format!("blob {digest} is damaged"));
            return Ok(false);
        }
        self.written.insert(digest);
        self.report.blobs += 1;
        self.report.bytes += size;
        Ok(true)
    }

    /// Writes content under its digest unless it is there; `false` if it has another digest.
    fn write(
        &mut self,
        digest: &Digest,
        content: &mut dyn std::io::Read,
    ) -> Result<bool, TransferError> {
        if self.dry_run {
            return Ok(true);
        }
        let directory = self.target.join("blobs").join(digest.algorithm().name());
        let path = directory.join(digest.encoded());
        let failed = |source| TransferError::File { path: path.clone(), source };
        if path.exists() {
            self.report.present += 1;
            return Ok(true);
        }
        std::fs::create_dir_all(&directory).map_err(failed)?;
        match copy_verified(digest, content, &path) {
            Ok(()) => Ok(true),
            Err(CopyError::OtherContent) => Ok(false),
            Err(CopyError::File(error)) => Err(failed(error)),
        }
    }

    fn write_index(&self, manifests: Vec<Descriptor>) -> Result<(), TransferError> {
        if self.dry_run {
            return Ok(());
        }
        let index = ImageIndex {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let index = serde_json::to_vec(&index).unwrap_or_default();
        let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
        for (name, content) in [("oci-layout", &marker[..]), ("index.json", &index[..])] {
            let (path, staged) = (self.target.join(name), self.target.join(format!(".{name}")));
            let write = || -> std::io::Result<()> {
                std::fs::create_dir_all(self.target)?;
                let mut file = std::fs::File::create(&staged)?;
                file.write_all(content)?;
                file.sync_data()?;
                std::fs::rename(&staged, &path)?;
                std::fs::File::open(self.target)?.sync_all()
            };
            write().map_err(|source| TransferError::File { path: path.clone(), source })?;
        }
        Ok(())
    }
}
