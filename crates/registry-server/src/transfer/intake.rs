//! What was found at a source becomes part of the registry, after it was checked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use blob_store::{Adopted, IngestError, Lease};
use oci_model::{
    Descriptor, Digest, Hasher, MANIFEST_BYTES_MAX, Manifest, MediaType, RawManifest, Repository,
    Tag,
};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::{ImportOptions, Offline, TransferError, TransferReport};
use crate::document;
use crate::manifests::{children, referrer};
use crate::metadata::{Change, ChangeError, Metadata, NewManifest, Stamp, StoredLink};

/// Manifests that are committed together.
const COMMIT_MANIFESTS: usize = 256;

/// Where a source keeps the content of a digest.
pub(super) type Locate<'a> = &'a dyn Fn(&Digest) -> PathBuf;

/// A manifest that a source has.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) digest: Digest,
    /// What the source says that it is; a manifest may say so itself.
    pub(super) media_type: Option<MediaType>,
    pub(super) tags: Vec<Tag>,
}

/// The way into a registry that does not run, or into nothing for a dry run.
pub(super) struct Intake<'a> {
    offline: &'a Offline,
    options: ImportOptions,
    target: Option<(Metadata, Lease)>,
    runtime: Handle,
    /// Blobs that were looked at, with the reason why they cannot be had.
    blobs: HashMap<Digest, Result<u64, String>>,
    pub(super) report: TransferReport,
}

/// A manifest that waits for its commit.
struct Waiting {
    name: String,
    change: Change,
    tags: u64,
    digest: Digest,
}

impl<'a> Intake<'a> {
    pub(super) fn open(
        offline: &'a Offline,
        options: ImportOptions,
    ) -> Result<Self, TransferError> {
        let target = if options.dry_run {
            None
        } else {
            // No collection takes a blob before its manifest is there.
            let lease = offline.store.lease().map_err(|error| offline.state(error))?;
            Some((offline.open()?, lease))
        };
        Ok(Self {
            offline,
            options,
            target,
            runtime: Handle::current(),
            blobs: HashMap::new(),
            report: TransferReport::default(),
        })
    }

    /// Ends the import; everything is durable.
    pub(super) fn close(self) -> TransferReport {
        if let Some((metadata, _)) = &self.target {
            metadata.close();
        }
        self.report
    }

    /// Takes in the manifests of a repository with all that they need.
    pub(super) fn repository(
        &mut self,
        repository: &Repository,
        found: Vec<Found>,
        locate: Locate<'_>,
    ) -> Result<(), TransferError> {
        self.report.repositories += 1;
        let mut known: HashSet<Digest> = HashSet::new();
        let mut waiting = Vec::new();
        let mut indexes: BTreeMap<Digest, (Found, Vec<Descriptor>)> = BTreeMap::new();
        for found in found {
            let name = format!("{repository}@{}", found.digest);
            let manifest = match read(&locate(&found.digest), &found) {
                Ok(manifest) => manifest,
                Err(reason) => {
                    self.report.problem(name, reason);
                    continue;
                }
            };
            if let Manifest::Index(_) = manifest.parsed() {
                let entries = manifest.parsed().references().cloned().collect();
                indexes.insert(found.digest, (found, entries));
                continue;
            }
            if let Err(reason) = self.blobs_of(repository, &manifest, locate)? {
                self.report.problem(name, reason);
                continue;
            }
            waiting.push(self.waiting(repository, name, &found, &manifest)?);
            if waiting.len() == COMMIT_MANIFESTS {
                known.extend(self.commit(std::mem::take(&mut waiting))?);
            }
        }
        known.extend(self.commit(waiting)?);
        self.indexes(repository, indexes, known, locate)
    }

    /// Takes in indexes, each after the entries that it names.
    fn indexes(
        &mut self,
        repository: &Repository,
        mut indexes: BTreeMap<Digest, (Found, Vec<Descriptor>)>,
        mut known: HashSet<Digest>,
        locate: Locate<'_>,
    ) -> Result<(), TransferError> {
        loop {
            let mut ready = Vec::new();
            for (digest, (_, entries)) in &indexes {
                let mut waits = false;
                for entry in entries {
                    if known.contains(&entry.digest) {
                        continue;
                    }
                    // What is no manifest may still be content, as in the caches of builders.
                    let is_blob = entry.media_type.manifest_kind().is_none();
                    if is_blob && self.blob(repository, entry, locate)?.is_ok() {
                        known.insert(entry.digest);
                    } else {
                        waits = true;
                    }
                }
                if !waits {
                    ready.push(*digest);
                }
            }
            if ready.is_empty() {
                break;
            }
            let mut waiting = Vec::new();
            for digest in ready {
                let Some((found, _)) = indexes.remove(&digest) else { continue };
                let name = format!("{repository}@{digest}");
                match read(&locate(&digest), &found) {
                    Ok(manifest) => {
                        waiting.push(self.waiting(repository, name, &found, &manifest)?);
                    }
                    Err(reason) => self.report.problem(name, reason),
                }
            }
            known.extend(self.commit(waiting)?);
        }
        for (digest, (found, entries)) in indexes {
            let missing = entries.iter().find(|entry| !known.contains(&entry.digest));
            let missing = missing.map(|entry| entry.digest.to_string()).unwrap_or_default();
            let reason = format!("its entry {missing} is missing");
            for tag in &found.tags {
                self.report.problem(format!("{repository}:{tag}"), &reason);
            }
            if found.tags.is_empty() {
                self.report.problem(format!("{repository}@{digest}"), reason);
            }
        }
        Ok(())
    }

    /// Takes in the blobs of an image; the reason why one cannot be had.
    fn blobs_of(
        &mut self,
        repository: &Repository,
        manifest: &RawManifest,
        locate: Locate<'_>,
    ) -> Result<Result<(), String>, TransferError> {
        for descriptor in manifest.parsed().references() {
            if let Err(reason) = self.blob(repository, descriptor, locate)? {
                return Ok(Err(reason));
            }
        }
        Ok(Ok(()))
    }

    fn blob(
        &mut self,
        repository: &Repository,
        descriptor: &Descriptor,
        locate: Locate<'_>,
    ) -> Result<Result<(), String>, TransferError> {
        let digest = descriptor.digest;
        let had = match self.blobs.get(&digest) {
            Some(had) => had.clone(),
            None => {
                let had = self.adopt(&digest, &locate(&digest))?;
                self.blobs.insert(digest, had.clone());
                if let Ok(size) = had {
                    self.report.blobs += 1;
                    self.report.bytes += size;
                }
                had
            }
        };
        match had {
            Err(reason) => Ok(Err(format!("blob {digest} {reason}"))),
            Ok(size) if size != descriptor.size => {
                Ok(Err(format!("blob {digest} has {size} bytes, not {}", descriptor.size)))
            }
            Ok(size) => {
                if let Some((metadata, _)) = &self.target {
                    let link = StoredLink { repository: repository.clone(), digest, size };
                    metadata.link(link).map_err(|error| self.offline.state(error))?;
                }
                Ok(Ok(()))
            }
        }
    }

    /// Takes in one blob; its size, or why it cannot be had.
    fn adopt(
        &mut self,
        digest: &Digest,
        path: &Path,
    ) -> Result<Result<u64, String>, TransferError> {
        let size = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => return Ok(Err("is not a file".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Err("is missing".to_owned()));
            }
            Err(error) => return Ok(Err(format!("cannot be read: {error}"))),
        };
        let Some((_, lease)) = &self.target else {
            self.report.present += u64::from(self.offline.store.size(digest) == Some(size));
            return Ok(Ok(size));
        };
        lease.add(digest).map_err(|error| self.offline.state(error))?;
        match self.offline.store.adopt_file(path, digest, self.options.mode) {
            Ok(Adopted::Present) => self.report.present += 1,
            Ok(Adopted::Linked) => self.report.linked += 1,
            Ok(Adopted::Copied) => {}
            Err(IngestError::DigestMismatch { actual, .. }) => {
                return Ok(Err(format!("is damaged: its bytes have digest {actual}")));
            }
            Err(IngestError::NoSpace { .. }) => return Err(TransferError::NoSpace),
            Err(IngestError::Disk(error)) => return Err(self.offline.state(error)),
        }
        Ok(Ok(size))
    }

    fn waiting(
        &self,
        repository: &Repository,
        name: String,
        found: &Found,
        manifest: &RawManifest,
    ) -> Result<Waiting, TransferError> {
        let subject = match manifest.parsed().subject() {
            Some(subject) => {
                let descriptor = referrer(manifest, found.digest)
                    .map_err(|_| self.offline.state("a descriptor cannot be written"))?;
                Some((subject.digest, descriptor))
            }
            None => None,
        };
        let new = NewManifest {
            repository: repository.clone(),
            digest: found.digest,
            media_type: manifest.media_type().clone(),
            bytes: manifest.bytes().to_vec().into(),
            tags: found.tags.clone(),
            expected: None,
            children: children(manifest.parsed()),
            subject,
            cached: false,
        };
        let change = Change::PutManifest(Box::new(new));
        let tags = found.tags.len() as u64;
        Ok(Waiting { name, change, tags, digest: found.digest })
    }

    /// Commits manifests together; returns those that are in the registry now.
    fn commit(&mut self, waiting: Vec<Waiting>) -> Result<Vec<Digest>, TransferError> {
        let Some((metadata, _)) = &self.target else {
            self.report.manifests += waiting.len() as u64;
            self.report.tags += waiting.iter().map(|waiting| waiting.tags).sum::<u64>();
            return Ok(waiting.into_iter().map(|waiting| waiting.digest).collect());
        };
        let mut commits = JoinSet::new();
        let stamp = Stamp { by: "import".to_owned(), ..Stamp::system() };
        for waiting in waiting {
            let (metadata, stamp) = (metadata.clone(), stamp.clone());
            let commit = async move {
                let Waiting { name, change, tags, digest } = waiting;
                (name, tags, digest, metadata.submit(change, stamp).await)
            };
            commits.spawn_on(commit, &self.runtime);
        }
        let mut stored = Vec::new();
        while let Some(answer) = self.runtime.block_on(commits.join_next()) {
            match answer.map_err(|error| self.offline.state(error))? {
                (_, tags, digest, Ok(_)) => {
                    self.report.manifests += 1;
                    self.report.tags += tags;
                    stored.push(digest);
                }
                (_, _, _, Err(ChangeError::NoSpace)) => return Err(TransferError::NoSpace),
                (_, _, _, Err(error @ (ChangeError::Failed | ChangeError::Busy))) => {
                    return Err(self.offline.state(error));
                }
                (name, _, _, Err(refused)) => self.report.problem(name, refused),
            }
        }
        Ok(stored)
    }
}

/// Reads a manifest and checks it as a push would be checked.
pub(super) fn read(path: &Path, found: &Found) -> Result<RawManifest, String> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("its content is missing".to_owned());
        }
        Err(error) => return Err(format!("its content cannot be read: {error}")),
    };
    if size > MANIFEST_BYTES_MAX as u64 {
        return Err(format!("it has {size} bytes, more than a manifest may have"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut hasher = Hasher::new(found.digest.algorithm());
    hasher.update(&bytes);
    let actual = hasher.finish();
    if actual != found.digest {
        return Err(format!("it is damaged: its bytes have digest {actual}"));
    }
    document::check_json(&bytes)?;
    let manifest =
        RawManifest::parse(found.media_type.as_ref(), bytes).map_err(|error| error.to_string())?;
    document::check_sizes(manifest.parsed())?;
    Ok(manifest)
}
