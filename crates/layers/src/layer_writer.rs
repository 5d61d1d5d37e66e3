//! Writes a layer entry by entry, and whole virtual layers from a sorted set of entries.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive_write::{padding, write_end, write_header};
use crate::entry::{Entry, EntryKind, OPAQUE_MARKER, Timestamp, WHITEOUT_PREFIX};
use crate::normalize::DEPTH_MAX;

/// What happens to modification times on their way into a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timestamps {
    /// Kept, in whole seconds.
    #[default]
    Keep,
    /// Kept, but nothing is later than this second (SOURCE_DATE_EPOCH with
    /// `rewrite-timestamp=true`).
    Clamp(i64),
    /// All set to this second.
    Set(i64),
}

impl Timestamps {
    fn apply(self, mtime: Timestamp) -> Timestamp {
        let seconds = match self {
            Self::Keep => mtime.seconds,
            Self::Clamp(max) => mtime.seconds.min(max),
            Self::Set(seconds) => seconds,
        };
        // Fractions would force a PAX header on each entry; Docker and BuildKit drop them too.
        Timestamp::from_seconds(seconds)
    }
}

/// Why an entry could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LayerWriteError {
    /// The output refused bytes.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// The content of a file could not be read.
    #[error("cannot read {path:?} for the layer")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The content of a file is shorter than its entry says: it changed while it was read.
    #[error("{path:?} ended {missing} bytes early; it changed while it was read")]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Bytes that are missing.
        missing: u64,
    },
    /// A path with more components than a layer may have that others unpack.
    #[error("{path:?} is too deep for an image layer: more than {depth_max} directories")]
    TooDeep {
        /// The path.
        path: PathBuf,
        /// The limit.
        depth_max: usize,
    },
    /// A name that image layers cannot hold, because it means a removal there.
    #[error("{path:?} cannot be in an image layer: names that begin with .wh. mean removals")]
    ReservedName {
        /// The path.
        path: PathBuf,
    },
}

/// Writes layer entries to a tar stream, in the order in which they are added.
#[derive(Debug)]
pub struct LayerWriter<W: Write> {
    out: W,
    timestamps: Timestamps,
    /// User and group of this machine that are root in the layer.
    root: Option<(u32, u32)>,
    /// Owners of paths that the tree could not be given.
    owners: HashMap<PathBuf, (u32, u32)>,
    entries: u64,
}

impl<W: Write> LayerWriter<W> {
    /// Writes to `out`, typically a [`crate::LayerSink`].
    pub fn new(out: W, timestamps: Timestamps) -> Self {
        Self { out, timestamps, root: None, owners: HashMap::new(), entries: 0 }
    }

    /// The same writer for a tree that was made in a user namespace whose root is the given user
    /// and group of this machine.
    #[must_use]
    pub fn with_root(mut self, uid: u32, gid: u32) -> Self {
        self.root = Some((uid, gid));
        self
    }

    /// The same writer for a tree in which everything belongs to that root, because nobody else is
    /// known there: these paths keep the user and group that lower layers give them.
    #[must_use]
    pub fn with_owners(mut self, owners: HashMap<PathBuf, (u32, u32)>) -> Self {
        self.owners = owners;
        self
    }

    /// Adds an entry that has no content: anything but a non-empty file.
    ///
    /// # Errors
    /// See [`LayerWriteError`].
    pub fn add(&mut self, entry: &Entry) -> Result<(), LayerWriteError> {
        self.add_with(entry, io::empty())
    }

    /// Adds an entry with its content, of which exactly the entry's size is read.
    ///
    /// # Errors
    /// See [`LayerWriteError`].
    pub fn add_with(
        &mut self,
        entry: &Entry,
        mut content: impl Read,
    ) -> Result<(), LayerWriteError> {
        let name = entry.path.file_name().unwrap_or_default().as_bytes();
        if name.starts_with(WHITEOUT_PREFIX.as_bytes()) {
            return Err(LayerWriteError::ReservedName { path: entry.path.clone() });
        }
        self.header(entry)?;
        let size = entry.content_bytes();
        let mut left = size;
        let mut buffer = [0; 64 * 1024];
        while 0 < left {
            let part = left.min(buffer.len() as u64) as usize;
            let read = match content.read(&mut buffer[..part]) {
                Ok(0) => {
                    let path = entry.path.clone();
                    return Err(LayerWriteError::Shrunk { path, missing: left });
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(LayerWriteError::Read { path: entry.path.clone(), source });
                }
            };
            self.out.write_all(&buffer[..read]).map_err(LayerWriteError::Write)?;
            left -= read as u64;
        }
        self.out.write_all(padding(size)).map_err(LayerWriteError::Write)
    }

    /// Removes a path of lower layers.
    ///
    /// # Errors
    /// See [`LayerWriteError`].
    pub fn whiteout(&mut self, path: &Path) -> Result<(), LayerWriteError> {
        let name = path.file_name().unwrap_or_default();
        let marker = [WHITEOUT_PREFIX.as_bytes(), name.as_bytes()].concat();
        self.marker(path.parent().unwrap_or(Path::new("")), &marker)
    }

    /// Hides what lower layers put into a directory.
    ///
    /// # Errors
    /// See [`LayerWriteError`].
    pub fn opaque(&mut self, directory: &Path) -> Result<(), LayerWriteError> {
        self.marker(directory, OPAQUE_MARKER.as_bytes())
    }

    /// Entries written so far, removals included.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// [`LayerWriteError::Write`].
    pub fn finish(mut self) -> Result<W, LayerWriteError> {
        write_end(&mut self.out).map_err(LayerWriteError::Write)?;
        Ok(self.out)
    }

    fn marker(&mut self, directory: &Path, name: &[u8]) -> Result<(), LayerWriteError> {
        let path = directory.join(std::ffi::OsStr::from_bytes(name));
        self.header(&Entry::file(path, 0, 0))
    }

    fn header(&mut self, entry: &Entry) -> Result<(), LayerWriteError> {
        if DEPTH_MAX < entry.path.components().count() {
            let path = entry.path.clone();
            return Err(LayerWriteError::TooDeep { path, depth_max: DEPTH_MAX });
        }
        self.entries += 1;
        let mut entry = entry.clone();
        entry.mtime = self.timestamps.apply(entry.mtime);
        if let Some((uid, gid)) = self.root {
            entry.uid = if entry.uid == uid { 0 } else { entry.uid };
            entry.gid = if entry.gid == gid { 0 } else { entry.gid };
        }
        if let Some((uid, gid)) = self.owners.get(&entry.path) {
            (entry.uid, entry.gid) = (*uid, *gid);
        }
        write_header(&mut self.out, &entry).map_err(LayerWriteError::Write)
    }
}

/// Where the bytes of a file in a virtual layer come from.
#[derive(Debug, Clone)]
pub enum ContentSource {
    /// There are none, or they are held here.
    Bytes(Vec<u8>),
    /// A file of this machine, opened when the layer is written.
    File(PathBuf),
}

/// A layer made of entries alone, without a root file system: what COPY, ADD and WORKDIR need.
///
/// Entries may be inserted in any order; they are written sorted, parents first, a later entry
/// for the same path replaces the earlier one.
#[derive(Debug, Default)]
pub struct VirtualLayer {
    nodes: BTreeMap<PathBuf, Node>,
}

#[derive(Debug)]
enum Node {
    Entry(Entry, ContentSource),
    Whiteout,
}

impl VirtualLayer {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces an entry.
    pub fn insert(&mut self, entry: Entry, content: ContentSource) {
        self.nodes.insert(entry.path.clone(), Node::Entry(entry, content));
    }

    /// Removes a path of lower layers, and what this layer said about it.
    pub fn whiteout(&mut self, path: impl Into<PathBuf>) {
        let path = path.into();
        let below: Vec<_> = self
            .nodes
            .range(path.clone()..)
            .take_while(|(other, _)| other.starts_with(&path))
            .map(|(other, _)| other.clone())
            .collect();
        for other in below {
            self.nodes.remove(&other);
        }
        self.nodes.insert(path, Node::Whiteout);
    }

    /// What the layer says about a path.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        match self.nodes.get(path)? {
            Node::Entry(entry, _) => Some(entry),
            Node::Whiteout => None,
        }
    }

    /// The entries in the order in which they will be written.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.nodes.values().filter_map(|node| match node {
            Node::Entry(entry, _) => Some(entry),
            Node::Whiteout => None,
        })
    }

    /// The paths of lower layers that are removed.
    pub fn removals(&self) -> impl Iterator<Item = &Path> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            Node::Entry(..) => None,
            Node::Whiteout => Some(path.as_path()),
        })
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Writes all entries, sorted; hard links follow the file they name whatever its path.
    ///
    /// # Errors
    /// See [`LayerWriteError`].
    pub fn write<W: Write>(&self, writer: &mut LayerWriter<W>) -> Result<(), LayerWriteError> {
        let mut links = Vec::new();
        for (path, node) in &self.nodes {
            match node {
                Node::Whiteout => writer.whiteout(path)?,
                Node::Entry(entry, content) => match (&entry.kind, content) {
                    (EntryKind::Hardlink { target }, _) if path < target => links.push(entry),
                    (_, ContentSource::Bytes(bytes)) => writer.add_with(entry, &bytes[..])?,
                    (_, ContentSource::File(source)) => {
                        let file = File::open(source).map_err(|error| LayerWriteError::Read {
                            path: source.clone(),
                            source: error,
                        })?;
                        writer.add_with(entry, file)?;
                    }
                },
            }
        }
        links.into_iter().try_for_each(|link| writer.add(link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive_read::ArchiveReader;

    #[test]
    fn the_root_of_a_user_namespace_is_root_in_the_layer() {
        let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep)
            .with_root(1000, 100)
            .with_owners([("known".into(), (7, 8))].into());
        for (path, uid, gid) in [("a", 1000, 100), ("b", 5, 100), ("known", 1000, 100)] {
            let mut entry = Entry::file(path, 0o644, 0);
            (entry.uid, entry.gid) = (uid, gid);
            writer.add(&entry).expect("memory");
        }
        let bytes = writer.finish().expect("memory");
        let mut archive = ArchiveReader::new(&bytes[..]);
        let mut owners = Vec::new();
        while let Some(entry) = archive.next_entry().expect("our own archive") {
            owners.push((entry.uid, entry.gid));
        }
        assert_eq!(owners, [(0, 0), (5, 0), (7, 8)]);
    }
}
