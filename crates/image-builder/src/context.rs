//! The build context: a directory of this machine, seen through its ignore file.

use std::fs::Metadata;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use dockerfile::IgnoreFile;
use layers::{Entry, EntryKind, Timestamp};

use crate::layer_stack::node_of;
use crate::tree::{Content, IndexedTree, Node, TreeError};

/// Most paths of a context; a file system holds more only by mistake (`/` as a context).
const PATHS_MAX: usize = 16_000_000;

/// Walks a directory and leaves out what the ignore file names.
///
/// Owners become root, because ids of this machine mean nothing in an image; a socket becomes
/// an empty file, as in BuildKit.
pub(crate) fn scan(root: &Path, ignore: &IgnoreFile) -> Result<IndexedTree, TreeError> {
    let mut scan = Scan { ignore, tree: IndexedTree::new() };
    scan.directory(root, Path::new(""))?;
    Ok(scan.tree)
}

struct Scan<'a> {
    ignore: &'a IgnoreFile,
    tree: IndexedTree,
}

impl Scan<'_> {
    /// Adds what a directory holds and says whether that was anything.
    fn directory(&mut self, on_disk: &Path, path: &Path) -> Result<bool, TreeError> {
        let mut found = false;
        let listing = std::fs::read_dir(on_disk).map_err(|e| TreeError::io(on_disk, e))?;
        for item in listing {
            let item = item.map_err(|error| TreeError::io(on_disk, error))?;
            found |= self.item(&item.path(), &path.join(item.file_name()))?;
        }
        Ok(found)
    }

    fn item(&mut self, on_disk: &Path, path: &Path) -> Result<bool, TreeError> {
        let text = path.to_string_lossy();
        let ignored = self.ignore.ignores(&text);
        let metadata = match std::fs::symlink_metadata(on_disk) {
            Ok(metadata) => metadata,
            // Something else works in the directory; what vanished is not part of the context.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(TreeError::io(on_disk, error)),
        };
        if !metadata.is_dir() {
            if !ignored {
                self.add(on_disk, path, &metadata)?;
            }
            return Ok(!ignored);
        }
        if ignored && self.ignore.prunes(&text) {
            return Ok(false);
        }
        let holds_something = self.directory(on_disk, path)?;
        if !ignored || holds_something {
            self.add(on_disk, path, &metadata)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn add(&mut self, on_disk: &Path, path: &Path, metadata: &Metadata) -> Result<(), TreeError> {
        let mut node = match node_of(on_disk, path, metadata)? {
            Some(node) => node,
            None => socket(path, metadata),
        };
        node.entry.uid = 0;
        node.entry.gid = 0;
        if PATHS_MAX <= self.tree.len() {
            let source = std::io::Error::other(format!("more than {PATHS_MAX} files"));
            return Err(TreeError::io(on_disk, source));
        }
        self.tree.insert(node);
        Ok(())
    }
}

fn socket(path: &Path, metadata: &Metadata) -> Node {
    debug_assert!(metadata.file_type().is_socket());
    let mut entry = Entry::new(path, EntryKind::File { size: 0 }, 0o644);
    entry.mtime = Timestamp::default();
    Node { entry, content: Content::Empty, link: None }
}

/// A path below the context for something outside of the tree, such as a bind mount.
pub(crate) fn is_complete(ignore: &IgnoreFile) -> bool {
    ignore.is_empty()
}

/// Writes a tree into an empty directory, for mounts that must show exactly what a source has.
///
/// Files are linked where the file system permits, else copied.
pub(crate) fn materialise(nodes: &[Node], root: &Path) -> Result<(), TreeError> {
    // A node without a path is the root itself; joining nothing would ask for a directory.
    let place = |path: &Path| -> PathBuf {
        if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) }
    };
    for node in nodes {
        let target = place(&node.entry.path);
        let io = |error: std::io::Error| TreeError::io(&target, error);
        match (&node.entry.kind, &node.content) {
            (EntryKind::Directory, _) => std::fs::create_dir_all(&target).map_err(io)?,
            (EntryKind::Symlink { target: link }, _) => {
                std::os::unix::fs::symlink(link, &target).map_err(io)?;
            }
            (EntryKind::File { .. }, Content::File(source)) => {
                std::fs::copy(source, &target).map_err(io)?;
            }
            (EntryKind::File { .. }, Content::Bytes(bytes)) => {
                std::fs::write(&target, bytes).map_err(io)?;
            }
            (EntryKind::File { .. }, _) => {
                std::fs::write(&target, []).map_err(io)?;
            }
            // Nodes of other kinds serve no one through a read-only mount.
            _ => continue,
        }
        apply_metadata(node, &target)?;
    }
    // Times of directories last, because their contents change them.
    for node in nodes.iter().rev().filter(|node| node.entry.is_directory()) {
        apply_metadata(node, &place(&node.entry.path))?;
    }
    Ok(())
}

fn apply_metadata(node: &Node, target: &Path) -> Result<(), TreeError> {
    use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
    let io = |error: rustix::io::Errno| TreeError::io(target, error);
    let entry = &node.entry;
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(CWD, target, Some(uid), Some(gid), flags).map_err(io)?;
    }
    if !matches!(entry.kind, EntryKind::Symlink { .. }) {
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(CWD, target, mode, AtFlags::empty()).map_err(io)?;
    }
    let time =
        Timespec { tv_sec: entry.mtime.seconds, tv_nsec: i64::from(entry.mtime.nanoseconds) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for path in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, "x").expect("a file");
        }
        root
    }

    fn paths(root: &Path, ignore: &str) -> Vec<String> {
        let ignore = IgnoreFile::parse(ignore).expect("an ignore file of the test");
        let tree = scan(root, &ignore).expect("a readable directory");
        let paths = tree.nodes().map(|node| node.entry.path.display().to_string());
        paths.filter(|path| !path.is_empty()).collect()
    }

    #[test]
    fn ignored_paths_are_not_there() {
        let root = context(&["a", "b/c", "b/d", "node_modules/x/y"]);
        assert_eq!(paths(root.path(), "node_modules\nb/c\n"), ["a", "b", "b/d"]);
    }

    #[test]
    fn exceptions_bring_files_and_their_directories_back() {
        let root = context(&["docs/a.md", "docs/keep/b.md", "docs/keep/c.txt"]);
        let found = paths(root.path(), "docs\n!docs/keep/*.md\n");
        assert_eq!(found, ["docs", "docs/keep", "docs/keep/b.md"]);
    }

    #[test]
    fn owners_of_this_machine_do_not_enter_the_image() {
        let root = context(&["a"]);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(root.path().join("a"), Some(12), Some(13)).expect("root");
        }
        let tree = scan(root.path(), &IgnoreFile::default()).expect("readable");
        let entry = &tree.get(Path::new("a")).expect("scanned").entry;
        assert_eq!((entry.uid, entry.gid), (0, 0));
    }
}
