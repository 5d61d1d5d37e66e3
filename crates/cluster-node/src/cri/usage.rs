//! How much of the disk images take.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a measurement counts: it reads every inode, and kubelets ask every few seconds.
const KEEP: Duration = Duration::from_secs(30);
/// Size of the blocks that `stat` counts in.
const BLOCK_BYTES: u64 = 512;

/// What some directories take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Measures at most once per [`KEEP`].
#[derive(Debug, Default)]
pub(crate) struct UsageCache(Mutex<Option<(Instant, Usage)>>);

impl UsageCache {
    /// What directories take on the disk, hard links counted once.
    pub(super) fn of(&self, roots: &[&Path]) -> Usage {
        // Held while measuring: a second caller waits for the first one's result.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, usage)) = *known
            && at.elapsed() < KEEP
        {
            return usage;
        }
        let usage = measure(roots);
        *known = Some((Instant::now(), usage));
        usage
    }
}

fn measure(roots: &[&Path]) -> Usage {
    let mut usage = Usage::default();
    let mut linked = BTreeSet::new();
    let mut left: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
    // What vanishes while we look is not there.
    while let Some(path) = left.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let is_new = metadata.is_dir()
            || metadata.nlink() < 2
            || linked.insert((metadata.dev(), metadata.ino()));
        if is_new {
            usage.bytes += metadata.blocks() * BLOCK_BYTES;
            usage.inodes += 1;
        }
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for directory in [&a, &b] {
            fs::create_dir(directory).expect("a directory");
        }
        fs::write(a.join("file"), vec![1; 100_000]).expect("a file");
        let one = measure(&[&a]);
        assert_eq!(one.inodes, 2);
        assert!(100_000 <= one.bytes, "{one:?}");
        let empty = measure(&[&b]);
        fs::hard_link(a.join("file"), b.join("again")).expect("a link");
        assert_eq!(measure(&[&a, &b]).inodes, 3);
        assert_eq!(measure(&[&a, &b]).bytes, one.bytes + empty.bytes);
        std::os::unix::fs::symlink("/", b.join("root")).expect("a link");
        assert_eq!(measure(&[&b]).inodes, 3);
        assert_eq!(measure(&[&dir.path().join("none")]), Usage::default());
    }

    #[test]
    fn measurement_counts_for_a_while() {
        let dir = tempfile::tempdir().expect("tempdir");
        let cache = UsageCache::default();
        let first = cache.of(&[dir.path()]);
        fs::write(dir.path().join("new"), "x").expect("a file");
        assert_eq!(cache.of(&[dir.path()]), first);
    }
}
