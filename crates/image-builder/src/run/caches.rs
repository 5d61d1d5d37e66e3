//! Directories of `RUN --mount=type=cache`, which outlive builds.
//!
//! Layout: `<caches>/<sha256 of namespace and id>/<n>/` holds the files, `<n>.lock` beside it is
//! locked exclusively by a user that shares with nobody. Number 0 is the one everybody means;
//! further ones exist for `sharing=private`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use dockerfile::Sharing;
use rustix::fs::{FlockOperation, Gid, Mode, Uid};

use crate::content_digest::Framed;
use crate::workspace::{make_private, remove_tree};

/// Most copies of one cache that `sharing=private` makes.
const COPIES_MAX: u32 = 64;

/// A cache in use.
#[derive(Debug)]
pub(crate) struct CacheDirectory {
    pub(crate) path: PathBuf,
    /// Whether nobody had used it before.
    pub(crate) is_new: bool,
    _lock: File,
}

/// Looks of a cache that does not exist yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheLook {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Opens the cache `id`; `sharing=locked` waits for others.
pub(crate) fn open(
    caches: &Path,
    id: &str,
    sharing: Sharing,
    look: CacheLook,
) -> io::Result<CacheDirectory> {
    let mut name = Framed::new("cache-mount");
    name.field(id.as_bytes());
    let home = caches.join(name.finish().encoded());
    make_private(&home)?;
    let lock_of = |number: u32| {
        let path = home.join(format!("{number}.lock"));
        File::options().create(true).truncate(false).write(true).open(path)
    };
    match sharing {
        Sharing::Shared => {
            let lock = lock_of(0)?;
            rustix::fs::flock(&lock, FlockOperation::LockShared)?;
            directory(&home, 0, lock, look)
        }
        Sharing::Locked => {
            let lock = lock_of(0)?;
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
            directory(&home, 0, lock, look)
        }
        Sharing::Private => {
            for number in 0..COPIES_MAX {
                let lock = lock_of(number)?;
                if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    return directory(&home, number, lock, look);
                }
            }
            Err(io::Error::other(format!("{COPIES_MAX} steps use private copies of cache {id}")))
        }
    }
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
    Ok(CacheDirectory { path, is_new, _lock: lock })
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
    fn ids_name_different_directories() {
        let root = tempfile::tempdir().expect("a directory");
        let open = |id| open(root.path(), id, Sharing::Shared, LOOK).expect("a cache");
        assert_ne!(open("a/../b").path, open("b").path);
    }
}
