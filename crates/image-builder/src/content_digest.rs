//! What files say, as a digest: the content half of cache keys.
//!
//! A file counts with its kind, mode, owner, link target, device, attributes and bytes, a
//! directory with all it holds. Times and inodes do not count, and neither does the name of the
//! thing that was selected if it is a directory, because only its contents are copied. Where
//! parents are kept, the whole kept path counts, with the looks of the directories on the way.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use dockerfile::Parents;
use layers::EntryKind;
use oci_model::{Digest, Hasher};

use crate::select::Selected;
use crate::tree::{Content, Files, Node, TreeError, resolve};

/// Version of the format below; part of every digest.
const VERSION: u8 = 2;
/// Bytes read from a file at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A framed hash: every field is preceded by its length, so that no two lists collide.
pub(crate) struct Framed(Hasher);

impl Framed {
    /// An empty list of fields of the given purpose.
    pub(crate) fn new(purpose: &str) -> Self {
        let mut framed = Self(Hasher::sha256());
        framed.0.update(&[VERSION]);
        framed.field(purpose.as_bytes());
        framed
    }

    /// One more field.
    pub(crate) fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The digest of all fields.
    pub(crate) fn finish(self) -> Digest {
        self.0.finish()
    }
}

/// Digest of everything that was selected, in order, without what `excluded` names; `seen` is
/// told the digest of each file by its path.
pub(crate) fn selection(
    files: &dyn Files,
    selected: &[Selected],
    parents: Parents,
    excluded: &dyn Fn(&Path) -> bool,
    contents: &dyn Fn(&Node) -> Result<Digest, TreeError>,
    seen: &dyn Fn(&Path, &Digest),
) -> Result<Digest, TreeError> {
    let single = |node: &Node| {
        let digest = single(node, contents)?;
        seen(&node.entry.path, &digest);
        Ok(digest)
    };
    let reading = Reading { files, excluded, single: &single };
    let mut framed = Framed::new("selection");
    for one in selected {
        match parents {
            Parents::Keep => reading.with_parents(&mut framed, one)?,
            Parents::Drop => reading.without_parents(&mut framed, one)?,
        }
    }
    Ok(framed.finish())
}

/// What the digest of a selection is taken from.
struct Reading<'a> {
    files: &'a dyn Files,
    excluded: &'a dyn Fn(&Path) -> bool,
    /// The digest of anything but a directory.
    single: &'a dyn Fn(&Node) -> Result<Digest, TreeError>,
}

impl Reading<'_> {
    fn without_parents(&self, framed: &mut Framed, one: &Selected) -> Result<(), TreeError> {
        let Some(node) = self.files.node(&one.from)? else { return Ok(()) };
        let name = one.written.file_name().unwrap_or_default();
        if node.entry.is_directory() {
            framed.field(b"");
            framed.field(self.tree(&node, Path::new(""))?.raw());
        } else if !(self.excluded)(Path::new(name)) {
            framed.field(name.as_bytes());
            framed.field((self.single)(&node)?.raw());
        }
        Ok(())
    }

    /// The path is kept from the pivot on, and the directories that it implies look like those of
    /// the source. Exclusions speak about that path.
    fn with_parents(&self, framed: &mut Framed, one: &Selected) -> Result<(), TreeError> {
        let Some(node) = self.files.node(&one.from)? else { return Ok(()) };
        let mut behind: PathBuf = one.written.iter().take(one.pivot).collect();
        let kept: PathBuf = one.written.iter().skip(one.pivot).collect();
        if (self.excluded)(&kept) {
            return Ok(());
        }
        framed.field(kept.as_os_str().as_bytes());
        for name in kept.parent().unwrap_or(Path::new("")) {
            behind.push(name);
            let implied = self.files.node(&resolve(self.files, &behind)?)?;
            framed.field(&[u8::from(implied.is_some())]);
            if let Some(implied) = implied {
                header(framed, &implied);
            }
        }
        let digest = if node.entry.is_directory() {
            self.tree(&node, &kept)?
        } else {
            (self.single)(&node)?
        };
        framed.field(digest.raw());
        Ok(())
    }

    fn tree(&self, directory: &Node, below: &Path) -> Result<Digest, TreeError> {
        let mut framed = Framed::new("directory");
        if !below.as_os_str().is_empty() {
            header(&mut framed, directory);
        }
        for name in self.files.children(&directory.entry.path)? {
            let below = below.join(&name);
            let Some(node) = self.files.node(&directory.entry.path.join(&name))? else { continue };
            let digest = if node.entry.is_directory() {
                self.tree(&node, &below)?
            } else if (self.excluded)(&below) {
                continue;
            } else {
                (self.single)(&node)?
            };
            framed.field(name.as_bytes());
            framed.field(digest.raw());
        }
        Ok(framed.finish())
    }
}

fn single(
    node: &Node,
    contents: &dyn Fn(&Node) -> Result<Digest, TreeError>,
) -> Result<Digest, TreeError> {
    let mut framed = Framed::new("file");
    header(&mut framed, node);
    if matches!(node.entry.kind, EntryKind::File { .. }) {
        framed.field(contents(node)?.raw());
    }
    Ok(framed.finish())
}

fn header(framed: &mut Framed, node: &Node) {
    let entry = &node.entry;
    let (kind, link, major, minor) = match &entry.kind {
        EntryKind::File { .. } => (b'f', None, 0, 0),
        EntryKind::Directory => (b'd', None, 0, 0),
        EntryKind::Symlink { target } => (b'l', Some(target.as_path()), 0, 0),
        EntryKind::Hardlink { target } => (b'h', Some(target.as_path()), 0, 0),
        EntryKind::CharDevice { major, minor } => (b'c', None, *major, *minor),
        EntryKind::BlockDevice { major, minor } => (b'b', None, *major, *minor),
        EntryKind::Fifo => (b'p', None, 0, 0),
    };
    // The mode of a link is a matter of the file system.
    let mode = if link.is_some() { 0o777 } else { entry.mode };
    let mut numbers = vec![kind];
    for number in [mode, entry.uid, entry.gid, major, minor] {
        numbers.extend(number.to_le_bytes());
    }
    framed.field(&numbers);
    framed.field(link.map_or(&[][..], |link| link.as_os_str().as_bytes()));
    for (name, value) in &entry.xattrs {
        framed.field(name.as_bytes()).field(value);
    }
}

/// The digest of the bytes of a file whose content is not in a layer archive.
pub(crate) fn local_content(node: &Node) -> Result<Digest, TreeError> {
    match &node.content {
        Content::Empty => Ok(Digest::of(&[])),
        Content::Bytes(bytes) => Ok(Digest::of(bytes)),
        Content::File(path) => file_digest(path),
        Content::Layer(diff_id, path) => Err(TreeError::Layer {
            diff_id: *diff_id,
            source: format!("the content of {} was not read", path.display()).into(),
        }),
    }
}

/// The digest of a file of this machine.
pub(crate) fn file_digest(path: &Path) -> Result<Digest, TreeError> {
    let io = |error| TreeError::io(path, error);
    let mut file = File::open(path).map_err(io)?;
    let mut hasher = Hasher::sha256();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).map_err(io)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::select;
    use crate::tree::IndexedTree;
    use layers::{Entry, Timestamp};

    fn tree_of(files: &[(&str, u32, &str)]) -> IndexedTree {
        let mut tree = IndexedTree::new();
        for (path, mode, text) in files {
            tree.insert(Node {
                entry: Entry::file(*path, *mode, text.len() as u64),
                content: Content::Bytes(text.as_bytes().into()),
                link: None,
            });
        }
        tree
    }

    fn digest(tree: &IndexedTree, word: &str) -> Digest {
        let selected = select(tree, word).expect("a selection");
        selection(tree, &selected, Parents::Drop, &|_| false, &local_content, &|_, _| {})
            .expect("in memory")
    }

    fn digest_with_parents(tree: &IndexedTree, word: &str, excluded: &str) -> Digest {
        let selected = select(tree, word).expect("a selection");
        let excluded = |path: &Path| path == Path::new(excluded);
        selection(tree, &selected, Parents::Keep, &excluded, &local_content, &|_, _| {})
            .expect("in memory")
    }

    #[test]
    fn kept_parents_count_with_their_names_and_looks() {
        let files = [("p/pkg-a/package.json", 0o644, "x"), ("p/other/package.json", 0o644, "y")];
        let one = tree_of(&files);
        let digest = digest_with_parents;
        let renamed = tree_of(&[("p/pkg-b/package.json", 0o644, "x"), files[1]]);
        assert_ne!(digest(&one, "p/*/package.json", ""), digest(&renamed, "p/*/package.json", ""));
        let looks = |directory: &str| {
            let mut tree = one.clone();
            let mut node = tree.get(Path::new(directory)).expect("there").clone();
            node.entry.mode = 0o700;
            tree.insert(node);
            tree
        };
        let word = "p/./pkg-a/package.json";
        assert_ne!(digest(&one, word, ""), digest(&looks("p/pkg-a"), word, ""));
        assert_eq!(digest(&one, word, ""), digest(&looks("p"), word, ""), "it stays behind");
        assert_ne!(digest(&one, word, ""), digest(&one, "p/pkg-a/package.json", ""));
    }

    #[test]
    fn exclusions_speak_about_the_path_that_is_kept() {
        let one = tree_of(&[("p/a/f", 0o644, "x"), ("p/a/g", 0o644, "y")]);
        let two = tree_of(&[("p/a/f", 0o644, "x"), ("p/a/g", 0o644, "z")]);
        let digest = digest_with_parents;
        for word in ["p/./a", "p/./*/*"] {
            assert_eq!(digest(&one, word, "a/g"), digest(&two, word, "a/g"), "{word}");
            assert_ne!(digest(&one, word, "g"), digest(&two, word, "g"), "{word}");
            assert_ne!(digest(&one, word, "p/a/g"), digest(&two, word, "p/a/g"), "{word}");
        }
    }

    #[test]
    fn only_what_is_selected_counts() {
        let one = tree_of(&[("d/a", 0o644, "x"), ("other", 0o644, "1")]);
        let two = tree_of(&[("d/a", 0o644, "x"), ("other", 0o644, "2"), ("third", 0o644, "3")]);
        assert_eq!(digest(&one, "d"), digest(&two, "d"));
        assert_ne!(digest(&one, "."), digest(&two, "."));
    }

    #[test]
    fn modes_names_and_bytes_count_but_times_do_not() {
        let base = tree_of(&[("d/a", 0o644, "x")]);
        assert_ne!(digest(&base, "d"), digest(&tree_of(&[("d/a", 0o600, "x")]), "d"));
        assert_ne!(digest(&base, "d"), digest(&tree_of(&[("d/b", 0o644, "x")]), "d"));
        assert_ne!(digest(&base, "d"), digest(&tree_of(&[("d/a", 0o644, "y")]), "d"));
        let mut touched = base.clone();
        let mut node = touched.get(Path::new("d/a")).expect("there").clone();
        node.entry.mtime = Timestamp::from_seconds(99);
        touched.insert(node);
        assert_eq!(digest(&base, "d"), digest(&touched, "d"));
    }

    #[test]
    fn the_name_of_a_selected_directory_does_not_count_but_that_of_a_file_does() {
        let one = tree_of(&[("d/a", 0o644, "x")]);
        let two = tree_of(&[("e/a", 0o644, "x")]);
        assert_eq!(digest(&one, "d"), digest(&two, "e"));
        let renamed = tree_of(&[("b.txt", 0o644, "x")]);
        let original = tree_of(&[("a.txt", 0o644, "x")]);
        assert_ne!(digest(&original, "*.txt"), digest(&renamed, "*.txt"));
    }
}
