//! The only place that makes things last: locks, grouped syncs, atomic replacement.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use crate::error::{Context as _, DiskError};

/// Locks a mutex whose state stays consistent even if a holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a [`GroupSync`] makes its file durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SyncKind {
    /// `fsync`, for directories.
    Directory,
    /// `fdatasync`, for logs.
    Data,
}

/// One file or directory that many threads change and want on disk.
///
/// Whoever asks while a sync is running waits for the next one, which serves all that wait.
#[derive(Debug)]
pub(crate) struct GroupSync {
    file: File,
    kind: SyncKind,
    state: Mutex<SyncState>,
    finished: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    changes: u64,
    synced: u64,
    running: bool,
    /// The kernel reports a failed write-back once; later syncs succeed without the data. So the
    /// first failure is final.
    failed: Option<rustix::io::Errno>,
}

impl GroupSync {
    pub(crate) fn new(file: File, kind: SyncKind) -> Self {
        Self { file, kind, state: Mutex::default(), finished: Condvar::new() }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Notes that the file was changed; a later [`GroupSync::settle`] covers it.
    pub(crate) fn mark(&self) {
        lock(&self.state).changes += 1;
    }

    /// Returns once every change marked before the call is on disk.
    pub(crate) fn settle(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = lock(&self.state);
        let wanted = state.changes;
        while state.synced < wanted {
            if let Some(errno) = state.failed {
                return Err(DiskError::new("sync", path, errno));
            }
            if state.running {
                state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            let covered = state.changes;
            drop(state);
            let result = match self.kind {
                SyncKind::Directory => rustix::fs::fsync(&self.file),
                SyncKind::Data => rustix::fs::fdatasync(&self.file),
            };
            state = lock(&self.state);
            state.running = false;
            match result {
                Ok(()) => state.synced = covered,
                Err(errno) => state.failed = Some(errno),
            }
            self.finished.notify_all();
        }
        Ok(())
    }
}

/// A `flock` on a file of its own; released when dropped or when the process dies.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        unlock(&self.file);
    }
}

/// Whether others may hold the lock as well.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LockKind {
    /// Many holders at once.
    Shared,
    /// One holder.
    Exclusive,
}

impl FileLock {
    /// Waits for the lock.
    pub(crate) fn acquire(path: &Path, kind: LockKind) -> Result<Self, DiskError> {
        let file = Self::open(path)?;
        let operation = match kind {
            LockKind::Shared => FlockOperation::LockShared,
            LockKind::Exclusive => FlockOperation::LockExclusive,
        };
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Self { file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(source) => return Err(DiskError::new("lock", path, source)),
            }
        }
    }

    /// Takes the lock exclusively, or returns `None` if anybody holds it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>, DiskError> {
        let file = Self::open(path)?;
        Ok(if try_lock(&file, path)? { Some(Self { file }) } else { None })
    }

    fn open(path: &Path) -> Result<File, DiskError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .doing("open", path)
    }
}

/// Takes an exclusive `flock` on an open file; `false` if somebody else holds one.
pub(crate) fn try_lock(file: &File, path: &Path) -> Result<bool, DiskError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(source) => Err(DiskError::new("lock", path, source)),
    }
}

/// Releases a `flock` at once. Closing the file is not enough: a child between its fork and its
/// exec holds the same open file for a moment longer.
pub(crate) fn unlock(file: &File) {
    // It cannot fail on an open file, and there is nothing else to do about it.
    let _ = rustix::fs::flock(file, FlockOperation::Unlock);
}

/// Creates a directory of mode 0700 unless it exists.
pub(crate) fn create_directory(path: &Path) -> Result<(), DiskError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).doing("create", path)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), DiskError> {
    let directory = File::open(path).doing("open", path)?;
    rustix::fs::fsync(&directory).doing("sync", path)
}

/// Replaces `path` by a file with `content`, so that a crash leaves the old or the new one.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let staged = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)
        .doing("create", &staged)?;
    file.write_all(content).doing("write", &staged)?;
    rustix::fs::fdatasync(&file).doing("sync", &staged)?;
    std::fs::rename(&staged, path).doing("replace", path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Removes a file that may already be gone.
pub(crate) fn remove_file(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DiskError::new("remove", path, source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
