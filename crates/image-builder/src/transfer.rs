//! COPY and ADD as a function of two trees: source files in, layer entries out.
//!
//! The destination is only looked up, never written, so a copy needs no root file system.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dockerfile::{FileKind, ModeChange};
use layers::{ContentSource, Entry, EntryKind, Timestamp, VirtualLayer};

use crate::owners::Ids;
use crate::select::Selected;
use crate::tree::{Content, Files, IndexedTree, Node, TreeError, resolve, root_node, tree_path};

/// Deepest tree that is copied; Linux cannot even name deeper ones by one path.
const DEPTH_MAX: usize = 4096;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A source is no directory but the destination path goes through a file.
    #[error("cannot create directory /{}: not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A directory would replace a file.
    #[error("cannot copy to non-directory: /{}", path.display())]
    DirectoryOverFile {
        /// The path.
        path: PathBuf,
    },
    /// A file would replace a directory.
    #[error("cannot replace to directory /{} with file", path.display())]
    FileOverDirectory {
        /// The path.
        path: PathBuf,
    },
    /// Several files for one name.
    #[error(
        "when specifying multiple sources in a COPY command, destination must be a directory \
         and end in '/'"
    )]
    ManySources,
    /// A tree that is too deep.
    #[error("/{} is nested too deeply to be copied", path.display())]
    TooDeep {
        /// The path.
        path: PathBuf,
    },
    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// How copies look.
#[derive(Clone, Debug)]
pub(crate) struct Look<'a> {
    /// Owner of everything, instead of that of the source.
    pub(crate) owner: Option<Ids>,
    /// Change of all modes but those of links.
    pub(crate) mode: Option<&'a ModeChange>,
    /// Time of directories that are created on the way.
    pub(crate) now: Timestamp,
}

impl Look<'_> {
    fn apply(&self, node: &mut Node) {
        if let Some(owner) = self.owner {
            node.entry.uid = owner.uid;
            node.entry.gid = owner.gid;
        }
        if let Some(change) = self.mode
            && !matches!(node.entry.kind, EntryKind::Symlink { .. })
        {
            let kind =
                if node.entry.is_directory() { FileKind::Directory } else { FileKind::Other };
            node.entry.mode = change.apply(node.entry.mode, kind);
        }
    }

    fn new_directory(&self, path: &Path) -> Node {
        let mode = match self.mode {
            Some(ModeChange::Octal(mode)) => *mode,
            Some(ModeChange::Symbolic(_)) | None => 0o755,
        };
        let mut entry = Entry::directory(path, mode);
        let owner = self.owner.unwrap_or(Ids::ROOT);
        (entry.uid, entry.gid, entry.mtime) = (owner.uid, owner.gid, self.now);
        Node { entry, content: Content::Empty, link: None }
    }
}

/// What a step adds to the files of its stage.
pub(crate) struct Additions<'a> {
    target: &'a dyn Files,
    added: IndexedTree,
}

impl Files for Additions<'_> {
    fn node(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        if let Some(node) = self.added.get(path) {
            return Ok(Some(node.clone()));
        }
        // A file that was added hides what the target has below that path.
        let hidden = path
            .ancestors()
            .skip(1)
            .find_map(|ancestor| self.added.get(ancestor))
            .is_some_and(|ancestor| !ancestor.entry.is_directory());
        if hidden { Ok(None) } else { self.target.node(path) }
    }

    fn children(&self, directory: &Path) -> Result<Vec<OsString>, TreeError> {
        let mut names = self.target.children(directory)?;
        names.extend(self.added.children(directory)?);
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        match self.added.get(path) {
            Some(node) => crate::tree::read_local(node, bytes_max),
            None => self.target.read(path, bytes_max),
        }
    }
}

impl<'a> Additions<'a> {
    /// Nothing yet, on top of `target`.
    pub(crate) fn to(target: &'a dyn Files) -> Self {
        Self { target, added: IndexedTree::new() }
    }

    /// The nodes, parents first.
    pub(crate) fn into_nodes(self) -> Vec<Node> {
        self.added.nodes().filter(|node| !node.entry.path.as_os_str().is_empty()).cloned().collect()
    }

    /// Makes `path`, whose links are resolved, a directory with all its parents.
    pub(crate) fn ensure_directory(
        &mut self,
        path: &Path,
        look: &Look<'_>,
    ) -> Result<(), TransferError> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if ancestor.as_os_str().is_empty() {
                continue;
            }
            let node = match self.node(ancestor)? {
                Some(node) if node.entry.is_directory() => node,
                Some(_) => {
                    return Err(TransferError::NotADirectory { path: ancestor.to_owned() });
                }
                None => look.new_directory(ancestor),
            };
            if self.added.get(ancestor).is_none() {
                self.added.insert(node);
            }
        }
        Ok(())
    }

    /// Puts a file, link or device at `path`, whose parents exist.
    pub(crate) fn put(
        &mut self,
        mut node: Node,
        path: &Path,
        look: &Look<'_>,
    ) -> Result<(), TransferError> {
        // A link is replaced, not followed, whatever it points to.
        if self.node(path)?.is_some_and(|present| present.entry.is_directory()) {
            return Err(TransferError::FileOverDirectory { path: path.to_owned() });
        }
        path.clone_into(&mut node.entry.path);
        look.apply(&mut node);
        self.ensure_directory(path.parent().unwrap_or(Path::new("")), look)?;
        self.added.insert(node);
        Ok(())
    }

    /// Puts an entry of an archive below `root`; in a conflict of kinds the archive wins.
    pub(crate) fn put_extracted(
        &mut self,
        mut node: Node,
        root: &Path,
        look: &Look<'_>,
    ) -> Result<(), TransferError> {
        let relative = std::mem::take(&mut node.entry.path);
        if relative.as_os_str().is_empty() {
            return Ok(());
        }
        let parent = relative.parent().unwrap_or(Path::new(""));
        let parent = resolve(self, &root.join(parent))?;
        let implied = Look { owner: look.owner, mode: None, now: look.now };
        self.ensure_directory(&parent, &implied)?;
        // What stands there is merged if both are directories and replaced if not; a link to a
        // directory is no directory.
        node.entry.path = parent.join(relative.file_name().unwrap_or_default());
        look.apply(&mut node);
        self.added.insert(node);
        Ok(())
    }
}

/// Where the copies of a step go.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    path: PathBuf,
    /// Whether the Dockerfile says that it is a directory.
    is_directory: bool,
}

impl Destination {
    /// The destination of a Dockerfile, looked up in the files of the stage.
    pub(crate) fn find(files: &dyn Files, written: &str) -> Result<Self, TreeError> {
        let path = resolve(files, &tree_path(written))?;
        Ok(Self { path, is_directory: written.ends_with('/') || written.is_empty() })
    }

    /// The same path, which must be a directory.
    pub(crate) fn into_directory(mut self) -> Self {
        self.is_directory = true;
        self
    }

    /// The path, links resolved.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What is copied from where.
pub(crate) struct Copy<'a> {
    /// The source tree.
    pub(crate) source: &'a dyn Files,
    /// What of it.
    pub(crate) selected: &'a [Selected],
    /// Paths below a selected directory, or names of selected files, that are left out.
    pub(crate) excluded: &'a dyn Fn(&Path) -> bool,
    /// Whether the path of a source is kept below the destination.
    pub(crate) keep_parents: bool,
}

/// Copies what was selected.
pub(crate) fn copy(
    into: &mut Additions<'_>,
    copy: &Copy<'_>,
    destination: &Destination,
    look: &Look<'_>,
) -> Result<(), TransferError> {
    let present = into.node(&destination.path)?.unwrap_or_else(|| {
        if destination.path.as_os_str().is_empty() { root_node() } else { absent() }
    });
    let exists_as_directory = present.entry.is_directory();
    let to_directory = destination.is_directory || exists_as_directory;
    if copy.keep_parents {
        return copy.selected.iter().try_for_each(|selected| {
            copy_with_parents(into, copy, selected, &destination.path, look)
        });
    }
    let mut files = 0;
    for selected in copy.selected {
        let Some(node) = copy.source.node(&selected.from)? else { continue };
        if node.entry.is_directory() {
            if present.entry.path.as_os_str() != ABSENT && !exists_as_directory {
                return Err(TransferError::DirectoryOverFile { path: destination.path.clone() });
            }
            into.ensure_directory(&destination.path, look)?;
            let mut tree = CopyTree { into, copy, look };
            tree.contents(&selected.from, &destination.path, Path::new(""), 0)?;
            continue;
        }
        let name = selected.written.file_name().unwrap_or_default();
        if (copy.excluded)(Path::new(name)) {
            continue;
        }
        files += 1;
        if 1 < files && !to_directory {
            return Err(TransferError::ManySources);
        }
        if to_directory {
            into.ensure_directory(&destination.path, look)?;
            into.put(node, &destination.path.join(name), look)?;
        } else {
            into.put(node, &destination.path, look)?;
        }
    }
    if copy.selected.is_empty() && destination.is_directory {
        into.ensure_directory(&destination.path, look)?;
    }
    Ok(())
}

const ABSENT: &str = "\u{0}";

fn absent() -> Node {
    Node { entry: Entry::file(ABSENT, 0, 0), content: Content::Empty, link: None }
}

fn copy_with_parents(
    into: &mut Additions<'_>,
    copy: &Copy<'_>,
    selected: &Selected,
    root: &Path,
    look: &Look<'_>,
) -> Result<(), TransferError> {
    into.ensure_directory(root, look)?;
    let names: Vec<_> = selected.written.iter().collect();
    let kept: PathBuf = names.iter().skip(selected.pivot).collect();
    let behind: PathBuf = names.iter().take(selected.pivot).collect();
    let Some(node) = copy.source.node(&selected.from)? else { return Ok(()) };
    if (copy.excluded)(&kept) {
        return Ok(());
    }
    // Parents look like the directories of the source they stand for.
    let depth = kept.components().count();
    let parents = kept.ancestors().filter(|path| !path.as_os_str().is_empty()).skip(1);
    let mut parents: Vec<&Path> = parents.take(depth).collect();
    parents.reverse();
    for parent in parents {
        let from = resolve(copy.source, &behind.join(parent))?;
        directory_like(into, copy, &from, &root.join(parent), look)?;
    }
    let path = root.join(&kept);
    if node.entry.is_directory() {
        directory_like(into, copy, &selected.from, &path, look)?;
        let mut tree = CopyTree { into, copy, look };
        return tree.contents(&selected.from, &path, &kept, 0);
    }
    into.put(node, &path, look)
}

fn directory_like(
    into: &mut Additions<'_>,
    copy: &Copy<'_>,
    from: &Path,
    path: &Path,
    look: &Look<'_>,
) -> Result<(), TransferError> {
    if path.as_os_str().is_empty() || into.node(path)?.is_some_and(|n| n.entry.is_directory()) {
        return into.ensure_directory(path, look);
    }
    let Some(mut node) = copy.source.node(from)? else {
        return into.ensure_directory(path, look);
    };
    path.clone_into(&mut node.entry.path);
    look.apply(&mut node);
    into.ensure_directory(path.parent().unwrap_or(Path::new("")), look)?;
    into.added.insert(node);
    Ok(())
}

struct CopyTree<'a, 'b, 't> {
    into: &'a mut Additions<'t>,
    copy: &'a Copy<'b>,
    look: &'a Look<'b>,
}

impl CopyTree<'_, '_, '_> {
    /// Copies what `from` holds into `path`; `below` is the path from the selected directory.
    fn contents(
        &mut self,
        from: &Path,
        path: &Path,
        below: &Path,
        depth: usize,
    ) -> Result<(), TransferError> {
        if DEPTH_MAX < depth {
            return Err(TransferError::TooDeep { path: from.to_owned() });
        }
        for name in self.copy.source.children(from)? {
            let (from, below) = (from.join(&name), below.join(&name));
            let Some(node) = self.copy.source.node(&from)? else { continue };
            let excluded = (self.copy.excluded)(&below);
            if !node.entry.is_directory() {
                if !excluded {
                    self.into.put(node, &path.join(&name), self.look)?;
                }
                continue;
            }
            let target = resolve(self.into, &path.join(&name))?;
            match self.into.node(&target)? {
                Some(present) if !present.entry.is_directory() => {
                    return Err(TransferError::DirectoryOverFile { path: target });
                }
                _ if excluded => {}
                _ => {
                    let mut node = node;
                    target.clone_into(&mut node.entry.path);
                    self.look.apply(&mut node);
                    self.into.ensure_directory(path, self.look)?;
                    self.into.added.insert(node);
                }
            }
            // An excluded directory may hold something that an exception brings back; `put`
            // creates it then.
            self.contents(&from, &target, &below, depth + 1)?;
        }
        Ok(())
    }
}

/// The nodes of a step as a layer; all contents are on this machine by now.
pub(crate) fn to_layer(nodes: Vec<Node>) -> VirtualLayer {
    let mut layer = VirtualLayer::new();
    let mut first_names: HashMap<u64, PathBuf> = HashMap::new();
    for node in nodes {
        let mut entry = node.entry;
        if let (Some(link), EntryKind::File { .. }) = (node.link, &entry.kind) {
            if let Some(target) = first_names.get(&link) {
                entry.kind = EntryKind::Hardlink { target: target.clone() };
            } else {
                first_names.insert(link, entry.path.clone());
            }
        }
        let content = match node.content {
            Content::File(path) => ContentSource::File(path),
            Content::Bytes(bytes) => ContentSource::Bytes(bytes.to_vec()),
            Content::Empty | Content::Layer(..) => ContentSource::Bytes(Vec::new()),
        };
        layer.insert(entry, content);
    }
    layer
}

#[cfg(test)]
mod tests;
