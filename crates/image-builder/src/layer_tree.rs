//! The files of a stack of layers, from archive headers alone: nothing is unpacked.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use layers::{ArchiveReader, Decoder, Entry, EntryKind, Whiteout};
use oci_model::DiffId;

use crate::tree::{Content, IndexedTree, Node, TreeError};

/// The headers of one layer archive, in the order of the archive.
#[derive(Debug)]
pub(crate) struct LayerHeaders {
    diff_id: DiffId,
    entries: Vec<Entry>,
}

impl LayerHeaders {
    /// Reads the headers of a layer blob, compressed or not.
    pub(crate) fn read(diff_id: DiffId, blob: impl Read + Send) -> Result<Self, TreeError> {
        let layer =
            |source: Box<dyn std::error::Error + Send + Sync>| TreeError::Layer { diff_id, source };
        let decoder = Decoder::new(blob).map_err(|error| layer(error.into()))?;
        let mut archive = ArchiveReader::new(decoder);
        let mut entries = Vec::new();
        while let Some(entry) = archive.next_entry().map_err(|error| layer(error.into()))? {
            entries.push(entry);
        }
        Ok(Self { diff_id, entries })
    }

    /// Headers that are known already, because we wrote the layer.
    pub(crate) fn known(diff_id: DiffId, entries: Vec<Entry>) -> Self {
        Self { diff_id, entries }
    }
}

/// Stacks layers, base first.
pub(crate) fn merge(stack: &[Arc<LayerHeaders>]) -> IndexedTree {
    let mut tree = IndexedTree::new();
    let mut links = 0;
    for layer in stack {
        // Removals speak about lower layers, wherever they stand in the archive.
        for entry in &layer.entries {
            match entry.whiteout() {
                Some(Whiteout::Name { directory, name }) => tree.remove(&directory.join(name)),
                Some(Whiteout::Opaque { directory }) => tree.remove_children(directory),
                Some(Whiteout::AufsMetadata) | None => {}
            }
        }
        for entry in layer.entries.iter().filter(|entry| entry.whiteout().is_none()) {
            add(&mut tree, layer.diff_id, entry, &mut links);
        }
    }
    tree
}

fn add(tree: &mut IndexedTree, diff_id: DiffId, entry: &Entry, links: &mut u64) {
    let path = entry.path.as_path();
    if let EntryKind::Hardlink { target } = &entry.kind {
        let Some(mut node) = tree.get(target).cloned() else { return };
        if node.link.is_none() {
            *links += 1;
            node.link = Some(*links);
            tree.insert(node.clone());
        }
        path.clone_into(&mut node.entry.path);
        tree.insert(node);
        return;
    }
    let content = match entry.kind {
        EntryKind::File { size } if 0 < size => Content::Layer(diff_id, path.to_owned()),
        _ => Content::Empty,
    };
    tree.insert(Node { entry: entry.clone(), content, link: None });
}

/// Calls `visit` with the content of each wanted file of a layer archive, in archive order.
pub(crate) fn for_each_content<E: From<TreeError>>(
    diff_id: DiffId,
    blob: impl Read + Send,
    mut wanted: impl FnMut(&Path) -> bool,
    mut visit: impl FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let layer =
        |source: Box<dyn std::error::Error + Send + Sync>| TreeError::Layer { diff_id, source };
    let decoder = Decoder::new(blob).map_err(|error| layer(error.into()))?;
    let mut archive = ArchiveReader::new(decoder);
    while let Some(entry) = archive.next_entry().map_err(|error| layer(error.into()))? {
        if matches!(entry.kind, EntryKind::File { .. }) && wanted(&entry.path) {
            visit(&entry, &mut archive.content())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Files as _;

    fn layer(number: u8, entries: Vec<Entry>) -> Arc<LayerHeaders> {
        let diff_id = DiffId(oci_model::Digest::of(&[number]));
        Arc::new(LayerHeaders::known(diff_id, entries))
    }

    fn paths(tree: &IndexedTree) -> Vec<String> {
        tree.nodes().map(|node| node.entry.path.display().to_string()).collect()
    }

    #[test]
    fn upper_layers_remove_and_replace() {
        let base = layer(
            0,
            vec![
                Entry::directory("d", 0o755),
                Entry::file("d/old", 0o644, 1),
                Entry::file("gone", 0o644, 1),
                Entry::directory("o", 0o755),
                Entry::file("o/low", 0o644, 1),
            ],
        );
        let upper = layer(
            1,
            vec![
                Entry::file(".wh.gone", 0, 0),
                Entry::file("d", 0o600, 2),
                Entry::file("o/new", 0o644, 1),
                Entry::file("o/.wh..wh..opq", 0, 0),
            ],
        );
        let tree = merge(&[base, upper]);
        assert_eq!(paths(&tree), ["", "d", "o", "o/new"]);
        assert_eq!(tree.get(Path::new("d")).expect("replaced").entry.mode, 0o600);
    }

    #[test]
    fn names_of_one_file_share_a_link_and_its_content() {
        let kind = EntryKind::Hardlink { target: "a".into() };
        let tree = merge(&[layer(0, vec![Entry::file("a", 0o644, 3), Entry::new("b", kind, 0)])]);
        let (a, b) = (
            tree.node(Path::new("a")).expect("in memory").expect("a"),
            tree.node(Path::new("b")).expect("in memory").expect("b"),
        );
        assert_eq!(a.content, b.content);
        assert!(a.link.is_some());
        assert_eq!(a.link, b.link);
        assert_eq!(b.entry.kind, EntryKind::File { size: 3 });
    }
}
