//! Which differences of two inventories are changes.
//!
//! The change time of a file tells that something may have happened to it, never that nothing
//! did not: no program can set it. What it cannot tell is whether the file says something new.
//! Files that were touched and look the same (`touch -a`, `chmod` to the mode they had, a
//! rewrite that puts the old time back) are compared with what the layers hold, by their bytes,
//! as an overlay's upper directory is compared with what lies below it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use layers::{Change, EntryKind, Inventory, Stamp};

use crate::error::StepError;
use crate::layer_stack::node_of;
use crate::tree::{Content, Node};

/// What layers hold at some paths, with contents on this machine.
pub(crate) struct Baseline {
    pub(crate) nodes: HashMap<PathBuf, Node>,
    /// Keeps the contents.
    pub(crate) _contents: std::sync::Arc<crate::archive::Spool>,
}

/// Where the files are that a command started from.
pub(crate) type FindBaseline<'a> = &'a dyn Fn(&[PathBuf]) -> Result<Baseline, StepError>;

/// The changes between two inventories of the tree at `root`. `untouched` are paths whose change
/// time was set by us.
pub(super) fn real_changes(
    root: &Path,
    before: &Inventory,
    after: &Inventory,
    untouched: &BTreeSet<PathBuf>,
    find: FindBaseline<'_>,
) -> Result<Vec<Change>, StepError> {
    let mut changes = layers::changes(before, after);
    changes.retain(|change| !change.path().as_os_str().is_empty());
    // A new name of an old file takes the old ones with it, so that they stay one file.
    let linked: BTreeSet<(u64, u64)> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Added(path) => after.get(path),
            Change::Modified(_) | Change::Removed(_) => None,
        })
        .filter(|stamp| !stamp.is_directory() && 1 < stamp.nlink)
        .map(|stamp| (stamp.dev, stamp.ino))
        .collect();
    let mut doubtful = BTreeSet::new();
    let mut same = BTreeSet::new();
    for change in &changes {
        let Change::Modified(path) = change else { continue };
        let (Some(old), Some(new)) = (before.get(path), after.get(path)) else { continue };
        if !old.looks_like(new) || linked.contains(&(new.dev, new.ino)) {
            continue;
        }
        match verdict(root, path, old, new, untouched) {
            Verdict::Same => same.insert(path.clone()),
            Verdict::Doubtful => doubtful.insert(path.clone()),
            Verdict::Changed => false,
        };
    }
    if !doubtful.is_empty() {
        let paths: Vec<PathBuf> = doubtful.into_iter().collect();
        let baseline = find(&paths)?;
        for path in paths {
            if says_the_same(root, &path, baseline.nodes.get(&path))? {
                same.insert(path);
            }
        }
    }
    changes.retain(|change| !same.contains(change.path()));
    Ok(changes)
}

enum Verdict {
    Same,
    Doubtful,
    Changed,
}

fn verdict(
    root: &Path,
    path: &Path,
    old: &Stamp,
    new: &Stamp,
    untouched: &BTreeSet<PathBuf>,
) -> Verdict {
    let is_regular = new.mode & 0o170_000 == 0o100_000;
    let same_inode = (old.ino, old.dev) == (new.ino, new.dev);
    if same_inode && (untouched.contains(path) || (!is_regular && !new.is_directory())) {
        // A link, pipe or device cannot get another content.
        return Verdict::Same;
    }
    if new.is_directory() {
        // Its time is that of its entries; attributes are rare enough to be told again.
        let full = root.join(path);
        let has_attributes = fs::symlink_metadata(&full)
            .ok()
            .and_then(|metadata| node_of(&full, path, &metadata).ok().flatten())
            .is_none_or(|node| !node.entry.xattrs.is_empty());
        return if has_attributes { Verdict::Changed } else { Verdict::Same };
    }
    Verdict::Doubtful
}

fn says_the_same(root: &Path, path: &Path, old: Option<&Node>) -> Result<bool, StepError> {
    let full = root.join(path);
    let failed = |error: std::io::Error| StepError::io(&full, error);
    let Some(old) = old else { return Ok(false) };
    let metadata = fs::symlink_metadata(&full).map_err(failed)?;
    let Some(new) = node_of(&full, path, &metadata)? else { return Ok(false) };
    if old.entry.kind != new.entry.kind || old.entry.xattrs != new.entry.xattrs {
        return Ok(false);
    }
    match (&old.entry.kind, &old.content) {
        (EntryKind::File { .. }, Content::File(content)) => {
            let one = File::open(content).map_err(|error| StepError::io(content, error))?;
            let other = File::open(&full).map_err(failed)?;
            same_bytes(one, other, metadata.size()).map_err(failed)
        }
        (EntryKind::File { size: 0 }, _) => Ok(true),
        (EntryKind::File { .. }, _) => Ok(false),
        _ => Ok(true),
    }
}

fn same_bytes(one: impl Read, other: impl Read, bytes: u64) -> std::io::Result<bool> {
    const PART: u64 = 64 * 1024;
    let (mut one, mut other) = (one, other);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut compared = 0;
    while compared < bytes {
        left.clear();
        right.clear();
        one.by_ref().take(PART).read_to_end(&mut left)?;
        other.by_ref().take(PART).read_to_end(&mut right)?;
        if left != right || left.is_empty() {
            return Ok(false);
        }
        compared += left.len() as u64;
    }
    Ok(true)
}
