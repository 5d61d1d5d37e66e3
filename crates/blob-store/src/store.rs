//! The store itself: where blobs are, and how they are read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci_model::{Algorithm, Digest, Hasher};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::durable::{
    FileLock, GroupSync, LockKind, SyncKind, create_directory, replace_file, sync_directory,
};
use crate::error::{Context as _, DiskError, IngestError, OpenError, ReadError};
use crate::ingest::{Ingest, sweep_staging};
use crate::ref_log::RefLogs;
use crate::reserve::DiskReserve;
use crate::scrub::{hash_whole, is_media_error};
use crate::upload::HashStates;

/// Content of the `format` file.
const FORMAT: &str = "shipway blob-store 1\n";

/// How exact the time of a blob's last use is: uses closer together are recorded once, so that a
/// busy blob does not cost a write per read.
/// Collections add it to their delay, so that each use counts for the whole delay.
pub(crate) const LAST_USE_GRANULARITY: Duration = Duration::from_secs(60);

/// Bytes read at once while hashing.
pub(crate) const READ_CHUNK_BYTES: usize = 256 * 1024;

/// A content-addressed store in a directory; clones share it.
#[derive(Clone, Debug)]
pub struct BlobStore {
    pub(crate) inner: Arc<Inner>,
    pub(crate) reserve: DiskReserve,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    /// The directories of sha256, sha384 and sha512, whose entries must be made durable.
    directories: [GroupSync; 3],
    pub(crate) refs: RefLogs,
    pub(crate) hash_states: HashStates,
}

/// A verified blob, open for reading.
#[derive(Debug)]
pub struct Blob {
    file: File,
    digest: Digest,
    size: u64,
}

/// What [`BlobStore::verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes hash to the name.
    Intact,
    /// They do not; the blob is in quarantine and no longer visible.
    Quarantined,
}

impl BlobStore {
    /// Opens the store at `root`, creates it if there is none, and removes what crashed ingests
    /// of earlier processes left behind.
    ///
    /// # Errors
    /// [`OpenError::Format`] if another version wrote the store.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let root = root.into();
        let is_new = !root.exists();
        create_directory(&root)?;
        let format = root.join("format");
        match std::fs::read_to_string(&format) {
            Ok(found) if found == FORMAT => {}
            Ok(found) => return Err(OpenError::Format { path: root, found }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                replace_file(&format, FORMAT.as_bytes())?;
            }
            Err(source) => return Err(DiskError::new("read", &format, source).into()),
        }
        for name in ["staging", "uploads", "refs", "leases", "locks", "quarantine", "trash"] {
            create_directory(&root.join(name))?;
        }
        let directory = |algorithm: Algorithm| -> Result<GroupSync, DiskError> {
            let path = root.join(algorithm.name());
            create_directory(&path)?;
            let file = File::open(&path).doing("open", &path)?;
            Ok(GroupSync::new(file, SyncKind::Directory))
        };
        let directories = [
            directory(Algorithm::Sha256)?,
            directory(Algorithm::Sha384)?,
            directory(Algorithm::Sha512)?,
        ];
        let refs = RefLogs::new(root.join("refs"));
        let inner = Inner { root, directories, refs, hash_states: HashStates::default() };
        let store = Self { inner: Arc::new(inner), reserve: DiskReserve::NONE };
        if is_new {
            // The directories must not be what a power failure takes from the first blob.
            sync_directory(&store.inner.root)?;
            store.inner.root.parent().map_or(Ok(()), sync_directory)?;
        }
        sweep_staging(&store)?;
        Ok(store)
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where the blob's file is or would be; for callers that hand a path to another program.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.inner.root.join(digest.algorithm().name());
        path.push(digest.encoded());
        path
    }

    /// Whether the store holds the blob.
    ///
    /// The answer may be outdated at once unless a ref or a [`crate::Lease`] keeps the blob.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    /// The size of the blob in bytes, or `None` if the store does not hold it.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    /// Opens a blob for reading. The bytes were hashed when they came in; they are not hashed
    /// again (see [`BlobStore::verify`]).
    ///
    /// # Errors
    /// [`ReadError::Missing`] if the store does not hold it.
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob, ReadError> {
        let path = self.path(digest);
        // Not through a link: it could lead to any file of the host.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = rustix::fs::open(&path, flags, Mode::empty()).map_err(io::Error::from);
        let file = match opened {
            Ok(file) => File::from(file),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Missing { digest: *digest });
            }
            Err(source) => return Err(DiskError::new("open", &path, source).into()),
        };
        let size = file.metadata().doing("stat", &path)?.len();
        Ok(Blob { file, digest: *digest, size })
    }

    /// Reads a whole blob of at most `bytes_max` bytes and verifies it.
    ///
    /// # Errors
    /// [`ReadError::TooLarge`] before anything is read; [`ReadError::Corrupt`] if the bytes no
    /// longer hash to the digest, in which case the blob is no longer visible.
    pub fn read(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
        let mut blob = self.open_blob(digest)?;
        let size = blob.size;
        if size > bytes_max {
            return Err(ReadError::TooLarge { digest: *digest, size, bytes_max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let path = self.path(digest);
        (&mut blob.file).take(bytes_max).read_to_end(&mut bytes).doing("read", &path)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() != *digest {
            self.quarantine(digest)?;
            return Err(ReadError::Corrupt { digest: *digest });
        }
        Ok(bytes)
    }

    /// Begins to take in bytes of unknown or expected digest.
    ///
    /// # Errors
    /// [`IngestError::NoSpace`] or a failure of the disk.
    pub fn ingest(&self) -> Result<Ingest, IngestError> {
        Ingest::begin(self, Algorithm::Sha256)
    }

    /// As [`BlobStore::ingest`], hashing with `algorithm` while the bytes pass, so that a commit
    /// under a digest of that algorithm need not read them again.
    ///
    /// # Errors
    /// As [`BlobStore::ingest`].
    pub fn ingest_with(&self, algorithm: Algorithm) -> Result<Ingest, IngestError> {
        Ingest::begin(self, algorithm)
    }

    /// Stores `bytes` and returns their SHA-256 digest.
    ///
    /// # Errors
    /// [`IngestError::NoSpace`] or a failure of the disk.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, IngestError> {
        let digest = Digest::of(bytes);
        if self.adopt_present(&digest, bytes.len() as u64)? {
            self.settle_directory(&digest)?;
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).doing("write", ingest.path())?;
        ingest.commit_any()
    }

    /// Notes that the blob is used now, which restarts its collection delay. `false` if the store
    /// does not hold it.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn touch(&self, digest: &Digest) -> Result<bool, DiskError> {
        let path = self.path(digest);
        match is_recent(&path)? {
            None => Ok(false),
            // No collection takes it for a while.
            Some(true) => Ok(true),
            Some(false) => {
                // A collection that found it due may be about to remove it.
                let _guard = self.share_with_collection()?;
                touch_now(&path)
            }
        }
    }

    /// Hashes a blob again; one that does not match its name goes into quarantine.
    ///
    /// # Errors
    /// [`ReadError::Missing`], or a failure of the disk.
    pub fn verify(&self, digest: &Digest) -> Result<Verdict, ReadError> {
        let mut blob = self.open_blob(digest)?;
        match hash_whole(&mut blob.file, digest.algorithm()).map(Hasher::finish) {
            Ok(actual) if actual == *digest => return Ok(Verdict::Intact),
            Ok(_) => {}
            Err(error) if is_media_error(&error) => {}
            Err(source) => return Err(DiskError::new("read", &self.path(digest), source).into()),
        }
        self.quarantine(digest)?;
        Ok(Verdict::Quarantined)
    }

    /// Calls `visit` with the digest and size of every blob, in no order; an error stops the walk.
    ///
    /// # Errors
    /// What `visit` returns, or a failure of the disk.
    pub fn for_each_blob<E: From<DiskError>>(
        &self,
        mut visit: impl FnMut(Digest, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk(|digest, metadata| visit(digest, metadata.len()))
    }

    /// Makes every blob that was committed deferred durable, see [`Ingest::commit_deferred`].
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn settle(&self) -> Result<(), DiskError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            self.directory(algorithm).settle(&self.inner.root.join(algorithm.name()))?;
        }
        Ok(())
    }

    /// Free bytes on the disk of the store.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn free_bytes(&self) -> Result<u64, DiskError> {
        let stat = rustix::fs::statvfs(&self.inner.root).doing("stat", &self.inner.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Puts a blob out of sight and keeps its bytes for inspection.
    pub(crate) fn quarantine(&self, digest: &Digest) -> Result<(), DiskError> {
        let path = self.path(digest);
        match std::fs::rename(&path, self.quarantine_path(digest)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(DiskError::new("quarantine", &path, source))
            }
            // Durable at once: after a power failure it must not be visible again.
            Ok(()) => self.settle_directory(digest),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn quarantine_path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm().name(), digest.encoded());
        self.inner.root.join("quarantine").join(name)
    }

    /// Whether the blob is already there with the right size; if so, its use is noted.
    pub(crate) fn adopt_present(&self, digest: &Digest, size: u64) -> Result<bool, DiskError> {
        // Shared, so that a collection cannot remove the blob between the look and the touch.
        let _guard = self.share_with_collection()?;
        let path = self.path(digest);
        Ok(self.size(digest) == Some(size)
            && match is_recent(&path)? {
                Some(false) => touch_now(&path)?,
                recent => recent.is_some(),
            })
    }

    /// Keeps collections from removing anything while the guard lives.
    pub(crate) fn share_with_collection(&self) -> Result<FileLock, DiskError> {
        FileLock::acquire(&self.inner.root.join("locks/collect"), LockKind::Shared)
    }

    pub(crate) fn directory(&self, algorithm: Algorithm) -> &GroupSync {
        match algorithm {
            Algorithm::Sha256 => &self.inner.directories[0],
            Algorithm::Sha384 => &self.inner.directories[1],
            Algorithm::Sha512 => &self.inner.directories[2],
        }
    }

    /// Makes the directory entry of `digest` durable, whoever made it.
    pub(crate) fn settle_directory(&self, digest: &Digest) -> Result<(), DiskError> {
        let directory = self.directory(digest.algorithm());
        directory.mark();
        directory.settle(&self.inner.root.join(digest.algorithm().name()))
    }

    pub(crate) fn walk<E: From<DiskError>>(
        &self,
        mut visit: impl FnMut(Digest, &std::fs::Metadata) -> Result<(), E>,
    ) -> Result<(), E> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let directory = self.inner.root.join(algorithm.name());
            for entry in std::fs::read_dir(&directory).doing("list", &directory)? {
                let entry = entry.doing("list", &directory)?;
                let name = entry.file_name();
                let Some(hex) = name.to_str() else { continue };
                // Anything else than a blob is not ours to judge.
                let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() else { continue };
                // It may be gone by now.
                let Ok(metadata) = entry.metadata() else { continue };
                visit(digest, &metadata)?;
            }
        }
        Ok(())
    }
}

impl Blob {
    /// The digest by which it was opened.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The open file, at its current position.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Blob {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Whether the last use need not be noted again; `None` if there is no such file.
fn is_recent(path: &Path) -> Result<Option<bool>, DiskError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DiskError::new("stat", path, source)),
    };
    let age = SystemTime::now().duration_since(last_use(&metadata)).unwrap_or_default();
    Ok(Some(age < LAST_USE_GRANULARITY))
}

/// Sets the modification time to now; `false` if there is no such file.
pub(crate) fn touch_now(path: &Path) -> Result<bool, DiskError> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(source) => Err(DiskError::new("touch", path, source)),
    }
}

/// When a blob was last used.
pub(crate) fn last_use(metadata: &std::fs::Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Hashes a file from its beginning.
pub(crate) fn hash_file(
    file: &mut File,
    algorithm: Algorithm,
    path: &Path,
) -> Result<Digest, DiskError> {
    Ok(hash_whole(file, algorithm).doing("read", path)?.finish())
}

/// Creates a file for reading and writing that did not exist.
pub(crate) fn create_new(path: &Path) -> Result<File, DiskError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .doing("create", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_use_is_noted_before_a_collection_removes_the_blob_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(directory.path()).expect("a store");
        let (old, recent) = (store.put(b"old").expect("a blob"), store.put(b"new").expect("one"));
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        let file = File::open(store.path(&old)).expect("the blob");
        file.set_modified(long_ago).expect("an old blob");
        let lock = directory.path().join("locks/collect");
        let lock = FileLock::acquire(&lock, LockKind::Exclusive).expect("the lock");
        // The common case waits for nobody.
        assert!(store.touch(&recent).expect("an answer"));
        let (other, digest) = (store.clone(), old);
        let touched = std::thread::spawn(move || other.touch(&digest));
        std::fs::remove_file(store.path(&old)).expect("a removal");
        drop(lock);
        assert!(!touched.join().expect("a thread").expect("an answer"));
    }
}
