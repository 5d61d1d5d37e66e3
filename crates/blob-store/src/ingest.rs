//! Bytes on their way in: staged, hashed, synced, and only then visible.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use oci_model::{Algorithm, Digest, Hasher};

use crate::durable::{remove_file, try_lock};
use crate::error::{Context as _, DiskError, IngestError, is_full};
use crate::lease::Lease;
use crate::reserve::{DiskReserve, Room};
use crate::scrub::hash_whole;
use crate::store::{BlobStore, create_new, hash_file};
use crate::tail::{End, Tail};

/// Small writes are gathered up to this many bytes, so that one system call and one call of the
/// hash serve many of them.
const GATHER_BYTES: usize = 128 * 1024;

/// Bytes that may become a blob. Dropping it without a commit leaves no trace.
///
/// Writing fails with [`io::ErrorKind::StorageFull`] when the disk is full.
#[derive(Debug)]
pub struct Ingest {
    store: BlobStore,
    staged: Staged,
    gathered: Vec<u8>,
    lease: Option<Lease>,
}

/// A large blob goes to the disk while it comes in, in steps of this many bytes, so that the sync
/// before its commit has little left to do.
const WRITE_BEHIND_BYTES: u64 = 32 * 1024 * 1024;

/// A staged file with the hash of what was written to it.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) hasher: Hasher,
    pub(crate) size: u64,
    /// The size when the last write-behind began.
    behind: u64,
    /// A sync of what was written so far. Its error must not be lost: the kernel tells it once.
    pub(crate) running: Option<JoinHandle<rustix::io::Result<()>>>,
    /// Whether a sync of the file ever failed. Later ones succeed without the bytes that were lost.
    sync_failed: bool,
    /// Who reads along.
    tail: Option<Tail>,
    room: Room,
}

/// When a new blob's directory entry becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// Before the commit returns.
    Now,
    /// With the next synced ref or [`BlobStore::settle`].
    Later,
}

impl Ingest {
    pub(crate) fn begin(store: &BlobStore, algorithm: Algorithm) -> Result<Self, IngestError> {
        store.require_room()?;
        loop {
            let name = uuid::Uuid::new_v4().simple().to_string();
            let path = store.inner.root.join("staging").join(name);
            let file = create_new(&path)?;
            // A sweep may have taken the file for a dead one between creation and lock.
            let locked = try_lock(&file, &path)?;
            if !locked || file.metadata().doing("stat", &path)?.nlink() == 0 {
                continue;
            }
            let staged = Staged::new(file, path, Hasher::new(algorithm), 0, store.reserve);
            return Ok(Self { store: store.clone(), staged, gathered: Vec::new(), lease: None });
        }
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.staged.size + self.gathered.len() as u64
    }

    /// The staging file, for messages.
    pub fn path(&self) -> &Path {
        &self.staged.path
    }

    /// A handle to read the bytes while they come in, before anybody knows that they are right.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn tail(&mut self) -> io::Result<Tail> {
        if let Some(tail) = &self.staged.tail {
            return Ok(tail.clone());
        }
        let tail = Tail::new(self.staged.file.try_clone()?, self.staged.size);
        self.staged.tail = Some(tail.clone());
        Ok(tail)
    }

    /// Adds the blob to `lease` before it becomes visible, so that no collection can take it away
    /// again before the caller sets a ref.
    #[must_use]
    pub fn guarded_by(mut self, lease: &Lease) -> Self {
        self.lease = Some(lease.clone());
        self
    }

    /// Checks what was written so far without making it a blob: it is to be kept elsewhere.
    ///
    /// # Errors
    /// [`IngestError::DigestMismatch`], or a failure of the disk.
    pub fn verify(&mut self, expected: &Digest) -> Result<(), IngestError> {
        self.flush_gathered()?;
        self.staged.verify(expected)
    }

    /// Makes the blob visible under `expected` and durable, or changes nothing.
    ///
    /// # Errors
    /// [`IngestError::DigestMismatch`]: the staging file is removed, the store is as before.
    pub fn commit(mut self, expected: &Digest) -> Result<(), IngestError> {
        self.flush_gathered()?;
        self.guard(expected)?;
        self.staged.publish(&self.store, expected, Settle::Now)
    }

    /// As [`Ingest::commit`], but a power failure may still take the blob away as a whole until
    /// the next synced ref or [`BlobStore::settle`]. Saves a sync per blob where several belong
    /// together. The bytes themselves are synced before they are visible, as ever.
    ///
    /// # Errors
    /// As [`Ingest::commit`].
    pub fn commit_deferred(mut self, expected: &Digest) -> Result<(), IngestError> {
        self.flush_gathered()?;
        self.guard(expected)?;
        self.staged.publish(&self.store, expected, Settle::Later)
    }

    /// Makes the blob visible under whatever its digest is, durably.
    ///
    /// # Errors
    /// [`IngestError::NoSpace`] or a failure of the disk.
    pub fn commit_any(mut self) -> Result<Digest, IngestError> {
        self.flush_gathered()?;
        let digest = self.staged.hasher.clone().finish();
        self.guard(&digest)?;
        self.staged.publish(&self.store, &digest, Settle::Now)?;
        Ok(digest)
    }

    /// Takes in all of a file, sharing its blocks where the file system can, and hashes what
    /// arrived. Nothing was written before.
    pub(crate) fn fill_from(&mut self, source: &mut File) -> Result<(), IngestError> {
        let path = &self.staged.path;
        let size = source.metadata().doing("stat", path)?.len();
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        self.staged.room.before(&self.staged.file, size).doing("write", path)?;
        self.staged.size = io::copy(source, &mut self.staged.file).doing("write", path)?;
        self.staged.behind = self.staged.size;
        let algorithm = self.staged.hasher.algorithm();
        self.staged.hasher = hash_whole(&mut self.staged.file, algorithm).doing("read", path)?;
        Ok(())
    }

    fn guard(&self, digest: &Digest) -> Result<(), DiskError> {
        match &self.lease {
            Some(lease) => lease.add(digest).map(drop),
            None => Ok(()),
        }
    }

    fn flush_gathered(&mut self) -> Result<(), DiskError> {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            self.staged.append(&gathered).doing("write", &self.staged.path)?;
        }
        Ok(())
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + bytes.len() <= GATHER_BYTES {
            self.gathered.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        if !self.gathered.is_empty() {
            self.staged.append(&self.gathered)?;
            self.gathered.clear();
        }
        if bytes.len() >= GATHER_BYTES {
            self.staged.append(bytes)?;
        } else {
            self.gathered.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.staged.append(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(tail) = &self.staged.tail {
            tail.end(End::Abandoned);
        }
        // After a commit the name is gone already. A failure leaves a file for the next sweep.
        let _ = remove_file(&self.staged.path);
    }
}

impl Staged {
    pub(crate) const fn new(
        file: File,
        path: PathBuf,
        hasher: Hasher,
        size: u64,
        reserve: DiskReserve,
    ) -> Self {
        let room = Room::new(reserve);
        let (running, sync_failed) = (None, false);
        Self { file, path, hasher, size, behind: size, running, sync_failed, tail: None, room }
    }

    /// Writes all of `bytes` and counts what was written even if the end fails.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.room.before(&self.file, bytes.len())?;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.hasher.update(&rest[..count]);
                    self.size += count as u64;
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(tail) = &self.tail {
            tail.grown_to(self.size);
        }
        if self.size - self.behind >= WRITE_BEHIND_BYTES {
            self.write_behind()?;
        }
        Ok(())
    }

    /// Begins to sync what was written so far, unless the last such sync still runs.
    fn write_behind(&mut self) -> io::Result<()> {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        self.await_sync()?;
        self.behind = self.size;
        let file = self.file.try_clone()?;
        let sync = move || rustix::fs::fdatasync(&file);
        self.running =
            Some(std::thread::Builder::new().name("write-behind".to_owned()).spawn(sync)?);
        Ok(())
    }

    /// Waits for the running sync and passes its error on.
    fn await_sync(&mut self) -> io::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let result = match running.join() {
            Ok(result) => result.map_err(io::Error::from),
            Err(_) => Err(io::Error::other("the sync of a staged blob panicked")),
        };
        self.sync_failed |= result.is_err();
        result
    }

    /// Makes everything written durable.
    fn sync(&mut self) -> io::Result<()> {
        self.await_sync()?;
        if self.sync_failed {
            return Err(rustix::io::Errno::IO.into());
        }
        let result = rustix::fs::fdatasync(&self.file);
        self.sync_failed |= result.is_err();
        Ok(result?)
    }

    /// Whether the file may have lost bytes that were written to it; waits for a running sync.
    pub(crate) fn is_lost(&mut self) -> bool {
        self.await_sync().is_err() || self.sync_failed
    }

    fn verify(&mut self, expected: &Digest) -> Result<(), IngestError> {
        let actual = if expected.algorithm() == self.hasher.algorithm() {
            self.hasher.clone().finish()
        } else {
            hash_file(&mut self.file, expected.algorithm(), &self.path)?
        };
        if actual == *expected {
            return Ok(());
        }
        let (expected, actual) = (Box::new(*expected), Box::new(actual));
        Err(IngestError::DigestMismatch { expected, actual })
    }

    /// Verifies, syncs and renames into place. The staged name is gone afterwards if it succeeds.
    pub(crate) fn publish(
        &mut self,
        store: &BlobStore,
        expected: &Digest,
        settle: Settle,
    ) -> Result<(), IngestError> {
        self.verify(expected)?;
        if let Some(tail) = &self.tail {
            tail.end(End::Verified);
        }
        let directory = store.directory(expected.algorithm());
        if store.adopt_present(expected, self.size)? {
            remove_file(&self.path)?;
        } else {
            self.sync().doing("sync", &self.path)?;
            self.file
                .set_permissions(std::fs::Permissions::from_mode(0o400))
                .doing("protect", &self.path)?;
            let path = store.path(expected);
            std::fs::rename(&self.path, &path).doing("publish", &path)?;
        }
        // Also when the blob was there: another process may not have made it durable yet.
        directory.mark();
        if settle == Settle::Now {
            directory.settle(&store.root().join(expected.algorithm().name()))?;
        }
        Ok(())
    }
}

impl IngestError {
    /// The error of a failed write to `ingest`, so that a full disk keeps its own variant.
    pub fn from_write(error: io::Error, ingest: &Ingest) -> Self {
        if is_full(&error) {
            Self::NoSpace { path: ingest.staged.path.clone() }
        } else {
            Self::Disk(DiskError::new("write", &ingest.staged.path, error))
        }
    }
}

/// Removes the staging files of processes that are gone.
pub(crate) fn sweep_staging(store: &BlobStore) -> Result<(), DiskError> {
    let directory = store.inner.root.join("staging");
    for entry in std::fs::read_dir(&directory).doing("list", &directory)? {
        let path = entry.doing("list", &directory)?.path();
        // It may have been committed or dropped since it was listed.
        let Ok(file) = File::open(&path) else { continue };
        if try_lock(&file, &path)? {
            remove_file(&path)?;
        }
    }
    Ok(())
}
