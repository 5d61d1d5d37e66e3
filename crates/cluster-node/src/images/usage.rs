//! Who uses which image and which unpacked layer, and what the images take on the disk.

use std::collections::{BTreeMap, BTreeSet};

use image_policy::collection::Disk;
use jiff::Timestamp;

use super::store::{ImageStore, chain};
use crate::directories::Directories;

/// What the pods known on the node use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// By digest of the manifest or index: the pods, as `namespace/name`.
    pub(crate) images: BTreeMap<String, BTreeSet<String>>,
    /// By image text of a pod's image volume: the pods.
    pub(crate) volumes: BTreeMap<String, BTreeSet<String>>,
    /// Unpacked layers.
    pub(crate) layers: BTreeSet<String>,
}

impl Uses {
    /// Every container of which the node has a record, in whatever state it is, and every image
    /// volume of a pod that the node knows (kubelet-images.md 10).
    pub(crate) fn read(directories: &Directories) -> Self {
        let mut uses = Uses::default();
        for uid in directories.pods() {
            let pod = directories.load_pod(&uid);
            let name = pod.as_ref().map_or_else(
                || uid.clone(),
                |pod| {
                    let meta = &pod.metadata;
                    let namespace = meta.namespace.as_deref().unwrap_or_default();
                    format!("{namespace}/{}", meta.name.as_deref().unwrap_or(&uid))
                },
            );
            for container in directories.containers(&uid) {
                for run in directories.runs(&uid, &container) {
                    if let Some((_, root)) = run.image_id.rsplit_once('@') {
                        uses.images.entry(root.to_owned()).or_default().insert(name.clone());
                    }
                    uses.layers.extend(run.layers);
                }
            }
            let volumes = pod.and_then(|pod| pod.spec?.volumes).unwrap_or_default();
            let images = volumes.into_iter().filter_map(|volume| volume.image?.reference);
            for image in images {
                uses.volumes.entry(image).or_default().insert(name.clone());
            }
        }
        uses
    }
}

/// The file system that images are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageFileSystem {
    /// The directory of the blobs.
    pub(crate) path: String,
    /// Size of the file system.
    pub(crate) capacity_bytes: u64,
    /// What may still be written to it.
    pub(crate) available_bytes: u64,
    /// What blobs and unpacked layers take; archive sizes stand for those of the layers.
    pub(crate) used_bytes: u64,
    /// Files and directories of blobs and unpacked layers.
    pub(crate) inodes_used: u64,
    pub(crate) at: Timestamp,
}

/// Size of the file system and what is free of it.
///
/// # Errors
/// The operating system does not tell.
pub(crate) fn disk(store: &ImageStore) -> Result<Disk, String> {
    let space = store.blobs.disk_space().map_err(|error| chain(&error))?;
    Ok(Disk { capacity_bytes: space.total, available_bytes: space.free })
}

/// What the images of the node take (CRI `ImageFsInfo`).
///
/// # Errors
/// Blobs or layers cannot be listed.
pub(crate) fn file_system(store: &ImageStore) -> Result<ImageFileSystem, String> {
    let Disk { capacity_bytes, available_bytes } = disk(store)?;
    let (mut used_bytes, mut inodes_used) = (0, 0);
    let counted = store.blobs.for_each_blob(|_, bytes| -> Result<(), blob_store::DiskError> {
        used_bytes += bytes;
        inodes_used += 1;
        Ok(())
    });
    counted.map_err(|error| chain(&error))?;
    for layer in store.layers.list().map_err(|error| chain(&error))? {
        used_bytes += layer.tar_bytes;
        inodes_used += layer.entries;
    }
    Ok(ImageFileSystem {
        path: store.blobs.root().display().to_string(),
        capacity_bytes,
        available_bytes,
        used_bytes,
        inodes_used,
        at: Timestamp::now(),
    })
}
