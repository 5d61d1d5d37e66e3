//! Reads the package records of an image out of its layers, one pass over each, unpacking nothing.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layers::EntryKind;
use oci_model::DiffId;

use super::packages::{Bill, Distribution, PACKAGES_MAX, Package, RECORD_BYTES_MAX, go, parser};
use crate::error::StepError;
use crate::image::BuiltImage;
use crate::layer_source::blocking;
use crate::layer_tree::for_each_content;
use crate::session::Session;
use crate::tree::{Content, Files, Node, TreeError, resolve};

/// Databases that are not read; an image that has one gets a note.
const UNREAD: [(&str, &str); 3] = [
    ("var/lib/rpm", "the rpm database is not read"),
    ("usr/lib/sysimage/rpm", "the rpm database is not read"),
    ("var/lib/pacman/local", "the pacman database is not read"),
];
/// Largest os-release read, in bytes.
const OS_RELEASE_BYTES_MAX: u64 = 64 * 1024;

/// Lists the packages of an image, sorted, each package URL once.
pub(super) async fn packages(
    session: &Arc<Session>,
    image: &BuiltImage,
) -> Result<Bill, StepError> {
    let tree = session.source.indexed(&image.layers).await?;
    let store = session.source.store.clone();
    let blobs: HashMap<DiffId, _> =
        image.layers.iter().map(|layer| (layer.diff_id, layer.descriptor.digest)).collect();
    blocking(move || {
        let mut bill = Bill { distribution: distribution(&tree)?, ..Bill::default() };
        for (path, note) in UNREAD {
            let is_there = tree.node(Path::new(path))?.is_some_and(|n| n.entry.is_directory());
            if is_there && !bill.notes.iter().any(|known| known == note) {
                bill.notes.push(note.to_owned());
            }
        }
        let mut found = Found::default();
        for (diff_id, wanted) in records(&tree)? {
            let Some(digest) = blobs.get(&diff_id) else { continue };
            let blob = store
                .open_blob(digest)
                .map_err(|error| StepError::layer(format!("cannot open layer {diff_id}"), error))?;
            for_each_content::<StepError>(
                diff_id,
                blob.into_file(),
                |path| wanted.contains_key(path),
                |entry, content| {
                    let place = wanted.get(&entry.path).unwrap_or(&entry.path);
                    found.read(place, content).map_err(|error| {
                        StepError::layer(format!("cannot read layer {diff_id}"), error)
                    })
                },
            )?;
        }
        if found.cut {
            bill.notes.push(format!("only {PACKAGES_MAX} packages are listed"));
        }
        let distribution = bill.distribution.clone();
        let mut by_url: BTreeMap<String, Package> = BTreeMap::new();
        for package in found.packages {
            let url = package.purl(&distribution);
            let kept = by_url.entry(url).or_insert_with(|| package.clone());
            // The same package at two places is named at the first.
            if package.location < kept.location {
                *kept = package;
            }
        }
        bill.packages = by_url.into_values().collect();
        Ok(bill)
    })
    .await
}

/// Packages read so far.
#[derive(Default)]
struct Found {
    packages: Vec<Package>,
    cut: bool,
}

impl Found {
    fn read(&mut self, path: &Path, content: &mut dyn Read) -> std::io::Result<()> {
        let found = match parser(path) {
            Some(parse) => {
                let mut bytes = Vec::new();
                content.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
                parse(&bytes, path)
            }
            None => go::modules(content, path)?,
        };
        let room = PACKAGES_MAX.saturating_sub(self.packages.len());
        self.cut |= room < found.len();
        self.packages.extend(found.into_iter().take(room));
        Ok(())
    }
}

/// The files to read, by the layer that holds them: path in the layer to path in the image.
fn records(tree: &dyn Files) -> Result<BTreeMap<DiffId, HashMap<PathBuf, PathBuf>>, TreeError> {
    let mut wanted: BTreeMap<DiffId, HashMap<PathBuf, PathBuf>> = BTreeMap::new();
    let root = crate::select::Selected { from: PathBuf::new(), written: PathBuf::new(), pivot: 0 };
    for node in crate::sources::collect(tree, &[root])? {
        if let Content::Layer(diff_id, inside) = &node.content
            && (parser(&node.entry.path).is_some() || may_be_program(&node))
        {
            let place = wanted.entry(*diff_id).or_default().entry(inside.clone());
            place.or_insert_with(|| node.entry.path.clone());
        }
    }
    Ok(wanted)
}

fn may_be_program(node: &Node) -> bool {
    match node.entry.kind {
        EntryKind::File { size } => {
            node.entry.mode & 0o111 != 0 && go::PROGRAM_BYTES.contains(&size)
        }
        _ => false,
    }
}

fn distribution(tree: &dyn Files) -> Result<Distribution, TreeError> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        let path = resolve(tree, Path::new(path))?;
        if let Ok(Some(bytes)) = tree.read(&path, OS_RELEASE_BYTES_MAX) {
            return Ok(Distribution::parse(&bytes));
        }
    }
    Ok(Distribution::default())
}
