//! File trees as values: what COPY reads from and looks its destination up in.
//!
//! A tree answers three questions (what is at a path, what is in a directory, what are the bytes
//! of a small file) and hides where the answer comes from: a directory walked once, the headers
//! of layer archives, or a stack of unpacked layers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use layers::{Entry, EntryKind};
use oci_model::DiffId;

/// Most symbolic links followed for one path; Linux itself stops at 40.
const LINKS_MAX: usize = 40;

/// Why a tree gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A path goes through too many symbolic links.
    #[error("too many levels of symbolic links in /{}", path.display())]
    Loop {
        /// The path.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("cannot read {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A layer archive is damaged.
    #[error("cannot read layer {diff_id}")]
    Layer {
        /// The layer.
        diff_id: DiffId,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that is read whole is larger than it may be.
    #[error("/{} has {size} bytes; at most {bytes_max} are read", path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        bytes_max: u64,
    },
}

impl TreeError {
    /// A failed call on `path`.
    pub(crate) fn io(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.into(), source: source.into() }
    }
}

/// One path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Metadata; the path is relative to the root of the tree. Never a hard link.
    pub(crate) entry: Entry,
    /// Where the bytes of a file are.
    pub(crate) content: Content,
    /// Equal for all names of one file, if it has several.
    pub(crate) link: Option<u64>,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nowhere: not a file, or an empty one.
    Empty,
    /// In a file of this machine.
    File(PathBuf),
    /// In the archive of a layer, under this path.
    Layer(DiffId, PathBuf),
    /// Here.
    Bytes(Arc<[u8]>),
}

/// A tree of files.
pub(crate) trait Files: Send + Sync {
    /// What is at a path; symbolic links are not followed, not even in the middle.
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError>;
    /// Names in a directory, sorted by bytes; empty when it is none.
    fn children(&self, directory: &Path) -> Result<Vec<OsString>, TreeError>;
    /// The bytes of a file that is not large; `None` when there is no such file.
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError>;
}

/// A tree without files.
#[derive(Debug)]
pub(crate) struct NoFiles;

impl Files for NoFiles {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        Ok(path.as_os_str().is_empty().then(root_node))
    }

    fn children(&self, _directory: &Path) -> Result<Vec<OsString>, TreeError> {
        Ok(Vec::new())
    }

    fn read(&self, _path: &Path, _bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        Ok(None)
    }
}

/// The root of a tree that says nothing about its root.
pub(crate) fn root_node() -> Node {
    Node { entry: Entry::directory("", 0o755), content: Content::Empty, link: None }
}

/// A tree held in memory, by path; ancestors of every path are present.
#[derive(Clone, Debug, Default)]
pub(crate) struct IndexedTree {
    nodes: BTreeMap<PathBuf, Node>,
}

impl IndexedTree {
    /// A tree of nodes.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// How many paths the tree has.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes, parents first.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Adds a node; directories keep what they hold, everything else replaces what was below.
    pub(crate) fn insert(&mut self, node: Node) {
        let path = node.entry.path.clone();
        if !node.entry.is_directory() {
            self.remove(&path);
        }
        if let Some(parent) = path.parent()
            && !path.as_os_str().is_empty()
            && !self.nodes.get(parent).is_some_and(|node| node.entry.is_directory())
        {
            self.insert(Node {
                entry: Entry::directory(parent, 0o755),
                content: Content::Empty,
                link: None,
            });
        }
        self.nodes.insert(path, node);
    }

    /// Removes a path and everything below it.
    pub(crate) fn remove(&mut self, path: &Path) {
        self.remove_children(path);
        self.nodes.remove(path);
    }

    /// Removes everything below a path.
    pub(crate) fn remove_children(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self
            .nodes
            .range(path.to_path_buf()..)
            .map(|(other, _)| other)
            .take_while(|other| other.starts_with(path))
            .filter(|other| other.as_path() != path)
            .cloned()
            .collect();
        for other in below {
            self.nodes.remove(&other);
        }
    }

    /// What is at a path.
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }
}

impl Files for IndexedTree {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let found = self.nodes.get(path).cloned();
        Ok(found.or_else(|| path.as_os_str().is_empty().then(root_node)))
    }

    fn children(&self, directory: &Path) -> Result<Vec<OsString>, TreeError> {
        let depth = directory.components().count();
        let mut names: Vec<OsString> = Vec::new();
        // Paths order by component, so a subtree is one range.
        let below = self
            .nodes
            .range(directory.to_path_buf()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(directory));
        for path in below {
            if let Some(name) = path.components().nth(depth)
                && names.last().is_none_or(|last| last != name.as_os_str())
            {
                names.push(name.as_os_str().to_owned());
            }
        }
        Ok(names)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(node) = self.nodes.get(path) else { return Ok(None) };
        read_local(node, bytes_max)
    }
}

/// The bytes of a node whose content is not in a layer archive.
pub(crate) fn read_local(node: &Node, bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError> {
    let EntryKind::File { size } = node.entry.kind else { return Ok(None) };
    if bytes_max < size {
        return Err(TreeError::TooLarge { path: node.entry.path.clone(), size, bytes_max });
    }
    match &node.content {
        Content::Empty => Ok(Some(Vec::new())),
        Content::Bytes(bytes) => Ok(Some(bytes.to_vec())),
        Content::File(file) => {
            std::fs::read(file).map(Some).map_err(|error| TreeError::io(file, error))
        }
        Content::Layer(..) => Ok(None),
    }
}

/// The path without symbolic links that `path` means inside the tree; `..` and absolute links
/// stay inside. Components that do not exist are kept as they are.
pub(crate) fn resolve(files: &dyn Files, path: &Path) -> Result<PathBuf, TreeError> {
    let mut rest: Vec<OsString> = components(path).rev().map(OsStr::to_owned).collect();
    let mut resolved = PathBuf::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&name);
        let target = match files.node(&next)? {
            Some(Node { entry: Entry { kind: EntryKind::Symlink { target }, .. }, .. }) => target,
            _ => {
                resolved = next;
                continue;
            }
        };
        links += 1;
        if LINKS_MAX < links {
            return Err(TreeError::Loop { path: path.to_owned() });
        }
        if target.is_absolute() {
            resolved = PathBuf::new();
        }
        rest.extend(components(&target).rev().map(OsStr::to_owned));
    }
    Ok(resolved)
}

/// The parts of a path that matter: names and `..`.
fn components(path: &Path) -> impl DoubleEndedIterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}

/// An absolute or relative path of a Dockerfile as a path of a tree: relative, no `.` and `..`.
pub(crate) fn tree_path(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for name in components(Path::new(path)) {
        if name == ".." {
            clean.pop();
        } else {
            clean.push(name);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(lines: &[&str]) -> IndexedTree {
        let mut tree = IndexedTree::new();
        for line in lines {
            let entry = match line.split_once(" -> ") {
                Some((path, target)) => Entry::symlink(path, target),
                None => match line.strip_suffix('/') {
                    Some(path) => Entry::directory(path, 0o755),
                    None => Entry::file(*line, 0o644, 0),
                },
            };
            tree.insert(Node { entry, content: Content::Empty, link: None });
        }
        tree
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        let tree = tree(&["var/run -> /run", "run/", "up -> ../../..", "a/b -> ../c", "c/f"]);
        for (path, expected) in [
            ("var/run/x", "run/x"),
            ("var/run", "run"),
            ("up/c", "c"),
            ("a/b/f", "c/f"),
            ("no/such/../x", "no/x"),
        ] {
            let resolved = resolve(&tree, Path::new(path)).expect("no loop");
            assert_eq!(resolved, Path::new(expected), "{path}");
        }
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let tree = tree(&["a -> b", "b -> a"]);
        assert!(resolve(&tree, Path::new("a/x")).is_err());
    }

    #[test]
    fn children_are_named_once_and_sorted() {
        let tree = tree(&["b/x", "b/y/z", "a", "b-c"]);
        let names = tree.children(Path::new("")).expect("in memory");
        assert_eq!(names, ["a", "b", "b-c"]);
        assert_eq!(tree.children(Path::new("b")).expect("in memory"), ["x", "y"]);
    }

    #[test]
    fn a_file_replaces_a_directory_with_all_it_held() {
        let mut tree = tree(&["d/e/f"]);
        tree.insert(Node {
            entry: Entry::file("d", 0o644, 0),
            content: Content::Empty,
            link: None,
        });
        assert_eq!(tree.get(Path::new("d/e/f")), None);
        assert_eq!(tree.len(), 2);
    }
}
