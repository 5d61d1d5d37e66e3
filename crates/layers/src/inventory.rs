//! What a tree looks like at one moment, cheaply: one `stat` per path, no content.
//!
//! Programs can set every field of a file except its change time (`ctime`), which the kernel
//! sets to the present at each change of content, metadata or links. So a path whose inode
//! number and ctime are the same is the same. Kernels before 6.13 take the ctime from a clock
//! that advances in ticks of up to 10 ms; [`Inventory::scan`] therefore returns only when that
//! clock has passed the latest ctime it saw.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::entry::Timestamp;
use crate::inode_read::TreeReadError;

/// Waits for the kernel's coarse clock at most this often, 1 ms each: a ctime further ahead
/// comes from a clock that was set back, and no wait helps against that.
const TICKS_MAX: u32 = 25;

/// The facts about one path that change whenever the path does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Inode number.
    pub ino: u64,
    /// Device that holds the inode.
    pub dev: u64,
    /// Type and permission bits, as `stat` has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the inode.
    pub nlink: u64,
    /// Bytes of content.
    pub size: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            ino: stat.st_ino,
            dev: stat.st_dev,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: stat.st_nlink,
            size: stat.st_size as u64,
            mtime: crate::inode_read::mtime(stat),
            ctime: Timestamp { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec as u32 },
        }
    }

    /// Whether the path is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether the path may have changed between two stamps. Adding a name to an inode changes
    /// its ctime, so that new hard links take their old names with them into a layer.
    pub fn differs(&self, later: &Self) -> bool {
        let same = self.ino == later.ino
            && self.dev == later.dev
            && self.mode == later.mode
            && self.uid == later.uid
            && self.gid == later.gid
            && self.mtime == later.mtime
            && self.ctime == later.ctime
            && (self.is_directory() || self.size == later.size);
        !same
    }

    /// Whether a layer would say the same about both but for the content: what programs can set
    /// is equal. The number of names is none of it, because a name that went says nothing about
    /// those that stay.
    pub fn looks_like(&self, later: &Self) -> bool {
        self.mode == later.mode
            && self.uid == later.uid
            && self.gid == later.gid
            && self.mtime == later.mtime
            && (self.is_directory() || self.size == later.size)
    }
}

/// Whether a scan enters file systems that are mounted inside the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// What is mounted is not part of the tree; the mount point itself is.
    Skip,
    /// It is.
    Enter,
}

/// What a scan looks at.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// Paths relative to the root that are left out with everything below.
    pub exclude: Vec<PathBuf>,
    /// Whether mounted file systems are entered.
    pub mounts: Mounts,
}

/// The stamps of all paths below a root, in the order of a sorted walk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    entries: Vec<(PathBuf, Stamp)>,
}

impl Inventory {
    /// Walks a tree. The root itself is the entry with the empty path.
    ///
    /// # Errors
    /// [`TreeReadError`]; a path that vanishes during the walk is left out.
    pub fn scan(root: &Path, options: &ScanOptions) -> Result<Self, TreeReadError> {
        let failed = |error| TreeReadError::new(root, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        let stamp = Stamp::of(&rustix::fs::fstat(&handle).map_err(failed)?);
        let mut scan = Scan {
            options,
            device: stamp.dev,
            entries: vec![(PathBuf::new(), stamp)],
            path: Vec::new(),
        };
        scan.walk(handle, 0).map_err(failed)?;
        let inventory = Self { entries: scan.entries };
        inventory.wait_for_clock();
        Ok(inventory)
    }

    /// The stamp of a path.
    pub fn get(&self, path: &Path) -> Option<&Stamp> {
        let at = self.entries.binary_search_by(|(other, _)| other.as_path().cmp(path)).ok()?;
        Some(&self.entries[at].1)
    }

    /// All paths with their stamps: parents before children, siblings in byte order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Stamp)> {
        self.entries.iter().map(|(path, stamp)| (path.as_path(), stamp))
    }

    /// Number of paths, the root included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was scanned.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn wait_for_clock(&self) {
        let latest = self.entries.iter().map(|(_, stamp)| stamp.ctime).max().unwrap_or_default();
        for _ in 0..TICKS_MAX {
            let now = clock_gettime(ClockId::RealtimeCoarse);
            let now = Timestamp { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 };
            if latest < now {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Scan<'a> {
    options: &'a ScanOptions,
    device: u64,
    entries: Vec<(PathBuf, Stamp)>,
    /// The path under way, as bytes; pushed and popped instead of allocated per entry.
    path: Vec<u8>,
}

/// Deepest directory entered; see `normalize::DEPTH_MAX`, a tree may be deeper than a layer.
const DEPTH_MAX: usize = 900;

impl Scan<'_> {
    fn walk(&mut self, directory: std::os::fd::OwnedFd, depth: usize) -> Result<(), Errno> {
        use std::os::unix::ffi::OsStrExt;
        let mut names = Vec::new();
        let mut listing = rustix::fs::Dir::read_from(&directory)?;
        while let Some(entry) = listing.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        drop(listing);
        names.sort_unstable();
        for name in names {
            let stat = match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            let parent_bytes = self.path.len();
            if 0 < parent_bytes {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            let path = Path::new(std::ffi::OsStr::from_bytes(&self.path));
            if self.options.exclude.iter().any(|excluded| excluded == path) {
                self.path.truncate(parent_bytes);
                continue;
            }
            let stamp = Stamp::of(&stat);
            self.entries.push((path.to_owned(), stamp));
            let enter = self.options.mounts == Mounts::Enter || stamp.dev == self.device;
            if stamp.is_directory() && enter {
                if DEPTH_MAX <= depth {
                    return Err(Errno::NAMETOOLONG);
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
                    Ok(child) => self.walk(child, depth + 1)?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error),
                }
            }
            self.path.truncate(parent_bytes);
        }
        Ok(())
    }
}
