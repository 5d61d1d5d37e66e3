//! What changed in a tree since an inventory of it was taken, as a layer.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::inode_read::{LinkNames, TreeReadError, entry_of, open_content, stat};
use crate::inventory::{Inventory, ScanOptions, Stamp};
use crate::layer_writer::{LayerWriteError, LayerWriter};

/// One difference between two inventories of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The path is new.
    Added(PathBuf),
    /// The path may look different.
    Modified(PathBuf),
    /// The path is gone, its parent is still there.
    Removed(PathBuf),
}

impl Change {
    /// The path that changed.
    pub fn path(&self) -> &Path {
        match self {
            Self::Added(path) | Self::Modified(path) | Self::Removed(path) => path,
        }
    }
}

/// Why changes could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The tree could not be read.
    #[error(transparent)]
    Read(#[from] TreeReadError),
    /// The layer could not be written.
    #[error(transparent)]
    Write(#[from] LayerWriteError),
}

/// Compares two inventories of one tree, in the order of a sorted walk.
pub fn changes(before: &Inventory, after: &Inventory) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        match order {
            std::cmp::Ordering::Less => {
                if let Some((path, _)) = old.next() {
                    let parent = path.parent().unwrap_or(Path::new(""));
                    // Below a removed or replaced directory nothing needs a removal of its own.
                    if after.get(parent).is_some_and(Stamp::is_directory) {
                        changes.push(Change::Removed(path.to_owned()));
                    }
                }
            }
            std::cmp::Ordering::Greater => {
                changes.extend(new.next().map(|(path, _)| Change::Added(path.to_owned())));
            }
            std::cmp::Ordering::Equal => {
                if let (Some((_, old)), Some((path, new))) = (old.next(), new.next())
                    && old.differs(new)
                {
                    changes.push(Change::Modified(path.to_owned()));
                }
            }
        }
    }
}

/// Scans the tree at `root` again, writes what changed since `before` as a layer, and returns
/// the new inventory with the changes.
///
/// The root's own metadata is left out: in place it is the executor's directory. Unchanged
/// parents of changed paths are written with their present metadata, because whoever unpacks
/// the layer would otherwise invent it.
///
/// # Errors
/// See [`PackError`].
pub fn diff_trees<W: Write>(
    before: &Inventory,
    root: &Path,
    options: &ScanOptions,
    writer: &mut LayerWriter<W>,
) -> Result<(Inventory, Vec<Change>), PackError> {
    let after = Inventory::scan(root, options)?;
    let mut found = changes(before, &after);
    found.retain(|change| !change.path().as_os_str().is_empty());
    write_changes(root, &found, writer)?;
    Ok((after, found))
}

/// Writes changes of the tree at `root`, in the order of a sorted walk, into a layer.
///
/// # Errors
/// See [`PackError`].
pub fn write_changes<W: Write>(
    root: &Path,
    changes: &[Change],
    writer: &mut LayerWriter<W>,
) -> Result<(), PackError> {
    let mut emitter = Emitter::new(root);
    for change in changes {
        match change {
            Change::Removed(path) => {
                emitter.parents(path, writer)?;
                writer.whiteout(path)?;
            }
            Change::Added(path) | Change::Modified(path) => emitter.emit(path, writer)?,
        }
    }
    Ok(())
}

/// Writes paths of a tree into a layer, each after its parents and each only once.
pub(crate) struct Emitter<'a> {
    root: &'a Path,
    links: LinkNames,
    /// Directories already written on the way to the present path.
    written: Vec<PathBuf>,
}

impl<'a> Emitter<'a> {
    pub(crate) fn new(root: &'a Path) -> Self {
        Self { root, links: LinkNames::default(), written: Vec::new() }
    }

    /// Writes the path with its content; sockets and what vanished are passed over.
    pub(crate) fn emit<W: Write>(
        &mut self,
        path: &Path,
        writer: &mut LayerWriter<W>,
    ) -> Result<(), PackError> {
        if self.written.iter().any(|written| written == path) {
            return Ok(());
        }
        self.parents(path, writer)?;
        let full = self.root.join(path);
        let found = match stat(&full) {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let Some(entry) = entry_of(path, &full, &found, &mut self.links)? else { return Ok(()) };
        if entry.content_bytes() == 0 {
            writer.add(&entry)?;
        } else {
            writer.add_with(&entry, open_content(&full)?)?;
        }
        if entry.is_directory() {
            self.written.push(path.to_owned());
        }
        Ok(())
    }

    /// Writes the directories above a path that are not written yet.
    pub(crate) fn parents<W: Write>(
        &mut self,
        path: &Path,
        writer: &mut LayerWriter<W>,
    ) -> Result<(), PackError> {
        self.written.retain(|written| path.starts_with(written));
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() || self.written.iter().any(|written| written == parent) {
            return Ok(());
        }
        self.emit(parent, writer)
    }
}
