//! The files of images: in a directory, or as a plain tar archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layers::{ApplyOptions, Entry, LayerWriter, Timestamps, Whiteouts};

use super::destination::{Destination, whole};
use super::{OutputTarget, Written, platform_directory};
use crate::archive::Spool;
use crate::builder::BuildOutcome;
use crate::error::StepError;
use crate::image::BuiltImage;
use crate::layer_source::blocking;
use crate::select::Selected;
use crate::tree::Node;

/// Unpacks every image; of several, each into a directory of its platform.
pub(super) fn directory(written: &Written, root: &Path) -> Result<(), StepError> {
    for (image, statements) in written.images.iter().zip(&written.statements) {
        let below = platform_directory(&written.images, image);
        let root = below.map_or_else(|| root.to_owned(), |below| root.join(below));
        unpack(written, image, &root)?;
        for (name, bytes) in statements.files() {
            whole(&root.join(name), bytes)?;
        }
    }
    Ok(())
}

fn unpack(written: &Written, image: &BuiltImage, root: &Path) -> Result<(), StepError> {
    fs::create_dir_all(root).map_err(|error| StepError::io(root, error))?;
    let options = ApplyOptions::for_this_process(Whiteouts::Remove);
    for layer in &image.layers {
        let what = || format!("cannot unpack layer {}", layer.diff_id);
        let blob = written
            .store
            .open_blob(&layer.descriptor.digest)
            .map_err(|error| StepError::layer(what(), error))?;
        layers::apply(blob.into_file(), root, &options)
            .map_err(|error| StepError::layer(what(), error))?;
    }
    Ok(())
}

/// Writes the merged files as one archive, without unpacking them.
pub(super) async fn archive(outcome: &BuildOutcome, target: OutputTarget) -> Result<(), StepError> {
    let work = outcome._workspace.path();
    let spool = Spool::new(work).map_err(|error| StepError::io(work, error))?;
    let spool = Arc::new(spool);
    let mut all = Vec::new();
    for (image, statements) in outcome.images.iter().zip(&outcome.statements) {
        let tree = outcome.source.indexed(&image.layers).await?;
        let root = Selected { from: PathBuf::new(), written: PathBuf::new(), pivot: 0 };
        let nodes = crate::sources::collect(&tree, &[root])?;
        let nodes = outcome.source.fetch_contents(nodes, &image.layers, Arc::clone(&spool)).await?;
        let below = platform_directory(&outcome.images, image);
        if let Some(below) = &below {
            let entry = Entry::directory(below.as_str(), 0o755);
            all.push(Node { entry, content: crate::tree::Content::Empty, link: None });
        }
        for (name, bytes) in statements.files() {
            let path = below.as_ref().map_or_else(|| name.into(), |b| Path::new(b).join(name));
            let entry = Entry::file(path, 0o644, bytes.len() as u64);
            let content = crate::tree::Content::Bytes(bytes.into());
            all.push(Node { entry, content, link: None });
        }
        // Names of one file in two images are two files.
        let image_bits = (all.len() as u64) << 32;
        for mut node in nodes {
            if node.entry.path.as_os_str().is_empty() {
                continue;
            }
            if let Some(below) = &below {
                node.entry.path = Path::new(below).join(&node.entry.path);
                node.link = node.link.map(|link| link ^ image_bits);
            }
            all.push(node);
        }
    }
    blocking(move || {
        let _spool = spool;
        let layer = crate::transfer::to_layer(all);
        let mut writer = LayerWriter::new(Destination::open(&target)?, Timestamps::Keep);
        let written = layer.write(&mut writer).and_then(|()| writer.finish());
        written.map_err(|error| StepError::layer("cannot write the archive", error))?.finish()
    })
    .await
}
