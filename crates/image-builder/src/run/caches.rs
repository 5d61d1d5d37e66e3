//! Directories of `RUN --mount=type=cache`, which outlive builds.
//!
//! Layout: `<caches>/<sha256 of namespace and id>/<n>/` holds the files, `<n>.lock` beside it is
//! locked exclusively by a user that shares with nobody. Number 0 is the one everybody means;
//! further ones exist for `sharing=private`. `id` beside them holds the id for people, and its
//! modification time is that of the last use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dockerfile::Sharing;
use oci_model::Digest;
use rustix::fs::{FlockOperation, Gid, Mode, Uid};

use crate::content_digest::Framed;
use crate::error::StepError;
use crate::workspace::{make_private, remove_tree};

/// Most copies of one cache that `sharing=private` makes.
const COPIES_MAX: u32 = 64;

/// Name of the file that holds the id.
const ID_FILE: &str = "id";

/// A cache in use, until the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct CacheDirectory {
    pub(crate) path: PathBuf,
    /// Whether nobody had used it before.
    pub(crate) is_new: bool,
    _lock: Arc<File>,
}

/// Identity of a cache: what its directory is called.
pub(crate) fn identity(id: &str) -> Digest {
    let mut name = Framed::new("cache-mount");
    name.field(id.as_bytes());
    name.finish()
}

/// The directory that everybody means by a cache. It need not exist.
pub(crate) fn usual_directory(caches: &Path, id: &str) -> PathBuf {
    caches.join(identity(id).encoded()).join("0")
}

/// Whoever holds it may make the usual directory of a cache; others who would wait.
pub(crate) fn lock_to_make(caches: &Path, id: &str) -> io::Result<File> {
    let home = caches.join(identity(id).encoded());
    make_private(&home)?;
    let lock =
        File::options().create(true).truncate(false).write(true).open(home.join("restore.lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Locks the usual directory of a cache; `None` if somebody uses it.
pub(crate) fn lock_usual(caches: &Path, id: &str) -> io::Result<Option<File>> {
    let path = caches.join(identity(id).encoded()).join("0.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(path)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A cache that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownCache {
    /// Its directory with all copies.
    pub(crate) home: PathBuf,
    pub(crate) id: String,
    /// When it was last used.
    pub(crate) used: SystemTime,
}

/// All caches.
pub(crate) fn list(caches: &Path) -> io::Result<Vec<KnownCache>> {
    let items = match fs::read_dir(caches) {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for item in items {
        let home = item?.path();
        let file = home.join(ID_FILE);
        let id = fs::read_to_string(&file).unwrap_or_else(|_| "?".to_owned());
        let metadata = fs::metadata(&file).or_else(|_| fs::metadata(&home))?;
        found.push(KnownCache { home, id, used: metadata.modified()? });
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Locks all copies of a cache, or none if a build uses one of them.
pub(crate) fn lock_all(cache: &KnownCache) -> io::Result<Option<Vec<File>>> {
    let mut locks = Vec::new();
    for item in fs::read_dir(&cache.home)? {
        let path = item?.path();
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let lock = File::options().write(true).open(&path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => locks.push(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(locks))
}

/// Removes the files of a cache that [`lock_all`] locked. Its locks stay: somebody may have one
/// of them open already.
pub(crate) fn remove_files(cache: &KnownCache) -> io::Result<()> {
    for item in fs::read_dir(&cache.home)? {
        let path = item?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    match fs::remove_file(cache.home.join(ID_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a cache has files of anybody.
pub(crate) fn has_files(cache: &KnownCache) -> bool {
    fs::read_dir(&cache.home)
        .is_ok_and(|items| items.filter_map(Result::ok).any(|item| item.path().is_dir()))
}

/// Looks of a cache that does not exist yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheLook {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Opens the cache `id`. While others use it in a way that excludes this one, `wait` is called
/// before every further attempt; its error ends the waiting.
pub(crate) fn open_when_free(
    caches: &Path,
    id: &str,
    sharing: Sharing,
    look: CacheLook,
    wait: &mut dyn FnMut() -> Result<(), StepError>,
) -> Result<CacheDirectory, StepError> {
    let home = caches.join(identity(id).encoded());
    let failed = |error: io::Error| StepError::io(&home, error);
    make_private(&home).map_err(failed)?;
    fs::write(home.join(ID_FILE), id).map_err(failed)?;
    let lock_of = |number: u32| {
        let path = home.join(format!("{number}.lock"));
        File::options().create(true).truncate(false).write(true).open(path).map_err(failed)
    };
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
        Sharing::Private => {
            for number in 0..COPIES_MAX {
                let lock = lock_of(number)?;
                if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    return directory(&home, number, lock, look).map_err(failed);
                }
            }
            let text = format!("{COPIES_MAX} steps use private copies of cache {id}");
            return Err(StepError::Mount(text));
        }
    };
    let lock = lock_of(0)?;
    loop {
        match rustix::fs::flock(&lock, operation) {
            Ok(()) => return directory(&home, 0, lock, look).map_err(failed),
            Err(rustix::io::Errno::WOULDBLOCK) => wait()?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// The same for a cache that is free.
#[cfg(test)]
pub(crate) fn open(
    caches: &Path,
    id: &str,
    sharing: Sharing,
    look: CacheLook,
) -> Result<CacheDirectory, StepError> {
    open_when_free(caches, id, sharing, look, &mut || Err(StepError::Panicked))
}

/// Empties the cache `id`, as a build without cache wants it.
pub(crate) fn clear(cache: &CacheDirectory) -> io::Result<()> {
    for item in fs::read_dir(&cache.path)? {
        let path = item?.path();
        if path.is_dir() && !path.is_symlink() {
            remove_tree(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn directory(home: &Path, number: u32, lock: File, look: CacheLook) -> io::Result<CacheDirectory> {
    let path = home.join(number.to_string());
    let is_new = match fs::create_dir(&path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    if is_new {
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(look.uid), Gid::from_raw(look.gid));
            rustix::fs::chown(&path, Some(uid), Some(gid))?;
        }
        rustix::fs::chmod(&path, Mode::from_raw_mode(look.mode))?;
    }
    Ok(CacheDirectory { path, is_new, _lock: Arc::new(lock) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: CacheLook = CacheLook { mode: 0o755, uid: 0, gid: 0 };

    #[test]
    fn private_caches_are_apart_while_in_use_and_shared_ones_are_not() {
        let root = tempfile::tempdir().expect("a directory");
        let open = |sharing| open(root.path(), "id", sharing, LOOK).expect("a cache");
        let (one, two) = (open(Sharing::Shared), open(Sharing::Shared));
        assert_eq!(one.path, two.path);
        assert!(one.is_new && !two.is_new);
        let private = open(Sharing::Private);
        assert_ne!(private.path, one.path);
        drop((one, two, private));
        assert!(open(Sharing::Private).path.ends_with("0"));
    }

    #[test]
    fn who_waits_for_a_cache_gets_it_or_is_told_to_stop() {
        let root = tempfile::tempdir().expect("a directory");
        let mut user = open(root.path(), "id", Sharing::Shared, LOOK).ok();
        assert!(user.is_some());
        let stopped = open(root.path(), "id", Sharing::Locked, LOOK);
        assert!(matches!(stopped, Err(StepError::Panicked)));
        let mut waits = 0;
        let got = open_when_free(root.path(), "id", Sharing::Locked, LOOK, &mut || {
            waits += 1;
            // The second attempt fails like the first; before the third the other one is done.
            if waits == 2 {
                user = None;
            }
            Ok(())
        });
        assert!(got.expect("a cache").path.ends_with("0"));
        assert_eq!(waits, 2);
    }

    #[test]
    fn ids_name_different_directories() {
        let root = tempfile::tempdir().expect("a directory");
        let open = |id| open(root.path(), id, Sharing::Shared, LOOK).expect("a cache");
        assert_ne!(open("a/../b").path, open("b").path);
    }
}
