//! Layers known by their headers alone: what an image holds, without unpacking it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_model::{DiffId, Hasher};

use crate::archive_read::{ArchiveError, ArchiveReader};
use crate::decompress::Decoder;
use crate::entry::{Entry, EntryKind, Whiteout};

/// Largest file whose content an index keeps, in bytes (10 MiB): BuildKit reads that much of a
/// passwd file.
pub const KEPT_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Symbolic links followed before a path counts as a loop (Linux's MAXSYMLINKS).
const LINKS_MAX: u32 = 40;

/// The headers of one layer.
#[derive(Debug, Clone)]
pub struct TarIndex {
    /// Digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed archive.
    pub tar_bytes: u64,
    entries: Vec<Indexed>,
    kept: BTreeMap<PathBuf, Vec<u8>>,
}

/// An entry and where its content stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// The entry.
    pub entry: Entry,
    /// Position of its content in the uncompressed archive, in bytes.
    pub offset: u64,
}

impl TarIndex {
    /// Reads a layer blob, compressed or not. The content of the files named by `keep` is kept,
    /// up to [`KEPT_BYTES_MAX`] each.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn read(blob: impl Read + Send, keep: &[&Path]) -> Result<Self, ArchiveError> {
        let unreadable = |source| ArchiveError::Read { offset: 0, source };
        let decoder = Decoder::new(blob).map_err(unreadable)?;
        let hashing = Hashing { source: decoder, hasher: Hasher::sha256(), bytes: 0 };
        let buffered = io::BufReader::with_capacity(256 * 1024, hashing);
        let mut reader = ArchiveReader::new(buffered);
        let mut entries = Vec::new();
        let mut kept = BTreeMap::new();
        while let Some(entry) = reader.next_entry()? {
            let offset = reader.offset();
            let wanted = keep.contains(&entry.path.as_path());
            if wanted && entry.content_bytes() <= KEPT_BYTES_MAX {
                let mut content = Vec::new();
                reader
                    .content()
                    .read_to_end(&mut content)
                    .map_err(|source| ArchiveError::Read { offset, source })?;
                kept.insert(entry.path.clone(), content);
            }
            entries.push(Indexed { entry, offset });
        }
        let offset = reader.offset();
        let mut buffered = reader.into_inner();
        io::copy(&mut buffered, &mut io::sink())
            .map_err(|source| ArchiveError::Read { offset, source })?;
        let hashing = buffered.into_inner();
        let (diff_id, tar_bytes) = (DiffId(hashing.hasher.finish()), hashing.bytes);
        Ok(Self { diff_id, tar_bytes, entries, kept })
    }

    /// The entries in the order of the archive, removals included.
    pub fn entries(&self) -> &[Indexed] {
        &self.entries
    }
}

struct Hashing<R> {
    source: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// One path as a stack of layers shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Position of the layer that holds the content, counted from the bottom.
    pub layer: usize,
    /// What stands there. Hard links appear as the file that they name.
    pub entry: Entry,
    /// Position of the content in that layer's uncompressed archive, in bytes.
    pub offset: u64,
}

/// The tree that a stack of layers shows.
#[derive(Debug, Clone, Default)]
pub struct MergedView {
    nodes: BTreeMap<PathBuf, Located>,
    /// Kept content by layer and by the path under which the archive holds it.
    kept: BTreeMap<(usize, u64), Vec<u8>>,
    layers: usize,
}

impl MergedView {
    /// Stacks layers, the bottom one first.
    pub fn new<'a>(layers: impl IntoIterator<Item = &'a TarIndex>) -> Self {
        let mut view = Self::default();
        for layer in layers {
            view.push(layer);
        }
        view
    }

    /// Puts one more layer on top.
    pub fn push(&mut self, index: &TarIndex) {
        let layer = self.layers;
        self.layers += 1;
        for Indexed { entry, .. } in &index.entries {
            match entry.whiteout() {
                Some(Whiteout::Name { directory, name }) => {
                    self.remove(&directory.join(name));
                }
                Some(Whiteout::Opaque { directory }) => self.remove_below(directory),
                Some(Whiteout::AufsMetadata) | None => {}
            }
        }
        for Indexed { entry, offset } in &index.entries {
            if entry.whiteout().is_none() {
                self.insert(layer, entry, *offset);
            }
        }
        for (path, content) in &index.kept {
            let position = index.entries.iter().rev().find(|indexed| indexed.entry.path == *path);
            if let Some(Indexed { offset, .. }) = position {
                self.kept.insert((layer, *offset), content.clone());
            }
        }
    }

    /// What stands at a path, without following a final symbolic link.
    pub fn get(&self, path: &Path) -> Option<&Located> {
        self.nodes.get(path)
    }

    /// Follows symbolic links as a process in the tree would; they never lead out of it.
    ///
    /// Returns the real path with what stands there. The root is the empty path, which need not
    /// have an entry.
    pub fn resolve(&self, path: &Path) -> Option<(PathBuf, Option<&Located>)> {
        let mut real = PathBuf::new();
        let mut rest: Vec<std::ffi::OsString> = Vec::new();
        let push_rest = |rest: &mut Vec<std::ffi::OsString>, path: &Path| {
            for component in path.components().rev() {
                match component {
                    Component::Normal(name) => rest.push(name.to_owned()),
                    Component::ParentDir => rest.push("..".into()),
                    Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
                }
            }
        };
        push_rest(&mut rest, path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            match self.nodes.get(&next).map(|located| &located.entry.kind) {
                Some(EntryKind::Symlink { target }) => {
                    links += 1;
                    if LINKS_MAX < links {
                        return None;
                    }
                    if target.as_os_str().as_bytes().starts_with(b"/") {
                        real = PathBuf::new();
                    }
                    push_rest(&mut rest, target);
                }
                Some(EntryKind::Directory) => real = next,
                Some(_) if rest.is_empty() => real = next,
                Some(_) | None => return None,
            }
        }
        let located = self.nodes.get(&real);
        Some((real, located))
    }

    /// The names directly below a directory, sorted.
    pub fn children<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a Located> {
        self.below(directory).filter(move |located| {
            located.entry.path.parent().unwrap_or(Path::new("")) == directory
        })
    }

    /// Everything below a directory, sorted, parents first.
    pub fn below<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a Located> {
        self.nodes
            .range(directory.to_owned()..)
            .take_while(move |(path, _)| path.starts_with(directory))
            .filter(move |(path, _)| path.as_path() != directory)
            .map(|(_, located)| located)
    }

    /// Content that an index kept, by a path whose links are followed.
    pub fn kept_content(&self, path: &Path) -> Option<&[u8]> {
        let (_, located) = self.resolve(path)?;
        let located = located?;
        self.kept.get(&(located.layer, located.offset)).map(Vec::as_slice)
    }

    fn insert(&mut self, layer: usize, entry: &Entry, offset: u64) {
        if entry.path.as_os_str().is_empty() {
            let located = Located { layer, entry: entry.clone(), offset };
            self.nodes.insert(PathBuf::new(), located);
            return;
        }
        for ancestor in entry.path.ancestors().skip(1) {
            if ancestor.as_os_str().is_empty() {
                break;
            }
            if self.nodes.get(ancestor).is_some_and(|located| located.entry.is_directory()) {
                break;
            }
            // Archives may leave parents out; unpacking makes them 0755, owned by root.
            let is_link = self
                .nodes
                .get(ancestor)
                .is_some_and(|located| matches!(located.entry.kind, EntryKind::Symlink { .. }));
            if !is_link {
                let entry = Entry::directory(ancestor, 0o755);
                let located = Located { layer, entry, offset: 0 };
                self.nodes.insert(ancestor.to_owned(), located);
            }
        }
        let mut located = Located { layer, entry: entry.clone(), offset };
        if let EntryKind::Hardlink { target } = &entry.kind {
            let Some(original) = self.nodes.get(target) else { return };
            located = original.clone();
            located.entry.path = entry.path.clone();
        }
        if !entry.is_directory() {
            self.remove_below(&entry.path);
        }
        self.nodes.insert(entry.path.clone(), located);
    }

    fn remove(&mut self, path: &Path) {
        self.remove_below(path);
        self.nodes.remove(path);
    }

    fn remove_below(&mut self, directory: &Path) {
        let below: Vec<_> = self
            .nodes
            .range(directory.to_owned()..)
            .take_while(|(path, _)| path.starts_with(directory))
            .map(|(path, _)| path.clone())
            .filter(|path| path != directory)
            .collect();
        for path in below {
            self.nodes.remove(&path);
        }
    }
}
