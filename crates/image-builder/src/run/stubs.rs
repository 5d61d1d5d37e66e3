//! Mount points that an image does not have, as a layer of their own.
//!
//! A mount needs something to cover. Creating that in the upper directory would change parents
//! and leave traces in the new layer; a lower layer with nothing but the missing names leaves
//! none, because what is below the upper directory is never packed.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};

use crate::error::StepError;
use crate::tree::{Files, Node, resolve};

/// What a mount point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StubKind {
    Directory,
    File,
}

/// Directories every container mounts something on.
const STANDARD: [&str; 3] = ["proc", "sys", "dev"];

/// Creates below `root` what `files` lacks of the targets; `false` if nothing was missing.
pub(crate) fn create(
    root: &Path,
    files: &dyn Files,
    targets: &[(PathBuf, StubKind)],
) -> Result<bool, StepError> {
    let standard = STANDARD.iter().map(|name| (PathBuf::from(name), StubKind::Directory));
    let mut made = Vec::new();
    for (target, kind) in standard.chain(targets.iter().cloned()) {
        let target = resolve(files, &target)?;
        if files.node(&target)?.is_some() {
            continue;
        }
        let mut ancestors: Vec<&Path> = target.ancestors().skip(1).collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let path = root.join(ancestor);
            if path.is_dir() && !ancestor.as_os_str().is_empty() {
                continue;
            }
            fs::create_dir_all(&path).map_err(|error| StepError::io(&path, error))?;
            made.push((path, files.node(ancestor)?));
        }
        let path = root.join(&target);
        let created = match kind {
            StubKind::Directory => fs::create_dir_all(&path),
            StubKind::File => fs::write(&path, []),
        };
        created.map_err(|error| StepError::io(&path, error))?;
        made.push((path, None));
    }
    // Deepest first, so that times of parents stay what they are set to.
    for (path, like) in made.iter().rev() {
        dress(path, like.as_ref())?;
    }
    Ok(!made.is_empty())
}

/// Gives a stub the looks of the directory it stands for, because overlayfs shows the topmost.
fn dress(path: &Path, like: Option<&Node>) -> Result<(), StepError> {
    let failed = |error: rustix::io::Errno| StepError::io(path, error);
    let Some(node) = like else {
        if path.is_dir() {
            let mode = Mode::from_raw_mode(0o755);
            return rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()).map_err(failed);
        }
        return Ok(());
    };
    let entry = &node.entry;
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chown(path, Some(uid), Some(gid)).map_err(failed)?;
    }
    let mode = Mode::from_raw_mode(entry.mode);
    rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()).map_err(failed)?;
    let time =
        Timespec { tv_sec: entry.mtime.seconds, tv_nsec: i64::from(entry.mtime.nanoseconds) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, IndexedTree};
    use layers::{Entry, Timestamp};
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn only_what_is_missing_is_made_and_parents_keep_their_looks() {
        let mut tree = IndexedTree::new();
        let mut run = Entry::directory("run", 0o711);
        run.mtime = Timestamp::from_seconds(1234);
        for entry in [run, Entry::directory("proc", 0o555), Entry::symlink("var/run", "/run")] {
            tree.insert(Node { entry, content: Content::Empty, link: None });
        }
        let root = tempfile::tempdir().expect("a directory");
        let targets = [(PathBuf::from("var/run/secrets/key"), StubKind::File)];
        assert!(create(root.path(), &tree, &targets).expect("stubs"));
        let metadata = fs::metadata(root.path().join("run")).expect("a stub");
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o711, 1234));
        assert!(root.path().join("run/secrets/key").is_file());
        assert!(!root.path().join("proc").exists());
        assert!(root.path().join("sys").is_dir());
    }
}
