//! One layer for everything the target's own steps did (kaniko's `--single-snapshot`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use blob_store::BlobStore;
use dockerfile::{Stage, StepLayer, assemble_config};
use layers::{ContentSource, Entry, EntryKind, VirtualLayer, Whiteout};
use oci_model::ImageConfig;

use crate::archive::Spool;
use crate::commit;
use crate::error::StepError;
use crate::layer_source::{LayerRef, blocking};
use crate::layer_tree::for_each_content;
use crate::session::{Session, StageResult};
use crate::tree::{Content, Files, NoFiles, Node, TreeError};

/// The config of the image with the one layer.
pub(crate) fn squashed_config(
    stage: &Stage,
    result: &StageResult,
    single: Option<&LayerRef>,
) -> ImageConfig {
    // One history entry stands for the layer: the last step that made one.
    let last = result.steps.iter().rposition(|step| matches!(step, StepLayer::Layer(_)));
    let steps: Vec<StepLayer> = (0..result.steps.len())
        .map(|at| match single {
            Some(layer) if Some(at) == last => StepLayer::Layer(layer.diff_id),
            Some(_) | None => StepLayer::Empty,
        })
        .collect();
    assemble_config(stage, result.base_config.as_ref(), &steps, result.created.as_deref())
}

/// One layer that does on top of `base` what several do.
pub(crate) async fn squash(
    session: &Arc<Session>,
    base: &[LayerRef],
    layers: Vec<LayerRef>,
) -> Result<Option<LayerRef>, StepError> {
    if layers.len() < 2 {
        return Ok(layers.into_iter().next());
    }
    session.source.ensure_blobs(&layers).await?;
    let (source, form, spool) = (Arc::clone(&session.source), session.form, session.spool()?);
    let contents = Arc::clone(&spool);
    let mut merged = blocking(move || {
        let mut merged = Merged::default();
        for layer in &layers {
            merged.add_layer(&source.store, layer, &contents)?;
        }
        Ok(merged)
    })
    .await?;
    let source = Arc::clone(&session.source);
    let below: Box<dyn Files> = if merged.asks_base() {
        let below = source.indexed(base).await?;
        let mut lost = Vec::new();
        for target in merged.lost_targets() {
            lost.extend(below.node(&target)?);
        }
        merged.supply(source.fetch_contents(lost, base, Arc::clone(&spool)).await?);
        Box::new(below)
    } else {
        Box::new(NoFiles)
    };
    blocking(move || {
        // Keeps the contents while they are read.
        let _spool = spool;
        let out = merged.into_layer(&*below)?;
        let start = Instant::now();
        let mut writer = commit::writer(&source.store, source.lease(), form)?;
        out.write(&mut writer)
            .map_err(|error| StepError::layer("cannot write the layer", error))?;
        Ok(commit::finish(writer)?.map(|(layer, blob)| {
            source.say_written(&blob, start);
            layer
        }))
    })
    .await
}

/// What stands at a path.
#[derive(Clone, Debug)]
struct Placed {
    /// A hard link only if it names a file of the base.
    entry: Entry,
    content: ContentSource,
    /// Equal for all names of one file, if it has several.
    link: Option<u64>,
}

#[derive(Debug, Default)]
struct Merged {
    entries: BTreeMap<PathBuf, Placed>,
    /// Paths at which nothing that lies below all of these layers shows any more.
    hidden: BTreeSet<PathBuf>,
    links: u64,
}

impl Merged {
    fn add_layer(
        &mut self,
        store: &BlobStore,
        layer: &LayerRef,
        spool: &Spool,
    ) -> Result<(), StepError> {
        let open = || {
            store.open_blob(&layer.descriptor.digest).map(blob_store::Blob::into_file).map_err(
                |error| StepError::layer(format!("cannot open layer {}", layer.diff_id), error),
            )
        };
        let mut contents: HashMap<PathBuf, PathBuf> = HashMap::new();
        for_each_content::<StepError>(
            layer.diff_id,
            open()?,
            |_| true,
            |entry, content| {
                contents.insert(entry.path.clone(), spool.write(content)?);
                Ok(())
            },
        )?;
        let index = layers::TarIndex::read(open()?, &[])
            .map_err(|error| StepError::layer(format!("cannot read {}", layer.diff_id), error))?;
        let entries: Vec<Entry> = index.entries().iter().map(|one| one.entry.clone()).collect();
        self.add(&entries, &contents);
        Ok(())
    }

    /// Puts one more layer on top.
    fn add(&mut self, entries: &[Entry], contents: &HashMap<PathBuf, PathBuf>) {
        for entry in entries {
            match entry.whiteout() {
                Some(Whiteout::Name { directory, name }) => self.hide(&directory.join(name)),
                // Our own writers spell every removal out.
                Some(Whiteout::Opaque { .. } | Whiteout::AufsMetadata) | None => {}
            }
        }
        for entry in entries.iter().filter(|entry| entry.whiteout().is_none()) {
            let mut placed = self.placed(entry, contents);
            placed.entry.path.clone_from(&entry.path);
            if !placed.entry.is_directory() {
                self.hide(&entry.path);
            }
            self.entries.insert(entry.path.clone(), placed);
        }
    }

    fn placed(&mut self, entry: &Entry, contents: &HashMap<PathBuf, PathBuf>) -> Placed {
        if let EntryKind::Hardlink { target } = &entry.kind
            && let Some(named) = self.entries.get_mut(target)
        {
            // The name may go or become another file later; what it stands for now stays.
            if !matches!(named.entry.kind, EntryKind::Hardlink { .. }) {
                named.link.get_or_insert_with(|| {
                    self.links += 1;
                    self.links
                });
            }
            return named.clone();
        }
        let content = match (&entry.kind, contents.get(&entry.path)) {
            (EntryKind::File { .. }, Some(path)) => ContentSource::File(path.clone()),
            _ => ContentSource::Bytes(Vec::new()),
        };
        Placed { entry: entry.clone(), content, link: None }
    }

    /// Removes a path, in these layers and below them.
    fn hide(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self
            .entries
            .range(path.to_owned()..)
            .map(|(other, _)| other)
            .take_while(|other| other.starts_with(path))
            .cloned()
            .collect();
        for other in below {
            self.entries.remove(&other);
        }
        self.hidden.retain(|other| !other.starts_with(path));
        self.hidden.insert(path.to_owned());
    }

    /// Whether the files below decide what is written.
    fn asks_base(&self) -> bool {
        let replaces = |path: &PathBuf| {
            self.entries.get(path).is_some_and(|placed| !placed.entry.is_directory())
        };
        !self.hidden.iter().all(replaces) || !self.lost_targets().is_empty()
    }

    /// Files of the base that links name and that do not show any more.
    fn lost_targets(&self) -> BTreeSet<PathBuf> {
        let targets = self.entries.values().filter_map(|placed| match &placed.entry.kind {
            EntryKind::Hardlink { target } => Some(target),
            _ => None,
        });
        let is_lost = |target: &&PathBuf| {
            self.entries.contains_key(*target)
                || target.ancestors().any(|path| self.hidden.contains(path))
        };
        targets.filter(is_lost).cloned().collect()
    }

    /// Takes files of the base in place of links to them.
    fn supply(&mut self, nodes: Vec<Node>) {
        for node in nodes {
            let content = match &node.content {
                Content::File(path) => ContentSource::File(path.clone()),
                Content::Bytes(bytes) => ContentSource::Bytes(bytes.to_vec()),
                Content::Empty | Content::Layer(..) => ContentSource::Bytes(Vec::new()),
            };
            self.links += 1;
            for (path, placed) in &mut self.entries {
                if matches!(&placed.entry.kind, EntryKind::Hardlink { target } if *target == node.entry.path)
                {
                    placed.entry = Entry { path: path.clone(), ..node.entry.clone() };
                    placed.content = content.clone();
                    placed.link = Some(self.links);
                }
            }
        }
    }

    /// The one layer. What is hidden and does not exist in the base needs no removal.
    fn into_layer(self, base: &dyn Files) -> Result<VirtualLayer, TreeError> {
        let mut out = VirtualLayer::new();
        let mut waiting: Vec<PathBuf> = self.hidden.iter().cloned().collect();
        while let Some(path) = waiting.pop() {
            let Some(below) = base.node(&path)? else { continue };
            match self.entries.get(&path) {
                // A directory would show what the one below it has.
                Some(placed) if placed.entry.is_directory() && below.entry.is_directory() => {
                    waiting.extend(base.children(&path)?.iter().map(|name| path.join(name)));
                }
                Some(_) => {}
                None => out.whiteout(path),
            }
        }
        let mut first_names: HashMap<u64, PathBuf> = HashMap::new();
        for (path, mut placed) in self.entries {
            if let Some(link) = placed.link {
                match first_names.get(&link) {
                    Some(first) => {
                        placed.entry.kind = EntryKind::Hardlink { target: first.clone() };
                    }
                    None => drop(first_names.insert(link, path)),
                }
            }
            out.insert(placed.entry, placed.content);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::IndexedTree;

    fn link(path: &str, target: &str) -> Entry {
        Entry::new(path, EntryKind::Hardlink { target: target.into() }, 0o644)
    }

    fn merged(layers: &[&[Entry]]) -> Merged {
        let mut merged = Merged::default();
        for (number, entries) in layers.iter().enumerate() {
            let contents = entries.iter().map(|entry| {
                (entry.path.clone(), PathBuf::from(format!("{number}/{}", entry.path.display())))
            });
            merged.add(entries, &contents.collect());
        }
        merged
    }

    fn base(entries: &[Entry]) -> IndexedTree {
        let mut tree = IndexedTree::new();
        for entry in entries {
            tree.insert(Node { entry: entry.clone(), content: Content::Empty, link: None });
        }
        tree
    }

    /// What the layer says, removals with a `-` first, links as `path -> target`.
    fn written(merged: Merged, base: &IndexedTree) -> Vec<String> {
        let out = merged.into_layer(base).expect("in memory");
        let mut lines: Vec<String> = out.removals().map(|p| format!("-{}", p.display())).collect();
        lines.extend(out.entries().map(|entry| match &entry.kind {
            EntryKind::Hardlink { target } => {
                format!("{} -> {}", entry.path.display(), target.display())
            }
            _ => entry.path.display().to_string(),
        }));
        lines
    }

    fn directory(path: &str) -> Entry {
        Entry::directory(path, 0o755)
    }

    fn file(path: &str) -> Entry {
        Entry::file(path, 0o644, 1)
    }

    #[test]
    fn a_directory_that_was_removed_and_made_again_shows_nothing_of_the_base() {
        let base = base(&[file("d/old"), file("d/sub/deep"), file("d/x"), file("keep/f")]);
        let again = [directory("d"), directory("d/sub"), file("d/sub/new"), file("d/x")];
        let one = merged(&[&[file(".wh.d")], &again]);
        assert_eq!(
            written(one, &base),
            ["-d/old", "-d/sub/deep", "d", "d/sub", "d/sub/new", "d/x"]
        );
        let by_a_file = merged(&[&[file("d")], &[file(".wh.d"), directory("d")]]);
        assert_eq!(written(by_a_file, &base), ["-d/old", "-d/sub", "-d/x", "d"]);
        let over_a_file = merged(&[&[file("d")], &[directory("d")]]);
        assert_eq!(written(over_a_file, &base), ["-d/old", "-d/sub", "-d/x", "d"]);
        let gone = merged(&[&[file(".wh.d"), file("n")], &[file(".wh.n")]]);
        assert_eq!(written(gone, &base), ["-d"]);
    }

    #[test]
    fn names_of_one_file_outlive_each_other() {
        let two: &[&[Entry]] = &[&[file("a")], &[link("b", "a"), link("c", "b")]];
        assert_eq!(written(merged(two), &base(&[])), ["a", "b -> a", "c -> a"]);
        let gone = merged(&[two[0], two[1], &[file(".wh.a")]]);
        assert_eq!(gone.entries[Path::new("b")].content_path(), Path::new("0/a"));
        assert_eq!(written(gone, &base(&[])), ["b", "c -> b"]);
        let replaced = merged(&[two[0], two[1], &[file("a")]]);
        assert_eq!(replaced.entries[Path::new("a")].content_path(), Path::new("2/a"));
        assert_eq!(replaced.entries[Path::new("b")].content_path(), Path::new("0/a"));
        assert_eq!(written(replaced, &base(&[])), ["a", "b", "c -> b"]);
    }

    #[test]
    fn a_link_to_a_file_of_the_base_becomes_the_file_when_that_goes() {
        let below = base(&[file("a"), file("d/f")]);
        let links: &[Entry] = &[link("b", "a"), link("c", "a")];
        let kept = merged(&[links, &[file("other")]]);
        assert!(!kept.asks_base());
        assert_eq!(written(kept, &below), ["b -> a", "c -> a", "other"]);
        let mut gone = merged(&[links, &[file(".wh.a")]]);
        assert_eq!(gone.lost_targets(), BTreeSet::from(["a".into()]));
        gone.supply(vec![below.get(Path::new("a")).expect("there").clone()]);
        assert_eq!(written(gone, &below), ["-a", "b", "c -> b"]);
        let in_directory = merged(&[&[link("g", "d/f")], &[file(".wh.d")]]);
        assert_eq!(in_directory.lost_targets(), BTreeSet::from(["d/f".into()]));
    }

    impl Placed {
        fn content_path(&self) -> &Path {
            match &self.content {
                ContentSource::File(path) => path,
                ContentSource::Bytes(_) => Path::new(""),
            }
        }
    }
}
