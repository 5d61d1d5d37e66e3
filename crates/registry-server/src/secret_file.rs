//! Files that only their owner may read, and files that are read again when they change.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Largest file that is watched, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Makes a directory that only its owner may enter, unless it is there.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let staged = path.with_added_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        // Nothing else to do with it.
        let _ = std::fs::remove_file(&staged);
    }
    written
}

/// Keeps other processes that edit the file out until the result is dropped.
pub(crate) fn lock_for_edit(path: &Path) -> io::Result<OwnedFd> {
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_added_extension("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(lock.into())
}

/// The text of a file, nothing if there is none.
pub(crate) fn read_or_empty(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

/// A file that is read again when it changes. If its new content cannot be read or means nothing
/// its last one stays in force.
#[derive(Debug)]
pub(crate) struct WatchedFile<T> {
    path: PathBuf,
    parse: fn(&str, &Path) -> io::Result<T>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// What tells one version of the file from the next; of the last one looked at.
    stamp: Option<Stamp>,
    value: Arc<T>,
}

type Stamp = (u64, u64, i64, i64);

impl<T> WatchedFile<T> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or means nothing.
    pub(crate) fn open(path: &Path, parse: fn(&str, &Path) -> io::Result<T>) -> io::Result<Self> {
        let stamp = stamp(path)?;
        let value = Arc::new(parse(&read(path)?, path)?);
        let state = Mutex::new(State { stamp: Some(stamp), value });
        Ok(Self { path: path.to_owned(), parse, state })
    }

    /// What the file says now.
    pub(crate) fn current(&self) -> Arc<T> {
        let found = stamp(&self.path);
        let mut state: MutexGuard<'_, State<T>> =
            self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stamp == found.as_ref().ok().copied() {
            return Arc::clone(&state.value);
        }
        // Told once per change, not once per request.
        state.stamp = found.as_ref().ok().copied();
        let path = &self.path;
        match found.and_then(|_| read(path)).and_then(|text| (self.parse)(&text, path)) {
            Ok(value) => {
                state.value = Arc::new(value);
                tracing::info!(path = %path.display(), "read again");
            }
            Err(error) => tracing::error!(
                %error,
                path = %path.display(),
                "cannot be read, its last version stays in force"
            ),
        }
        Arc::clone(&state.value)
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One more, so that "exactly full" is legal.
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("the file is too large"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str, _: &Path) -> io::Result<u32> {
        text.trim().parse().map_err(io::Error::other)
    }

    #[test]
    fn a_change_counts_at_once_and_nonsense_never() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        assert!(WatchedFile::open(&path, number).is_err());
        replace(&path, "1").expect("written");
        let file = WatchedFile::open(&path, number).expect("a file");
        assert_eq!(*file.current(), 1);
        replace(&path, "22").expect("written");
        assert_eq!(*file.current(), 22);
        replace(&path, "nonsense").expect("written");
        assert_eq!(*file.current(), 22);
        std::fs::remove_file(&path).expect("gone");
        assert_eq!(*file.current(), 22);
        replace(&path, "3").expect("written");
        assert_eq!(*file.current(), 3);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).expect("it").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
