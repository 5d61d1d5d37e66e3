//! Uploads that outlive the request and the process that began them.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use oci_model::{Algorithm, Digest, Hasher};

use crate::durable::{lock, remove_file, try_lock, unlock};
use crate::error::{Context as _, DiskError, IngestError, UploadError, is_full};
use crate::ingest::{Settle, Staged};
use crate::store::{BlobStore, READ_CHUNK_BYTES, create_new, last_use};

/// Uploads whose hash state is remembered between requests; beyond it the bytes are hashed again.
const HASH_STATES_MAX: usize = 4096;

/// Longest label of an upload, in bytes.
const LABEL_BYTES_MAX: u64 = 4096;

/// Name of an upload: a random UUID without hyphens, so that it can be a file name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId(uuid::Uuid);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UploadId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        uuid::Uuid::parse_str(text).map(Self)
    }
}

/// A resumable upload, locked by this value. Dropping it keeps the bytes for a later
/// [`BlobStore::resume_upload`], in this process or another.
#[derive(Debug)]
pub struct Upload {
    store: BlobStore,
    id: UploadId,
    label: String,
    staged: Staged,
    /// Whether the files are gone and nothing is to be remembered.
    ended: bool,
}

/// What is known of an upload without locking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// The label given at its creation.
    pub label: String,
    /// Bytes received.
    pub size: u64,
}

/// Hash states of uploads that nobody holds, by id, with the number of bytes hashed.
#[derive(Debug, Default)]
pub(crate) struct HashStates(Mutex<HashMap<UploadId, (u64, Hasher)>>);

impl BlobStore {
    /// Begins an upload. The `label` is the owner's: it comes back when the upload is resumed, so
    /// that the owner can bind an upload to a repository and a user. At most 4096 bytes count.
    ///
    /// # Errors
    /// [`IngestError::NoSpace`] inside [`UploadError::Ingest`], or a failure of the disk.
    pub fn begin_upload(&self, label: &str, algorithm: Algorithm) -> Result<Upload, UploadError> {
        self.require_room()?;
        let id = UploadId(uuid::Uuid::new_v4());
        let label_path = self.label_path(id);
        std::fs::write(&label_path, label).doing("write", &label_path)?;
        let path = self.upload_path(id);
        let file = create_new(&path)?;
        try_lock(&file, &path)?;
        let staged = Staged::new(file, path, Hasher::new(algorithm), 0, self.reserve);
        Ok(Upload { store: self.clone(), id, label: label.to_owned(), staged, ended: false })
    }

    /// Takes up an upload where it stopped. In the process that wrote the last bytes this is
    /// immediate; otherwise the bytes received so far are hashed again.
    ///
    /// # Errors
    /// [`UploadError::Unknown`], or [`UploadError::Busy`] while another value holds it.
    pub fn resume_upload(&self, id: UploadId) -> Result<Upload, UploadError> {
        let path = self.upload_path(id);
        let mut file = match OpenOptions::new().read(true).append(true).open(&path) {
            Ok(file) => file,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(UploadError::Unknown { id });
            }
            Err(source) => return Err(DiskError::new("open", &path, source).into()),
        };
        if !try_lock(&file, &path)? {
            return Err(UploadError::Busy { id });
        }
        let metadata = file.metadata().doing("stat", &path)?;
        // It was finished between the open and the lock, so the file is a blob now or gone.
        let label = match self.label(id)? {
            Some(label) if metadata.nlink() > 0 && path.exists() => label,
            Some(_) | None => return Err(UploadError::Unknown { id }),
        };
        let size = metadata.len();
        let known = lock(&self.inner.hash_states.0).remove(&id);
        let hasher = match known {
            Some((hashed, hasher)) if hashed == size => hasher,
            Some(_) | None => rehash(&mut file, &path, size)?,
        };
        let staged = Staged::new(file, path, hasher, size, self.reserve);
        Ok(Upload { store: self.clone(), id, label, staged, ended: false })
    }

    /// Looks at an upload, whoever holds it.
    ///
    /// # Errors
    /// [`UploadError::Unknown`] if there is none.
    pub fn upload_status(&self, id: UploadId) -> Result<UploadStatus, UploadError> {
        let label = self.label(id)?.ok_or(UploadError::Unknown { id })?;
        let path = self.upload_path(id);
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(UploadStatus { label, size: metadata.len() }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                Err(UploadError::Unknown { id })
            }
            Err(source) => Err(DiskError::new("stat", &path, source).into()),
        }
    }

    /// Removes uploads that received nothing for `idle_max`; returns how many.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn remove_idle_uploads(
        &self,
        now: SystemTime,
        idle_max: Duration,
    ) -> Result<usize, DiskError> {
        let directory = self.inner.root.join("uploads");
        let mut removed = 0;
        for entry in std::fs::read_dir(&directory).doing("list", &directory)? {
            let path = entry.doing("list", &directory)?.path();
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            let idle = now.duration_since(last_use(&metadata)).unwrap_or_default();
            if idle < idle_max {
                continue;
            }
            if path.extension().is_some() {
                // A label alone: its upload ended in the middle of a crash.
                if !path.with_extension("").exists() {
                    remove_file(&path)?;
                }
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            if try_lock(&file, &path)? {
                remove_file(&path.with_extension("label"))?;
                remove_file(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn upload_path(&self, id: UploadId) -> PathBuf {
        self.inner.root.join("uploads").join(id.to_string())
    }

    fn label_path(&self, id: UploadId) -> PathBuf {
        self.inner.root.join("uploads").join(format!("{id}.label"))
    }

    fn label(&self, id: UploadId) -> Result<Option<String>, DiskError> {
        use io::Read as _;
        let path = self.label_path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DiskError::new("open", &path, source)),
        };
        let mut label = String::new();
        file.take(LABEL_BYTES_MAX).read_to_string(&mut label).doing("read", &path)?;
        Ok(Some(label))
    }
}

impl Upload {
    /// The name by which it is resumed.
    pub const fn id(&self) -> UploadId {
        self.id
    }

    /// The owner's label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Bytes received so far.
    pub const fn size(&self) -> u64 {
        self.staged.size
    }

    /// Adds `bytes` at the end. What was written before a failure stays and counts.
    ///
    /// # Errors
    /// [`IngestError::NoSpace`] or a failure of the disk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        self.staged.append(bytes).map_err(|error| {
            if is_full(&error) {
                IngestError::NoSpace { path: self.staged.path.clone() }
            } else {
                DiskError::new("write", &self.staged.path, error).into()
            }
        })
    }

    /// Makes the blob visible under `expected` and ends the upload. Its directory entry becomes
    /// durable with the next synced ref or [`BlobStore::settle`].
    ///
    /// # Errors
    /// [`IngestError::DigestMismatch`]: the upload ends as well, with nothing stored. So it does
    /// when the disk may have lost some of its bytes. After any other error it can be resumed.
    pub fn commit_deferred(mut self, expected: &Digest) -> Result<(), IngestError> {
        match self.staged.publish(&self.store, expected, Settle::Later) {
            Ok(()) => {
                self.ended = true;
                remove_file(&self.store.label_path(self.id))?;
                Ok(())
            }
            Err(error @ IngestError::DigestMismatch { .. }) => {
                self.end()?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// As [`Upload::commit_deferred`], and durable when it returns.
    ///
    /// # Errors
    /// As [`Upload::commit_deferred`].
    pub fn commit(self, expected: &Digest) -> Result<(), IngestError> {
        let store = self.store.clone();
        self.commit_deferred(expected)?;
        store.settle_directory(expected)?;
        Ok(())
    }

    /// Ends the upload and removes its bytes.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn cancel(mut self) -> Result<(), DiskError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), DiskError> {
        self.ended = true;
        let label = remove_file(&self.store.label_path(self.id));
        remove_file(&self.staged.path).and(label)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The kernel tells once that it lost bytes, to this file and no later one.
        if self.staged.is_lost() {
            // What cannot be removed can hardly be written or published either.
            let _ = self.end();
            unlock(&self.staged.file);
            return;
        }
        let mut states = lock(&self.store.inner.hash_states.0);
        if states.len() < HASH_STATES_MAX {
            states.insert(self.id, (self.staged.size, self.staged.hasher.clone()));
        }
        drop(states);
        unlock(&self.staged.file);
    }
}

fn rehash(file: &mut File, path: &std::path::Path, size: u64) -> Result<Hasher, DiskError> {
    use io::Read as _;
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; READ_CHUNK_BYTES];
    let mut rest = file.take(size);
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(hasher),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(DiskError::new("read", path, source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed_sync() -> std::thread::JoinHandle<rustix::io::Result<()>> {
        std::thread::spawn(|| Err(rustix::io::Errno::IO))
    }

    #[test]
    fn an_upload_whose_background_sync_failed_is_not_resumed() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(directory.path()).expect("a store");
        let mut upload = store.begin_upload("label", Algorithm::Sha256).expect("an upload");
        upload.append(b"content").expect("an append");
        upload.staged.running = Some(failed_sync());
        let id = upload.id();
        drop(upload);
        assert!(matches!(store.resume_upload(id), Err(UploadError::Unknown { .. })));
        assert!(matches!(store.upload_status(id), Err(UploadError::Unknown { .. })));
        let left = std::fs::read_dir(directory.path().join("uploads")).expect("a listing").count();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_commit_whose_sync_failed_stores_nothing_and_ends_the_upload() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(directory.path()).expect("a store");
        let mut upload = store.begin_upload("label", Algorithm::Sha256).expect("an upload");
        upload.append(b"content").expect("an append");
        upload.staged.running = Some(failed_sync());
        let (id, digest) = (upload.id(), Digest::of(b"content"));
        assert!(matches!(upload.commit(&digest), Err(IngestError::Disk(_))));
        assert!(!store.contains(&digest));
        assert!(matches!(store.resume_upload(id), Err(UploadError::Unknown { .. })));
    }
}
